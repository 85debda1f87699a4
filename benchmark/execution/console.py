"""What a person sees while runs go on: bars on a terminal, a line per run in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
)
from rich.table import Column

from benchmark.execution.progress import StageProgress
from benchmark.markup import visible
from benchmark.records import Failure, Record, Timing
from benchmark.shell import unguarded_output

_STAGE_START = {"training": 0.0, "logits": 0.8, "scores": 0.95}
_STAGE_SHARE = {"training": 0.8, "logits": 0.15, "scores": 0.05}
"""Rough shares of a run's time, for the time left."""


_SILENCE_S = 60.0
"""How long a log, which has no bars, may say nothing while a run goes on."""
_WIDE = 90
"""Columns from which on a line holds the name and the figures of a run, and a bar is long."""
_TOLD_FROM = 0.1
"""Of the work: what is left is not reckoned from less."""


def _make_bars(console: Console, *columns: ProgressColumn, auto_refresh: bool = True) -> Progress:
    """Return bars as wide as the terminal; names are cut where it is narrow."""
    name = TextColumn(
        "{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    return Progress(
        SpinnerColumn(),
        name,
        BarColumn(bar_width=24 if console.width >= _WIDE else 8),
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
        auto_refresh=auto_refresh,
    )


class _Display:
    """Bars that are drawn from the beginning of a `with` to its end."""

    _bars: Progress

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


class RunDisplay(_Display):
    """Shows runs as they go on, with the time left."""

    def __init__(self, total: int, *, silent: bool = False) -> None:
        # Its escapes are meant; the texts between them are made visible here.
        self.console = Console(
            file=unguarded_output(), highlight=False, soft_wrap=True, quiet=silent
        )
        self._total, self._done = total, 0
        self._started = self._told = time.monotonic()
        self._fractions: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True))
        self._bars = _make_bars(self.console, MofNCompleteColumn(), note)
        self._overall = self._bars.add_task("runs", total=total, note="")

    def progress(self, event: StageProgress) -> None:
        """Show that a run has advanced, or entered a stage."""
        if event.run not in self._tasks:
            self._tasks[event.run] = self._bars.add_task(escape(visible(event.run)), note="")
        self._bars.update(
            self._tasks[event.run], completed=event.done, total=event.total, note=event.stage
        )
        share = _STAGE_SHARE.get(event.stage, 0.0) * event.done / event.total
        self._fractions[event.run] = _STAGE_START.get(event.stage, 0.0) + share
        self._bars.update(self._overall, note=self._time_left())
        if not self.console.is_terminal and time.monotonic() - self._told > _SILENCE_S:
            percent = f"{100 * event.done // event.total}%"
            self._say(f"{event.run}  {event.stage} {percent}", self._time_left())

    def finished(self, record: Record) -> None:
        """Print one line for a run that has ended."""
        self._done += 1
        self._fractions.pop(record.name, None)
        task = self._tasks.pop(record.name, None)
        if task is not None:
            self._bars.remove_task(task)
        left = self._time_left() if self._done < self._total else ""
        self._bars.update(self._overall, completed=self._done, note=left)
        self._say(f"[{self._done:>{len(str(self._total))}}/{self._total}] {describe(record)}", left)

    def _say(self, text: str, left: str) -> None:
        """Print a line; the figures go to one of their own where a terminal is narrow."""
        self._told = time.monotonic()
        name, gap, figures = visible(text).partition("  ")
        left = f"  ({left})" if left else ""
        line = f"{name}{gap}{figures}{left}"
        if self.console.is_terminal and len(line) > self.console.width:
            line = f"{name}{left}\n    {figures}"
        self.console.print(line, markup=False)

    def _time_left(self) -> str:
        done = self._done + sum(self._fractions.values())
        if done < _TOLD_FROM * self._total:
            return ""
        elapsed = time.monotonic() - self._started
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


class TimingDisplay(_Display):
    """Shows the timing of one model after the other.

    Args:
        names: of the models, in the order in which they are timed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._console = Console(file=unguarded_output(), highlight=False, soft_wrap=True)
        self._names, self._done = names, 0
        self._first: float | None = None  # when the first was done: what led to it is not repeated
        # A bar that is drawn anew would take part of what is measured: it stands still.
        self._bars = _make_bars(self._console, MofNCompleteColumn(), auto_refresh=False)
        self._task = self._bars.add_task(self._under_way(), total=len(names))

    def finished(self, name: str, result: Timing | Failure) -> None:
        """Print one line for a model that has been measured."""
        self._done += 1
        now, total = time.monotonic(), len(self._names)
        self._first = self._first or now
        note = ""
        if self._done > 1 and _TOLD_FROM * total <= self._done < total:
            left = (now - self._first) * (total - self._done) / (self._done - 1)
            note = f"  ({_clock(left)} left)"
        count = f"[{self._done:>{len(str(total))}}/{total}]"
        line = visible(f"{name}  {_timing_line(result)}")
        self._console.print(f"{count} {line}{note}", markup=False)
        self._bars.update(self._task, completed=self._done, description=self._under_way())
        self._bars.refresh()

    def _under_way(self) -> str:
        rest = self._names[self._done :]
        return f"timing {escape(visible(rest[0]))}" if rest else ""


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Say what is being done while nothing else is printed: on a terminal, with a sign of life."""
    console = Console(file=unguarded_output(), highlight=False, soft_wrap=True)
    if console.is_terminal:
        with console.status(escape(what)):
            yield
    else:
        console.print(f"{what} ...", markup=False)
        yield


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
