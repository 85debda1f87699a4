"""The command as a user types it, in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmark.records import find_records

ROOT = Path(__file__).parents[1]

LOCAL_REGISTRY = """
version: 1
recipes:
  quick: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
models:
  bert:
    scratch: {model_type: bert, vocab_size: 100, hidden_size: 16, num_hidden_layers: 1,
      num_attention_heads: 2, intermediate_size: 16}
    modality: text
    mixer: attention
    family: BERT
    recipe: quick
datasets:
  numbers: {path: data, modality: text, columns: {text: text}, max_length: 16}
suites:
  local: {models: [bert], datasets: [numbers]}
"""


def command(registry: Path, folder: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "benchmark" / "run.py"), "--registry", str(registry),
        "--results", str(folder / "results"), "--reports", str(folder / "reports"), *arguments,
    ]  # fmt: skip


def run(registry: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(registry, folder, *arguments),
        capture_output=True, text=True, timeout=900, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def record_times(folder: Path) -> dict[str, int]:
    records = find_records(folder / "results")
    return {record.name: folder.record.stat().st_mtime_ns for folder, record in records}


def test_whole_suite_then_nothing_to_do(registry_file: Path, tmp_path: Path) -> None:
    text = registry_file.read_text()
    registry_file.write_text(text.replace("seeds: 1", "seeds: 2"))
    first = run(registry_file, tmp_path, "--limit", "96")
    assert first.returncode == 0, first.stderr
    assert "4 of 4 runs completed" in first.stdout
    assert "timing 2 models" in first.stdout  # seeds share a measurement
    report = tmp_path / "reports" / "small-limit-96"
    assert "vit" in (report / "README.md").read_text()
    assert (report / "index.html").exists()
    records = [record for _, record in find_records(tmp_path / "results")]
    assert {record.timed_run for record in records} == {"vit/digits/seed-0", "resnet/digits/seed-0"}
    assert all(record.timing is not None for record in records)

    times = record_times(tmp_path)
    second = run(registry_file, tmp_path, "--limit", "96")
    assert second.returncode == 0, second.stderr
    assert "4 runs, 0 to do" in second.stdout
    assert record_times(tmp_path) == times


def test_killed_in_the_middle_then_continued(registry_file: Path, tmp_path: Path) -> None:
    arguments = ("--seeds", "3", "--limit", "400", "--timing", "off", "--workers", "1")
    process = subprocess.Popen(
        command(registry_file, tmp_path, *arguments),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while len(record_times(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive  # workers end with their parent

    done = record_times(tmp_path)
    assert 2 <= len(done) < 6
    result = run(registry_file, tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    assert f"6 runs, {6 - len(done)} to do" in result.stdout
    assert "6 of 6 runs completed" in result.stdout
    after = record_times(tmp_path)
    assert {name: after[name] for name in done} == done  # finished runs were left alone


def test_failures_are_named_at_the_end(registry_file: Path, tmp_path: Path) -> None:
    result = run(registry_file, tmp_path, "--suite", "failing", "--limit", "96", "--timing", "off")
    assert result.returncode == 1
    assert "1 of 2 runs completed" in result.stdout
    assert "failed: diverging/digits/seed-0: the training loss became" in result.stderr
    assert "Traceback" not in result.stderr
    report = (tmp_path / "reports" / "failing-limit-96" / "README.md").read_text()
    assert "diverging" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "vitt"), "unknown model 'vitt', did you mean 'vit'?"),
        (("--suite", "smal"), "unknown suite 'smal', did you mean 'small'?"),
        (("--limit", "0"), "'0' is not a whole number of at least 1"),
        (("--models", ","), "give at least one name"),
    ],
)
def test_mistakes_on_the_command_line(
    registry_file: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run(registry_file, tmp_path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_broken_registry_is_explained(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("models: {a: {mixer: attn}}\n")
    result = run(broken, tmp_path)
    assert result.returncode == 2
    assert "did you mean 'attention'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_dry_run_and_list_change_nothing(registry_file: Path, tmp_path: Path) -> None:
    result = run(registry_file, tmp_path, "--dry-run")
    assert result.returncode == 0
    assert "training, logits, scores, timing" in result.stdout
    result = run(registry_file, tmp_path, "--list")
    assert "resnet" in result.stdout
    assert "convolution" in result.stdout
    assert not (tmp_path / "results").exists()


def test_help_is_quick_and_complete() -> None:
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmark" / "run.py"), "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert time.monotonic() - started < 2
    for option in ("--models", "--datasets", "--suite", "--seeds", "--limit", "--workers",
                   "--timing", "--dry-run", "--list", "--registry", "--results", "--reports",
                   "--force"):  # fmt: skip
        assert option in result.stdout


def test_importing_the_package_stays_light() -> None:
    code = (
        "import benchmark, sys; "
        "print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.stdout.strip() == "[]"


def test_public_api_in_a_notebook(registry_file: Path, tmp_path: Path) -> None:
    from benchmark import Registry, execute, load_results, plan

    registry = Registry.load(registry_file)
    for spec in plan(registry, models=["vit"], limit=96):
        assert execute(spec, tmp_path).status == "completed"
    frame = load_results(tmp_path)
    assert frame.loc[frame["split"] == "test", "ece_15_none"].between(0, 1).all()


def test_local_files_leave_no_noise(tmp_path: Path) -> None:
    """Workers end by themselves, so that what their libraries hold is given back."""
    (tmp_path / "data").mkdir()
    for split, rows in (("train", 64), ("test", 32)):
        lines = [f"{'good' if row % 2 else 'bad'} number {row},{row % 2}" for row in range(rows)]
        (tmp_path / "data" / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    registry = tmp_path / "registry.yaml"
    registry.write_text(LOCAL_REGISTRY)
    result = run(registry, tmp_path, "--timing", "off")
    assert result.returncode == 0, result.stderr
    assert "1 of 1 runs completed" in result.stdout
    assert "leaked" not in result.stderr
