"""The figures of a report: kept from the last one where the same is drawn, else drawn side by side.

Drawing is most of the time that a report takes. A figure is a function of what it is given, so its
key is the content of that; the last report's figures are known by theirs.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xxhash

from benchmark.records import ResultsError, reading
from benchmark.report.content_key import content_key
from benchmark.report.figure_style import Drawing, drawn_pdf
from benchmark.report.stored_report import StoredDrawing, StoredReport

Draw = Callable[..., Drawing | None]

FIGURES_A_PROCESS = 6
"""A process takes two seconds to start, in which another draws as many."""
MAX_PROCESSES = 8


@dataclass
class Asked:
    """A figure that was asked for, and is there when `drawing` is."""

    key: str | None
    function: Draw
    arguments: tuple[Any, ...]
    done: Future[Drawing | None] | None = None

    @property
    def drawing(self) -> Drawing | None:
        """The figure, drawn here if need be; None: what it is given makes none."""
        if self.done is not None:
            try:
                return self.done.result()
            except BrokenProcessPool:  # its process was killed
                self.done = None
        self.done = Future()
        self.done.set_result(self.function(*self.arguments))
        return self.done.result()


def done(asked: Iterable[Asked]) -> tuple[Drawing, ...]:
    """Return those figures that there are."""
    drawings = (one.drawing for one in asked)
    return tuple(drawing for drawing in drawings if drawing is not None)


@dataclass
class Drawings:
    """The figures of one report.

    Attributes:
        kept: the last report's figures by their keys.
        processes: how many may draw beside this one.
        with_pdf: whether the report has its figures as PDF, too.
    """

    kept: Mapping[str, Drawing | None] = field(default_factory=dict)
    processes: int = 0
    with_pdf: bool = False
    asked: list[Asked] = field(default_factory=list)
    _pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def ask(self, function: Draw, *arguments: Any) -> Asked:
        """Ask for `function(*arguments)`, which is drawn by `start`, or when it is looked at."""
        try:
            key = content_key(function, arguments)
        except TypeError:
            key = None
        one = Asked(key, function, arguments)
        if key is not None and key in self.kept:
            one.done = Future()
            one.done.set_result(self.kept[key])
        elif self._pool is not None:
            self._send(one, self._pool)
        self.asked.append(one)
        return one

    def _send(self, one: Asked, pool: Executor) -> None:
        with suppress(BrokenProcessPool):  # then it is drawn here
            one.done = pool.submit(one.function, *one.arguments)

    def start(self) -> None:
        """Let processes draw what has been asked for, where it is enough to be worth their start.

        They go on while this process does other things, and draw what is asked for later, too.
        """
        waiting = [one for one in self.asked if one.done is None]
        if len(waiting) >= FIGURES_A_PROCESS and self.processes:
            pool = self.pool(len(waiting) // FIGURES_A_PROCESS)
            for one in waiting:
                self._send(one, pool)

    def pool(self, wanted: int) -> Executor:
        """Return processes, which are started when they are first asked for."""
        if self._pool is None:
            # A forked copy of a process with running threads can hang; a fresh one cannot.
            self._pool = ProcessPoolExecutor(
                max(1, min(wanted, self.processes, MAX_PROCESSES)),
                mp_context=multiprocessing.get_context("spawn"),
            )
        return self._pool

    def write_pdfs(self, folder: Path) -> None:
        """Draw every figure once more, as PDF, into the folder of a report."""
        for one in self.asked:
            drawing = one.drawing
            if drawing is not None:
                content = drawn_pdf(one.function, one.arguments)
                figure_file(folder, drawing.name).with_suffix(".pdf").write_bytes(content)

    def stored(self) -> dict[str, StoredDrawing | None]:
        """Return what `report.json` is to say of the figures, all of which are done."""
        known = {one.key: one.drawing for one in self.asked if one.key is not None}
        return {key: _stored(drawing) for key, drawing in sorted(known.items())}


def _stored(drawing: Drawing | None) -> StoredDrawing | None:
    if drawing is None:
        return None
    return StoredDrawing(
        name=drawing.name, caption=drawing.caption, alt=drawing.alt, method=drawing.method
    )


def figure_file(folder: Path, name: str) -> Path:
    """Return where a report keeps a figure."""
    return folder / "figures" / f"{name}.svg"


def kept_drawings(stored: StoredReport | None, folder: Path) -> dict[str, Drawing | None]:
    """Return a report's figures by their keys; those whose file is not as it was written go."""
    found: dict[str, Drawing | None] = {}
    for key, facts in ({} if stored is None else stored.drawings).items():
        if facts is None:
            found[key] = None
            continue
        svg = _svg(figure_file(folder, facts.name), stored.files if stored else {}, folder)
        if svg is not None:
            found[key] = Drawing(facts.name, svg, facts.caption, facts.alt, facts.method)
    return found


def _svg(path: Path, hashes: Mapping[str, str], folder: Path) -> str | None:
    try:
        with reading(path):
            content = path.read_bytes()
    except (OSError, ResultsError):
        return None
    known = hashes.get(path.relative_to(folder).as_posix())
    return content.decode() if known == xxhash.xxh3_128_hexdigest(content) else None
