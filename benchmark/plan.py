"""Selection x seeds -> run specifications, each with a content-hash key per stage."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from benchmark.records import RunFolder, SuiteMembers
from benchmark.registry import (
    LONGEST_NAME,
    DatasetEntry,
    Entry,
    ModelEntry,
    Recipe,
    Registry,
    Settings,
    Suite,
    changed,
    did_you_mean,
)

EntryT = TypeVar("EntryT", bound=Entry)
Stage = Literal["training", "logits", "scores", "timing"]
STAGES: tuple[Stage, ...] = get_args(Stage)

STAGE_VERSIONS: dict[Stage, int] = {"training": 1, "logits": 1, "scores": 4, "timing": 1}
"""Raised when a stage's code changes what it computes, so that older results are redone."""

READING_VERSION = 3
"""Raised when the same files, or rows of the hub, give other texts, pixels or labels: the runs
that read them are redone. Embedded data are made by us and keyed by their own version."""
LOADING_VERSION = 2
"""Raised when the same checkpoint gives other logits, as when its texts are padded otherwise or
weights that it lacks are refused: the runs that start from one are redone."""

_NOT_KEYED = {
    # Facts about an entry that do not change what is computed from it,
    *("name", "licence", "reference", "note", "mixer", "family", "pretraining", "parameters"),
    *("evaluation_resolution", "twin", "rows", "class_count"),
    # which datasets it meets, and what may be read of it,
    *("datasets", "allow_pickle"),
    # and names of inputs, whose resolved identity is keyed instead.
    *("revision", "path"),
}


class SelectionError(ValueError):
    """The command line names something the registry does not have."""


class RunSpec(Entry):
    """Everything that decides one run's result.

    `model_revision` and `data_revision` are the resolved identities of the inputs: a hub
    commit, a hash of local files, or the version of an embedded data set. `recipe` is None
    where the published head is scored (`model.evaluate` is then true).
    """

    suite: str
    model: ModelEntry
    dataset: DatasetEntry
    recipe: Recipe | None
    seed: int
    limit: int | None = None
    model_revision: str | None = None
    data_revision: str | None = None

    @property
    def name(self) -> str:
        """The run's name as printed everywhere: model/dataset/seed-n."""
        return f"{self.model.name}/{self.dataset.name}/seed-{self.seed}"

    def folder(self, results: Path) -> RunFolder:
        """Return the folder in `results` that holds this run's files."""
        return RunFolder.of(results, self.suite, self.model.name, self.dataset.name, self.seed)

    def data_key(self) -> str:
        """Return the hash of what decides the rows of every split."""
        later = {"shifts", "shift_rows", "max_length", "image_size"}
        entry = _content(self.dataset, without=later)
        content = {"dataset": entry, "revision": self.data_revision, "limit": self.limit}
        if self.dataset.embedded is None:
            content["reading"] = READING_VERSION
        return content_hash(content)

    def key(self, stage: Stage) -> str:
        """Return the hash of everything that decides `stage`'s result.

        A stage's key contains the key of the stage it reads from, and nothing of later ones:
        a change of learning rate re-trains but leaves the encoded data alone; timing depends
        on neither the seed nor the recipe.
        """
        version = STAGE_VERSIONS[stage]
        if stage == "training":
            recipe = {} if self.recipe is None else {"recipe": _content(self.recipe)}
            return content_hash({"version": version, **recipe, **self._inputs()})
        if stage == "logits":
            shifts = {"shifts": self.dataset.shifts, "shift_rows": self.dataset.shift_rows}
            return content_hash({"version": version, "from": self.key("training"), **shifts})
        if stage == "scores":
            return content_hash({"version": version, "from": self.key("logits")})
        inputs = {name: value for name, value in self._inputs().items() if name != "seed"}
        return content_hash({"version": version, **inputs})

    def _inputs(self) -> dict[str, Any]:
        size = self.dataset.image_size
        return {
            "model": _content(self.model, without={"recipe"}),
            "model_revision": self.model_revision,
            "data": self.data_key(),
            "max_length": self.dataset.max_length,
            **({} if size is None else {"image_size": size}),
            **({} if self.model.scratch is not None else {"loading": LOADING_VERSION}),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Selection:
    """The runs of one command, and the suite whose report they make.

    Attributes:
        suite: the suite's name: of the registry, or of what a command chose beyond it.
        specs: the runs; each says in whose folder it lies.
        registry: what the report goes by: claim and published figures.
        members: of every suite that has a run here, which runs it consists of.
    """

    suite: str
    specs: list[RunSpec]
    registry: Registry
    members: tuple[SuiteMembers, ...]

    @property
    def note(self) -> str:
        """Say where runs and report of a selection go beyond the suite; empty where they do not."""
        last = self.members[-1]
        if last.declared:
            return ""
        declares = f"suite {last.base} does not declare all of these runs"
        return f"{declares}: kept apart as {self.suite}, and its own report stays as it is"


def plan(
    registry: Registry,
    *,
    suite: str | None = None,
    models: Sequence[str] = ("all",),
    datasets: Sequence[str] = ("all",),
    seeds: int | None = None,
    limit: int | None = None,
) -> list[RunSpec]:
    """Return the runs of a suite, or of the models and datasets named.

    A published head gives the same logits whatever the seed, so it is scored once.

    Args:
        registry: the entries to choose from.
        suite: a suite's name; None: the registry's first suite.
        models: names, or "all" for those of the suite. A name may be any of the registry's; a
            pattern such as `vit-*` means the suite's that match, or if none does, the registry's.
        datasets: likewise.
        seeds: runs per model and dataset, seeds 0 ... seeds-1; None: as the suite says.
        limit: use at most this many rows of each split. Limited runs are kept in a results
            folder of their own, so that they never stand in for full ones.

    Raises:
        SelectionError: a name is unknown, two suites would share a name, or no model meets a
            dataset of its modality.
    """
    chosen = select(
        registry, suite=suite, models=models, datasets=datasets, seeds=seeds, limit=limit
    )
    return chosen.specs


def select(
    registry: Registry,
    *,
    suite: str | None = None,
    models: Sequence[str] = ("all",),
    datasets: Sequence[str] = ("all",),
    seeds: int | None = None,
    limit: int | None = None,
    settings: Settings = {},  # noqa: B006 (it is only read)
) -> Selection:
    """Return the runs that `plan` returns, and whose report they make.

    A run that the suite declares, as the file that declares the suite says it, lies in the suite's
    folder. Any other lies in a folder of its own, `<suite>+selection` or, where the registry
    extends the file that declares the suite, one named after the registry's file; and then the
    report, too, is that of the selection.

    Arguments are those of `plan`, and `settings`: fields of recipes, data sets and models other
    than in the registry (`parse_settings`). No run that they change is the suite's.

    Raises:
        SelectionError: see `plan`.
        RegistryError: a setting has a value that its field cannot have.
    """
    chosen = _choose_suite(registry, suite)
    name = _suite_name(registry, chosen.name, limit)
    model_entries = _select("model", models, chosen.models, registry.models)
    dataset_entries = _select("dataset", datasets, chosen.datasets, registry.datasets)
    seeds = chosen.seeds if seeds is None else seeds
    wanted = _specs(registry, name, model_entries, dataset_entries, seeds, limit)
    if not wanted:
        raise SelectionError(_no_run(model_entries, dataset_entries))
    wanted = _with_settings(wanted, settings)
    home = registry.declaring(chosen.name)
    own = {spec.name: spec for spec in _declared(home, chosen.name, name, limit)}
    runs = dict.fromkeys(own, name)
    members = SuiteMembers(
        suite=name, base=chosen.name, registry=home.file, declared=True, runs=runs
    )
    is_redeclared = registry.suites[chosen.name] != home.suites[chosen.name]
    if not is_redeclared and all(own.get(spec.name) == spec for spec in wanted):
        return Selection(name, wanted, home, (members,))
    apart = _suite_name(registry, _name_apart(registry, home, chosen), limit)
    return _chosen_beyond(registry, members, apart, wanted, own)


def _no_run(models: Iterable[ModelEntry], datasets: Iterable[DatasetEntry]) -> str:
    return (
        "nothing to run: no selected model meets a selected dataset (one modality; the "
        "model's 'datasets' and the dataset's training split allow it). "
        f"Models: {_modalities(models)}; datasets: {_modalities(datasets)}"
    )


def _with_settings(specs: Sequence[RunSpec], settings: Settings) -> list[RunSpec]:
    if "recipe" in settings and not any(spec.recipe for spec in specs):
        raise SelectionError("a recipe is set, but no chosen run has one: nothing is fine-tuned")
    return [_set(spec, settings) for spec in specs]


def _set(spec: RunSpec, settings: Settings) -> RunSpec:
    recipe = spec.recipe and changed(spec.recipe, settings.get("recipe", {}))
    model = changed(spec.model, settings.get("model", {}))
    dataset = changed(spec.dataset, settings.get("dataset", {}))
    return spec.model_copy(update={"recipe": recipe, "model": model, "dataset": dataset})


def _chosen_beyond(
    registry: Registry,
    declared: SuiteMembers,
    apart: str,
    wanted: Sequence[RunSpec],
    own: Mapping[str, RunSpec],
) -> Selection:
    """Return a selection of runs not all of which the suite declares; those that it does stay."""
    specs = [
        spec if own.get(spec.name) == spec else spec.model_copy(update={"suite": apart})
        for spec in wanted
    ]
    picked = SuiteMembers(
        suite=apart,
        base=declared.base,
        registry=registry.file,
        declared=False,
        runs={spec.name: spec.suite for spec in specs},
    )
    touched = (declared, picked) if declared.suite in picked.runs.values() else (picked,)
    return Selection(apart, specs, registry, touched)


def _declared(home: Registry, suite: str, name: str, limit: int | None) -> list[RunSpec]:
    """Return all runs that a registry declares for a suite."""
    chosen = home.suites[suite]
    models = [home.models[model] for model in chosen.models]
    datasets = [home.datasets[dataset] for dataset in chosen.datasets]
    return _specs(home, name, models, datasets, chosen.seeds, limit)


def _specs(
    registry: Registry,
    suite: str,
    models: Sequence[ModelEntry],
    datasets: Sequence[DatasetEntry],
    seeds: int,
    limit: int | None,
) -> list[RunSpec]:
    return [
        _run_spec(registry, suite, model, dataset, seed, limit)
        for seed in range(seeds)
        for dataset in datasets
        for model in models
        if model.meets(dataset) and (seed == 0 or not model.evaluated_on(dataset.name))
    ]


def _name_apart(registry: Registry, home: Registry, suite: Suite) -> str:
    """Return the suite's name for what its file does not declare: no suite has it."""
    if home is registry:
        return f"{suite.name}+selection"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(registry.file).stem).strip("._-")[:LONGEST_NAME]
    return f"{stem or suite.name}+selection" if stem in {"", *registry.suites} else stem


def _suite_name(registry: Registry, suite: str, limit: int | None) -> str:
    """Return the name under which a suite's runs are kept."""
    if limit is None:
        return suite
    name = f"{suite}-limit-{limit}"
    if name in registry.suites:
        raise SelectionError(
            f"suite '{suite}' limited to {limit} rows is kept as '{name}', which is the name "
            "of another suite: rename that one, or take another limit"
        )
    return name


def _run_spec(
    registry: Registry,
    suite: str,
    model: ModelEntry,
    dataset: DatasetEntry,
    seed: int,
    limit: int | None,
) -> RunSpec:
    evaluate = model.evaluated_on(dataset.name)
    recipe = None if evaluate or model.recipe is None else registry.recipes[model.recipe]
    return RunSpec(
        suite=suite,
        # Whether it is evaluated elsewhere, and how, must not redo this run.
        model=model.model_copy(
            update={"evaluate": evaluate, "labels": model.labels if evaluate else None}
        ),
        dataset=dataset,
        recipe=recipe,
        seed=seed,
        limit=limit,
    )


def _choose_suite(registry: Registry, suite: str | None) -> Suite:
    if suite is None:
        return registry.default_suite()
    if suite not in registry.suites:
        raise SelectionError(f"unknown suite '{suite}'{did_you_mean(suite, registry.suites)}")
    return registry.suites[suite]


def _select(
    kind: str, names: Sequence[str], of_suite: Sequence[str], entries: Mapping[str, EntryT]
) -> list[EntryT]:
    wanted: list[str] = []
    for name in names:
        if name == "all":
            wanted.extend(of_suite)
        elif name in entries:
            wanted.append(name)
        elif set(name) & set("*?["):
            wanted.extend(_matches(kind, name, of_suite, entries))
        else:
            raise SelectionError(f"unknown {kind} '{name}'{did_you_mean(name, entries)}")
    return [entries[name] for name in dict.fromkeys(wanted)]


def _matches(
    kind: str, pattern: str, of_suite: Sequence[str], entries: Mapping[str, EntryT]
) -> list[str]:
    """Return the suite's names that match a pattern, or where none does, the registry's."""
    found = fnmatch.filter(of_suite, pattern) or fnmatch.filter(entries, pattern)
    if not found:
        raise SelectionError(f"no {kind} matches '{pattern}'")
    return found


def _modalities(entries: Iterable[ModelEntry | DatasetEntry]) -> str:
    return ", ".join(f"{entry.name} is {entry.modality}" for entry in entries) or "none"


def _content(entry: Entry, without: set[str] | None = None) -> dict[str, Any]:
    """Return what an entry says beyond description and defaults, as JSON values.

    Leaving out defaults lets a later version add an option without redoing old results.
    """
    return entry.model_dump(
        mode="json", exclude=_NOT_KEYED | (without or set()), exclude_defaults=True
    )


def content_hash(content: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for JSON values, whatever the order of keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
