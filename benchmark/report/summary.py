"""What a command ends with, for people or machines: choosing table, verdict, problems, paths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.report.choice import Choice
from benchmark.report.choice_table import as_json
from benchmark.report.data import Problem

if TYPE_CHECKING:
    from benchmark.report.contents import Contents


@dataclass(frozen=True)
class Summary:
    """A report that was written, in short.

    Attributes:
        folder: where it lies.
        suite: whose it is.
        choice: the choosing table, flags and advice.
        outcome: of the test of the claim, such as "undecided"; None where it could not be tested.
        verdict: sentences: the answer, how sure it is, what would settle it.
        numbers: sentences with the figures behind them.
        incomplete: how many declared runs have no result; empty where all have.
        runs: how many completed, failed, ...
        problems: runs without a result, and other things that went wrong.
        is_new: whether it was written now; else one that says the same was there.
    """

    folder: Path
    suite: str
    choice: Choice
    outcome: str | None
    verdict: tuple[str, ...]
    numbers: tuple[str, ...]
    incomplete: str
    runs: Counter[str]
    problems: tuple[Problem, ...]
    is_new: bool = True

    @classmethod
    def of(cls, contents: Contents, folder: Path) -> Summary:
        """Return what a report's contents say in short."""
        return cls(
            folder=folder,
            suite=contents.data.suite,
            choice=contents.choice,
            outcome=contents.outcome if contents.claim_json else None,
            verdict=tuple(contents.verdict),
            numbers=tuple(contents.verdict_numbers),
            incomplete=contents.data.incomplete,
            runs=contents.data.runs,
            problems=tuple(contents.problems),
        )

    @property
    def paths(self) -> dict[str, str]:
        """The files that a reader opens first, by what they are."""
        files = {
            "report": "README.md",
            "html": "index.html",
            "runs": "tables/runs.csv",
            "problems": "tables/problems.csv",
            "claim": "tables/claim.json",
        }
        places = {what: self.folder / file for what, file in files.items()}
        return {what: str(place) for what, place in places.items() if place.exists()}

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; keys: docs/choosing.md."""
        choice = as_json(self.choice)
        return {
            "suite": self.suite,
            "runs": {status: count for status, count in sorted(self.runs.items()) if count},
            "table": choice["groups"],
            "maps_by": choice["maps_by"],
            "advice": list(self.choice.advice),
            "flags": choice["flags"],
            "verdict": {
                "outcome": self.outcome,
                "sentences": list(self.verdict),
                "numbers": list(self.numbers),
                "incomplete": self.incomplete or None,
            },
            "problems": [asdict(problem) for problem in self.problems],
            "paths": self.paths,
        }


def json_document(summaries: Sequence[Summary], **more: Any) -> str:
    """Return one JSON document, in ASCII, of the reports that a command wrote."""
    content = {"format": 1, **more, "reports": [summary.as_json() for summary in summaries]}
    return json.dumps(content, indent=1, allow_nan=False)
