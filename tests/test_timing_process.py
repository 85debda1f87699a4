from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timing_models import SHORT, Stack, image_sample

from benchmark.records.timing import Memory, Timing
from benchmark.timing import device as timing_device
from benchmark.timing import energy, loadgen, memory
from benchmark.timing import processes as timing_process
from benchmark.timing.job import (
    TimingError,
    TimingJob,
    TimingSubject,
    load,
    read_answer,
    run_module,
    write_answer,
)
from benchmark.timing.model import time_model
from benchmark.timing.percentiles import mean_interval
from benchmark.timing.processes import merge, time_jobs

MODELS = "timing_models"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fresh processes import the loaders that lie beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture(scope="module")
def two() -> list[Timing]:
    model, sample = Stack().eval(), image_sample(16)
    return [time_model(model, sample, durations=SHORT, seed=seed) for seed in (0, 1)]


def job(function: str = "load_stack", **arguments: int) -> TimingJob:
    return TimingJob(name=function, loader=f"{MODELS}:{function}", arguments=dict(arguments))


def test_merge_averages_over_processes_and_puts_the_interval_between_them(
    two: list[Timing],
) -> None:
    merged = merge(two)
    one, other = (t.measurements[0] for t in two)
    joined = merged.measurements[0]
    p50s = np.array([t.latency_ms() for t in two], dtype=float)
    assert merged.latency_ms() == pytest.approx(p50s.mean())
    assert joined.p50_interval_ms == mean_interval(p50s, over="processes")
    assert joined.processes == 2
    assert joined.queries == one.queries + other.queries
    assert joined.percentile(50).upper_ms == max(  # type: ignore[union-attr]
        m.percentile(50).upper_ms  # type: ignore[union-attr]
        for m in (one, other)
    )
    rates = np.array([t.measurements[1].samples_per_s for t in two])
    assert merged.measurements[1].samples_per_s == pytest.approx(rates.mean())
    assert merged.measurements[1].samples_per_s_interval == mean_interval(rates, over="processes")
    assert merged.achieved_flops_per_s == pytest.approx(
        merged.flops_per_sample * rates.mean()  # type: ignore[operator]
    )
    assert Timing.model_validate_json(merged.model_dump_json()) == merged


def test_merge_of_one_is_that_one(two: list[Timing]) -> None:
    assert merge(two[:1]) is two[0]


def test_merge_keeps_reasons_and_the_worst_contention(two: list[Timing]) -> None:
    def with_reasons(timing: Timing, share: float, *reasons: str) -> Timing:
        first = timing.measurements[0]
        update = {
            "unstable": reasons,
            "contention": first.contention.model_copy(update={"waiting_share": share}),
        }
        changed = first.model_copy(update=update)
        return timing.model_copy(update={"measurements": (changed, *timing.measurements[1:])})

    merged = merge([with_reasons(two[0], 0.5, "was hot"), with_reasons(two[1], 0.1)])
    assert merged.measurements[0].unstable == ("process 1 of 2: was hot",)
    assert merged.measurements[0].contention.waiting_share == 0.5


def test_merge_drops_percentiles_that_one_process_does_not_support(two: list[Timing]) -> None:
    first = two[1].measurements[0]
    fewer = first.model_copy(update={"percentiles": first.percentiles[:1]})
    poorer = two[1].model_copy(update={"measurements": (fewer, *two[1].measurements[1:])})
    merged = merge([two[0], poorer])
    assert [p.rank for p in merged.measurements[0].percentiles] == [50]


def test_merge_takes_the_largest_memory(two: list[Timing]) -> None:
    def using(timing: Timing, peak: int) -> Timing:
        used = Memory(fresh_process=True, batch_size=32, cpu_peak_rss_bytes=peak)
        return timing.model_copy(update={"memory": used})

    merged = merge([using(two[0], 10**8), using(two[1], 2 * 10**8)])
    assert merged.peak_memory_mb == 200
    assert merge(two).peak_memory_mb is None


def test_merge_refuses_what_does_not_belong_together(two: list[Timing]) -> None:
    poorer = two[1].model_copy(update={"measurements": two[1].measurements[:2]})
    with pytest.raises(ValueError, match="did not measure the same"):
        merge([two[0], poorer])
    with pytest.raises(ValueError, match="no timings"):
        merge([])


def test_jobs_are_interleaved_in_seeded_random_order(
    two: list[Timing], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def measure(which: TimingJob, *_: object) -> Timing:
        started.append(which.name)
        if which.name == "c":
            raise TimingError(which, "broken")
        return two[0]

    monkeypatch.setattr(timing_process, "_in_fresh_process", measure)
    jobs = [TimingJob(name=name, loader="m:f", arguments={}) for name in "abcdef"]
    found = time_jobs(jobs, processes=5, seed=3)
    assert [started.count(name) for name in "abcdef"] == [5, 5, 1, 5, 5, 5]
    assert isinstance(found[2], TimingError)
    assert all(t.measurements[0].processes == 5 for t in found if isinstance(t, Timing))
    # Every round holds every healthy job once, and rounds differ in order.
    healthy = [name for name in started if name != "c"]
    rounds = [tuple(healthy[i : i + 5]) for i in range(0, 25, 5)]
    assert all(sorted(turn) == list("abdef") for turn in rounds)
    assert len(set(rounds)) > 1
    first = list(started)
    started.clear()
    time_jobs(jobs, processes=5, seed=3)
    assert started == first


def test_fresh_processes_measure_memory_and_cold_start_too() -> None:
    found, failed = time_jobs([job(count=8), job("exit_at_once")], durations=SHORT, processes=1)
    assert isinstance(found, Timing)
    assert found.fresh_process
    assert found.level == "full"
    assert found.memory is not None
    assert found.memory.fresh_process
    baseline, loaded, peak = (
        found.memory.cpu_baseline_rss_bytes or 0,
        found.memory.cpu_loaded_rss_bytes or 0,
        found.memory.cpu_peak_rss_bytes or 0,
    )
    assert 50e6 < baseline <= loaded <= peak < 2e9
    # A cold call initialises the library; a warm one of this model takes microseconds.
    assert (found.cold_first_call_ms or 0) > (found.latency_ms() or 0)
    assert isinstance(failed, TimingError)
    assert "exit status 3" in str(failed)


def test_memory_of_forks_shows_the_models_and_survives_failures() -> None:
    small, large, failed = memory.measure_memory(
        [job(width=64), job(width=4096), job("load_nothing")]
    )
    assert isinstance(small, Memory)
    assert isinstance(large, Memory)
    # Three layers: 64 x 4096 and twice 4096 x 4096 weights of 4 bytes are 135 MB.
    grown = (large.cpu_peak_rss_bytes or 0) - (small.cpu_peak_rss_bytes or 0)
    assert grown == pytest.approx(4 * (64 * 4096 + 2 * 4096**2), rel=0.15)
    assert not small.fresh_process
    assert isinstance(failed, TimingError)
    assert "returned NoneType" in str(failed)
    assert memory.measure_memory([]) == []


def test_memory_on_cuda_is_the_passes_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_device, "pass_peak", lambda *_: timing_device.Peak(10, 20))
    found = memory.pass_peak(TimingSubject(Stack().eval(), image_sample(40)), fresh_process=False)
    assert (found.cuda_peak_allocated_bytes, found.cuda_peak_reserved_bytes) == (10, 20)
    assert found.peak_bytes == 20
    assert found.cpu_peak_rss_bytes is None
    assert found.batch_size == 32


@pytest.mark.parametrize(
    ("loader", "error", "said"),
    [
        ("no_colon", ValueError, "should read 'module:function'"),
        (f"{MODELS}:misspelt", ValueError, "has no function misspelt"),
        (f"{MODELS}:load_nothing", TypeError, "returned NoneType"),
        ("no_such_module:f", ModuleNotFoundError, "no_such_module"),
    ],
)
def test_loader_errors_say_what_is_wrong(loader: str, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        load(TimingJob(name="x", loader=loader, arguments={}))


def test_a_slow_process_is_ended() -> None:
    # No interpreter starts within a millisecond.
    assert run_module("this", {}, timeout_s=0.001).startswith("no answer within")


def test_launcher_variables_do_not_reach_fresh_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, str] = {}

    def run(command: list[str], **keywords: object) -> subprocess.CompletedProcess[str]:
        seen.update(keywords["env"])  # type: ignore[call-overload]
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(subprocess, "run", run)
    assert run_module("anything", {}, 1) == ""
    assert "WORLD_SIZE" not in seen
    assert seen["PYTHONPATH"].split(os.pathsep)[-1] == str(Path(__file__).parent)


def test_answers_travel_by_file_and_errors_by_name(tmp_path: Path) -> None:
    path, about = tmp_path / "answer.json", job()
    write_answer(path, lambda: Memory(fresh_process=True, batch_size=1))
    assert read_answer(path, about, "")["batch_size"] == 1
    write_answer(path, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(TimingError, match="ZeroDivisionError: division by zero"):
        read_answer(path, about, "")
    with pytest.raises(TimingError, match="was killed"):
        read_answer(tmp_path / "absent.json", about, "was killed")
    path.write_text("{")
    with pytest.raises(TimingError, match="left no result"):
        read_answer(path, about, "")


def test_durations_survive_the_trip_to_another_process() -> None:
    from pydantic import TypeAdapter

    plain = json.loads(json.dumps(dataclasses.asdict(SHORT)))
    assert TypeAdapter(type(SHORT)).validate_python(plain) == SHORT


def test_records_are_read_without_torch() -> None:
    code = (
        "import sys, benchmark.records.timing, benchmark.timing.job;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_energy_counters_are_summed_over_packages(tmp_path: Path) -> None:
    for name, microjoules in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:1", 7_000_000),
        ("intel-rapl:0:0", 3_000_000),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
    cpu = torch.device("cpu")
    assert energy.read_joules(cpu, tmp_path) == 12.0
    assert energy.read_joules(cpu, tmp_path / "absent") is None
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert energy.read_joules(cpu, tmp_path) is None


def test_energy_difference_refuses_a_wrapped_counter() -> None:
    assert energy.difference(10.0, 12.5) == 2.5
    assert energy.difference(12.5, 10.0) is None
    assert energy.difference(None, 10.0) is None


def test_loadgen_missing_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "is_installed", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"calibration-benchmark\[loadgen\]"):
        loadgen.cross_check(job())


@pytest.mark.slow
@pytest.mark.skipif(not loadgen.is_installed(), reason="needs the extra `loadgen`")
def test_loadgen_agrees() -> None:
    single, offline = loadgen.cross_check(job(width=2048), seconds=3)
    assert (single.scenario, offline.scenario) == ("single-stream", "offline")
    assert single.queries > 64
    # Generous, since the machine may be busy; scripts/timing_crosscheck.py holds it to 5%.
    assert single.ratio == pytest.approx(1, abs=0.25)
    assert offline.ratio == pytest.approx(1, abs=0.25)
