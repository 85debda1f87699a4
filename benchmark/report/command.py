"""Result tree -> reports/<suite>/: README.md, index.html, figures, tables, model pages.

python -m benchmark.report [--results results] [--reports reports] [--suite NAME]
python -m benchmark.report --compare results-a results-b
python -m benchmark.report --table FILE.csv --columns MAP.yaml
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.arguments import Parser, parse, program
from benchmark.markup import escape_csv, file_name, to_csv, without_credentials
from benchmark.records import (
    ResultsError,
    available_cores,
    explained_errors,
    is_left_over,
    owner_mark,
)
from benchmark.registry import DEFAULT_REGISTRY, Claim, Published, Registry, RegistryError
from benchmark.report.data import MARKER, ReportData, ReportError
from benchmark.report.declared import declared_published
from benchmark.report.inputs import inputs_key
from benchmark.report.reading import read_suite, suite_names
from benchmark.report.row_sources import RowSources
from benchmark.shell import as_folder, command, progress_apart

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.report.contents import Contents
    from benchmark.report.drawings import Drawings
    from benchmark.report.summary import Summary


def write_report(
    results: Path,
    reports: Path,
    claim: Claim | None = None,
    *,
    suite: str | None = None,
    published: Sequence[Published] = (),
    row_sources: RowSources = RowSources(),  # noqa: B008 (it is frozen)
    redraw: bool = False,
    processes: int = 0,
) -> Summary:
    """Write the report of one suite to `reports/<suite>` and return what it says in short.

    What would come out the same is kept. A new report takes the old one's place when it is whole.
    With very many runs, or `processes`, a script needs the usual `if __name__ == "__main__":`.

    Args:
        results: the result tree.
        reports: where the report goes, in a folder of its own.
        claim: what is tested; None: the registry's defaults.
        suite: which suite; may be left out where `results` holds only one.
        published: figures of earlier publications to show beside those of the runs.
        row_sources: files and data sets whose rows may be shown; none but embedded ones.
        redraw: draw everything, whatever is there.
        processes: how many may draw beside this one, where that is worth their start.

    Raises:
        ReportError: nothing to report, or the target folder holds something else.
    """
    claim, suite = claim or Claim(), suite or _only_suite(results)
    key_now = functools.partial(inputs_key, results, suite, claim, published, row_sources)
    from benchmark.report.stored_report import StoredReport

    target, key = reports / file_name(suite), key_now()
    stored = None if redraw else StoredReport.read(target)
    if stored and stored.still_holds(key, target):
        return replace(stored.summary, folder=target, is_new=False)
    data = replace(read_suite(results, suite), row_sources=row_sources)
    from benchmark.report.drawings import Drawings, kept_drawings

    asked = Drawings(kept_drawings(stored, target), processes)
    with replaced_folder(target) as folder, asked:
        contents = _draw(data, claim, published, asked, folder)
        is_final = contents.is_final and key == key_now()  # nothing changed meanwhile
        return StoredReport.write(folder, target, contents, asked, key if is_final else None)


def _only_suite(results: Path) -> str:
    names = suite_names(results)
    if len(names) > 1:
        raise ReportError(f"{results} holds several suites, choose one: {', '.join(names)}")
    return names[0]


def _draw(
    data: ReportData,
    claim: Claim,
    published: Sequence[Published],
    drawings: Drawings,
    folder: Path,
) -> Contents:
    from benchmark.report.contents import gather

    contents = gather(data, claim, published, drawings)
    _write_pages(contents, folder)
    return contents


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `target` when the block succeeds.

    Raises:
        ReportError: `target` holds files and is not a report.
        OSError: it cannot be written; names `target`, and the old report stays.
    """
    if target.exists() and any(target.iterdir()) and not (target / MARKER).exists():
        raise ReportError(
            f"{target} holds files but no {MARKER}, so it is not a report and will not be"
            " replaced; move it away or choose another --reports folder"
        )
    with explained_errors(target), _new_folder(target) as fresh:
        yield fresh


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    for place in target.parent.glob(f".{target.name}.*"):
        if is_left_over(place):
            shutil.rmtree(place, ignore_errors=True)
    prefix = f".{target.name}.new.{owner_mark()}."
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    try:
        yield fresh
        if not (fresh / MARKER).exists():
            (fresh / MARKER).write_text('{"report": 1}\n', encoding="utf-8")
        fresh.chmod(0o755)
        if not target.exists():
            os.replace(fresh, target)
        elif not _swapped(fresh, target):
            old = Path(
                tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old.{owner_mark()}.")
            )
            os.replace(target, old / "report")
            os.replace(fresh, target)
            shutil.rmtree(old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swapped(first: Path, second: Path) -> bool:
    """Swap two folders in one step, so that neither name is ever without one; False: cannot."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux' fcntl.h and stdio.h
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _write_pages(contents: Contents, folder: Path) -> None:
    from benchmark.report import pages

    for name in ("figures", "tables", "models/rows"):
        (folder / name).mkdir(parents=True)
    _write(folder / "README.md", pages.render_readme(contents))
    _write(folder / "index.html", pages.render_html(contents))
    for drawing in contents.drawings:
        _write(folder / "figures" / f"{drawing.name}.svg", drawing.svg)
    _write_tables(contents, folder / "tables")
    for page in contents.pages:
        name = file_name(page.model)
        _write(folder / "models" / f"{name}.md", pages.render_model_page(page, contents.data))
        for evaluation in page.evaluations:
            dataset = file_name(evaluation.dataset)
            diagram = pages.diagram(evaluation)
            _write(folder / "models" / f"{name}-{dataset}.svg", diagram)
            for mistake in evaluation.mistakes:
                if mistake.image is not None:
                    file = folder / "models" / "rows" / f"{dataset}-{mistake.row_id}.png"
                    file.write_bytes(mistake.image)


def _write_tables(contents: Contents, folder: Path) -> None:
    data = contents.data
    for section in contents.sections:
        rows = data.in_distribution[data.in_distribution["dataset"] == section.dataset]
        _write_frame(folder / f"{section.file}.csv", data, rows)
        caption = f"{section.dataset}: calibration of {section.summary}"
        _write(
            folder / f"{section.file}.tex",
            section.quality.to_latex(caption, f"tab:{section.file}")
            + section.detail.to_latex(f"{section.dataset}: details", f"tab:{section.file}-detail"),
        )
    _write_frame(folder / "runs.csv", data, data.frame)
    problems = contents.problem_table
    header = [column.key for column in problems.columns]
    _write(
        folder / "problems.csv", to_csv(header, [[c.text for c in row] for row in problems.rows])
    )
    if contents.claim_json:
        _write(folder / "claim.json", contents.claim_json)


def write_comparison(first: Path, second: Path, reports: Path) -> Path:
    """Write what changed between two result trees to a folder below `reports` and return it.

    Raises:
        ReportError: the trees have nothing to compare, or the target holds something else.
    """
    from benchmark.report.comparison import compare_results, comparison_table
    from benchmark.report.pages import render_comparison

    comparison = compare_results(first, second)
    changed = comparison_table(
        tuple(pair for pair in comparison.pairs if pair.changes and not pair.identical)
    )
    target = reports / file_name(f"{first.resolve().name}-vs-{second.resolve().name}")
    with replaced_folder(target) as folder:
        _write(folder / "README.md", render_comparison(comparison, changed))
        header = [column.key for column in changed.columns]
        rows = [[cell.text for cell in row] for row in changed.rows]
        _write(folder / "changes.csv", to_csv(header, rows))
    return target


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


def _parser() -> Parser:
    parser = Parser(
        prog=program("report", "python -m benchmark.report"),
        description="Write the report of a result tree.",
    )
    parser.add_argument("--results", type=as_folder, default=Path("results"))
    parser.add_argument("--reports", type=as_folder, default=Path("reports"))
    parser.add_argument("--suite", help="only this suite (default: every suite found)")
    parser.add_argument(
        "--registry",
        type=Path,
        default=DEFAULT_REGISTRY,
        help="where the claim and published figures are declared; missing: the claim's defaults",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="show rows of files in it, too (default: of the registry's data sets only)",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="draw also what has not changed since the last time"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("FIRST", "SECOND"),
        help="write what changed between two result trees instead",
    )
    _add_table_options(parser)
    return parser


def _add_table_options(parser: Parser) -> None:
    parser.add_argument(
        "--table", type=Path, metavar="FILE.csv", help="report a published table instead of runs"
    )
    parser.add_argument(
        "--columns", type=Path, metavar="MAP.yaml", help="where the table's columns are explained"
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    options = parse(parser, arguments)
    if options.json and options.compare:
        parser.error("--json and --compare do not go together")
    if (options.table is None) != (options.columns is None):
        parser.error("--table and --columns go together: the map explains the table's columns")
    if options.table and (options.compare or options.suite):
        parser.error("--table goes with neither --compare nor --suite: it has no runs")
    try:
        if options.compare:
            first, second = options.compare
            page = write_comparison(first, second, options.reports) / "README.md"
            print(page.read_text(encoding="utf-8"))
            print(page)
            return 0
        with progress_apart(options.json):
            summaries = (
                [_write_table(options)]
                if options.table
                else [_write_one(options, suite) for suite in _suites(options)]
            )
        _show(summaries, as_json=options.json)
    except (ReportError, RegistryError, ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _suites(options: argparse.Namespace) -> list[str]:
    return [options.suite] if options.suite else suite_names(options.results)


def _write_one(options: argparse.Namespace, suite: str) -> Summary:
    registry = _registry(options.registry)
    if registry is not None and suite in registry.suites:
        registry = registry.declaring(suite)
    return write_report(
        options.results,
        options.reports,
        registry.claim if registry else None,
        suite=suite,
        published=declared_published(registry, suite) if registry else (),
        row_sources=RowSources.named_by(registry, options.data_root),
        redraw=options.redraw,
        processes=available_cores(),
    )


def _write_table(options: argparse.Namespace) -> Summary:
    from benchmark.report.table_report import write_table_report

    registry = _registry(options.registry)
    claim = registry.claim if registry else None
    return write_table_report(options.table, options.columns, options.reports, claim)


def _show(summaries: Sequence[Summary], *, as_json: bool) -> None:
    """Print one JSON document; or what one report says, and where several lie."""
    from benchmark.report.summary import json_document
    from benchmark.report.terminal import print_summary

    if as_json:
        print(json_document(summaries))
    elif len(summaries) == 1:
        print_summary(summaries[0])
    else:
        for summary in summaries:
            print(summary.paths["report"])


@functools.cache
def _registry(path: Path) -> Registry | None:
    if path == DEFAULT_REGISTRY and not path.exists():
        return None
    return Registry.load(path)
