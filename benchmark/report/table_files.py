"""The files of a report's tables folder: CSV at full precision, and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.markup import escape_csv, to_csv, without_credentials
from benchmark.report.data import over_seeds
from benchmark.report.latex import latex_table
from benchmark.report.overall_table import caption, overall_table

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.report.contents import Contents
    from benchmark.report.data import ReportData

PACKAGES = "% In the preamble: \\usepackage{booktabs,longtable}\n"


def write_tables(contents: Contents, folder: Path) -> None:
    """Write the tables of a report of runs."""
    data = contents.data
    for section in contents.sections:
        rows = data.in_distribution[data.in_distribution["dataset"] == section.dataset]
        _write_frame(folder / f"{section.file}.csv", data, rows)
        about = f"{section.dataset}: calibration of {section.summary}"
        details = f"{section.dataset}: details"
        _write(
            folder / f"{section.file}.tex",
            PACKAGES
            + latex_table(section.quality, about, f"tab:{section.file}")
            + latex_table(section.detail, details, f"tab:{section.file}-detail"),
        )
    if len(data.in_distribution):
        _write(folder / "overall.tex", overall_latex(data))
    _write_frame(folder / "runs.csv", data, data.frame)
    problems = contents.problem_table
    header = [column.key for column in problems.columns]
    _write(
        folder / "problems.csv", to_csv(header, [[c.text for c in row] for row in problems.rows])
    )
    if contents.claim_json:
        _write(folder / "claim.json", contents.claim_json)


def overall_latex(data: ReportData) -> str:
    """Return all models on all datasets as one table in LaTeX."""
    averaged = over_seeds(data.in_distribution)
    table, groups = overall_table(averaged)
    return PACKAGES + latex_table(table, caption(averaged), "tab:overall", groups)


def _write_frame(path: Path, data: ReportData, frame: pd.DataFrame) -> None:
    """Write rows at full precision, without empty columns."""
    # Arrow writes a hundred thousand rows in a second, pandas and csv take ten.
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv

    frame = frame.dropna(axis="columns", how="all")
    if "folder" in frame:  # not where no record can be read
        frame = frame.assign(folder=[data.relative(folder) for folder in frame["folder"]])
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].map(escape_csv, na_action="ignore")
    csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), path)


def _write(path: Path, text: str) -> None:
    path.write_text(without_credentials(text), encoding="utf-8")
