"""Result tree -> reports/<suite>/: README.md, index.html, figures, tables, model pages.

python -m benchmark.report [--results results] [--reports reports] [--suite NAME]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.markup import Cell, Column, Table, escape_markdown, plural
from benchmark.report_data import (
    ReportData,
    ReportError,
    over_seeds,
    read_suite,
    rows_of,
    suite_names,
)

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.figure_style import Drawing
    from benchmark.registry import Claim

MARKER = "report.json"
"""A file every report folder has; a folder without it is never replaced."""

MAX_TABLE_ROWS = 40
MAX_PROBLEMS = 50
MAX_DIAGRAMS = 16

NOTES = {
    "quality": (
        "Most accurate model first; values are means over seeds, ± is the standard deviation over "
        "seeds. ECE: 15 equal-width bins, before → after temperature scaling; noise: the ECE a "
        "perfectly calibrated model with the same confidences would show. Debiased: debiased "
        "calibration error with the 95% bootstrap interval over test rows (mean of the seeds' "
        "bounds). T: temperature fitted on the calibration split. Confidence: over or under the "
        "accuracy before scaling, unclear when the interval of the gap holds 0. Bold: the best, "
        "where its interval over all its seeds is clear of every other model's."
    ),
    "detail": (
        "NLL (nats) and Brier score (summed over classes) before → after temperature scaling. "
        "Latency: median and 90th percentile, one row at a time, one thread; rows/s: throughput "
        "at the best batch size; memory: peak in MB. ⚠: the measurement was disturbed."
    ),
    "trace": (
        "Every row of tables/runs.csv is one run on one split; its column folder names the folder "
        "below results/ with spec.json (what decided the result), logits.safetensors (the logits "
        "every calibration number is computed from) and record.json (all numbers with intervals)."
    ),
}


class Markdown(str):
    """Text that is markdown already; everything else is escaped when a page is filled in."""

    __slots__ = ()


def write_report(
    results: Path,
    reports: Path,
    claim: Claim | None = None,
    *,
    suite: str | None = None,
    expected: Sequence[str] = (),
) -> Path:
    """Write the report of one suite and return its folder, `reports/<suite>`.

    The new report is made beside the old one and takes its place when it is whole.

    Args:
        results: the result tree.
        reports: where reports are kept.
        claim: what is tested; None leaves the verdict out.
        suite: which suite; may be left out where `results` holds only one.
        expected: names (model/dataset/seed-n) of planned runs; those without a record are
            listed as missing.

    Raises:
        ReportError: nothing to report, or the target folder holds something else.
    """
    if suite is None:
        names = suite_names(results)
        if len(names) > 1:
            raise ReportError(f"{results} holds several suites, choose one: {', '.join(names)}")
        suite = names[0]
    data = read_suite(results, suite, expected)
    with _replacing(reports / suite) as folder:
        _write_pages(data, claim, folder)
    return reports / suite


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `target` when the block succeeds."""
    if target.exists() and any(target.iterdir()) and not (target / MARKER).exists():
        raise ReportError(
            f"{target} holds files but no {MARKER}, so it is not a report and will not be"
            " replaced; move it away or choose another --reports folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new."))
    try:
        yield fresh
        fresh.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            os.replace(target, old / "report")
            os.replace(fresh, target)
            shutil.rmtree(old)
        else:
            os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@dataclass
class Section:
    """What a report says of one dataset."""

    dataset: str
    summary: str
    quality: Table
    detail: Table
    drawings: list[Drawing]
    unstable: list[str]
    csv: str
    latex: str


@dataclass
class Contents:
    """Everything the pages show, before it becomes markdown or HTML."""

    data: ReportData
    table: pd.DataFrame
    sections: list[Section] = field(default_factory=list)
    across: list[Drawing] = field(default_factory=list)

    @property
    def drawings(self) -> list[Drawing]:
        """All figures of the report."""
        return [drawing for section in self.sections for drawing in section.drawings] + self.across


def _write_pages(data: ReportData, claim: Claim | None, folder: Path) -> None:
    contents = _contents(data)
    for name in ("figures", "tables", "models"):
        (folder / name).mkdir()
    for drawing in contents.drawings:
        (folder / "figures" / f"{drawing.name}.svg").write_text(drawing.svg, encoding="utf-8")
    for section in contents.sections:
        caption = f"{section.dataset}: calibration"
        latex = section.quality.to_latex(caption, f"tab:{section.dataset}")
        (folder / section.latex).write_text(latex, encoding="utf-8")
    (folder / "README.md").write_text(_readme(contents), encoding="utf-8")
    (folder / MARKER).write_text('{"report": 1}\n', encoding="utf-8")


def _contents(data: ReportData) -> Contents:
    from benchmark import tabulation

    scored = data.in_distribution
    table = over_seeds(scored)
    contents = Contents(data, table)
    for dataset, rows in table.groupby("dataset", observed=True):
        name = str(dataset)
        contents.sections.append(
            Section(
                dataset=name,
                summary=f"{plural(len(rows), 'model')}, {int(rows['n'].max()):,} test rows.",
                quality=tabulation.quality_table(rows),
                detail=tabulation.detail_table(rows),
                drawings=_dataset_drawings(data, rows, name),
                unstable=[
                    f"{row.model}: {row.timing_reasons}"
                    for row in rows_of(rows)
                    if row.timing_reasons
                ],
                csv=f"tables/{name}.csv",
                latex=f"tables/{name}.tex",
            )
        )
    if len(table):
        contents.across = _across_drawings(data, table)
    return contents


def _across_drawings(data: ReportData, table: pd.DataFrame) -> list[Drawing]:
    from benchmark import figures

    drawings = [
        figures.scatter(table, figures.ACCURACY, "error-by-accuracy"),
        figures.scatter(table, figures.PARAMETERS, "error-by-parameters"),
        figures.temperature_by_family(table, "temperature-by-family"),
        figures.pareto(table, "latency-and-error"),
        figures.under_shift(over_seeds(data.scored), "error-under-shift"),
    ]
    return [drawing for drawing in drawings if drawing is not None]


def _dataset_drawings(data: ReportData, rows: pd.DataFrame, dataset: str) -> list[Drawing]:
    from benchmark import figures

    drawings = [figures.dumbbell(rows, dataset, f"ece-{dataset}")]
    panels = _reliability_panels(data, rows)
    if panels:
        drawings.append(figures.reliability_grid(panels, dataset, f"reliability-{dataset}"))
    return drawings


def _reliability_panels(data: ReportData, rows: pd.DataFrame) -> list[Any]:
    import numpy as np

    from benchmark import figures
    from benchmark.logits_store import read_split
    from benchmark.reliability import predict, reliability

    panels = []
    runs = data.in_distribution
    shown = rows.sort_values(["mixer", "model"]).head(MAX_DIAGRAMS)
    for row in rows_of(shown):
        own = runs[(runs["model"] == row.model) & (runs["dataset"] == row.dataset)]
        predictions = [
            predict(read_split(data.root / run.folder, "test"), run.temperature)
            for run in rows_of(own)
        ]
        correct = np.concatenate([p.correct for p in predictions])
        panels.append(
            figures.ReliabilityPanel(
                title=row.model,
                mixer=row.mixer,
                n=len(correct),
                before=reliability(np.concatenate([p.before for p in predictions]), correct),
                after=reliability(np.concatenate([p.after for p in predictions]), correct),
            )
        )
    return panels


def _readme(contents: Contents) -> str:
    data = contents.data
    environment = _markdown_environment()
    template = environment.get_template("readme.md.jinja")
    problems = _problem_table(data)
    hidden = len(problems.rows) - MAX_PROBLEMS
    text: str = template.render(
        suite=data.suite,
        what_was_run=what_was_run(contents),
        where_it_ran=where_it_ran(data),
        verdict=None,
        first_figure=contents.drawings[0] if contents.drawings else None,
        datasets=contents.sections,
        across=contents.across,
        problems=problems if problems.rows else None,
        problems_note=f"{hidden} more in tables/problems.csv." if hidden > 0 else "",
        notes=NOTES,
        show=_show,
    )
    return text


def _markdown_environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("benchmark"),
        finalize=_to_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def _to_markdown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Table):
        return value.to_markdown(MAX_TABLE_ROWS)
    return value if isinstance(value, Markdown) else escape_markdown(str(value))


def _show(drawing: Drawing | None) -> Markdown:
    if drawing is None:
        return Markdown("")
    alt = escape_markdown(drawing.alt)
    caption = escape_markdown(drawing.caption)
    return Markdown(f"![{alt}](figures/{drawing.name}.svg)\n\n*{caption}*")


def what_was_run(contents: Contents) -> str:
    """Return one sentence: how many models, datasets, seeds; how many runs are there."""
    data, frame = contents.data, contents.data.frame
    total = sum(data.runs.values())
    done = data.runs["completed"]
    models = plural(frame["model"].nunique(), "model")
    datasets = plural(frame["dataset"].nunique(), "dataset")
    seeds = plural(frame["seed"].nunique(), "seed")
    return f"{models}, {datasets}, {seeds}: {done:,} of {plural(total, 'run')} completed."


def where_it_ran(data: ReportData) -> str:
    """Return one sentence on hardware, software and time."""
    machines = data.machines[:2]
    rest = len(data.machines) - len(machines)
    more = f"; and {plural(rest, 'other machine')}" if rest else ""
    return f"Run on {'; '.join(machines)}{more}. Last run finished {data.finished[1]}."


def _problem_table(data: ReportData) -> Table:
    columns = (
        Column("run", "run", "left"),
        Column("status", "status", "left"),
        Column("stage", "stage", "left"),
        Column("reason", "reason", "left"),
    )
    problems = (*data.problems, *data.timing_problems)
    return Table(
        columns,
        [(Cell(p.run), Cell(p.status), Cell(p.stage), Cell(p.reason)) for p in problems],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.report", description="Write the report of a result tree."
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--suite", help="only this suite (default: every suite found)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        suites = [options.suite] if options.suite else suite_names(options.results)
        for suite in suites:
            folder = write_report(options.results, options.reports, suite=suite)
            print(folder / "README.md")
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
