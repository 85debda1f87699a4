"""Sweeps killed again and again end, after restarts, with what an undisturbed one has.

CHAOS_KILLS says how many kills (default 100), CHAOS_SEED which. Half of them come at a random
moment to the command itself; the others to a worker that has half written a file.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from faults import command, environment, launch

from benchmark.records import find_records, read_split

KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
ARGUMENTS = ("--suite", "seeds", "--limit", "96", "--seeds", "4", "--timing", "off",
             "--workers", "2", "--retries", "0")  # fmt: skip
HALF_WRITTEN = (
    "benchmark.execution.training:save_file",
    "benchmark.records.logits:save_file",
    "benchmark.models.encoding:save_file",
)
LEFT_OVER = (".*.tmp", ".model-*", ".claim*")


def kill_at_random(folder: Path, chance: random.Random) -> bool:
    """Start the command and kill it in a while; say whether it was still at work."""
    process = subprocess.Popen(
        command(folder, *ARGUMENTS), env=environment((), folder),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(timeout=chance.uniform(1, 25))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def tear(folder: Path, chance: random.Random, number: int) -> bool:
    """Kill one worker of a launch while a file is half written; say whether it came to that."""
    mark = folder / f"torn-{number}"
    fault = {"at": chance.choice(HALF_WRITTEN), "call": chance.randint(1, 3), "do": "tear",
             "after": True, "once": str(mark)}  # fmt: skip
    launch(folder, *ARGUMENTS, faults=[fault], timeout=600)
    return mark.exists()


@pytest.mark.chaos
def test_sweeps_survive_kills(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    reference = tmp_path / "undisturbed"
    reference.mkdir()
    assert launch(reference, *ARGUMENTS, timeout=600).returncode == 0
    kills = torn = sweeps = 0
    while kills + torn < KILLS:
        folder = tmp_path / f"sweep-{sweeps}"
        folder.mkdir()
        sweeps += 1
        for number in range(6):
            if number % 2:
                torn += tear(folder, chance, number)
            else:
                kills += kill_at_random(folder, chance)
        last = launch(folder, *ARGUMENTS, timeout=600)
        assert last.returncode == 0, last.stderr
        assert "4 of 4 runs completed" in last.stdout
        found = find_records(folder / "results")
        for (run, _), (other, _) in zip(found, find_records(reference / "results"), strict=True):
            for split in ("calibration", "test"):
                np.testing.assert_array_equal(
                    read_split(run, split).logits, read_split(other, split).logits
                )
            assert not [left for pattern in LEFT_OVER for left in run.path.glob(pattern)]
        with (tmp_path / "count").open("a") as count:
            print(sweeps, kills, torn, file=count, flush=True)
    print(f"{kills} kills at random moments, {torn} of half-written files, in {sweeps} sweeps")
