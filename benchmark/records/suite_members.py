"""Which runs a suite consists of, so that a report holds those and no others.

`results/<suite>/suite.json` is written by the runner. A suite without one, such as imported logits,
consists of all runs in its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from benchmark.markup import plural
from benchmark.records.checksums import read_json_text, sealed_json
from benchmark.records.files import ResultsError, write_text
from benchmark.records.folder import RunFolder, runs_in_suite, suites_of

_FILE = "suite.json"

# A tree may come from elsewhere: no name leads out of it.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_SuiteName = Annotated[str, StringConstraints(pattern=rf"^{_NAME}$")]
_RunName = Annotated[str, StringConstraints(pattern=rf"^{_NAME}/{_NAME}/seed-\d+$")]

ModelT = TypeVar("ModelT", bound=BaseModel)

_FileName = Annotated[str, StringConstraints(pattern=r"^[^/]*$")]


class SuiteMembers(BaseModel):
    """The runs of a suite, as the registry declares them or one command chose them.

    Attributes:
        suite: name of its folder in the results tree.
        base: the suite of the registry that it is, or that it was chosen from.
        registry: name of the registry file it is from; empty where there was no file.
        declared: whether the registry declares these runs for the suite; else a command chose them.
        runs: by the run's name, model/dataset/seed-n, the suite in whose folder it lies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    suite: _SuiteName
    base: _SuiteName
    registry: _FileName
    declared: bool
    runs: dict[_RunName, _SuiteName]

    def folders(self, results: Path) -> list[RunFolder]:
        """Return the folders of the runs that have a record, sorted."""
        places = (RunFolder(results / home / name) for name, home in self.runs.items())
        return sorted(place for place in places if place.record.exists())

    def incomplete(self, completed: int) -> str:
        """Say how many runs that the registry declares have no result; empty: none, or no matter.

        Args:
            completed: runs that have one.
        """
        lacking = len(self.runs) - completed
        if not self.declared or lacking <= 0:
            return ""
        return (
            f"Of the {plural(len(self.runs), 'run')} that suite {self.suite} declares, "
            f"{lacking:,} {'has' if lacking == 1 else 'have'} no result, so this is not yet what "
            "the suite says."
        )

    def write(self, results: Path) -> None:
        """Write it to the suite's folder, unless that says the same already."""
        try:
            known = suite_members(results, self.suite)
        except ResultsError:  # damaged, or of another version
            known = None
        if known != self:
            write_text(results / self.suite / _FILE, sealed_json(self.model_dump_json(indent=1)))


def suite_members(results: Path, suite: str) -> SuiteMembers | None:
    """Return what a suite consists of, or None where that is not recorded.

    Raises:
        ResultsError: the file cannot be used.
    """
    return read_suite_file(
        results / suite / _FILE,
        SuiteMembers,
        "no list of a suite's runs",
        "; the next command that runs the suite writes it anew",
    )


def read_suite_file(
    path: Path, model: type[ModelT], problem: str, remedy: str = ""
) -> ModelT | None:
    """Return what a JSON file of a suite's folder says, or None where there is none.

    Args:
        path: of the file.
        model: what it holds.
        problem: what it is if it does not hold that.
        remedy: what is said after the reason.

    Raises:
        ResultsError: the file cannot be used.
    """
    try:
        text, _ = read_json_text(path)
    except FileNotFoundError:
        return None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ResultsError(f"{path}: {problem} ({where}: {first['msg']}){remedy}") from None


def runs_of_suite(results: Path, suite: str) -> list[RunFolder]:
    """Return the folders of a suite's runs that have a record, sorted; see `SuiteMembers`.

    Raises:
        ResultsError: the list of the suite's runs cannot be used.
    """
    members = suite_members(results, suite)
    return runs_in_suite(results, suite) if members is None else members.folders(results)


def runs_outside(results: Path, suite: str) -> list[RunFolder]:
    """Return the runs that lie in a suite's folder and that the suite does not consist of.

    Raises:
        ResultsError: as `runs_of_suite`.
    """
    members = suite_members(results, suite)
    if members is None:
        return []
    own = {name for name, home in members.runs.items() if home == suite}
    return [run for run in runs_in_suite(results, suite) if run.name.partition("/")[2] not in own]


def runs_of_tree(results: Path) -> list[RunFolder]:
    """Return the folders of the runs of all suites of a tree that have a record, sorted.

    Raises:
        ResultsError: as `runs_of_suite`.
    """
    return sorted({run for suite in suites_of(results) for run in runs_of_suite(results, suite)})
