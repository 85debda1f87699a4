"""`methods.md` and `references.bib` of a report: what was done, from the records, and what to cite.

Every sentence is a count, a setting or a range that the records and specifications hold; none says
what came out. What a suite did not do is not mentioned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from benchmark.markup import compact, escape_inline, plural
from benchmark.report.bibliography import Bibliography, Work
from benchmark.report.methods_analysis import (
    claim_section,
    maps_section,
    metrics_section,
    problems_section,
    software_section,
    timing_section,
)
from benchmark.report.methods_text import (
    bullets,
    counted,
    distinct,
    pipe_table,
    shortened,
    spread,
)
from benchmark.report.run_method import RunMethod

if TYPE_CHECKING:
    from benchmark.claim import PublishedTable
    from benchmark.registry import DatasetEntry
    from benchmark.report.contents import Contents
    from benchmark.report.data import ReportData

PROGRAM = "calibration-benchmark"
MAX_NOTES = 6


class Methods(NamedTuple):
    """The two files."""

    page: str
    bibtex: str


def describe_methods(contents: Contents) -> Methods:
    """Return what a report's methods page and its bibliography say."""
    data, works = contents.data, Bibliography()
    runs = sorted(data.methods, key=lambda run: (run.model, run.dataset, run.seed))
    sections = (
        ("Models", _models(runs, works)),
        ("Data", _data(data, runs, works)),
        ("Training", _training(runs, works)),
        ("Temperature and other maps", maps_section(runs, works)),
        ("Metrics", metrics_section(contents, runs, works)),
        ("Test of the claim", claim_section(contents, works)),
        ("Timing", timing_section(runs)),
        ("Software and machines", software_section(data, runs, works)),
        ("What failed or is missing", problems_section(contents)),
    )
    head = (
        f"{plural(len(runs), 'record')} of suite {escape_inline(data.suite)}, read by "
        f"{program(works)}. What was done, not what came out. Citation keys are those of "
        "[references.bib](references.bib); revisions are cut to 12 digits."
    )
    return as_methods(f"Methods: {escape_inline(data.suite)}", head, sections, works)


def describe_table_methods(contents: Contents, published: PublishedTable) -> Methods:
    """Return the same of a report on a published table, whose figures are others'."""
    works = Bibliography()
    source = works.in_text(published.source)
    if source and not works.cited:
        source += f" {works.of_reference(published.source, published.title)}"
    head = (
        f"The figures of this report are others': a published table ({source or 'source not said'})"
        f", read by {program(works)}. No model was trained, scored or timed for it. Citation keys "
        "are those of [references.bib](references.bib)."
    )
    frame = contents.data.in_distribution
    counts = [
        plural(frame["model"].nunique(), "model"),
        plural(frame["family"].nunique(), "family", "families"),
        plural(frame["dataset"].nunique(), "data set"),
    ]
    mixers = counted(frame.drop_duplicates("model")["mixer"].astype(str))
    about = [escape_inline(text) for text in published.passage.sentences]
    sections = (
        ("Table", bullets([*about, f"{', '.join(counts)}: {mixers}."])),
        ("Test of the claim", claim_section(contents, works)),
        ("What is left out", problems_section(contents, "Rows")),
    )
    return as_methods(f"Methods: {escape_inline(published.title)}", head, sections, works)


def as_methods(
    title: str, head: str, sections: Sequence[tuple[str, str]], works: Bibliography
) -> Methods:
    """Return the page of those sections that say anything, and the works that they cite."""
    told = [f"## {name}\n\n{text.strip()}\n" for name, text in sections if text.strip()]
    about = "% What methods.md cites, and nothing else.\n\n"
    return Methods("\n".join([f"# {title}\n\n{head}\n", *told]), about + works.to_bibtex())


def program(works: Bibliography) -> str:
    """Name this program and its version, and cite it."""
    version = _version()
    fields = (
        ("author", "{The calibration-benchmark maintainers}"),
        ("title", f"{{{PROGRAM}}}: Calibration of Fine-Tuned Models, Compared"),
        ("note", f"Version {version}"),
    )
    return f"{PROGRAM} {version} {works.cite(Work(PROGRAM, 'misc', fields))}"


def _version() -> str:
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _by(
    runs: Sequence[RunMethod], key: Callable[[RunMethod], str]
) -> list[tuple[str, list[RunMethod]]]:
    groups: dict[str, list[RunMethod]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return sorted(groups.items())


def _models(runs: Sequence[RunMethod], works: Bibliography) -> str:
    models = _by(runs, lambda run: run.model)
    mixers = [distinct(run.facts.mixer for run in own) or "unknown mixer" for _, own in models]
    families = {run.facts.family for run in runs} - {None}
    seeds = sorted({run.seed for run in runs})
    header = (
        *("model", "family", "mixer", "parameters", "weights at the start", "revision"),
        *("pretraining examples", "pretraining", "twin", "what is scored", "reference"),
    )
    counts = [plural(len(models), "model")]
    counts += [plural(len(families), "family", "families")] if families else []
    return "\n".join(
        [
            bullets(
                [
                    f"{' of '.join(counts)}: {counted(mixers)}.",
                    f"{plural(len(runs), 'run')} of {plural(len(seeds), 'seed')} "
                    f"({distinct(seeds)}), {counted(run.status for run in runs)}.",
                ]
            ),
            pipe_table(header, [_model_row(name, own, works) for name, own in models]),
        ]
    )


def _model_row(name: str, runs: Sequence[RunMethod], works: Bibliography) -> tuple[str, ...]:
    facts = [run.facts for run in runs]
    examples = [one.pretraining_examples for one in facts if one.pretraining_examples is not None]
    references = {run.facts.reference for run in runs if run.facts.reference}
    cited = [works.of_reference(reference, name) for reference in sorted(references)]
    if not cited:
        pages = {(run.spec.model.hub, _revision(run)) for run in runs if run.spec}
        cited = [works.of_hub_page(page, at) for page, at in sorted(pages, key=str) if page]
    return (
        escape_inline(name),
        distinct(one.family for one in facts),
        distinct(one.mixer for one in facts),
        spread(one.parameters for one in facts if one.parameters is not None),
        distinct(_start(run) for run in runs),
        ", ".join(dict.fromkeys(filter(None, (shortened(_revision(run)) for run in runs)))),
        " to ".join(dict.fromkeys(compact(value) for value in (min(examples), max(examples))))
        if examples
        else "",
        distinct(_pretraining(run) for run in runs),
        distinct(one.twin for one in facts),
        distinct(_scored(run) for run in runs),
        " ".join(cited),
    )


def _revision(run: RunMethod) -> str | None:
    return run.provenance.get("model_revision")


def _start(run: RunMethod) -> str:
    """Say where a run's weights came from, without a path of somebody's machine."""
    if run.is_imported:
        return "not known (imported)"
    if run.spec is None:
        return "random" if run.facts.source == "scratch" else ""
    if run.spec.model.scratch is not None:
        return "random"
    return run.spec.model.hub or "local checkpoint"


def _pretraining(run: RunMethod) -> str:
    """Say what is known of how a checkpoint was made; empty of weights that were random."""
    if _start(run) == "random":
        return ""
    facts, told = run.facts, []
    if run.spec is not None:
        told += [run.spec.model.pretraining.corpus, run.spec.model.pretraining.objective]
    told += [] if facts.loss is None else [f"loss {facts.loss.replace('_', ' ')}"]
    flags = ("label_smoothing", "mixup", "cutmix")
    told += [name.replace("_", " ") for name in flags if getattr(facts, name)]
    told += ["distilled"] if facts.distillation else []
    told += [] if facts.teacher_mixer is None else [f"teacher {facts.teacher_mixer}"]
    return "; ".join(text for text in told if text)


def _scored(run: RunMethod) -> str:
    if run.is_imported:
        return "imported logits"
    if run.spec is not None:
        if run.spec.recipe is None:
            return "published head"
        return "trained" if run.spec.model.scratch is not None else "fine-tuned"
    return "trained" if run.training is not None else ""


def _data(data: ReportData, runs: Sequence[RunMethod], works: Bibliography) -> str:
    header = (
        *("data set", "source", "revision", "classes", "training rows", "calibration rows"),
        *("test rows", "reference"),
    )
    sets = _by(runs, lambda run: run.dataset)
    rows = [_data_row(name, own, works) for name, own in sets]
    told = [text for name, own in sets for text in _about_data(data, name, own)]
    return f"{pipe_table(header, rows)}\n{bullets(told)}"


def _data_row(name: str, runs: Sequence[RunMethod], works: Bibliography) -> tuple[str, ...]:
    entries = [run.spec.dataset for run in runs if run.spec]
    revisions = [run.provenance.get("data_revision") for run in runs]
    references = {entry.reference for entry in entries if entry.reference}
    cited = [works.of_reference(reference, name) for reference in sorted(references)]
    if not cited:
        pages = dict.fromkeys(
            (run.spec.dataset.hub, run.provenance.get("data_revision")) for run in runs if run.spec
        )
        cited = [works.of_hub_page(page, at, data=True) for page, at in pages if page]
    sources = [
        entry.hub or (f"package, {entry.embedded}" if entry.embedded else "local files")
        for entry in entries
    ]
    sources += ["imported logits" for run in runs if run.is_imported]
    fitted = [run.temperature.n for run in runs if run.temperature]
    return (
        escape_inline(name),
        distinct(sources),
        ", ".join(dict.fromkeys(filter(None, map(shortened, revisions)))),
        spread(run.classes for run in runs if run.classes),
        spread(run.rows["train"] for run in runs if "train" in run.rows),
        spread(fitted or [run.rows["calibration"] for run in runs if "calibration" in run.rows]),
        spread(run.scored["test"] for run in runs if "test" in run.scored),
        " ".join(cited),
    )


def _about_data(data: ReportData, name: str, runs: Sequence[RunMethod]) -> Iterator[str]:
    """Yield what a table has no room for, as sentences."""
    title = escape_inline(name)
    specs = list({str(run.spec.dataset): run.spec for run in runs if run.spec}.values())
    for split in dict.fromkeys(text for spec in specs for text in _splits(spec.dataset)):
        yield f"{title}: {split}."
    shifted: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for split, n in run.scored.items():
            if split != "test":
                shifted[f"{n:,}"][split] = None
    for count, names in shifted.items():
        yield f"{title}: shifted test sets of {count} rows: {distinct(names, most=40)}."
    limits = [run.limit for run in runs if run.limit is not None]
    if limits:
        yield f"{title}: at most {distinct(limits)} rows of each split were used."
    notes = data.notes.get(name, ())
    for note in notes[:MAX_NOTES]:
        yield f"{title}: {escape_inline(note)}."
    if len(notes) > MAX_NOTES:
        yield f"{title}: {plural(len(notes) - MAX_NOTES, 'more note')} in the records."


def _splits(entry: DatasetEntry) -> Iterator[str]:
    """Yield how the rows of a data set were divided and cut."""
    splits = entry.splits
    if entry.embedded is None:  # those of embedded data are pinned, whatever the entry says
        parts = {"training": splits.train, "calibration": splits.calibration, "test": splits.test}
        told = [
            f"{part} {escape_inline(place) if isinstance(place, str) else f'a share of {place:g}'}"
            for part, place in parts.items()
            if place is not None
        ]
        shares = any(isinstance(place, float) for place in parts.values())
        seed = f" (chosen with split seed {entry.split_seed})" if shares else ""
        yield f"declared splits: {', '.join(told)}{seed}"
    if entry.config:
        yield f"configuration {escape_inline(entry.config)}"
    if entry.max_length is not None:
        yield f"texts are cut after {entry.max_length:,} tokens"
    if entry.image_size is not None:
        yield f"images have {entry.image_size:,} pixels a side"
    if entry.licence:
        yield f"licence: {escape_inline(entry.licence)}"


def _training(runs: Sequence[RunMethod], works: Bibliography) -> str:
    trained = [run for run in runs if run.spec is not None and run.spec.recipe is not None]
    header = (
        *("recipe", "models", "runs", "epochs", "rows a step", "learning rate", "schedule"),
        *("warm-up", "weight decay", "gradient norm at most", "label smoothing", "precision"),
        "more",
    )
    recipes = _by(trained, _recipe_of)
    rows = [_recipe_row(own, works) for _, own in recipes]
    heads = sum(run.spec is not None and run.spec.recipe is None for run in runs)
    imported = sum(run.is_imported for run in runs)
    unknown = sum(run.spec is None and not run.is_imported for run in runs)
    told = bullets(
        [
            *(_how_trained([run for run in trained if run.training], works) if trained else ()),
            f"{plural(heads, 'run')} scored a published head, without training." if heads else "",
            f"{plural(imported, 'run')} took in logits of another program." if imported else "",
            f"{plural(unknown, 'run')} without a specification that this version reads."
            if unknown
            else "",
        ]
    )
    return f"{pipe_table(header, rows) if rows else ''}\n{told}"


def _recipe_of(run: RunMethod) -> str:
    return "" if run.spec is None else f"{run.spec.model.recipe} {run.spec.recipe}"


def _recipe_row(runs: Sequence[RunMethod], works: Bibliography) -> tuple[str, ...]:
    spec = runs[0].spec
    assert spec is not None  # callers have picked those
    assert spec.recipe is not None
    recipe, lora = spec.recipe, spec.recipe.lora
    more = [
        "TF32" if recipe.tf32 else "",
        "gradient checkpointing" if recipe.gradient_checkpointing else "",
        "compiled" if recipe.compile else "",
        f"{works.in_text('LoRA (Hu et al. 2022)')}, rank {lora.rank}, alpha {lora.alpha}, "
        f"dropout {lora.dropout:g}"
        if lora
        else "",
    ]
    return (
        escape_inline(spec.model.recipe or ""),
        f"{len({run.model for run in runs}):,}",
        f"{len(runs):,}",
        str(recipe.epochs),
        f"{recipe.batch_size:,}",
        f"{recipe.learning_rate:g}",
        recipe.schedule,
        f"{100 * recipe.warmup:g}% of steps",
        f"{recipe.weight_decay:g}",
        "not clipped" if recipe.clip_norm is None else f"{recipe.clip_norm:g}",
        f"{recipe.label_smoothing:g}",
        recipe.mixed_precision.replace("no", "float32"),
        ", ".join(filter(None, more)),
    )


def _how_trained(runs: Sequence[RunMethod], works: Bibliography) -> Iterator[str]:
    """Yield what the records say of trainings that ended."""
    yield works.in_text(
        "Optimiser: AdamW (Loshchilov & Hutter 2019); biases and scales of normalisation do not "
        "decay."
    )
    done = [run.training for run in runs if run.training]
    if not done:
        return
    cut = sum(one.micro_batch_size < one.batch_size for one in done)
    resumed = sum(one.resumed_at_epoch > 0 for one in done)
    overridden = {f"{k} {v}" for one in done for k, v in one.overridden.items()}
    yield f"Steps: {spread(one.steps for one in done)}; device: {distinct(o.device for o in done)}."
    yield f"Processes: {spread(one.world_size for one in done)}."
    if cut:
        yield f"Steps were cut into smaller batches, of the same sum of gradients, in {cut:,} runs."
    if resumed:
        yield f"{plural(resumed, 'run')} went on after an interruption, from an epoch's end."
    if overridden:
        yield f"Settings of the launch that the recipe overrode: {distinct(sorted(overridden))}."
