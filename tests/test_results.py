from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmark.records import (
    DamagedError,
    ModelFacts,
    OtherVersionError,
    Record,
    ResultsError,
    RunFolder,
    SplitScores,
    Temperature,
    atomic_path,
    find_records,
    load_results,
    write_text,
)
from benchmark.records.logits import (
    LogitsSplit,
    read_split,
    split_names,
    stored_device,
    stored_key,
    verify_checksum,
    write_logits,
)
from benchmark.statistics import Estimate

FACTS = ModelFacts(mixer="attention", family="ViT", modality="image", source="scratch")


def make_record(seed: int = 0, temperature: float = 1.5) -> Record:
    estimate = Estimate(value=0.1, low=0.05, high=0.2, floor_mean=0.02, floor_q95=0.04)
    scores = SplitScores(
        n=10,
        shifted=False,
        maps={"none": {"ece_15": estimate}, "temperature": {"ece_15": Estimate(value=0.05)}},
    )
    fitted = Temperature(
        value=temperature, low=None, high=None, status="converged", nll_before=1, nll_after=0.9,
        gradient=1e-12, iterations=4, n=10,
    )  # fmt: skip
    return Record(
        suite="s", model="m", dataset="d", seed=seed, status="completed", facts=FACTS,
        temperature=fitted, scores={"test": scores}, finished_at=datetime.now(UTC),
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [1.5, math.inf, 0.0])
def test_record_survives_the_disk(tmp_path: Path, temperature: float) -> None:
    record = make_record(temperature=temperature)
    RunFolder(tmp_path).write_record(record)
    assert RunFolder(tmp_path).read_record() == record
    json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"seed": 1}'])
def test_bad_record_is_named_not_trusted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"record\.json: damaged .* makes it anew"):
        RunFolder(tmp_path).read_record()


def test_a_record_of_a_newer_schema_is_not_damaged(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"schema_version": 99}')
    with pytest.raises(OtherVersionError, match=r"record\.json: .*schema 99.*left as it is"):
        RunFolder(tmp_path).read_record()


def test_frame_is_tidy(tmp_path: Path) -> None:
    for seed in (0, 1):
        RunFolder(tmp_path / "s/m/d" / f"seed-{seed}").write_record(make_record(seed))
    failed = make_record(2).model_copy(update={"status": "failed", "scores": {}})
    RunFolder(tmp_path / "s/m/d/seed-2").write_record(failed)
    frame = load_results(tmp_path)
    assert list(frame["seed"]) == [0, 1, 2]
    assert frame["ece_15_none"].tolist()[:2] == [0.1, 0.1]
    assert frame["ece_15_none_floor_mean"].tolist()[:2] == [0.02, 0.02]
    assert frame["split"].isna().tolist() == [False, False, True]
    assert math.isnan(frame["ece_15_temperature"].iloc[2])
    assert len(find_records(tmp_path)) == 3


def test_an_unreadable_record_costs_its_own_run_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in (0, 1):
        RunFolder(tmp_path / "s/m/d" / f"seed-{seed}").write_record(make_record(seed))
    (tmp_path / "s/m/d/seed-0/record.json").write_bytes(b"\xff\xfe")
    assert list(load_results(tmp_path)["seed"]) == [1]
    assert "seed-0/record.json: damaged (it is not UTF-8)" in caplog.text


def test_a_flipped_bit_of_a_record_is_noticed(tmp_path: Path) -> None:
    """In any byte, also where what is left is a record still."""
    folder, record = RunFolder(tmp_path), make_record()
    folder.write_record(record)
    whole = folder.record.read_bytes()
    for position in range(0, len(whole) - 1, 7):
        content = bytearray(whole)
        content[position] ^= 1
        folder.record.write_bytes(content)
        with pytest.raises(DamagedError):
            folder.read_record()
    folder.record.write_bytes(whole)
    assert folder.read_record() == record


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_killed_writers_never_leave_half_a_file(tmp_path: Path) -> None:
    """A process is killed at random moments while it rewrites a file over and over."""
    path = tmp_path / "file"
    root = str(Path(__file__).parents[1])
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from pathlib import Path\nfrom benchmark.records import write_text\n"
        f"path = Path({str(path)!r})\n"
        "for i in range(10**9): write_text(path, str(i % 10) * 200_000)\n"
    )
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        before = path.stat().st_mtime_ns if path.exists() else 0
        while time.monotonic() < deadline:
            if path.exists() and path.stat().st_mtime_ns > before:
                break
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = path.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1


def logits_split(n: int = 6, k: int = 3) -> LogitsSplit:
    rng = np.random.default_rng(0)
    return LogitsSplit(
        ids=rng.permutation(n) + 100,
        logits=rng.normal(size=(n, k)).astype(np.float32),
        labels=rng.integers(0, k, n),
    )


def test_logits_survive_the_disk(tmp_path: Path) -> None:
    split = logits_split()
    write_logits(RunFolder(tmp_path), {"calibration": split, "noise-1": split}, key="abc")
    assert stored_key(RunFolder(tmp_path)) == "abc"
    assert split_names(RunFolder(tmp_path)) == ["calibration", "noise-1"]
    again = read_split(RunFolder(tmp_path), "noise-1")
    np.testing.assert_array_equal(again.logits, split.logits)
    np.testing.assert_array_equal(again.ids, split.ids)
    np.testing.assert_array_equal(again.labels, split.labels)
    verify_checksum(RunFolder(tmp_path))


def test_the_same_logits_are_the_same_bytes(tmp_path: Path) -> None:
    split = LogitsSplit(ids=np.arange(3), logits=np.eye(3), labels=np.arange(3))
    written = set()
    for number in range(8):  # the library draws an order each time
        folder = RunFolder(tmp_path / str(number))
        write_logits(folder, {"test": split, "a": split}, "key", device='Prüfstand \x7f "1"')
        written.add(folder.logits.read_bytes())
        assert stored_device(folder) == 'Prüfstand \x7f "1"'
        assert np.array_equal(read_split(folder, "a").logits, np.eye(3))
    assert len(written) == 1


def test_damaged_logits_are_noticed(tmp_path: Path) -> None:
    write_logits(RunFolder(tmp_path), {"test": logits_split()}, key="abc")
    path = RunFolder(tmp_path).logits
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="checksum"):
        verify_checksum(RunFolder(tmp_path))
    path.write_bytes(content[:-5])
    assert stored_key(RunFolder(tmp_path)) is None
    with pytest.raises(ResultsError, match="damaged"):
        read_split(RunFolder(tmp_path), "test")


def test_missing_logits_and_splits(tmp_path: Path) -> None:
    assert stored_key(RunFolder(tmp_path)) is None
    with pytest.raises(ResultsError, match="no such file"):
        read_split(RunFolder(tmp_path), "test")
    write_logits(RunFolder(tmp_path), {"test": logits_split()}, key="abc")
    with pytest.raises(ResultsError, match="no split 'tst'; it has test"):
        read_split(RunFolder(tmp_path), "tst")


def test_logits_split_rejects_repeated_ids() -> None:
    with pytest.raises(ValueError, match="repeat"):
        LogitsSplit(np.array([1, 1]), np.zeros((2, 2), np.float32), np.array([0, 1]))


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_record_of_schema_1_is_read_as_scores_by_map(tmp_path: Path) -> None:
    record = json.loads(make_record().model_dump_json())
    del record["maps"]
    maps = record["scores"]["test"].pop("maps")
    del record["scores"]["test"]["against_temperature"]
    record["scores"]["test"] |= {"before": maps["none"], "after": maps["temperature"]}
    record["schema_version"] = 1
    folder = RunFolder(tmp_path)
    folder.record.write_text(json.dumps(record))
    read = folder.read_record()
    assert read is not None
    expected = make_record()
    assert read.scores == expected.scores
    assert read == expected.model_copy(update={"finished_at": read.finished_at})
    folder.write_record(read)
    assert json.loads(folder.record.read_text())["schema_version"] == 2
    assert folder.read_record() == read
