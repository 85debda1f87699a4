"""Sweeps killed again and again end, after restarts, with what an undisturbed one has.

CHAOS_KILLS says how many kills (default 100), CHAOS_SEED which. Half of them come to the command
at a random moment of its work; the others while a file is half written, to the worker that writes
it alone or to all at once, as when the power fails. Then there is one kill at each named point.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm
from damage import figures

from benchmark.records import find_records

KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SUITE = ("--suite", "seeds", "--seeds", "2", "--limit", "96", "--workers", "2", "--retries", "0")
SWEEP = (*SUITE, "--seeds", "4", "--timing", "off")
WRITES = ("benchmark.records.files:fsync_path", "benchmark.records.checksums:fsync_path")
LEFT_OVER = (".*.tmp", ".model-*", ".claim*", ".tmp-*", ".*.new.*", ".*.old.*")


@dataclass(frozen=True)
class Undisturbed:
    """A sweep that nobody kills: its figures, how long its runs take, and what they write."""

    figures: list[dict[str, Any]]
    seconds: float
    writes: list[tuple[str, int]]  # a function, and which of its calls in a worker


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    warm.launch(tmp_path_factory.mktemp("imports"), *SWEEP)
    folder = tmp_path_factory.mktemp("undisturbed")
    note = folder / "writes"
    faults = [{"at": place, "do": "note", "file": str(note)} for place in WRITES]
    started = time.time()
    assert warm.launch(folder, *SWEEP, faults=faults) == 0, warm.printed(folder)
    places = [line.split(" ")[:2] for line in note.read_text().splitlines()]
    writes = [
        (place, places[: position + 1].count([place, pid]))
        for position, (place, pid) in enumerate(places)
    ]
    return Undisturbed(figures_of(folder), note.stat().st_mtime - started, writes)


def figures_of(folder: Path) -> list[dict[str, Any]]:
    found = [figures(run) for run, _ in find_records(folder / "results")]
    for run in found:  # timings are of the day
        del run["timing"], run["timed_run"]
        run["keys"].pop("timing", None)
    return found


def check(folder: Path, expected: list[dict[str, Any]]) -> None:
    """Assert that all is there, bit for bit, and nothing that was half done."""
    assert figures_of(folder) == expected
    left = [path for pattern in LEFT_OVER for path in folder.rglob(pattern)]
    assert not left
    assert "Traceback" not in warm.printed(folder)


def tear(folder: Path, chance: random.Random, plan: Undisturbed, number: int) -> bool:
    """Kill a worker, or all, while a file is half written; say whether it came to that."""
    place, call = chance.choice(plan.writes)
    mark = folder / f"torn-{number}"
    fault = {"at": place, "call": call, "do": "tear", "all": chance.random() < 0.5,
             "once": str(mark)}  # fmt: skip
    warm.launch(folder, *SWEEP, faults=[fault])
    return mark.exists()


@pytest.mark.chaos
def test_sweeps_survive_kills(
    tmp_path: Path, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    kills = torn = sweeps = 0
    while kills + torn < KILLS:
        folder = tmp_path / f"sweep-{sweeps}"
        folder.mkdir()
        sweeps += 1
        happened = True
        while happened:  # until one comes to its end
            if kills > torn:
                happened = tear(folder, chance, undisturbed, torn)
                torn += happened
            else:
                moment = chance.uniform(0, undisturbed.seconds)
                happened = warm.kill(warm.start(folder, *SWEEP), moment)
                kills += happened
        assert warm.launch(folder, *SWEEP) == 0, warm.printed(folder)
        check(folder, undisturbed.figures)
    with capsys.disabled():
        print(
            f"\n{kills} kills at random moments and {torn} of half-written files, {sweeps} sweeps"
        )


STAGES = "benchmark.execution.stages"
LOOP = "benchmark.execution.training:_Loop"
STATE = "benchmark.execution.training_state"
MODEL = "benchmark.execution.trained_model"
REPORT = "benchmark.report.command"
# function -> before (B), after (A) it, or both
POINTS = {
    f"{STAGES}:try_claim": "BA",
    f"{STAGES}:resolve": "BA",
    f"{STAGES}:load_corpus": "A",
    "benchmark.models.stored:seal_folder": "BA",
    f"{STAGES}:encode_splits": "BA",
    f"{LOOP}.resume": "A",
    f"{LOOP}._backward": "A",
    f"{LOOP}.save": "BA",
    f"{STATE}:seal": "B",
    f"{STAGES}:save_trained_model": "BA",
    f"{MODEL}:seal_folder": "BA",
    f"{MODEL}:write_text": "BA",
    "benchmark.execution.forward:_forward": "A",
    f"{STAGES}:write_logits": "BA",
    "benchmark.records.logits:seal": "B",
    "benchmark.execution.scoring:score_run": "BA",
    "benchmark.records.folder:RunFolder.write_spec": "BA",
    "benchmark.records.folder:RunFolder.write_record": "BA",
    "benchmark.records.claim:Claim.release": "BA",  # of the shared cache, which comes first
    f"{STAGES}:_Run.record": "A",
    "benchmark.execution.timing_stage:models_to_time": "A",
    "benchmark.execution.timing_stage:_entered": "BA",
    f"{REPORT}:_write_pages": "BA",
    f"{REPORT}:_swapped": "BA",
}
KILLED_AT = [(place, when == "A") for place, whens in POINTS.items() for when in whens]


def kill_at(folder: Path, place: str, *, after: bool) -> None:
    mark = folder / "killed"
    fault = {"at": place, "after": after, "do": "kill", "all": True, "once": str(mark)}
    timing = ("--timing", "quick" if "timing" in place else "off")
    if place.endswith("_swapped"):  # there is a report to swap with
        assert warm.launch(folder, *SUITE, "--seeds", "1", "--timing", "off") == 0
    warm.launch(folder, *SUITE, *timing, faults=[fault])
    assert mark.exists(), f"it did not come to {place}: {warm.printed(folder)}"
    if place.endswith("_swapped"):
        assert (folder / "reports/seeds-limit-96/index.html").exists()  # the old one, or the new
    assert warm.launch(folder, *SUITE, *timing) == 0, warm.printed(folder)


@pytest.mark.parametrize(("place", "after"), [(f"{MODEL}:seal_folder", True)])
def test_one_kill(place: str, after: bool, tmp_path: Path, undisturbed: Undisturbed) -> None:
    kill_at(tmp_path, place, after=after)
    check(tmp_path, undisturbed.figures[:2])


@pytest.mark.chaos
@pytest.mark.parametrize(("place", "after"), KILLED_AT)
def test_a_kill_at_each_named_point(
    place: str, after: bool, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    kill_at(tmp_path, place, after=after)
    check(tmp_path, undisturbed.figures[:2])
