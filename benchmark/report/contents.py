"""Gathers what a report shows, before any of it becomes markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from benchmark.claim import (
    PRIMARY_METRIC,
    Declaration,
    Passage,
    changes_sentence,
    claim_passages,
    declaration_of,
    declaration_passage,
)
from benchmark.markup import Cell, Column, Table, ascii_json, compact, file_name, plural
from benchmark.records import DamagedError, available_cores
from benchmark.report import (
    choice_figure,
    claim_figures,
    figures,
    scatter_figures,
    tabulation,
    temperature_figures,
)
from benchmark.report.across_table import AcrossTable, across_tables
from benchmark.report.choice import Choice, choose
from benchmark.report.choice_table import choosing_table
from benchmark.report.data import MAX_LOGITS_FILES, Problem, ReportData, over_seeds, rows_of
from benchmark.report.drawings import Asked, Drawings, done
from benchmark.report.evaluations import Evaluation, evaluate_models, grid_models
from benchmark.report.machines import about_latencies
from benchmark.report.map_table import MapFindings, map_findings
from benchmark.report.model_pages import ModelPage, model_pages
from benchmark.report.published import PublishedSection, published_sections
from benchmark.report.sets_table import sets_table
from benchmark.report.twin_figure import twin_lines

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.claim import ClaimResult
    from benchmark.registry import Claim, Published
    from benchmark.report.figure_style import Drawing

MAX_FIGURE_DATASETS = 6
"""Datasets with figures of their own: those with most models. The rest have tables only."""
MAX_NOTES = 6
"""Notes on the rows of a dataset that are shown."""

BY_SIZE = "error-by-parameters"
Place = Literal["front", "across", "forest", "claim"]


_NOT_RESAMPLED = (
    f"With more than {MAX_LOGITS_FILES} runs the report does not resample test rows, so pairs have "
    "no interval here; python -m benchmark.report on a suite of fewer models gives them."
)


@dataclass(frozen=True)
class Section:
    """What a report says of one dataset."""

    dataset: str
    file: str
    summary: str
    quality: Table
    detail: Table
    maps: MapFindings | None
    sets: Table | None
    asked: tuple[Asked, ...]
    unstable: tuple[str, ...]

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        """The dataset's figures."""
        return done(self.asked)


@dataclass
class Contents:
    """Everything the pages show.

    `is_final` says whether the same files give the same again: not where something could not be
    read.
    """

    data: ReportData
    choice: Choice = field(default_factory=Choice)
    choosing: list[Table] = field(default_factory=list)
    outcome: str = "undecided"
    verdict: tuple[str, ...] = ()
    verdict_numbers: tuple[str, ...] = ()
    claim_json: str = ""
    claim_result: ClaimResult | None = None
    passages: list[Passage] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    across_tables: tuple[AcrossTable, ...] = ()
    about_sizes: str = ""
    claim_not_drawn: list[str] = field(default_factory=list)
    published: list[PublishedSection] = field(default_factory=list)
    pages: list[ModelPage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    is_final: bool = True
    asked: dict[Place, list[Asked]] = field(default_factory=dict)

    @property
    def front(self) -> Drawing | None:
        """The figure of the first screen."""
        return next(iter(self._drawn("front")), None)

    @property
    def across(self) -> tuple[Drawing, ...]:
        """The figures across datasets."""
        return self._drawn("across")

    @property
    def forest(self) -> Drawing | None:
        """The claim's ratios and their intervals."""
        return next(iter(self._drawn("forest")), None)

    @property
    def claim_drawings(self) -> tuple[Drawing, ...]:
        """The claim's other figures."""
        return self._drawn("claim")

    @property
    def not_drawn(self) -> list[str]:
        """What is not drawn across datasets because it would say nothing."""
        drawn = any(drawing.name == BY_SIZE for drawing in self.across)
        return [self.about_sizes] if self.about_sizes and not drawn else []

    def _drawn(self, place: Place) -> tuple[Drawing, ...]:
        return done(self.asked.get(place, ()))

    @property
    def drawings(self) -> list[Drawing]:
        """All figures of the report."""
        first = [drawing for drawing in (self.front, self.forest) if drawing]
        first += [across.drawing for across in self.across_tables]
        of_sections = [drawing for section in self.sections for drawing in section.drawings]
        beside = [section.drawing for section in self.published if section.drawing]
        return [*first, *of_sections, *beside, *self.across, *self.claim_drawings]

    @property
    def problem_table(self) -> Table:
        """Runs without a result and other things that went wrong, with reasons."""
        names = ("run", "status", "stage", "reason")
        return Table(
            tuple(Column(name, name, "left") for name in names),
            [
                tuple(Cell(text) for text in (p.run, p.status, p.stage, p.reason))
                for p in self.problems
            ],
        )


def gather(
    data: ReportData,
    claim: Claim,
    published: Sequence[Published] = (),
    drawings: Drawings | None = None,
) -> Contents:
    """Test the claim, draw the figures and build the tables and model pages."""
    drawings = drawings or Drawings()
    declared = declaration_of(data.root.parent, data.suite, claim)
    if len(data.in_distribution) <= MAX_LOGITS_FILES:
        contents = _describe(data, published, drawings)
        add_claim(contents, try_claim(data.frame, claim), declared=declared, drawings=drawings)
        return contents
    # So many runs that the test takes as long as the drawing: each gets processes. Without
    # folders the test reads no logits, so it compares no pairs row by row.
    drawings.processes = max(drawings.processes, available_cores())
    tested = drawings.pool(available_cores()).submit(
        try_claim, data.frame.drop(columns="folder"), claim
    )
    contents = _describe(data, published, drawings)
    add_claim(contents, tested.result(), (_NOT_RESAMPLED,), declared, drawings)
    return contents


def _describe(data: ReportData, published: Sequence[Published], drawings: Drawings) -> Contents:
    """Return everything but the claim."""
    contents = Contents(data, problems=[*data.problems, *data.timing_problems])
    contents.is_final = not (data.runs["unreadable"] or data.runs["damaged"])
    evaluations: list[Evaluation] = []
    if len(data.in_distribution):
        table = over_seeds(data.in_distribution)
        contents.asked["across"] = _ask_across(data, _drawn_of(table), drawings)
        contents.about_sizes = _about_sizes(table)
        evaluations, unreadable = evaluate_models(data, table)
        told = [str(error).replace(f"{data.root}/", "") for error in unreadable]
        contents.problems += [Problem(reason, "no logits", "report", "") for reason in told]
        # Logits that are not there are not there the next time either.
        contents.is_final &= not any(isinstance(error, DamagedError) for error in unreadable)
        contents.is_final &= all(one.is_final for one in evaluations)
        contents.choice = choose(data)
        contents.choosing = [choosing_table(group) for group in contents.choice.groups]
        contents.asked["front"] = [
            drawings.ask(choice_figure.front_figure, contents.choice, "front")
        ]
        contents.across_tables = across_tables(table, contents.choice, drawings)
        contents.sections = _sections(data, table, evaluations, drawings)
        drawings.start()
    contents.published = published_sections(data, published, drawings)
    contents.pages = model_pages(data, evaluations)
    return contents


def try_claim(frame: pd.DataFrame, claim: Claim, metric: str = PRIMARY_METRIC) -> ClaimResult | str:
    """Return the test's result, or why there is none."""
    from benchmark.claim import ClaimError, evaluate_claim

    try:
        return evaluate_claim(frame, claim, metric=metric)
    except ClaimError as error:
        return f"The claim could not be tested: {error}"


def add_claim(
    contents: Contents,
    result: ClaimResult | str,
    about_pairs: Sequence[str] = (),
    declared: Declaration | None = None,
    drawings: Drawings | None = None,
) -> None:
    """Add the verdict, its passages and its figures; of a published table nothing is declared."""
    drawings = drawings or Drawings()
    notes = tuple(note for note in (contents.data.incomplete, changes_sentence(declared)) if note)
    if isinstance(result, str):
        contents.verdict = (result, *notes)
        passage = declaration_passage(declared)
        contents.passages = [] if passage is None else [passage]
        return
    result = result.model_copy(update={"declaration": declared})
    asked = [
        drawings.ask(twin_lines, result, "twins"),
        drawings.ask(claim_figures.variance_shares, result.variance_shares, "variance-shares"),
        drawings.ask(claim_figures.specification_curve, result, "specification-curve"),
    ]
    contents.claim_result = result
    contents.outcome = result.verdict.outcome
    contents.verdict = (*result.verdict.sentences, *notes)
    contents.verdict_numbers = result.verdict.numbers
    contents.claim_json = ascii_json(result.model_dump_json(indent=1)) + "\n"
    contents.asked["forest"] = [drawings.ask(claim_figures.forest, result, "contrast")]
    contents.passages = claim_passages(result, about_pairs)
    contents.asked["claim"] = asked
    if asked[1].drawing is None and result.variance_shares.shares:
        contents.claim_not_drawn = [
            "Shares of variance are not drawn: no factor's interval clears what chance explains."
        ]


def _sections(
    data: ReportData, table: pd.DataFrame, evaluations: Sequence[Evaluation], drawings: Drawings
) -> list[Section]:
    sections = []
    counts = table["dataset"].value_counts().sort_index(kind="stable")
    drawn = set(counts.nlargest(MAX_FIGURE_DATASETS).index)
    for dataset, rows in table.groupby("dataset", observed=True):
        name = str(dataset)
        sections.append(
            Section(
                dataset=name,
                file=file_name(name),
                summary=_summary(data, rows),
                quality=tabulation.quality_table(rows),
                detail=tabulation.detail_table(rows),
                maps=map_findings(rows),
                sets=sets_table(rows),
                asked=_ask_dataset(rows, name, evaluations, drawings) if name in drawn else (),
                unstable=_about_timing(data, name, rows),
            )
        )
    return sections


def _about_timing(data: ReportData, dataset: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """Return what must be known of a data set's latencies: other machines, disturbed timings."""
    machines = about_latencies(data.timed_on, dataset)
    disturbed = [
        f"{row.model}: {_shortened(row.timing_reasons)}"
        for row in rows_of(rows)
        if row.timing_reasons
    ]
    return (*([machines] if machines else []), *disturbed)


def _shortened(reasons: str) -> str:
    """Return the first of several reasons, and how many more tables/runs.csv has."""
    first, *others = reasons.split("; ")
    return f"{first} (and {len(others)} more)" if others else first


def _summary(data: ReportData, rows: pd.DataFrame) -> str:
    dataset = rows["dataset"].iloc[0]
    classes = len(data.label_names.get(dataset, ()))
    of_classes = f", {plural(classes, 'class', 'classes')}" if classes else ""
    seeds = plural(int(rows["seeds"].max()), "seed")
    told = data.notes.get(dataset, ())
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in told[:MAX_NOTES])
    if len(told) > MAX_NOTES:
        notes += f" {plural(len(told) - MAX_NOTES, 'more note')} in the records."
    size = f"{int(rows['n'].max()):,} test rows"
    return f"{plural(len(rows), 'model')}, {size}{of_classes}, {seeds}.{notes}"


def _ask_dataset(
    rows: pd.DataFrame, dataset: str, evaluations: Sequence[Evaluation], drawings: Drawings
) -> tuple[Asked, ...]:
    rows = _drawn_of(rows)
    asked = [drawings.ask(figures.dumbbell, rows, dataset, f"ece-{file_name(dataset)}")]
    here = {e.model: e for e in evaluations if e.dataset == dataset}
    panels = [
        figures.ReliabilityPanel(e.model, e.mixer, e.n, e.before, e.after)
        for e in (here[model] for model in grid_models(rows) if model in here)
    ]
    if panels:
        name = f"reliability-{file_name(dataset)}"
        asked.append(drawings.ask(figures.reliability_grid, panels, dataset, len(rows), name))
    return tuple(asked)


def _ask_across(data: ReportData, table: pd.DataFrame, drawings: Drawings) -> list[Asked]:
    axes = (
        (scatter_figures.ACCURACY, "error-by-accuracy"),
        (scatter_figures.PARAMETERS, BY_SIZE),
    )
    by_family = temperature_figures.temperature_by_family
    return [
        *(drawings.ask(scatter_figures.scatter, table, axis, name) for axis, name in axes),
        drawings.ask(by_family, table, "temperature-by-family"),
        drawings.ask(scatter_figures.pareto, table, "latency-and-error"),
        drawings.ask(figures.under_shift, _drawn_of(over_seeds(data.scored)), "error-under-shift"),
    ]


def _drawn_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the places of its runs, so that figures are the same in any place."""
    return table.drop(columns="folder")


def _about_sizes(table: pd.DataFrame) -> str:
    """Return why error against size is not drawn, where it is not."""
    sizes = table["parameters"].dropna()
    if not len(sizes):
        return ""
    return (
        f"Error against size is not drawn: the models have {compact(sizes.min())} to "
        f"{compact(sizes.max())} parameters, which is too little apart to show anything."
    )
