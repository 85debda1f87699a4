from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from timing_models import (
    SHORT,
    NoOperation,
    OutOfMemoryAbove,
    Sleeper,
    Stack,
    TokenSleeper,
    encode_images,
    image_sample,
    text_sample,
)
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from benchmark.data.rows import Rows
from benchmark.records.timing import Timing
from benchmark.timing import device as timing_device
from benchmark.timing.device import EventCall, count_flops, forward_call, logits_of
from benchmark.timing.job import TimingSample
from benchmark.timing.loops import Stopwatch, single_stream
from benchmark.timing.model import time_model
from benchmark.timing.session import Session
from benchmark.timing.single_stream import measure_single_stream


@pytest.fixture(scope="module")
def stack_timing() -> Timing:
    return time_model(Stack().eval(), image_sample(16), durations=SHORT, temperature=2.0)


def test_all_scenarios_and_regions_are_there(stack_timing: Timing) -> None:
    found = [(m.scenario, m.region, m.threads) for m in stack_timing.measurements]
    assert found == [
        ("single-stream", "forward", 1),
        ("offline", "forward", 1),
        ("single-stream", "end_to_end", 1),
        ("offline", "end_to_end", 1),
    ]
    assert stack_timing.latency_ms(50) is not None
    assert stack_timing.parameters == 64 * 65 + 2 * 64 * 65
    assert stack_timing.measurement("offline", threads=7) is None


def test_offline_throughput_equals_rows_over_wall(stack_timing: Timing) -> None:
    for m in stack_timing.measurements:
        assert m.samples_per_s == pytest.approx(m.rows / m.wall_s, rel=1e-12)
        assert m.rows % stack_timing.sample_rows == 0
        assert m.wall_s >= 0.1
    best = stack_timing.best_offline
    assert best is not None
    assert best.batch_size in SHORT.batch_sizes
    assert [point.batch_size for point in best.sweep] == [4, 8]


def test_record_survives_json(stack_timing: Timing) -> None:
    assert Timing.model_validate_json(stack_timing.model_dump_json()) == stack_timing


def test_setting_is_recorded(stack_timing: Timing) -> None:
    setting = stack_timing.setting
    assert (setting.device, setting.dtype, setting.compiled) == ("cpu", "float32", False)
    assert setting.available_threads == (len(setting.affinity) or setting.available_threads)
    assert setting.device_name


def test_all_cores_are_measured_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.timing.model.available_cores", lambda: 2)
    threads: list[int] = []

    class Observer(Stack):
        def forward(self, x: Tensor) -> Tensor:
            threads.append(torch.get_num_threads())
            return super().forward(x)

    before = torch.get_num_threads()
    durations = dataclasses.replace(SHORT, all_threads=True)
    found = time_model(Observer().eval(), image_sample(8), durations=durations)
    assert [m.threads for m in found.measurements] == [1] * 4 + [2] * 4
    assert set(threads) == {1, 2}
    assert torch.get_num_threads() == before


def test_quick_sample_rows_are_issued_equally_often() -> None:
    seen: Counter[float] = Counter()

    class Observer(NoOperation):
        def forward(self, x: Tensor) -> Tensor:
            seen[round(float(x.sum()), 3)] += 1
            return x

    sample = image_sample(8)
    session = Session(Observer(), sample, 1.0, 0, SHORT)
    warm = session.durations.warm_up
    session.durations = dataclasses.replace(
        SHORT, warm_up=dataclasses.replace(warm, min_s=0, max_s=0)
    )
    measured = measure_single_stream(session, "forward", 1)
    # Eight rows of one shape: a warm-up of no time calls the last one twice.
    assert sum(seen.values()) == measured.queries + 2
    assert sorted(seen.values())[:-1] == [measured.queries // 8] * 7


def test_a_model_that_sleeps_5_ms_is_reported_as_such() -> None:
    durations = dataclasses.replace(SHORT, single_stream_s=0.5)
    found = time_model(Sleeper(0.005).eval(), image_sample(8), durations=durations)
    latency = found.latency_ms()
    assert latency is not None
    # Never below; above only by what a loaded machine takes to wake a sleeper. The tight check
    # (+- .3 ms) is scripts/timing_crosscheck.py's.
    assert 5.0 <= latency < 6.5
    offline = found.best_offline
    assert offline is not None
    assert offline.samples_per_s <= offline.batch_size / 0.005


def test_p50_agrees_with_torch_timer() -> None:
    # The two alternate call by call, so that both see the same machine, however loaded.
    model, batch = Stack(1024, 12).eval(), {"x": torch.randn(1, 64)}
    watch = Stopwatch(forward_call(model))
    ratios = []
    with torch.inference_mode():
        timer = Timer("model(**batch)", globals={"model": model, "batch": batch})
        for _ in range(3):
            ours, theirs = [], []
            for _ in range(60):
                # timeit(1) makes two calls before the one it times; so does this loop.
                ours.append(watch.time_each([batch] * 3)[-1] / 1e6)
                theirs.append(1000 * timer.timeit(1).median)
            ratios.append(float(np.median(ours) / np.median(theirs)))
    # The best of three; scripts/timing_crosscheck.py asks 5% of each on a quiet machine.
    assert min(abs(ratio - 1) for ratio in ratios) < 0.05


def test_overhead_per_call_is_below_5_us() -> None:
    watch = Stopwatch(forward_call(NoOperation().eval()))
    batches = [{"x": torch.zeros(1)}] * 100
    assert np.median(single_stream(watch, batches, 0.2, 0).latencies_ms) < 0.005


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        time_model(Stack().eval(), image_sample(2), temperature=temperature)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        time_model(Stack(), image_sample(2))


def test_samples_are_checked() -> None:
    sample = image_sample(3)
    with pytest.raises(ValueError, match="3 rows but 2 token lengths"):
        TimingSample(sample.rows, encode_images, [1, 2])
    with pytest.raises(ValueError, match="at least one row"):
        TimingSample(sample.rows.take(np.array([], dtype=np.int64)), encode_images)


def test_end_to_end_gives_probabilities_at_the_temperature() -> None:
    model, sample = Stack().eval(), image_sample(4)
    session = Session(model, sample, 2.5, 0, SHORT)
    rows = sample.chunks(3)[0]
    with torch.inference_mode():
        found = session.end_to_end(rows)
        logits = model(**encode_images(rows)).double().numpy()
    expected = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_end_to_end_includes_encoding() -> None:
    def slow(rows: Rows) -> dict[str, Tensor]:
        time.sleep(0.003)
        return encode_images(rows)

    sample = TimingSample(image_sample(4).rows, slow)
    found = time_model(Stack().eval(), sample, durations=SHORT)
    forward, whole = found.latency_ms(), found.latency_ms(region="end_to_end")
    assert forward is not None
    assert whole is not None
    assert whole >= 3 > forward


def test_latency_grows_with_token_length_and_padding_is_counted() -> None:
    lengths = [1, 1, 2, 2, 5, 5, 10, 10]
    model = TokenSleeper(0.0005).eval()
    durations = dataclasses.replace(SHORT, batch_sizes=(4,))
    found = time_model(model, text_sample(lengths), durations=durations)
    measurement = found.measurement("single-stream")
    assert measurement is not None
    bins = measurement.by_length
    assert [(b.shortest, b.longest, b.rows) for b in bins] == [
        (1, 1, 2),
        (2, 2, 2),
        (5, 5, 2),
        (10, 10, 2),
    ]
    assert sum(b.queries for b in bins) == measurement.queries
    assert bins[3].p50_ms > 2 * bins[1].p50_ms
    # Batches of 4: 4 x 2 and 4 x 10 tokens computed, 36 of these 48 are real.
    assert found.best_offline is not None
    assert found.best_offline.padding_share == pytest.approx(1 - 36 / 48)


def test_batch_sizes_beyond_memory_are_recorded_and_passed_over() -> None:
    found = time_model(OutOfMemoryAbove(4).eval(), image_sample(16), durations=SHORT)
    best = found.best_offline
    assert best is not None
    assert best.batch_size == 4
    assert [point.samples_per_s is None for point in best.sweep] == [False, True]


def test_a_model_too_big_for_every_batch_says_so() -> None:
    with pytest.raises(MemoryError, match=r"no batch size of \[4, 8\]"):
        time_model(OutOfMemoryAbove(2).eval(), image_sample(16), durations=SHORT)


def test_temperature_overhead_has_an_interval(stack_timing: Timing) -> None:
    single, batch = stack_timing.temperature_overhead
    assert (single.batch_size, single.pairs) == (1, 90)
    assert single.interval_us.low <= single.added_us <= single.interval_us.high
    assert single.share_of_latency == pytest.approx(
        single.added_us / 1000 / (stack_timing.latency_ms(region="end_to_end") or 0)
    )
    assert batch.share_of_latency is None
    # A division of 64 floats is neither free nor slower than a tenth of a millisecond.
    assert 0 < single.added_us < 100


def test_flops_of_linear_layers_are_exact() -> None:
    rows = [encode_images(chunk) for chunk in image_sample(20).chunks(1)]
    assert count_flops(Stack(32, 3), rows) == 2 * (64 * 32 + 3 * 32 * 32)


def test_flops_of_attention_are_counted_on_the_cpu() -> None:
    length, width, heads = 10, 32, 4

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            split = x.view(1, length, heads, width // heads).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(split, split, split)

    # Queries times keys and weights times values: 2 operations x length^2 x width each.
    found = count_flops(Attention(), [{"x": torch.randn(1, length, width)}])
    assert found == 2 * 2 * length**2 * width


def test_flops_of_nothing_countable_are_absent() -> None:
    assert count_flops(NoOperation(), [{"x": torch.zeros(1)}]) is None


def test_logits_are_found_in_any_output() -> None:
    logits = torch.zeros(2, 3)

    class Output:
        def __init__(self) -> None:
            self.logits = logits

    assert logits_of(logits) is logits_of((logits, None)) is logits_of(Output()) is logits


class FakeEvent:
    """Stands for a CUDA event: remembers when it was recorded."""

    clock = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = FakeEvent.clock

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


def test_event_call_keeps_device_times(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)

    def call(cost: float) -> None:
        FakeEvent.clock += cost

    device = torch.device("cuda", 0)
    events = EventCall(call, device, FakeEvent)
    watch = Stopwatch(events, events.synchronize, events.prepare)
    watch.time_each([100.0])
    events.forget()
    watch.time_each([1.0, 2.0, 6.0])
    assert events.median_ms() == 2.0
    # Around each of 4 calls, and once more to read the last.
    assert waits == [device] * 9


def test_cuda_peak_covers_the_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: log.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 8)
    peak = timing_device.pass_peak(torch.device("cuda"), lambda _: log.append("call"), [{}, {}])
    assert peak == (5, 8)
    assert log == [
        "synchronize", "empty_cache", "reset_peak_memory_stats", "call", "call", "synchronize",
    ]  # fmt: skip


def test_compiled_models_are_recognised() -> None:
    model = Stack()
    assert not timing_device._is_compiled(model)
    assert timing_device._is_compiled(torch.compile(model))
    model.compile()
    assert timing_device._is_compiled(model)


def test_other_gpu_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import subprocess

    class Properties:
        uuid = "00-11"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, f"7\n{os.getpid()}\n8\n", ""),
    )
    assert timing_device._other_processes(torch.device("cuda")) == 2
    assert timing_device._other_processes(torch.device("cpu")) is None


def test_a_gpu_s_larger_batches_repeat_the_sample() -> None:
    sample = image_sample(5)
    (chunk,) = sample.chunks(11)
    assert chunk.ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    assert sample.rows_in_pass(11) == 11
    assert sum(map(len, sample.chunks(4))) == sample.rows_in_pass(4) == 5
