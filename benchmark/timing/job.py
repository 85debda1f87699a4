"""What is timed, and how another process gets hold of it: by name, never by pickle."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from benchmark.data import Rows
from benchmark.hub import environment_for_code
from benchmark.shell import end_with_parent

if TYPE_CHECKING:  # torch takes seconds to import; whoever holds tensors has done so already.
    import torch
    from torch import Tensor, nn

Batch = Mapping[str, "Tensor"]

# A launcher's variables would make the fresh process join (and hang in) the launcher's group.
_LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_LOG_LINES = 5
_PARENT = "BENCHMARK_TIMING_PARENT"


@dataclass(frozen=True)
class TimingSample:
    """The rows that every model of a dataset is timed on.

    Attributes:
        rows: one seeded sample, the same rows in the same order for every model.
        encode: rows to the keyword arguments of the model, tensors on the CPU, padded to the
            longest row of those given; no labels among them.
        lengths: tokens of each row (special tokens included), for text.
    """

    rows: Rows
    encode: Callable[[Rows], Batch]
    lengths: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ValueError("a timing sample needs at least one row")
        if self.lengths is not None and len(self.lengths) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows but {len(self.lengths)} token lengths")

    def encode_on(self, device: torch.device, rows: Rows) -> dict[str, Tensor]:
        """Encode rows, with the tensors on the model's device."""
        return {name: tensor.to(device) for name, tensor in self.encode(rows).items()}

    def rows_in_pass(self, size: int) -> int:
        """Return how many rows `chunks` gives, with repeats."""
        return max(size, len(self.rows))

    def chunks(self, size: int) -> list[Rows]:
        """Return the rows in order, `size` at a time; the last chunk may be shorter.

        Where `size` is more than there are, the rows are repeated to fill one chunk.
        """
        positions = np.resize(np.arange(len(self.rows)), self.rows_in_pass(size))
        return [
            self.rows.take(positions[start : start + size])
            for start in range(0, len(positions), size)
        ]


@dataclass(frozen=True)
class TimingSubject:
    """A model ready to be timed.

    Attributes:
        model: in evaluation mode, on its device.
        sample: what to time it on.
        temperature: the fitted one, > 0.
    """

    model: nn.Module
    sample: TimingSample
    temperature: float = 1.0


class TimingJob(BaseModel):
    """How a fresh process makes a `TimingSubject`.

    Attributes:
        name: shown in errors and progress.
        loader: `module:function`, importable; called with `arguments`, returns a `TimingSubject`.
        arguments: keyword arguments, plain JSON.
        own_code: whether the model brings code of its own, which is not to see secrets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    loader: str
    arguments: dict[str, JsonValue]
    own_code: bool = False


class TimingError(RuntimeError):
    """A job that could not be measured; says which and why."""

    def __init__(self, job: TimingJob, reason: str) -> None:
        super().__init__(f"timing of {job.name} ({job.loader}) failed: {reason}")
        self.job, self.reason = job, reason


def load(job: TimingJob) -> TimingSubject:
    """Import the job's loader and call it.

    Raises:
        ValueError: when the loader is not `module:function` or names nothing that can be called.
        TypeError: when it returns something else than a `TimingSubject`.
    """
    module, _, function = job.loader.partition(":")
    if not module or not function:
        raise ValueError(f"loader {job.loader!r} should read 'module:function'")
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise ValueError(f"loader {job.loader!r}: module {module} has no function {function}")
    subject = found(**job.arguments)
    if not isinstance(subject, TimingSubject):
        raise TypeError(f"loader {job.loader!r} returned {type(subject).__name__}")
    return subject


def run_module(
    module: str, request: Mapping[str, Any], timeout_s: float, *, own_code: bool = False
) -> str:
    """Run `python -m module` in a fresh process with a JSON request on its standard input.

    Args:
        module: importable, with a `__main__` part that reads the request.
        request: plain JSON.
        timeout_s: the process is killed after this many seconds.
        own_code: keep secrets out of its environment (see `TimingJob`).

    Returns:
        Why it ended badly: its last words on stderr, or "" when it ended well. Results travel in
        files that the request names, since models may print.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _LAUNCHER_VARIABLES}
    if own_code:
        environment = environment_for_code(environment)
    root = str(Path(__file__).parents[2])
    environment[_PARENT] = str(os.getpid())
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [root, environment.get("PYTHONPATH", "")])
    )
    try:
        ended = subprocess.run(  # nosec B603 # ourselves
            [sys.executable, "-m", module],
            input=json.dumps(request),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    if ended.returncode == 0:
        return ""
    last_words = " | ".join(ended.stderr.strip().splitlines()[-_LOG_LINES:])
    return f"exit status {ended.returncode}: {last_words}"


def read_request() -> dict[str, Any]:
    """Return what `run_module` asks of this process, which ends with the one that asked.

    One that went on alone would disturb the next measurement.
    """
    if _PARENT in os.environ:
        end_with_parent(int(os.environ[_PARENT]))
    request: dict[str, Any] = json.load(sys.stdin)
    return request


def ask_process(module: str, job: TimingJob, request: Mapping[str, Any], timeout_s: float) -> Any:
    """Let `python -m module` do something about one job, and return its answer.

    Besides the request's own items the process is given `job` and `answer`: where `write_answer`
    is to put what it found, in a folder that lasts as long as the process.

    Args:
        module: as for `run_module`.
        job: what it is about.
        request: plain JSON.
        timeout_s: as for `run_module`.

    Raises:
        TimingError: when there is no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        whole = {**request, "job": job.model_dump(), "answer": str(answer)}
        return read_answer(answer, job, run_module(module, whole, timeout_s, own_code=job.own_code))


def write_answer(path: Path, make: Callable[[], BaseModel]) -> None:
    """Write what `make` returns, or the error it raised, for `read_answer` in another process."""
    answer: dict[str, Any] = {"result": None, "error": ""}
    try:
        answer["result"] = make().model_dump(mode="json")
    except Exception as error:  # any failure of a model must reach the caller, named
        answer["error"] = f"{type(error).__name__}: {error}"
    path.write_text(json.dumps(answer))


def read_answer(path: Path, job: TimingJob, log: str) -> Any:
    """Return the result that another process left.

    Args:
        path: where it was to leave it.
        job: what it was about.
        log: why the process ended badly, if it did.

    Raises:
        TimingError: when it left none.
    """
    try:
        answer = json.loads(path.read_text())
    except (OSError, ValueError):
        raise TimingError(job, log or "the process left no result") from None
    if answer["error"]:
        raise TimingError(job, answer["error"])
    return answer["result"]
