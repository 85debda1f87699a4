"""Time the ways of summing gradients over processes, and weigh what they hold in memory.

    python scripts/measure_parallel.py --document docs/scaling.md

Two processes of one thread each, joined by gloo, train models of random weights. All ways of a
model take turns within one launch, so that a ratio is of one run; figures are medians over the
rounds, of the slowest process by the clock and, as other work slows that down, of all processes'
time on the cores. Memory is weighed in a launch of its own for each way, with one row a process, so
that the gradients stand out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from document_tables import replace_table
from measure_speed import CLASSES, Subject, subjects
from tabulate import tabulate
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmark.execution.agreement import exchange, gather_objects, vote
from benchmark.execution.launch import make_accelerator
from benchmark.execution.progress import SilentProgress
from benchmark.execution.training import _Loop
from benchmark.models import Padding
from benchmark.registry import Recipe

MARKERS, VOTES = "parallel", 2000
WAYS = ("one process", "ours", "one sum after the pass", "DDP", "DDP, bucket views")
VIT_TINY = Subject(
    "vit-tiny",
    transformers.ViTConfig(
        image_size=28, patch_size=7, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=96, num_labels=CLASSES,
    ),
    transformers.ViTForImageClassification, 32, 100, image_size=28,
)  # fmt: skip
STEPS = {"vit-tiny": 100, "bert-tiny": 15, "ViT-S/8, 56 px (21M)": 3}


def chosen() -> dict[str, Subject]:
    """Return the models, by name, each with as many steps as make a round."""
    known = {one.name: one for one in (VIT_TINY, *subjects("cpu"))}
    return {name: replace(known[name], steps=steps) for name, steps in STEPS.items()}


class OneSum:
    """What stood in our loop before: gradients are copied, summed in one piece, copied back."""

    def __init__(self, loop: _Loop) -> None:
        self._parameters = [p for p in loop.module.parameters() if p.requires_grad]

    def begin(self) -> None:
        """Leave gradients to autograd."""

    def last_pass(self) -> None:
        """Exchange nothing yet."""

    @contextlib.contextmanager
    def of_step(self) -> Iterator[None]:
        """Sum the gradients after the block."""
        yield
        flat = torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None])
        exchange("sum", lambda: distributed.all_reduce(flat))
        start = 0
        for parameter in self._parameters:
            end = start + parameter.numel()
            parameter.grad = flat[start:end].view_as(parameter).clone()
            start = end


class Alone(_Loop):
    """Our loop as if this process were the only one."""

    _processes = 1  # type: ignore[assignment]


@contextlib.contextmanager
def as_only_process() -> Iterator[None]:
    """Let votes within be those of a launch of one process."""
    before = os.environ["WORLD_SIZE"]
    os.environ["WORLD_SIZE"] = "1"
    try:
        yield
    finally:
        os.environ["WORLD_SIZE"] = before


@dataclass
class Clock(SilentProgress):
    """Notes the time at the end of the first and the last of some steps."""

    steps: int
    on_step: Callable[[], None] = lambda: None
    seen: int = 0
    times: list[tuple[float, float]] = field(default_factory=list)

    def advance(self, steps: int = 1) -> None:
        """Count a step that ended."""
        self.seen += steps
        if self.seen in (1, self.steps):
            self.times.append((time.perf_counter(), time.process_time()))
            if self.seen == 1:
                self.on_step()

    @property
    def per_step(self) -> tuple[float, float]:
        """Return the seconds of a step on the clock and on a core."""
        (wall, cpu), (wall_end, cpu_end) = self.times
        return (wall_end - wall) / (self.steps - 1), (cpu_end - cpu) / (self.steps - 1)


Round = Callable[[Clock], None]


def loop_of(subject: Subject, kind: type[_Loop] = _Loop) -> _Loop:
    """Return our loop on rows for one round."""
    recipe = Recipe(epochs=1, batch_size=subject.batch_size, learning_rate=1e-4)
    split = subject.split(subject.batch_size * subject.steps)
    return kind(subject.model("cpu"), split, recipe, 0, make_accelerator(), Padding())


def contender(way: str, subject: Subject) -> Round:
    """Return a round of one way of training; all processes call it, one may have nothing to do."""
    if way == "one process":
        if int(os.environ["RANK"]):
            return lambda clock: None
        alone = loop_of(subject, Alone)

        def round_alone(clock: Clock) -> None:
            with as_only_process():
                alone.run_epoch(0, clock)

        return round_alone
    loop = loop_of(subject)
    if way == "one sum after the pass":
        loop.gradients.close()
        loop.gradients = OneSum(loop)  # type: ignore[assignment]
    if way.startswith("DDP"):
        return _ddp(loop, views=way.endswith("views"))
    return lambda clock: loop.run_epoch(0, clock) and None


def _ddp(loop: _Loop, *, views: bool) -> Round:
    """Return a round of the loop that a tutorial shows, on our batches, wrapped in torch's DDP."""
    loop.gradients.close()
    model = DistributedDataParallel(loop.module, gradient_as_bucket_view=views)

    def one_round(clock: Clock) -> None:
        model.train()
        steps, inputs = loop._batches(0)
        for step in steps:
            batch = next(inputs)
            labels = batch.pop("labels")
            loss = loop.loss(model(**batch).logits, labels) / step.batch_rows
            (loss * loop._processes).backward()  # DDP divides by it
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            loop.optimizer.step()
            loop.optimizer.zero_grad()
            clock.advance()

    return one_round


def time_ways(subject: Subject, ways: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the median seconds a step on the clock and on all cores, of each way."""
    contenders = {way: contender(way, subject) for way in ways}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(-1, rounds):
        for way, one_round in contenders.items():
            clock = Clock(subject.steps)
            vote(way)
            one_round(clock)
            both = gather_objects(clock.per_step if clock.times else (0.0, 0.0))
            if number >= 0:
                found[way].append((max(wall for wall, _ in both), sum(cpu for _, cpu in both)))
    return {
        way: [statistics.median(one) for one in zip(*times, strict=True)]
        for way, times in found.items()
    }


def peak_memory(subject: Subject, way: str) -> float:
    """Return this process's largest resident memory in the last of three steps, in MB."""
    rows = 1 if way == "one process" else int(os.environ["WORLD_SIZE"])
    one_round = contender(way, replace(subject, batch_size=rows, steps=3))

    def forget() -> None:
        Path("/proc/self/clear_refs").write_text("5")

    one_round(Clock(3, forget))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def cost_of_a_vote() -> list[float]:
    """Return the median microseconds of a vote on the clock, and the mean on a core."""
    vote("warm-up")
    times, cpu = [], time.process_time()
    for _ in range(VOTES):
        started = time.perf_counter()
        vote("nothing")
        times.append(time.perf_counter() - started)
    return [1e6 * statistics.median(times), 1e6 * (time.process_time() - cpu) / VOTES]


def work(arguments: argparse.Namespace) -> None:
    """Do what one process of a launch is asked, and let the first print it."""
    torch.set_num_threads(1)
    make_accelerator()
    found: Any
    if arguments.what == "vote":
        found = cost_of_a_vote()
    else:
        subject = chosen()[arguments.model]
        if arguments.what == "memory":
            found = peak_memory(subject, arguments.ways[0])
        else:
            found = time_ways(subject, arguments.ways, arguments.rounds)
    if int(os.environ["RANK"]) == 0:
        print(json.dumps(found))


def ask(processes: int, what: str, *arguments: str) -> Any:
    """Launch processes of this script and return what the first found."""
    line = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node", str(processes), __file__, "--what", what, *arguments),
    ]
    # Memory that is freed goes back to the system, so that a peak is of what is held at once.
    extra = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"} if what == "memory" else {}
    variables = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | extra
    result = subprocess.run(  # nosec B603 - this script, or torchrun of this environment
        line, env=variables, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def measure(rounds: int) -> str:
    """Return the tables of times and of memory."""
    rows = []
    for name in STEPS:
        found = ask(2, "time", "--model", name, "--rounds", str(rounds), "--ways", *WAYS)
        wall, cores = found["one process"]
        for way, (own_wall, own_cores) in found.items():
            rows.append((name, way, f"{1e3 * own_wall:.1f}", f"{own_wall / wall:.2f}",
                         f"{1e3 * own_cores:.1f}", f"{own_cores / cores:.2f}"))  # fmt: skip
            print(rows[-1], flush=True)
    headers = ("model", "way", "ms a step", "of one process", "ms on all cores", "of one process")
    times = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    largest = list(STEPS)[-1]
    gradients = sum(p.nbytes for p in chosen()[largest].model("cpu").parameters()) / 1e6
    peaks = {way: ask(2, "memory", "--model", largest, "--ways", way) for way in WAYS}
    lines = [
        (way, f"{peak:,.0f} MB", f"{peak - peaks[WAYS[0]]:+,.0f} MB",
         f"{(peak - peaks[WAYS[0]]) / gradients:+.2f}")
        for way, peak in peaks.items()
    ]  # fmt: skip
    memory = tabulate(
        lines, ("way", "largest in a step", "beyond one process", f"of {gradients:,.0f} MB"),
        tablefmt="github", disable_numparse=True,
    )  # fmt: skip
    votes = ask(2, "vote")
    told = f"A vote: {votes[0]:.0f} µs on the clock, {votes[1]:.0f} µs on a core."
    return f"{times}\n\n{memory}\n\n{told}"


def main() -> None:
    """Measure and print, or write the tables into a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--document", type=Path, help="write the tables between their markers")
    parser.add_argument("--what", choices=("time", "memory", "vote"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--ways", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what:
        work(arguments)
        return
    text = measure(arguments.rounds)
    print(text)
    if arguments.document:
        replace_table(arguments.document, MARKERS, text)


if __name__ == "__main__":
    main()
