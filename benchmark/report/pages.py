"""Contents -> README.md, model pages and index.html. Values are escaped as they are filled in."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.colors import to_hex

from benchmark.markup import (
    Markdown,
    Table,
    compact,
    decimals,
    escape_markdown,
    file_name,
    markdown_environment,
    percent,
    plural,
    tidy_markdown,
    visible,
)
from benchmark.report.choice_flags import by_kind
from benchmark.report.comparison import TreeComparison, comparison_summary
from benchmark.report.data import name_unknown
from benchmark.report.diagram import diagram_svg
from benchmark.report.evaluations import Evaluation
from benchmark.report.figure_style import MIXER_COLORS
from benchmark.report.map_table import NOT_FITTED
from benchmark.report.model_pages import ModelPage

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.report.choice import Group
    from benchmark.report.contents import Contents
    from benchmark.report.data import ReportData
    from benchmark.report.figure_style import Drawing
    from benchmark.report.table_report import TablePage

MAX_TABLE_ROWS = 40
"""Rows of a table in README.md; the HTML page and the CSV file have more."""

MAX_HTML_ROWS = 400
MAX_HTML_MODELS = 60
MAX_ADVICE = 4
"""Groups of models whose advice stands in the first box."""

MAX_FLAGS = 100

NOTES = {
    "choosing": (
        "Means over seeds, then over datasets; NLL, error and gap are after the best map. Error: "
        "debiased calibration error in percentage points, ~0 or below its upper limit where it is "
        "not told from 0. Gap: confidence minus accuracy. Map: what to do to the logits. p50: "
        "median time of one row, one at a time. Rank: by NLL, mean over datasets. Front: no model "
        "is clearly better in accuracy, latency or calibration and clearly worse in none. "
        "! marks what is flagged."
    ),
    "quality": (
        "Most accurate model first; values are means over seeds, ± is the standard deviation over "
        "seeds. ECE %: expected calibration error with 15 equal-width bins, in percentage points, "
        "before → after temperature scaling; noise %: the ECE that a perfectly calibrated model "
        "with the same confidences would show before scaling. Debiased %: debiased calibration "
        "error with its 95% interval over test rows; seeds are averaged on the squared scale, on "
        "which it is unbiased, so chance can put it below 0: then it is not told from 0. T: "
        "temperature fitted on the calibration split, with its 95% interval. Confidence: over or "
        "under the accuracy before scaling; unclear when the interval of the gap holds 0. Bold: "
        "the best, where its interval over all its seeds is clear of every other model's; ECE "
        "has no valid interval, so it is never bold."
    ),
    "detail": (
        "NLL: negative log-likelihood in nats, and Brier score summed over classes, before → after "
        "temperature scaling. p50 / p90 ms: median and 90th percentile of the time for one row, "
        "one row at a time, one thread. Rows/s: throughput at the best batch size. Memory: peak "
        "of the process or device in MB. ⚠: the measurement was disturbed, as listed below; "
        "tables/runs.csv has every reason."
    ),
    "maps": (
        "Would more than one number help? Scores after no map → temperature scaling → the other "
        "map with the least cross-validated NLL on the calibration rows. What it wins is judged on "
        "the same test rows, with both maps held fixed, so the interval lacks "
        "what the choice and the calibration rows add."
    ),
    "sets": (
        "Sets and selection. If only the rows of which a model is surest are decided, how often it "
        "is right there; the others go to somebody else. Sets: for each row the classes that are "
        "needed to hold the label nine times of ten (adaptive prediction sets), made on the "
        "calibration rows; on rows like those they hold it 90% of the time whatever the model, "
        "and small sets are the better ones. 95% intervals over test rows, the maps and the "
        "sets' threshold held fixed."
    ),
    "no_maps": NOT_FITTED,
    "published": (
        "Before and after temperature scaling, on test rows; ours are means over seeds with 95% "
        "intervals over test rows (of T: over calibration rows). Published figures come from other "
        "weights and other rows and have no interval, so they need not lie within ours."
    ),
    "trace": (
        "Every row of tables/runs.csv is one run on one split. Its column folder names the folder "
        "below the suite's results with spec.json (what decided the result), logits.safetensors "
        "(the logits every calibration number is computed from) and record.json (all numbers with "
        "intervals, versions and hardware). The tables folder has every table at full precision."
    ),
    "groups": (
        "Errors are geometric means, in percentage points: of a family over its models, of a mixer"
        " over its families, each counted once. Nothing is adjusted for here."
    ),
    "table_trace": (
        "Every number here follows from the published table and the map of its columns, by python"
        " -m benchmark.report --table FILE --columns MAP. The table's own figures stay with whoever"
        " published them."
    ),
    "mistakes": (
        "Wrong predictions with the highest confidence before scaling, of the first seed. Before "
        "and after are the probabilities given to the predicted class."
    ),
}


def _to_html(value: Any) -> Any:
    """Make text visible; jinja escapes it. What is HTML already, or no text, stays as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment(markdown: bool) -> Environment:
    environment = (
        markdown_environment("benchmark.report", MAX_TABLE_ROWS)
        if markdown
        else _html_environment()
    )
    environment.globals.update(notes=NOTES, plural=plural, percent=percent, decimals=decimals)
    environment.globals["file_name"] = file_name
    return environment


def _html_environment() -> Environment:
    return Environment(
        loader=PackageLoader("benchmark.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
        finalize=_to_html,
    )


def render_readme(contents: Contents) -> str:
    """Return README.md of a report."""
    template = _environment(markdown=True).get_template("readme.md.jinja")
    return tidy_markdown(template.render(**_shared(contents), **_IN_MARKDOWN))


def render_table_readme(contents: Contents, page: TablePage) -> str:
    """Return README.md of a published table's report."""
    template = _environment(markdown=True).get_template("table.md.jinja")
    return tidy_markdown(template.render(contents=contents, page=page, link=_link, **_IN_MARKDOWN))


def render_table_html(contents: Contents, page: TablePage) -> str:
    """Return index.html of a published table's report: one file that needs no network."""
    environment = _environment(markdown=False)
    environment.filters["svg"] = _inline_svg
    template = environment.get_template("table.html.jinja")
    return template.render(contents=contents, page=page, max_rows=MAX_HTML_ROWS)


def _link(file: str) -> Markdown:
    return Markdown(f"[{file}](tables/{file})")


def _shared(contents: Contents) -> dict[str, Any]:
    """Return what both pages show."""
    problems = contents.problem_table
    counts = [plural(len(some), kind, kind) for kind, some in by_kind(contents.choice.flags)]
    flags = plural(len(contents.choice.flags), "flag")
    return {
        "contents": contents,
        "what_was_run": what_was_run(contents.data),
        "where_it_ran": where_it_ran(contents.data),
        "problems": problems if problems.rows else None,
        "flag_counts": f"{flags}: {', '.join(counts)}",
        "advised": _advised,
        "max_advice": MAX_ADVICE,
        "max_flags": MAX_FLAGS,
    }


def _advised(group: Group) -> tuple[str, str]:
    """Return the model that the advice is about, and the rest of the sentence."""
    best = group.best or ""
    return (
        (best, group.advice[len(best) :]) if group.advice.startswith(best) else ("", group.advice)
    )


def render_model_page(page: ModelPage, data: ReportData) -> str:
    """Return a model's page in markdown; its files lie beside it."""
    template = _environment(markdown=True).get_template("model.md.jinja")
    return tidy_markdown(template.render(page=page, data=data, code=_code))


def render_html(contents: Contents) -> str:
    """Return index.html: one file that needs no network."""
    environment = _environment(markdown=False)
    environment.filters["svg"] = _inline_svg
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("index.html.jinja").render(
        **_shared(contents),
        mixers=_mixers(contents),
        diagram=lambda evaluation: Markup(diagram(evaluation)),  # nosec B704 # made of figures
        max_rows=MAX_HTML_ROWS,
        max_models=MAX_HTML_MODELS,
        breakable=_breakable,
    )


def render_comparison(comparison: TreeComparison, changed: Table) -> str:
    """Return the page on two result trees in markdown."""
    settings = Counter(setting for pair in comparison.pairs for setting in pair.settings)
    return tidy_markdown(
        _environment(markdown=True)
        .get_template("comparison.md.jinja")
        .render(
            comparison=comparison,
            summary=comparison_summary(comparison),
            changed=changed,
            settings=settings.most_common(),
            not_compared=[pair for pair in comparison.pairs if not pair.changes],
            more=_more,
            max_rows=MAX_TABLE_ROWS,
        )
    )


def diagram(evaluation: Evaluation) -> str:
    """Return the small reliability diagram of an evaluation as SVG text."""
    return diagram_svg(evaluation, to_hex(MIXER_COLORS[evaluation.mixer]))


def _code(text: str) -> Markdown:
    """Return an indented code block, which no content can end."""
    return Markdown(f"    {visible(text)}")


def _show(drawing: Drawing) -> Markdown:
    alt = escape_markdown(drawing.alt)
    caption = escape_markdown(drawing.caption)
    method = _fold("How it is made", escape_markdown(drawing.method)) if drawing.method else ""
    return Markdown(f"![{alt}](figures/{drawing.name}.svg)\n\n*{caption}*\n\n{method}")


def _bold(text: str) -> Markdown:
    return Markdown(f"**{escape_markdown(text)}**")


def _fold(title: str, text: str = "", caller: Callable[[], str] | None = None) -> Markdown:
    """Return markdown that hosts show folded; what shows no HTML shows it unfolded.

    Args:
        title: plain text that stays in sight.
        text: the markdown behind it.
        caller: gives the markdown in place of `text`, where a template's block holds it.
    """
    inner = caller() if caller else text
    summary = escape_markdown(title)
    return Markdown(f"<details><summary>{summary}</summary>\n\n{inner.strip()}\n\n</details>\n")


def _more(table: Table, file: str) -> Markdown:
    hidden = len(table.rows) - MAX_TABLE_ROWS
    if hidden <= 0:
        return Markdown("")
    return Markdown(f"{plural(hidden, 'more row')} in [{file}]({file}).")


_IN_MARKDOWN: dict[str, Any] = {
    "more": _more,
    "show": _show,
    "bold": _bold,
    "fold": _fold,
    "bullet": Markdown("- "),
    "max_rows": MAX_TABLE_ROWS,
}


def _mixers(contents: Contents) -> list[tuple[str, str]]:
    present = set(name_unknown(contents.data.frame)["mixer"])
    return [(mixer, to_hex(color)) for mixer, color in MIXER_COLORS.items() if mixer in present]


def _inline_svg(drawing: Drawing) -> Markup:
    """Return a figure for inlining: names are made unique, so that figures do not mix."""
    prefix = re.sub(r"[^A-Za-z0-9]", "", drawing.name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', drawing.svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    label = escape(drawing.alt)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # nosec B704 # label is escaped


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"


def _breakable(text: str) -> Markup:
    """Escape text and let long paths and names break after slashes."""
    return escape(visible(text)).replace("/", Markup("/<wbr>"))


def what_was_run(data: ReportData) -> str:
    """Return one sentence: how many models, datasets, seeds; how many runs are there."""
    frame = data.frame
    total, done = sum(data.runs.values()), data.runs["completed"]
    families = frame["family"].nunique()
    counts = (
        plural(frame["model"].nunique(), "model"),
        *([plural(families, "family", "families")] if families else []),
        plural(frame["dataset"].nunique(), "dataset"),
        plural(frame["seed"].nunique(), "seed"),
    )
    others = [f"{n:,} {status}" for status, n in data.runs.items() if n and status != "completed"]
    rest = f" ({', '.join(others)})" if others else ""
    completed = f"{done:,} of {plural(total, 'run')} completed{rest}"
    return f"{', '.join(counts)}: {completed}. {_which_models(frame)}".rstrip()


def _which_models(frame: pd.DataFrame) -> str:
    """Return a sentence on size and pretraining: what the verdict can speak of."""
    known = frame.dropna(subset=["parameters"])
    if known.empty:
        return ""
    small, large = known["parameters"].min(), known["parameters"].max()
    pretraining = frame.drop_duplicates("model")["pretraining_examples"]
    sizes = f"{compact(small)} to {compact(large)} parameters"
    trained = _trained(pretraining)
    return f"The models have {sizes}, {trained}; the verdict speaks of models like these."


def _trained(pretraining: pd.Series[float]) -> str:
    """Say how many models are pretrained, from the examples that each has seen."""
    scratch, unknown = int((pretraining == 0).sum()), int(pretraining.isna().sum())
    if scratch == len(pretraining):
        return "all trained from scratch"
    if unknown == len(pretraining):
        return "pretrained on an unknown number of examples or none"
    parts = [
        f"{plural(scratch, 'model')} trained from scratch" if scratch else "",
        f"{unknown:,} pretrained on an unknown number of examples or none" if unknown else "",
        _pretrained(len(pretraining) - scratch - unknown, len(pretraining)),
    ]
    return ", ".join(part for part in parts if part)


def _pretrained(count: int, models: int) -> str:
    return "all pretrained" if count == models else f"{count:,} pretrained" if count else ""


def where_it_ran(data: ReportData) -> str:
    """Return in one line hardware, software and time, and that weights were pickles."""
    machines = data.machines[:2]
    rest = len(data.machines) - len(machines)
    more = f"; and {plural(rest, 'other machine')}" if rest else ""
    finished = f" Last run finished {data.finished[1]}." if data.finished[1] else ""
    pickled = sum(text.startswith("pickle") for text in data.weights.values())
    weights = f" Read from pickles, as tensors only: {plural(pickled, 'model')}." if pickled else ""
    return f"Run on {'; '.join(machines) or 'an unknown machine'}{more}.{finished}{weights}"
