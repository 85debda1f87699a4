"""What a person sees of runs and timings under way: a terminal's width, a log's lines."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from synthetic import MODELS, make_record

from benchmark.execution import RunDisplay, TimingDisplay, console
from benchmark.execution.progress import StageProgress
from benchmark.records import Failure, Record, SplitScores
from benchmark.statistics import Estimate


class Terminal(io.StringIO):
    """Takes what is drawn on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: now.seconds)
    return now


def record(seed: int = 0) -> Record:
    one = {"accuracy": Estimate(0.9), "ece_15": Estimate(0.03)}
    maps = {"none": one, "temperature": one}
    test = SplitScores(n=10, shifted=False, maps=maps)
    return make_record(MODELS[0], "mnist-5k", seed, {"test": test})


def shown(monkeypatch: pytest.MonkeyPatch, file: io.StringIO, columns: int = 60) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", file)


@pytest.mark.parametrize(("columns", "lines"), [(60, 2), (120, 1)])
def test_figures_go_to_a_line_of_their_own_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int, lines: int
) -> None:
    file = Terminal()
    shown(monkeypatch, file, columns)
    display = RunDisplay(2)
    display.finished(record())
    printed = file.getvalue().splitlines()
    assert len(printed) == lines
    assert max(map(len, printed)) <= columns
    assert "accuracy" in printed[-1]


def test_time_left_is_told_from_a_tenth_on(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    file = io.StringIO()
    shown(monkeypatch, file)
    display = RunDisplay(20)
    for done in range(1, 4):
        clock.seconds = 10.0 * done
        display.finished(record(done))
    first, second, third = file.getvalue().splitlines()
    assert "left" not in first
    assert second.endswith("(3:00 left)")
    assert third.endswith("(2:50 left)")


def test_a_log_is_not_silent_for_longer_than_a_minute(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    file = io.StringIO()
    shown(monkeypatch, file)
    display = RunDisplay(1)
    for second in range(0, 200, 10):
        clock.seconds = second
        display.progress(StageProgress("a/b/seed-0", "training", second, 200))
    lines = file.getvalue().splitlines()
    # At 70 of 200 s a training that makes four fifths of a run is at 28% of it.
    assert lines == [
        "a/b/seed-0  training 35%  (3:00 left)",
        "a/b/seed-0  training 70%  (1:50 left)",
    ]


def test_timing_says_how_long_it_takes_once_that_is_known(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    file = io.StringIO()
    shown(monkeypatch, file)
    failure = Failure(stage="timing", kind="RunError", message="no model")
    display = TimingDisplay(["a", "b", "c"])
    for name, seconds in (("a", 100.0), ("b", 110.0), ("c", 120.0)):
        clock.seconds = seconds  # the first has waited for what all need
        display.finished(name, failure)
    assert [line.partition("no model")[2].strip() for line in file.getvalue().splitlines()] == [
        "",
        "(0:10 left)",
        "",
    ]
