"""What a person sees while runs go on: bars on a terminal, a line per run in a log."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from benchmark.execution.progress import StageProgress
from benchmark.markup import visible
from benchmark.records import Failure, Record, Timing
from benchmark.shell import unguarded_output

_STAGE_START = {"training": 0.0, "logits": 0.8, "scores": 0.95}
_STAGE_SHARE = {"training": 0.8, "logits": 0.15, "scores": 0.05}
"""Rough shares of a run's time, for the time left."""


class RunDisplay:
    """Shows runs as they go on, with the time left."""

    def __init__(self, total: int, *, silent: bool = False) -> None:
        # Its escapes are meant; the texts between them are made visible here.
        self.console = Console(
            file=unguarded_output(), highlight=False, soft_wrap=True, quiet=silent
        )
        self._total, self._done = total, 0
        self._started = time.monotonic()
        self._fractions: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._overall = self._bars.add_task("runs", total=total, note="")

    def __enter__(self) -> RunDisplay:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def progress(self, event: StageProgress) -> None:
        """Show that a run has advanced."""
        if event.run not in self._tasks:
            self._tasks[event.run] = self._bars.add_task(escape(visible(event.run)), note="")
        self._bars.update(
            self._tasks[event.run], completed=event.done, total=event.total, note=event.stage
        )
        share = _STAGE_SHARE.get(event.stage, 0.0) * event.done / event.total
        self._fractions[event.run] = _STAGE_START.get(event.stage, 0.0) + share
        self._bars.update(self._overall, note=self._time_left())

    def finished(self, record: Record) -> None:
        """Print one line for a run that has ended."""
        self._done += 1
        self._fractions.pop(record.name, None)
        task = self._tasks.pop(record.name, None)
        if task is not None:
            self._bars.remove_task(task)
        left = self._time_left() if self._done < self._total else ""
        self._bars.update(self._overall, completed=self._done, note=left)
        self.console.print(
            f"[{self._done:>{len(str(self._total))}}/{self._total}] {visible(describe(record))}"
            + (f"  ({left})" if left else ""),
            markup=False,
        )

    def _time_left(self) -> str:
        done = self._done + sum(self._fractions.values())
        elapsed = time.monotonic() - self._started
        if done <= 0 or elapsed < 2:
            return ""
        return f"{_clock(elapsed * (self._total - done) / done)} left"


class DisplayProgress:
    """Shows the progress of a run that goes on in this process."""

    def __init__(self, display: RunDisplay, run: str) -> None:
        self._display, self._run = display, run
        self._event = StageProgress(run, "", 0, 1)

    def stage(self, name: str, total: int) -> None:
        """See `Progress.stage`."""
        self._event = StageProgress(self._run, name, 0, max(1, total))
        self._display.progress(self._event)

    def advance(self, steps: int = 1) -> None:
        """See `Progress.advance`."""
        self._event = replace(self._event, done=self._event.done + steps)
        self._display.progress(self._event)


class TimingDisplay:
    """Shows the timing of one model after the other."""

    def __init__(self, total: int) -> None:
        self._console = Console(file=unguarded_output(), highlight=False, soft_wrap=True)
        self._total, self._done, self._started = total, 0, time.monotonic()

    def finished(self, name: str, result: Timing | Failure) -> None:
        """Print one line for a model that has been measured."""
        self._done += 1
        elapsed = time.monotonic() - self._started
        left = _clock(elapsed * (self._total - self._done) / self._done)
        note = f"  ({left} left)" if self._done < self._total else ""
        count = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        line = visible(f"{name}  {_timing_line(result)}")
        self._console.print(f"{count} {line}{note}", markup=False)


def _timing_line(result: Timing | Failure) -> str:
    if isinstance(result, Failure):
        return f"not timed: {result.message}"
    parts = []
    for rank in (50, 90):
        latency = result.latency_ms(rank)
        if latency is not None:
            parts.append(f"p{rank} {latency:.2f} ms")
    if result.best_offline is not None:
        parts.append(f"{result.best_offline.samples_per_s:,.0f} samples/s")
    return "  ".join(parts) + ("  unstable" if result.unstable else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def describe(record: Record) -> str:
    """Return one line on a run: its outcome and headline figures, or why it has none."""
    if record.failure is not None:
        stage, message = record.failure.stage, record.failure.message
        return f"{record.name}  {record.status} in {stage}: {message}"
    test = record.scores.get("test")
    if test is None or record.temperature is None:
        return f"{record.name}  {record.status}"
    before, after = test.maps["none"], test.maps["temperature"]
    return (
        f"{record.name}  accuracy {before['accuracy'].value:.3f}"
        f"  ECE {before['ece_15'].value:.4f} -> {after['ece_15'].value:.4f}"
        f"  T {record.temperature.value:.3f}"
    )
