"""A suite's runs as the files of a data set: records, a table of them, and a card.

The records are those of the results tree without what is private: of absolute paths the last name
is kept, tracebacks go, tokens and passwords are blotted out. Put back into a folder, they are a
results tree that every command reads.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.export.card import fill_in
from benchmark.export.errors import ExportError
from benchmark.export.privacy import cleaned
from benchmark.markup import plural
from benchmark.records import (
    Record,
    ResultsError,
    RunFolder,
    read_stamp,
    runs_of_suite,
    sealed_json,
    suite_members,
    suites_of,
    tidy_rows,
    verify_logits,
)
from benchmark.registry import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

TABLE, CARD, ROOT = "runs.parquet", "README.md", "results"


def results_files(
    results: Path, suite: str, repository: str, *, with_logits: bool
) -> tuple[dict[str, Path | bytes], list[str]]:
    """Return the files of a suite's data set, and what was left out, a sentence each.

    Raises:
        ExportError: there is no such suite, or none of its records can be read.
        ResultsError: the list of its runs or the logits are damaged.
    """
    known = suites_of(results) if results.is_dir() else []
    if suite not in known:
        raise ExportError(f"no suite '{suite}' in {results}{did_you_mean(suite, known)}")
    files: dict[str, Path | bytes] = {}
    left_out: list[str] = []
    rows = []
    for folder in runs_of_suite(results, suite):
        try:
            record = folder.read_record()
            if record is None:
                continue
            published = _public(record)
            place = f"{ROOT}/{folder.name}"
            files |= _files_of_run(folder, published, place, with_logits=with_logits)
        except ResultsError as error:
            left_out.append(str(error))
            continue
        rows += [row | {"suite": suite, "folder": place} for row in tidy_rows(folder, published)]
    if not rows:
        raise ExportError(f"{results / suite}: none of its records can be read")
    files |= dict(_files_of_suite(results, suite))
    table = _frame(rows)
    front = {TABLE: _parquet(table), CARD: _card(suite, repository, table, with_logits).encode()}
    return {**front, **files}, left_out


def _files_of_run(
    folder: RunFolder, record: Record, place: str, *, with_logits: bool
) -> dict[str, Path | bytes]:
    spec = folder.verified_spec()
    found: dict[str, Path | bytes] = {
        f"{place}/{folder.record.name}": sealed_json(record.model_dump_json(indent=1)).encode()
    }
    if spec:
        text = json.dumps(cleaned(spec), indent=1, ensure_ascii=False)
        found[f"{place}/{folder.spec.name}"] = sealed_json(text).encode()
    if with_logits and folder.logits.exists():
        verify_logits(folder)
        found[f"{place}/{folder.logits.name}"] = folder.logits
    return found


def _public(record: Record) -> Record:
    """Return a record without what is private."""
    content = cleaned(json.loads(record.model_dump_json()))
    for name in ("failure", "timing_failure"):
        if content.get(name) is not None:
            content[name]["details"] = ""  # a traceback
    return Record.model_validate_json(json.dumps(content))


def _files_of_suite(results: Path, suite: str) -> Iterator[tuple[str, bytes]]:
    """Yield what says which runs the suite has, and which claim was declared before they began."""
    members, stamp = suite_members(results, suite), read_stamp(results, suite)
    for name, content in (("suite.json", members), ("claim-stamp.json", stamp)):
        if content is not None:
            text = sealed_json(content.model_dump_json(indent=1))
            yield f"{ROOT}/{suite}/{name}", text.encode()


def _frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows).convert_dtypes()


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _card(suite: str, repository: str, table: pd.DataFrame, with_logits: bool) -> str:
    from huggingface_hub import DatasetCard, DatasetCardData

    metadata = DatasetCardData(
        pretty_name=f"Calibration results: {suite}",
        tags=["calibration", "benchmark-results", "temperature-scaling"],
        configs=[{"config_name": "default", "data_files": TABLE}],
    )
    runs = table.drop_duplicates(["model", "dataset", "seed"])
    counted = runs["status"].value_counts().to_dict()
    text = fill_in(
        "dataset.md.jinja",
        suite=suite,
        repository=repository,
        statuses=", ".join(f"{count:,} {status}" for status, count in counted.items()),
        models=plural(runs["model"].nunique(), "model"),
        datasets=plural(runs["dataset"].nunique(), "data set"),
        with_logits=with_logits,
        table=TABLE,
        root=ROOT,
    )
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}"))
