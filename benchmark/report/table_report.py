"""The report of a published table: what a report of runs says of the claim, without runs.

python -m benchmark.report --table FILE.csv --columns MAP.yaml [--reports reports]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim import Passage, PublishedTable
from benchmark.markup import (
    Cell,
    Column,
    Table,
    compact,
    decimals,
    file_name,
    percent,
    plural,
    to_csv,
    visible,
    without_credentials,
)
from benchmark.report.data import Problem, ReportData, ReportError, rows_of, with_columns

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.registry import Claim
    from benchmark.report.contents import Contents
    from benchmark.report.summary import Summary

UNSAID = ("Seeds",)
"""Passages of the claim that say nothing of a table with one row a model."""


@dataclass(frozen=True)
class TablePage:
    """What the pages show of a table beside the claim.

    Attributes:
        title: of the table.
        head: one sentence on what is in it.
        about: where it is from, what was left out, how well its errors are known.
        mixers: a row per mixer.
        families: a row per family and mixer.
        columns: names of the files in the tables folder, with what they hold.
    """

    title: str
    head: str
    about: Passage
    mixers: Table
    families: Table
    files: tuple[tuple[str, str], ...]


def write_table_report(
    table: Path, columns: Path, reports: Path, claim: Claim | None = None
) -> Summary:
    """Write the report of a published table to `reports/<name>` and return what it says in short.

    Args:
        table: CSV file.
        columns: the map that explains its columns.
        reports: where reports are kept.
        claim: what is tested; None: the defaults of the registry.

    Raises:
        ReportError: a file cannot be used, or the target folder holds something else.
    """
    from benchmark.claim import ClaimError, read_table
    from benchmark.registry import Claim

    try:
        published = read_table(table, columns)
    except ClaimError as error:
        raise ReportError(str(error)) from None
    if not (published.frame["status"] == "completed").any():
        raise ReportError(f"{table}: the map's drop rules, or missing errors, leave no row")
    from benchmark.report.command import replaced_folder
    from benchmark.report.summary import Summary

    target = reports / file_name(published.name)
    with replaced_folder(target) as folder:
        contents, page = describe(published, table, claim or Claim())
        _write_pages(contents, page, published, folder)
    return Summary.of(contents, target)


def describe(published: PublishedTable, table: Path, claim: Claim) -> tuple[Contents, TablePage]:
    """Test the claim on a table, draw its figures and build its tables."""
    from benchmark.report.contents import Contents, add_claim, try_claim

    frame = _shown_safely(published.frame)
    left_out = frame[frame["status"] != "completed"]
    data = ReportData(
        suite=published.name,
        root=table.parent,
        frame=with_columns(frame),
        problems=tuple(
            Problem(str(row.model), "left out", "", str(row.reason)) for row in rows_of(left_out)
        ),
        runs=Counter(frame["status"]),
    )
    contents = Contents(data, problems=list(data.problems))
    add_claim(contents, try_claim(frame, published.tested(claim), published.metric))
    contents.passages = [one for one in contents.passages if one.title not in UNSAID]
    families = family_means(data.in_distribution, published)
    _draw(contents, data.in_distribution, families, published)
    return contents, _page(published, data.in_distribution, families)


def _page(published: PublishedTable, used: pd.DataFrame, families: pd.DataFrame) -> TablePage:
    return TablePage(
        title=published.title,
        head=_head(used, families),
        about=published.passage,
        mixers=_group_table(used, families, published, ("mixer",)),
        families=_group_table(used, families, published, ("family", "mixer")),
        files=(
            ("families.csv", "the families at full precision"),
            ("models.csv", "what the map's rules made of every name"),
        ),
    )


def _shown_safely(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with names that a page can show: they come from anywhere."""
    names = ["model", "family", "dataset"]
    return frame.assign(**{name: frame[name].astype(str).map(visible) for name in names})


def family_means(used: pd.DataFrame, published: PublishedTable) -> pd.DataFrame:
    """Return a row per family and mixer: how many models, and means over them.

    Errors (`error_<map>`) by their geometric mean, over models and datasets; accuracy by its mean;
    parameters by the least and the greatest.
    """
    from benchmark.records import average_seeds

    averaged = average_seeds(used)
    logs = {}
    for map_name in published.maps:
        errors = averaged[f"{published.metric}_{map_name}"].astype(float)
        logs[f"error_{map_name}"] = np.log(errors.where(errors > 0))
    groups = averaged.assign(**logs).groupby(["family", "mixer"], observed=True)
    means: pd.DataFrame = groups[list(logs)].mean().apply(np.exp)
    means["models"] = groups["model"].nunique()
    means["accuracy"] = groups["accuracy_none"].mean()
    means["smallest"], means["largest"] = groups["parameters"].min(), groups["parameters"].max()
    return means.reset_index().sort_values(["mixer", "family"], ignore_index=True)


def _draw(
    contents: Contents, used: pd.DataFrame, families: pd.DataFrame, published: PublishedTable
) -> None:
    """Add the figures that a table without rows of its models can have."""
    from benchmark.records import average_seeds
    from benchmark.report import scatter_figures, table_figures, temperature_figures
    from benchmark.report.drawings import Drawings

    column = f"{published.metric}_{published.maps[0]}"
    drawings, error = Drawings(), "published calibration error"
    by_mixer = table_figures.errors_by_mixer
    contents.asked["front"] = [
        drawings.ask(by_mixer, families, published.maps, published.error, "error-by-mixer")
    ]
    table = average_seeds(used)
    ends = {f"{column}_{end}": np.nan for end in ("low", "high")}
    table = table.assign(**ends, temperature_low=np.nan, temperature_high=np.nan)
    axes = (
        (scatter_figures.ACCURACY, "error-by-accuracy"),
        (scatter_figures.PARAMETERS, "error-by-parameters"),
    )
    by_family = temperature_figures.temperature_by_family
    contents.asked["across"] = [
        *(
            drawings.ask(scatter_figures.scatter, table, axis, name, column, error)
            for axis, name in axes
        ),
        drawings.ask(by_family, table, "temperature-by-family"),
    ]


def _head(used: pd.DataFrame, families: pd.DataFrame) -> str:
    """Say in one sentence what is in the table."""
    sizes = used["parameters"].dropna().astype(float)
    ends = f" of {compact(sizes.min())} to {compact(sizes.max())} parameters" if len(sizes) else ""
    models = plural(used["model"].nunique(), "model")
    count = plural(families["family"].nunique(), "family", "families")
    datasets = sorted(map(str, used["dataset"].unique()))
    named = ", ".join(datasets[:3]) + (f" and {len(datasets) - 3} more" if datasets[3:] else "")
    return f"A published table, not runs of this benchmark: {models}{ends}, {count}, on {named}."


def _group_table(
    used: pd.DataFrame, families: pd.DataFrame, published: PublishedTable, by: Sequence[str]
) -> Table:
    """Return a row per mixer, from its families each counted once, or per family."""
    per_mixer = len(by) == 1
    columns = [Column(name, name, "left") for name in by]
    columns += [Column("families", "families")] if per_mixer else []
    columns.append(Column("models", "models"))
    columns += [
        Column(f"error_{name}_pp", f"error {word} pp", help=published.error)
        for name, word in zip(published.maps, published.words, strict=True)
    ]
    accuracy = bool(used["accuracy_none"].notna().any())
    sizes = bool(used["parameters"].notna().any())
    columns += [Column("accuracy", "accuracy")] if accuracy else []
    columns += [Column("parameters", "parameters")] if sizes else []
    rows = []
    for key, group in families.groupby(list(by), observed=True):
        names = key if isinstance(key, tuple) else (key,)
        cells = [Cell(str(name), str(name)) for name in names]
        cells += [_count(len(group))] if per_mixer else []
        cells.append(_count(int(group["models"].sum())))
        for map_name in published.maps:
            error = 100 * float(np.exp(np.log(group[f"error_{map_name}"]).mean()))
            cells.append(Cell(decimals(error, 2), error))
        mean = float(group["accuracy"].mean())
        cells += [Cell(percent(mean), mean)] if accuracy else []
        cells += [_sizes(group)] if sizes else []
        rows.append(tuple(cells))
    return Table(tuple(columns), rows)


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", number)


def _sizes(group: pd.DataFrame) -> Cell:
    low, high = float(group["smallest"].min()), float(group["largest"].max())
    text = compact(low) if low == high else f"{compact(low)} to {compact(high)}"
    return Cell(text, high)


def _write_pages(
    contents: Contents, page: TablePage, published: PublishedTable, folder: Path
) -> None:
    from benchmark.report.methods import describe_table_methods
    from benchmark.report.pages import render_table_html, render_table_readme

    for name in ("figures", "tables"):
        (folder / name).mkdir()
    _write(folder / "README.md", render_table_readme(contents, page))
    _write(folder / "index.html", render_table_html(contents, page))
    methods = describe_table_methods(contents, published)
    _write(folder / "methods.md", methods.page)
    _write(folder / "references.bib", methods.bibtex)
    for drawing in contents.drawings:
        _write(folder / "figures" / f"{drawing.name}.svg", drawing.svg)
    if contents.claim_json:
        _write(folder / "tables" / "claim.json", contents.claim_json)
    families = family_means(contents.data.in_distribution, published)
    _write_csv(folder / "tables" / "families.csv", families)
    # What the rules say of each name. The table's figures stay in the table: they are its owner's.
    facts = ["model", "family", "mixer", "dataset", "pretraining_examples", "distillation"]
    frame = contents.data.frame[[*facts, "status", "reason"]].dropna(axis="columns", how="all")
    _write_csv(folder / "tables" / "models.csv", frame)


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    columns = [
        ["" if gap else value for value, gap in zip(frame[name], frame[name].isna(), strict=True)]
        for name in frame.columns
    ]
    _write(path, to_csv([str(name) for name in frame.columns], list(zip(*columns, strict=True))))


def _write(path: Path, text: str) -> None:
    path.write_text(without_credentials(text), encoding="utf-8")
