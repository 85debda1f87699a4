"""Finished runs taken along: exports used by processes that do not have this program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from loopback_hub import LoopbackHub
from synthetic import MODELS, FakeModel, make_record, write_tree

from benchmark import Registry, execute, load_results, plan
from benchmark.data import load_rows
from benchmark.export import main
from benchmark.export.calibration import describe, notes
from benchmark.export.checkpoint import _labels
from benchmark.export.errors import ExportError
from benchmark.export.finding import FinishedRun, find_run
from benchmark.export.own_code import own_code
from benchmark.export.privacy import cleaned, has_secret, without_private_parts
from benchmark.models import load_trained_model
from benchmark.records import Failure, RunFolder, read_split
from benchmark.report import OWN_ARCHITECTURES

ROOT = Path(__file__).parents[1]
IMPORT = re.compile(r"\s*(from|import) benchmark\b")
TOKEN = "hf_theSecretOfThisTestWhichIsLong"

REGISTRY = """
version: 1
recipes:
  quick: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3, schedule: onecycle, warmup: 0.3}
models:
  bert:
    scratch: {model_type: bert, vocab_size: 500, hidden_size: 16, num_hidden_layers: 1,
      num_attention_heads: 2, intermediate_size: 16, initializer_range: 0.1}
    modality: text
    mixer: attention
    family: BERT
    recipe: quick
  cnn:
    scratch: {model_type: text-cnn, vocab_size: 500, embedding_size: 16, num_filters: 8}
    modality: text
    mixer: convolution
    family: TextCNN
    recipe: quick
  vit:
    scratch: {model_type: vit, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
      intermediate_size: 16, patch_size: 7, initializer_range: 0.1}
    modality: image
    mixer: attention
    family: ViT
    recipe: quick
  twin:
    scratch: {model_type: metaformer-image, token_mixer: pooling, hidden_size: 16,
      num_hidden_layers: 1, intermediate_size: 16}
    modality: image
    mixer: other
    family: MetaFormer
    recipe: quick
datasets:
  digits: {embedded: digits, modality: image, shifts: [noise], shift_rows: 40}
  bbc: {embedded: bbc-sentences, modality: text, max_length: 16}
suites:
  small: {models: [bert, cnn, vit, twin], datasets: [digits, bbc]}
"""

RUNS = {
    "bert": "small-limit-200/bert/bbc/seed-0",
    "cnn": "small-limit-200/cnn/bbc/seed-0",
    "vit": "small-limit-200/vit/digits/seed-0",
    "twin": "small-limit-200/twin/digits/seed-0",
}

# What a process without this program does with exports: the lines of their READMEs, but for the
# last, which prints; then the test's rows instead of the example.
ELSEWHERE = """
import json, re, sys
sys.path += json.loads(sys.argv[2])
sys.modules["benchmark"] = None  # importing it fails, however it is installed
import numpy as np
from PIL import Image

told = {}
for name, inputs in json.loads(sys.argv[1]).items():
    readme = open(f"{name}/README.md", encoding="utf-8").read()
    lines = re.search(r"```python\\n(.*?)\\n```", readme, re.S)[1].splitlines()
    assert lines[-1].startswith("print(") and len(lines) <= 10
    names = {}
    if "onnxruntime" in readme:
        made_here = ("picture", "inputs", "taken")
        kept = [line for line in lines[:-1] if line.split(" ")[0] not in made_here]
        exec("\\n".join(kept), names)
        calibration = json.load(open(f"{name}/calibration.json"))
        about = names["session"].get_modelmeta().custom_metadata_map
        assert json.loads(about["calibration"])["temperature"] == calibration["temperature"]
        assert json.loads(about["labels"]) == calibration["labels"]
        if "tokenizer" in names:
            made = names["tokenizer"](inputs, truncation=True, padding=True, return_tensors="np")
        else:
            pictures = [Image.open(one).convert("RGB") for one in inputs]
            made = names["processor"](pictures, return_tensors="np")
        assert {one.name for one in names["session"].get_inputs()} == set(made)
        rows = names["session"].run(None, dict(made))[0].tolist()
        found = [dict(zip(calibration["labels"], row)) for row in rows]
    else:
        exec("\\n".join(lines[:-1]), names)
        answers = [names["classify"](row) for row in inputs]
        answers = [one[0] if isinstance(one[0], list) else one for one in answers]
        found = [{one["label"]: one["score"] for one in answer} for answer in answers]
    told[name] = found
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results tree of small models that were trained here."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "registry.yaml").write_text(REGISTRY, encoding="utf-8")
    for spec in plan(Registry.load(folder / "registry.yaml"), limit=200):
        record = execute(spec, folder / "results")
        assert record.status == "completed", record.failure
    return folder / "results"


@pytest.fixture(scope="module")
def exports(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model's checkpoint, and two graphs, as the command writes them."""
    folder = tmp_path_factory.mktemp("exports")
    for name, run in RUNS.items():
        export(results, run, folder / name)
    for name in ("cnn", "vit"):
        export(results, RUNS[name], folder / f"{name}-graph", "--format", "onnx")
    return folder


def export(results: Path, run: str, target: Path, *options: str) -> None:
    code = main(["export", run, "--results", str(results), "--to", str(target), *options])
    assert code == 0


def elsewhere(folder: Path, inputs: dict[str, list[str]]) -> dict[str, list[dict[str, float]]]:
    """Return the probabilities by label that a process without this program gets of exports."""
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    # -S: no .pth file of the environment is read, which is how an editable install is found.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, json.dumps(inputs), json.dumps(packages)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "HF_HOME": str(folder / ".home"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, float]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def scored(run: FinishedRun, count: int) -> tuple[list[Any], np.ndarray]:
    """Return test rows (texts or images) and softmax(logits / T) of what was cached of them."""
    rows = load_rows(run.spec.dataset, "test", limit=run.spec.limit)
    split = read_split(run.folder, "test")
    places = {int(row_id): place for place, row_id in enumerate(split.ids)}
    logits = split.logits[[places[int(row_id)] for row_id in rows.ids[:count]]].astype(np.float64)
    scaled = np.exp(logits / run.temperature.value)
    contents = rows.texts if rows.images is None else rows.images
    assert contents is not None
    return [contents[i] for i in range(count)], scaled / scaled.sum(axis=1, keepdims=True)


def test_exports_give_the_scored_probabilities_without_this_program(
    results: Path, exports: Path
) -> None:
    from PIL import Image

    inputs: dict[str, list[str]] = {}
    expected = {}
    for name in (*RUNS, "cnn-graph", "vit-graph"):
        run = find_run(RUNS[name.removesuffix("-graph")], results)
        contents, probabilities = scored(run, 7)
        if run.spec.model.modality == "image":
            for number, pixels in enumerate(contents):
                Image.fromarray(np.asarray(pixels)).save(exports / f"{number}.png")
            contents = [f"{number}.png" for number in range(len(contents))]
        inputs[name] = contents
        expected[name] = run.data.label_names, probabilities
    for name, rows in elsewhere(exports, inputs).items():
        labels, probabilities = expected[name]
        assert [set(row) for row in rows] == [set(labels)] * 7
        found = np.array([[row[label] for label in labels] for row in rows])
        assert np.abs(found - probabilities).max() < 1e-5, name


def test_what_an_export_holds(results: Path, exports: Path) -> None:
    from huggingface_hub import ModelCard

    run = find_run(RUNS["vit"], results)
    told = json.loads((exports / "vit" / "calibration.json").read_text())
    config = json.loads((exports / "vit" / "config.json").read_text())
    assert config["calibration"] == describe(run)
    assert {key: told[key] for key in config["calibration"]} == config["calibration"]
    assert told["temperature"] == run.temperature.value
    assert told["interval"] == [run.temperature.low, run.temperature.high]
    assert told["fitted_on"]["rows"] == run.temperature.n
    assert told["checked_against_cached_logits"]["largest_difference"] < 1e-5
    graph = json.loads((exports / "vit-graph" / "calibration.json").read_text())
    assert graph["checked_against_torch"]["largest_difference"] < 1e-5
    assert not list((exports / "vit-graph").glob("*.safetensors"))
    assert not list(exports.rglob("checksums.json"))
    assert (
        json.loads((exports / "bert" / "tokenizer_config.json").read_text())["model_max_length"]
        == 16
    )

    card = ModelCard((exports / "vit" / "README.md").read_text())
    data: Any = card.data
    values = {(r.metric_type, r.metric_name.rpartition(", ")[2]): r for r in data.eval_results}
    for map_name, words in (("none", "before"), ("temperature", "temperature-scaled")):
        for metric in ("accuracy", "nll", "ece_15"):
            estimate = run.record.scores["test"].maps[map_name][metric]
            assert values[metric, words].metric_value == estimate.value
    assert data.pipeline_tag == "image-classification"
    assert "noise-1" in card.text or "noise-2" in card.text or "noise-3" in card.text
    assert (exports / "vit" / "reliability.svg").read_text().startswith("<svg")
    front = yaml.safe_load((exports / "vit" / "README.md").read_text().split("---")[1])
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "digits"


def test_own_code_is_the_code_that_trained(results: Path, exports: Path) -> None:
    for name, module in (("cnn", "text_cnn"), ("twin", "metaformer")):
        run = find_run(RUNS[name], results)
        code = own_code(
            load_trained_model(run.folder.model, run.spec.model), run.spec.model.modality
        )
        assert code is not None
        assert set(code.files) == {f"{module}.py", "pooled_classifier.py"}
        for file, text in code.files.items():
            assert (exports / name / file).read_text() == text
            # A different text wherever the source differs: every line but imports is there.
            source = (ROOT / "benchmark" / "models" / file).read_text()
            kept = source.partition("\ndef register()")[0]
            lines = [line for line in kept.splitlines() if "benchmark.models" not in line]
            assert set(filter(str.strip, lines)) <= set(text.splitlines())
            assert not [line for line in text.splitlines() if IMPORT.match(line)]


def test_every_own_architecture_is_known_to_the_report() -> None:
    from transformers import CONFIG_MAPPING

    import benchmark.models

    assert benchmark.models.build_model  # which makes them known
    ours = {
        name
        for name, kind in CONFIG_MAPPING._extra_content.items()
        if kind.__module__.startswith("benchmark.")
    }
    assert ours == set(OWN_ARCHITECTURES)


def test_the_model_page_says_how_to_take_it_along(results: Path) -> None:
    from benchmark.report.model_pages import _take_along

    frame = load_results(results)
    page = _take_along(frame[(frame["model"] == "cnn") & (frame["split"] == "test")])
    assert page is not None
    words = page.command.split()
    assert words[:4] == ["python", "-m", "benchmark.export", "export"]
    assert find_run(words[4], results).folder == RunFolder((results / RUNS["cnn"]).resolve())
    assert "trust_remote_code=True" in "\n".join(page.lines)
    assert f'"{words[-1]}"' in "\n".join(page.lines)


# --- what is said of the temperature --------------------------------------------------------------


def changed(run: FinishedRun, **fields: Any) -> FinishedRun:
    from dataclasses import replace

    return replace(run, temperature=run.temperature.model_copy(update=fields))


def test_a_temperature_at_a_limit_is_not_applied(results: Path) -> None:
    run = find_run(RUNS["bert"], results)
    at_limit = changed(run, value=float("inf"), status="at_infinity", nll_after=float("inf"))
    told = describe(at_limit)
    assert told["temperature"] == 1.0
    assert told["interval"] is None
    assert "ended at a limit" in told["notes"][0]
    json.dumps(told, allow_nan=False)


def test_scaling_that_does_not_help_is_told(results: Path) -> None:
    from dataclasses import replace

    run = find_run(RUNS["bert"], results)
    scores = run.record.scores["test"]
    swapped = scores.model_copy(
        update={"maps": {"none": {"nll": scores.maps["temperature"]["nll"]},
                         "temperature": {"nll": scores.maps["none"]["nll"]}}}
    )  # fmt: skip
    helped = [describe(run)["helped"], run]
    other = replace(run, record=run.record.model_copy(update={"scores": {"test": swapped}}))
    assert describe(other)["helped"] is not helped[0]
    worse = other if helped[0] else run
    assert "Scaling did not lower the NLL of the 200 test rows" in notes(worse)[0]


def test_names_of_classes_are_not_lost(results: Path) -> None:
    run = find_run(RUNS["bert"], results)
    names = list(run.data.label_names)
    placeholders = {"id2label": {str(i): f"LABEL_{i}" for i in range(len(names))}}
    assert list(_labels(placeholders, run)["id2label"].values()) == names
    assert _labels({"id2label": {str(i): name for i, name in enumerate(names)}}, run) == {}
    assert _labels({"label_names": names}, run) == {}  # as timm writes them
    from dataclasses import replace

    head = tuple(reversed(names))
    entry = run.spec.model.model_copy(update={"evaluate": True, "labels": head})
    published = replace(run, spec=run.spec.model_copy(update={"model": entry}))
    assert tuple(_labels(placeholders, published)["id2label"].values()) == head


# --- what is refused ------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert len(told.splitlines()) == 1
    return told


def test_what_cannot_be_exported(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "results"
    shutil.copytree(results, tree)
    at, to = ["--results", str(tree)], ["--to", str(tmp_path / "out")]

    assert "did you mean 'small-limit-200/bert/bbc/seed-0'?" in refused(
        capsys, "export", "small-limit-200/bret/bbc/seed-0", *at, *to
    )
    assert "did you mean" in refused(capsys, "export", "bert/bbc/seed-0", *at, *to)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "the folder is not empty" in refused(
        capsys, "export", RUNS["vit"], *at, "--to", str(tmp_path / "full")
    )
    assert "is a file; name a folder" in _usage_error(
        capsys, "export", RUNS["vit"], *at, "--to", str(tmp_path / "full" / "mine.txt")
    )

    failed = RunFolder(tree / RUNS["twin"])
    record = failed.read_record()
    assert record is not None
    reason = Failure(stage="training", kind="RunError", message="the loss became nan")
    failed.write_record(record.model_copy(update={"status": "failed", "failure": reason}))
    assert "the run is failed (the loss became nan)" in refused(
        capsys, "export", RUNS["twin"], *at, *to
    )
    weights = tree / RUNS["vit"] / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "the checksum of model.safetensors in it does not match" in refused(
        capsys, "export", RUNS["vit"], *at, *to
    )
    shutil.rmtree(tree / RUNS["bert"] / "model")
    assert "the checkpoint is gone: run its suite again with --force" in refused(
        capsys, "export", str(tree / RUNS["bert"]), *at, *to
    )
    (tree / RUNS["cnn"] / "spec.json").unlink()
    assert "spec.json: it is gone" in refused(capsys, "export", RUNS["cnn"], *at, *to)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main(list(arguments))
    return capsys.readouterr().err


def test_imported_logits_have_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path, MODELS[:1], seeds=(0,), shifts=())
    folder = next(tmp_path.rglob("record.json")).parent
    RunFolder(folder).write_spec('{"imported": {}}')
    told = refused(capsys, "export", str(folder), "--to", str(tmp_path / "out"))
    assert "its logits were imported" in told


def test_an_export_that_is_not_what_was_scored_is_not_kept(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(
        capsys, "export", RUNS["bert"], "--results", str(results), "--to", str(tmp_path / "out"),
        "--tolerance", "1e-12",
    )  # fmt: skip
    assert "differ from those of the cached logits by up to" in told
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    told = refused(
        capsys, "export", RUNS["bert"], "--results", str(results), "--to", str(tmp_path / "out"),
        "--format", "onnx",
    )  # fmt: skip
    assert "pip install 'calibration-benchmark[onnx]'" in told


# --- what is private ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/ann/data/x.csv", "x.csv"),
        ("no file '/srv/a b/c.csv' here", "no file 'a b/c.csv' here"),
        ("C:\\Users\\ann\\x.csv: empty", "x.csv: empty"),
        ("~/secret/x.csv", "x.csv"),
        ("see https://hub.example/owner/name/tree", "see https://hub.example/owner/name/tree"),
        ("https://ann:pw@hub.example/a/b", "https://***@hub.example/a/b"),
        ("owner/name and 3/4 samples/s", "owner/name and 3/4 samples/s"),
        (f"token {TOKEN}.", "token ***."),
    ],
)
def test_private_parts_of_texts(text: str, kept: str) -> None:
    assert without_private_parts(text) == kept
    assert cleaned({"a": [text, 1]}) == {"a": [kept, 1]}
    assert without_private_parts(kept) == kept


# --- to the hub -----------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as server:
        yield server


def push(
    hub: LoopbackHub, home: Path, *arguments: str, token: str = TOKEN, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command, or other code, in a process that knows this hub."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    words = ["-c", code] if code else ["-m", "benchmark.export", *arguments]
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={
            **inherited, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2",
        },
    )  # fmt: skip


def test_push_of_a_model(exports: Path, tmp_path: Path, hub: LoopbackHub) -> None:
    folder = exports / "cnn"
    told = push(hub, tmp_path, "push", str(folder), "--repo", "ann/cnn", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert f"{hub.endpoint}/ann/cnn (private)" in told.stdout
    assert "model.safetensors" in told.stdout
    asked = push(hub, tmp_path, "push", str(folder), "--repo", "ann/cnn")
    assert asked.returncode == 1
    assert "nothing was uploaded" in asked.stderr
    assert hub.requests == []  # neither asks the hub anything

    done = push(hub, tmp_path, "push", str(folder), "--repo", "ann/cnn", "--yes")
    assert done.returncode == 0, done.stderr
    made = hub.repositories["model", "ann/cnn"]
    assert made.private
    assert made.files.pop(".gitattributes") == b""
    assert made.files == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert [path for path in hub.paths(method="POST") if "batch" not in path] == [
        "/api/repos/create", "/api/validate-yaml", "/api/models/ann/cnn/preupload/main",
        "/api/models/ann/cnn/commit/main",
    ]  # fmt: skip
    sent = {(r.to_storage, r.headers.get("authorization")) for r in hub.requests}
    assert sent == {(False, f"Bearer {TOKEN}"), (True, None)}
    assert TOKEN not in done.stdout + done.stderr


def test_what_is_not_pushed(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder = str(exports / "vit-graph")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["push", folder, "--repo", "name", "--yes"]) == 1
    assert "give OWNER/NAME" in capsys.readouterr().err
    assert main(["push", folder, "--repo", "ann/a", "--yes"]) == 1
    assert "an upload needs HF_TOKEN" in capsys.readouterr().err
    assert "it is no export" in refused(capsys, "push", str(tmp_path), "--repo", "ann/a", "--yes")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    readme = copy / "README.md"
    text = readme.read_text()
    for private, what in ((TOKEN, "a token or a password"), ("/home/ann/x/y", "path of a folder")):
        readme.write_text(f"{text}\nMine: {private}\n")
        told = refused(capsys, "push", str(copy), "--repo", "ann/a", "--yes")
        assert what in told
        assert f"README.md:{len(text.splitlines()) + 2}: " in told


def test_a_hub_that_refuses(exports: Path, tmp_path: Path, hub: LoopbackHub) -> None:
    def told(repository: str) -> str:
        folder = str(exports / "vit-graph")
        done = push(hub, tmp_path, "push", folder, "--repo", repository, "--yes")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    hub.repository("model", "ann/seen").commit({"README.md": b""})
    assert "everybody may read it" in told("ann/seen")
    hub.plan_fault("bad-token", "POST /api/repos/create")
    assert "the hub refuses access (401): check HF_TOKEN" in told("ann/a")
    assert set(hub.repositories) == {("model", "ann/seen")}
    hub.stop()
    lost = told("ann/a")
    assert "cannot be reached" in lost
    assert "HF_HUB_OFFLINE" not in lost


def test_push_of_results(tmp_path: Path, hub: LoopbackHub) -> None:
    results = tmp_path / "results"
    write_tree(results, MODELS[:2], suite="study", seeds=(0,), shifts=())
    failed = RunFolder.of(results, "study", "lost", "digits", 0)
    path = "/home/ann/private/rows.csv"
    failure = Failure(
        stage="data", kind="RunError", message=f"{path}: no column", details=f'File "{path}"'
    )
    lost = FakeModel("lost", "attention", "ViT", 1)
    failed.write_record(make_record(lost, "digits", 0, {}, suite="study", failure=failure))
    failed.write_spec(json.dumps({"dataset": {"path": path}, "note": f"ann's {TOKEN}"}))
    arguments = ["push-results", "study", "--results", str(results), "--repo", "ann/study", "--yes"]
    wrong = push(hub, tmp_path, *arguments[:1], "stduy", *arguments[2:])
    assert wrong.returncode == 2
    assert "did you mean 'study'?" in wrong.stderr

    done = push(hub, tmp_path / "home", *arguments)
    assert done.returncode == 0, done.stderr
    files = hub.repositories["dataset", "ann/study"].files
    assert not [name for name in files if name.endswith("logits.safetensors")]
    everything = b"".join(files.values())
    assert b"/home/ann" not in everything
    assert str(tmp_path).encode() not in everything
    assert TOKEN.encode() not in everything

    # What arrived is a data set for those who have `datasets`, and a results tree for us.
    home = tmp_path / "other"
    code = (
        "from datasets import load_dataset; import json; "
        "print(load_dataset('ann/study', split='train').to_pandas().to_json(orient='records'))"
    )
    loaded = push(hub, home, code=code)
    assert loaded.returncode == 0, loaded.stderr
    rows = {row["model"]: row for row in json.loads(loaded.stdout.splitlines()[-1])}
    frame = load_results(results)
    for _, wanted in frame[frame["split"] == "test"].iterrows():
        assert rows[wanted["model"]]["ece_15_none"] == pytest.approx(wanted["ece_15_none"])
    assert rows["lost"]["reason"] == "rows.csv: no column"
    for name, content in files.items():
        if name.startswith("results/"):
            (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "again" / name).write_bytes(content)
    again = load_results(tmp_path / "again" / "results")
    columns = ["model", "split", "ece_15_temperature", "temperature"]
    assert again[columns].equals(frame[columns])
    assert RunFolder(tmp_path / "again" / "results" / failed.name).verified_spec()


def test_logits_go_along_when_asked(tmp_path: Path, hub: LoopbackHub) -> None:
    results = tmp_path / "results"
    write_tree(results, MODELS[:1], suite="study", seeds=(0,), shifts=())
    done = push(
        hub, tmp_path, "push-results", "study", "--results", str(results), "--repo", "ann/study",
        "--yes", "--public", "--with-logits",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = hub.repositories["dataset", "ann/study"]
    assert not made.private
    kept = {name: made.files[name] for name in made.files if name.endswith("logits.safetensors")}
    assert list(kept.values()) == [
        path.read_bytes() for path in sorted(results.rglob("logits.safetensors"))
    ]


def test_secrets_are_seen() -> None:
    assert has_secret(f"x {TOKEN}")
    assert has_secret("https://ann:pw@hub.example")
    assert not has_secret("hf_short and ann@hub.example")
    with pytest.raises(ExportError):
        find_run("a/b/c/seed-0", ROOT / "nowhere")
