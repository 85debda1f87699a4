"""How stages report progress, without knowing who shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StageProgress:
    """A run has done `done` of `total` steps of a stage."""

    run: str
    stage: str
    done: int
    total: int


class Progress(Protocol):
    """Receives a run's progress; the executor decides where it is shown."""

    def stage(self, name: str, total: int) -> None:
        """Start a stage of `total` steps."""
        ...

    def advance(self, steps: int = 1) -> None:
        """Count steps of the current stage as done."""
        ...


class SilentProgress:
    """Shows nothing."""

    def stage(self, name: str, total: int) -> None:
        """See `Progress.stage`."""

    def advance(self, steps: int = 1) -> None:
        """See `Progress.advance`."""
