"""How a command ends: asked once, asked twice, left alone, or let down by a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import command, environment, launch, start, wait_until

import benchmark.records.claim as claims
from benchmark import RunSpec, execute
from benchmark.execution import needs_work, workers
from benchmark.records import RunFolder, try_claim

LONG = ("--suite", "long", "--limit", "96", "--timing", "off")
SEEDS = ("--suite", "seeds", "--seeds", "2", "--limit", "96")
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """As in a shell: what nohup or a shell's & have these tests ignore, commands must not."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """End what a failed test leaves."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def begin(
    folder: Path,
    *arguments: str,
    launcher: list[str] | None = None,
    faults: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> subprocess.Popen[str]:
    line = command(folder, *arguments, **options)
    if launcher is not None:
        line = [*launcher, *line[1:]]
    extra = {"ACCELERATE_USE_CPU": "true"} if "ranks" in options or launcher else {}
    process = start(line, environment(faults, folder, **extra))
    _started.append(process)
    return process


def run_of(folder: Path) -> RunFolder:
    return RunFolder(folder / "results/long-limit-96/long/digits/seed-0")


def is_training(folder: Path) -> bool:
    return run_of(folder).training_state.exists()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def tell(ending: str, code: int | None, errors: str, output: str = "") -> None:
    """Print how a command ended, for docs/reliability.md (pytest -s)."""
    lines = [line for line in (output + errors).splitlines() if line][-3:]
    print(f"\n--- {ending}: exit code {code}", *lines, sep="\n    ")


def check_resumable(folder: Path) -> None:
    run = run_of(folder)
    assert run.training_state.exists()
    assert not run.claim.exists()
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_asked_once_the_epoch_is_finished(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = begin(tmp_path, *LONG)
    wait_until(lambda: is_training(tmp_path), process, tmp_path)
    children = family(process)
    asked = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=40)
    tell(number.name, process.returncode, errors, output)
    assert process.returncode == code
    assert time.monotonic() - asked < 30
    assert "Ending after the epoch or stage under way, in 25 s at most" in errors
    assert ("Ctrl-C again ends at once" in errors) == (number == signal.SIGINT)
    assert errors.endswith("Interrupted. Run the same command again to continue.\n")
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=10)[1]
    check_resumable(tmp_path)


@pytest.mark.chaos
def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    process = begin(tmp_path, *LONG)
    wait_until(lambda: is_training(tmp_path), process, tmp_path)
    children = family(process)
    process.send_signal(signal.SIGSTOP)  # so that the epoch's end does not come between the two
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    tell("Ctrl-C twice", process.returncode, errors)
    assert process.returncode == 130
    assert time.monotonic() - asked < 5
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.chaos
def test_an_epoch_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    fault = {"at": "benchmark.execution.training:_Loop.save", "call": 2, "do": "sleep",
             "seconds": 600}  # fmt: skip
    process = begin(tmp_path, *LONG, "--grace", "3", faults=[fault])
    wait_until(lambda: is_training(tmp_path), process, tmp_path)
    time.sleep(1)
    children, asked = family(process), time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    tell("an epoch too long", process.returncode, errors)
    assert process.returncode == 143
    assert 2 < time.monotonic() - asked < 15
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_whoever_loses_its_launcher_ends(
    tmp_path: Path, launcher: str, number: signal.Signals
) -> None:
    options: dict[str, Any] = {"launcher": ACCELERATE} if launcher == "accelerate" else {"ranks": 2}
    process = begin(tmp_path, *LONG, **options)
    wait_until(lambda: is_training(tmp_path), process, tmp_path)
    children = family(process)
    assert children
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    tell(f"{launcher} {number.name}", process.returncode, errors, output)
    assert not psutil.wait_procs(children, timeout=35)[1]
    check_resumable(tmp_path)


MEASURED = "benchmark.execution.timing_stage:measure_subject"
# how models are timed -> how to see that it has begun: a process's module, or a fault's mark
TIMERS = [
    ("full", "benchmark.timing.processes"),
    ("quick", "benchmark.timing.memory"),
    ("quick", "measuring"),
]


@pytest.mark.chaos
@pytest.mark.parametrize(("level", "sign"), TIMERS)
def test_children_that_time_do_not_outlive_the_command(
    tmp_path: Path, level: str, sign: str
) -> None:
    mark = tmp_path / "measuring"
    faults = [{"at": MEASURED, "do": "note", "file": str(mark)},
              {"at": MEASURED, "do": "sleep", "seconds": 600}]  # fmt: skip
    process = begin(tmp_path, *SEEDS, "--seeds", "1", "--timing", level, faults=faults)
    wait_until(
        lambda: mark.exists() or any(sign in words(child) for child in family(process)),
        process, tmp_path,
    )  # fmt: skip
    children = family(process)
    process.kill()
    process.communicate(timeout=10)
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.parametrize("do", ["kill", pytest.param("half a message", marks=pytest.mark.chaos)])
def test_a_dead_worker_is_replaced_and_its_run_tried_again(tmp_path: Path, do: str) -> None:
    place = {
        "kill": "benchmark.execution.training:_Loop._backward",
        "half a message": "benchmark.execution.workers:_PipeProgress._send",
    }[do]
    fault = {"at": place, "call": 2, "do": do, "once": str(tmp_path / "killed")}
    result = launch(tmp_path, *SEEDS, "--timing", "off", "--workers", "2", faults=[fault])
    tell(f"a worker died once ({do})", result.returncode, result.stderr, result.stdout)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "killed").exists()
    assert "2 of 2 runs completed" in result.stdout


def test_half_a_message_is_a_death(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    worker = workers._Worker(0, tmp_path, force=False, gpus=0)
    worker.spec = make_spec("vit")
    worker._connection, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), (64).to_bytes(4, "big") + b"h" * 32)
    theirs.close()
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(3,))
    process.start()
    worker._process = process
    death = worker.next_event()
    assert isinstance(death, workers.Death)
    assert death.message == "the worker process ended unexpectedly with exit code 3"


@pytest.mark.chaos
@pytest.mark.parametrize("retries", [0, 1])
def test_a_run_that_kills_every_worker_is_failed(tmp_path: Path, retries: int) -> None:
    note = tmp_path / "tries"
    place = "benchmark.execution.training:_Loop._backward"
    faults = [{"at": place, "call": 2, "do": "note", "file": str(note)},
              {"at": place, "call": 2, "do": "segfault"}]  # fmt: skip
    result = launch(
        tmp_path, *SEEDS, "--seeds", "1", "--timing", "off", "--retries", str(retries),
        faults=faults,
    )  # fmt: skip
    tell(f"a worker dies, {retries} retries", result.returncode, result.stderr)
    assert result.returncode == 1
    assert "the worker process was ended by SIGSEGV" in result.stderr
    assert len(note.read_text().splitlines()) == 1 + retries


@pytest.mark.chaos
def test_a_crash_while_timing_costs_one_timing(tmp_path: Path) -> None:
    fault = {"at": MEASURED, "do": "segfault", "once": str(tmp_path / "crashed")}
    arguments = ("--suite", "mixers", "--limit", "96")
    result = launch(tmp_path, *arguments, faults=[fault])
    tell("a timing died", result.returncode, result.stderr)
    assert result.returncode == 1, result.stderr
    assert "the process that timed it was ended by SIGSEGV" in result.stderr
    assert "report:" in result.stdout
    assert result.stderr.count("not timed") == 1

    off = launch(tmp_path, *arguments, "--timing", "off")
    assert off.returncode == 0, off.stderr  # nobody asked for a timing
    again = launch(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr


def test_what_a_dead_owner_was_writing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "WATCH_S", 0.0)
    run = run_of(tmp_path)
    run.path.mkdir(parents=True)
    for name in (".record.json.x.tmp", ".claim.x.new"):
        (run.path / name).touch()
    (run.path / ".model-x").mkdir()
    run.claim.write_text('{"host": "elsewhere", "pid": 1, "token": "x"}')
    os.utime(run.claim, (0, 0))
    claim = try_claim(run)
    assert claim is not None
    assert [path.name for path in run.path.iterdir()] == [".claim"]
    claim.release()
    assert not list(run.path.iterdir())


def test_a_dead_claim_on_a_finished_run_is_removed(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("vit", limit=48)
    run = spec.folder(tmp_path)
    assert execute(spec, tmp_path).status == "completed"
    owner = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(run,))
    owner.start()
    owner.join()
    assert run.claim.exists()
    assert not needs_work(spec, tmp_path)
    assert not run.claim.exists()
    claim = try_claim(run)  # that of a living one stays
    assert claim is not None
    assert not needs_work(spec, tmp_path)
    assert claim.is_held()
    claim.release()


def _claim_and_die(run: RunFolder) -> None:
    assert try_claim(run) is not None
    os.kill(os.getpid(), signal.SIGKILL)
