"""The choosing table: its figures by other means, the front, the flags, the advice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import MODELS, TEXT_MODELS, FakeModel, write_tree

from benchmark.records import MapFacts, Record, RunFolder, load_results
from benchmark.report.choice import Candidate, Choice, Figure, choose, dominates, place_on_front
from benchmark.report.choice_advice import LATENCY_NOISE, advise
from benchmark.report.choice_table import COLUMNS, as_json, choosing_table
from benchmark.report.reading import read_suite


def rewrite(results: Path, change, **wanted: object) -> None:
    """Change the records of the runs that match."""
    for path in results.rglob("record.json"):
        folder = RunFolder(path.parent)
        record = folder.read_record()
        assert record is not None
        if all(getattr(record, name) == value for name, value in wanted.items()):
            folder.write_record(change(record))


def cross_validated(none: float, temperature: float):
    def change(record: Record) -> Record:
        maps = {
            "none": MapFacts(parameters=0, cross_validated_nll=none),
            "temperature": MapFacts(parameters=1, cross_validated_nll=temperature),
        }
        return record.model_copy(update={"maps": maps})

    return change


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image models on two datasets, one of them on one only; text models on a third."""
    results = tmp_path_factory.mktemp("choice") / "results"
    write_tree(results, MODELS, ("digits", "mnist-5k"), shifts=("noise-1",))
    write_tree(results, TEXT_MODELS, ("bbc",), shifts=(), seeds=(0,), classes=5)
    for seed in (0, 1):
        folder = results / "embedded" / "vit-tiny" / "digits" / f"seed-{seed}"
        (folder / "record.json").unlink()
    rewrite(results, cross_validated(0.9, 0.8))
    rewrite(results, cross_validated(0.7, 0.8), model="deit-tiny", dataset="digits")
    return results


@pytest.fixture(scope="module")
def choice(tree: Path) -> Choice:
    return choose(read_suite(tree, "embedded"))


def by_pandas(results: Path) -> pd.DataFrame:
    """The same figures by plain pandas: a row per (dataset, model), seeds averaged."""
    frame = load_results(results / "embedded")
    frame = frame[frame["split"] == "test"]
    error = "debiased_calibration_error"
    scaled = ~((frame["model"] == "deit-tiny") & (frame["dataset"] == "digits"))
    flat = pd.DataFrame(
        {
            "dataset": frame["dataset"],
            "model": frame["model"],
            "accuracy": frame["accuracy_none"],
            "nll": np.where(scaled, frame["nll_temperature"], frame["nll_none"]),
            "squared": np.where(scaled, frame[f"{error}_temperature"], frame[f"{error}_none"]) ** 2,
            "gap": np.where(scaled, frame["signed_gap_temperature"], frame["signed_gap_none"]),
            "p50": frame["latency_p50_ms"],
            "seconds": 1 / frame["throughput"],
            "parameters": frame["parameters"],
        }
    )
    table = flat.groupby(["dataset", "model"], as_index=False).mean()
    table["rank"] = table.groupby("dataset")["nll"].rank(method="average")
    return table


def test_every_figure_is_the_one_of_a_pandas_query(tree: Path, choice: Choice) -> None:
    expected = by_pandas(tree).groupby("model").mean(numeric_only=True)
    found = {one.model: one for group in choice.groups for one in group.candidates}
    assert found.keys() == set(expected.index)
    for model, one in found.items():
        row = expected.loc[model]
        assert one.accuracy.value == pytest.approx(row["accuracy"])
        assert one.nll.value == pytest.approx(row["nll"])
        assert one.error.value == pytest.approx(math.sqrt(row["squared"]))
        assert one.gap.value == pytest.approx(row["gap"])
        assert one.p50_ms == pytest.approx(row["p50"])
        assert one.throughput == pytest.approx(1 / row["seconds"])
        assert one.parameters == row["parameters"]
        assert one.rank == pytest.approx(row["rank"])


def test_models_without_a_dataset_in_common_are_not_ranked_together(choice: Choice) -> None:
    assert [group.datasets for group in choice.groups] == [("bbc",), ("digits", "mnist-5k")]
    for group in choice.groups:
        complete = [one.rank for one in group.candidates if not one.missing]
        assert complete == sorted(complete)
        assert all(1 <= rank <= len(group.candidates) for rank in complete)


def test_a_model_that_lacks_a_dataset_comes_last_and_is_said_to(choice: Choice) -> None:
    last = choice.groups[1].candidates[-1]
    assert (last.model, last.missing, last.standing) == ("vit-tiny", ("digits",), "incomplete")
    table = choosing_table(choice.groups[1])
    assert table.text(len(table.rows) - 1, "standing") == "lacks 1 dataset"
    assert table.text(len(table.rows) - 1, "rank").endswith("*")


def test_the_best_map_is_chosen_on_calibration_rows(choice: Choice) -> None:
    (deit,) = (one for one in choice.groups[1].candidates if one.model == "deit-tiny")
    assert deit.maps == {"digits": "none", "mnist-5k": "temperature"}
    assert deit.applied == {"mnist-5k": pytest.approx(1.2)}
    assert choice.maps_by.startswith("none or temperature, by cross-validated NLL")


def test_records_without_cross_validation_are_scaled_and_it_is_said(tmp_path: Path) -> None:
    results = write_tree(tmp_path / "results", MODELS[:2], shifts=())
    choice = choose(read_suite(results, "embedded"))
    assert choice.maps_by.startswith("temperature scaling everywhere")
    maps = [one.maps["mnist-5k"] for one in choice.groups[0].candidates]
    assert maps == ["temperature", "temperature"]


def test_a_suite_without_scores_gives_no_choice(tmp_path: Path) -> None:
    results = write_tree(tmp_path / "results", MODELS[:1], failed=("vit-tiny",))
    assert choose(read_suite(results, "embedded")) == Choice()


# --- the front ----------------------------------------------------------------------------------


def candidate(name: str, accuracy: Figure, error: Figure, p50: float, **more: object) -> Candidate:
    made = Candidate(
        model=name,
        mixer="attention",
        family="F",
        datasets=("d",),
        missing=(),
        seeds=1,
        maps={"d": "temperature"},
        temperatures={"d": 1.5},
        accuracy=accuracy,
        nll=Figure(0.5),
        error=error,
        error_before=error,
        gap=Figure(0.0),
        p50_ms=p50,
        throughput=100.0,
        parameters=1e6,
        rank=1.0,
    )
    return replace(made, **more)


def around(value: float, half: float) -> Figure:
    return Figure(value, value - half, value + half)


NUMBERS = st.floats(0, 1).map(lambda value: round(value, 2))
HALVES, MEDIANS = st.sampled_from((0.0, 0.05, 0.3)), st.sampled_from((1, 1.05, 2, 9))
CANDIDATES = st.lists(
    st.tuples(
        NUMBERS, NUMBERS, st.sampled_from((0.0, 0.05, 0.3)), st.sampled_from((1, 1.05, 2, 9))
    ),
    min_size=1,
    max_size=7,
).map(
    lambda rows: [
        candidate(f"m{i}", around(a, half), around(e, half), p50)
        for i, (a, e, half, p50) in enumerate(rows)
    ]
)


@given(CANDIDATES)
def test_the_front_is_what_brute_force_finds(candidates: list[Candidate]) -> None:
    def beaten(one: Candidate, by: Candidate) -> bool:
        better = worse = False
        for first, second in ((by, one), (one, by)):
            clear = (
                first.accuracy.low > second.accuracy.high
                or first.error.high < second.error.low
                or second.p50_ms / first.p50_ms > LATENCY_NOISE
            )
            better, worse = (clear, worse) if first is by else (better, clear)
        return better and not worse

    front = [a.model for a in candidates if not any(beaten(a, b) for b in candidates)]
    placed = place_on_front(candidates)
    found = [one.model for one in placed if one.on_front]
    assert found == (front or [one.model for one in candidates])
    names = {one.model: one for one in candidates}
    for one in placed:
        if one.dominated_by is not None:
            assert dominates(names[one.dominated_by], names[one.model])


def test_a_faster_model_of_low_accuracy_is_not_kept_on_the_front_by_noise() -> None:
    good = candidate("good", around(0.98, 0.01), around(0.01, 0.02), 0.827)
    poor = candidate("poor", around(0.83, 0.02), around(-0.01, 0.03), 0.823)
    placed = {one.model: one for one in place_on_front([good, poor])}
    assert placed["good"].on_front
    assert placed["poor"].dominated_by == "good"


def test_a_model_that_was_not_timed_does_not_beat_one_that_was() -> None:
    untimed = candidate("untimed", around(0.9, 0.01), around(0.01, 0.005), math.nan)
    timed = candidate("timed", around(0.8, 0.01), around(0.05, 0.005), 1.0)
    assert all(one.on_front for one in place_on_front([untimed, timed]))
    both = [replace(one, p50_ms=math.nan) for one in (untimed, timed)]
    assert [one.on_front for one in place_on_front(both)] == [True, False]


def test_models_at_chance_level_and_incomplete_ones_are_on_no_front() -> None:
    chance = candidate("chance", around(0.5, 0.1), around(0, 0.1), 0.1, flags=("chance level",))
    part = candidate("part", around(0.99, 0.001), around(0, 0.1), 0.1, missing=("e",))
    whole = candidate("whole", around(0.8, 0.01), around(0.1, 0.01), 5.0)
    standing = {one.model: one.standing for one in place_on_front([chance, part, whole])}
    assert standing == {"chance": "chance level", "part": "incomplete", "whole": "front"}


# --- the sentence -------------------------------------------------------------------------------


def test_the_advice_names_the_most_accurate_and_what_to_apply() -> None:
    best = candidate("cnn", around(0.75, 0.01), around(0.02, 0.01), 0.2, temperatures={"d": 0.92})
    slow = candidate("bert", around(0.70, 0.01), around(0.05, 0.01), 0.7)
    advice = advise(place_on_front([slow, best]))
    assert advice.best == "cnn"
    assert advice.sentence == "cnn: most accurate (75.0%) and fastest; apply T = 0.92."


def test_the_advice_says_what_is_not_told_apart_and_what_is_faster() -> None:
    best = candidate("big", around(0.90, 0.02), around(0.02, 0.01), 4.0, maps={"d": "none"})
    fast = candidate("small", around(0.89, 0.02), around(0.02, 0.01), 1.0)
    advice = advise(place_on_front([fast, best]))
    assert advice.sentence == (
        "big: most accurate (90.0%), not told apart in accuracy from small; no scaling needed; "
        "fastest is small (1.00 ms against 4.00 ms, accuracy 1.0 points lower)."
    )


def test_there_is_no_advice_among_models_at_chance_level() -> None:
    chance = candidate("a", around(0.5, 0.1), around(0, 0.1), 1.0, flags=("chance level",))
    advice = advise(place_on_front([chance]))
    assert advice.best is None
    assert "always answering the most frequent class" in advice.sentence


# --- as JSON ------------------------------------------------------------------------------------


def test_the_json_holds_the_table_and_is_valid(choice: Choice) -> None:
    found = json.loads(json.dumps(as_json(choice), allow_nan=False))
    models = [row["model"] for group in found["groups"] for row in group["models"]]
    assert models == [one.model for group in choice.groups for one in group.candidates]
    first = found["groups"][0]["models"][0]
    assert first["accuracy"]["value"] == choice.groups[0].candidates[0].accuracy.value
    assert set(first["accuracy"]) == {"value", "low", "high"}


def test_a_table_has_a_row_per_model_and_marks_the_advised_one(choice: Choice) -> None:
    for group in choice.groups:
        table = choosing_table(group)
        assert table.columns == COLUMNS
        bold = [str(row[0].value) for row in table.rows if row[0].bold]
        assert bold == [group.best]


# --- flags --------------------------------------------------------------------------------------


def kinds(results: Path, model: str) -> set[str]:
    flags = choose(read_suite(results, "embedded")).flags
    return {flag.kind for flag in flags if flag.model == model}


def test_a_model_that_knows_nothing_is_flagged_as_at_chance_level(tmp_path: Path) -> None:
    blind = FakeModel("blind", "attention", "ViT", 1000, skill=0.01)
    results = write_tree(tmp_path / "results", (blind, MODELS[0]), shifts=())
    assert kinds(results, "blind") == {"chance level"}
    assert kinds(results, "vit-tiny") == set()


def test_a_temperature_that_hurts_is_flagged_with_its_figures(tmp_path: Path) -> None:
    results = write_tree(tmp_path / "results", MODELS[:2], shifts=())

    def spoil(record: Record) -> Record:
        assert record.temperature is not None
        test = record.scores["test"]
        worse = test.maps["none"]  # scaled by 3 times what is right, the error is far larger
        swapped = {"none": test.maps["temperature"], "temperature": worse}
        temperature = record.temperature.model_copy(update={"value": 5.0})
        scores = {"test": test.model_copy(update={"maps": swapped})}
        return record.model_copy(update={"scores": scores, "temperature": temperature})

    rewrite(results, spoil, model="vit-tiny")
    flags = choose(read_suite(results, "embedded")).flags
    (flag,) = flags
    assert (flag.kind, flag.model) == ("scaling hurts", "vit-tiny")
    assert flag.text.startswith("T = 5.00 makes it worse: ")
    assert "→" in flag.text


def test_the_other_flags_come_from_the_records(tmp_path: Path) -> None:
    results = write_tree(tmp_path / "results", MODELS[:3], shifts=())

    def at_limit(record: Record) -> Record:
        assert record.temperature is not None
        found = {"value": math.inf, "status": "at_infinity"}
        return record.model_copy(
            update={"temperature": record.temperature.model_copy(update=found)}
        )

    def few_rows(record: Record) -> Record:
        assert record.temperature is not None
        found = {"low": None, "high": None, "no_interval": "too few errors", "n": 14}
        return record.model_copy(
            update={"temperature": record.temperature.model_copy(update=found)}
        )

    rewrite(results, at_limit, model="vit-tiny", seed=1)
    rewrite(results, few_rows, model="deit-tiny")
    flags = {flag.model: flag for flag in choose(read_suite(results, "embedded")).flags}
    assert flags["vit-tiny"].kind == "temperature at a limit"
    assert flags["vit-tiny"].text.endswith("(seed 1)")
    assert flags["deit-tiny"].kind == "too few calibration rows"
    assert "from 14 calibration rows has no interval" in flags["deit-tiny"].text
    (group,) = choose(read_suite(results, "embedded")).groups
    (deit,) = (one for one in group.candidates if one.model == "deit-tiny")
    assert deit.applied == {}  # and what rests on so few rows is not applied
    assert flags["swin-tiny"].kind == "disturbed timing"


def test_a_temperature_of_too_few_rows_is_not_advised() -> None:
    few = {"flags": ("too few calibration rows",), "maps": {"d": "none"}}
    sentence = advise(
        place_on_front([candidate("a", around(0.9, 0.1), around(0.1, 0.1), 1.0, **few)])
    ).sentence
    assert "too few calibration rows for a temperature" in sentence
    assert "apply" not in sentence
