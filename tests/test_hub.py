"""The hub path: `benchmark/run.py` in processes of its own, against a hub on 127.0.0.1."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub, read_folder
from PIL import Image
from test_run import command

from benchmark.records import Record, RunFolder, find_records
from benchmark.records.logits import read_split

TOKEN = "hf_theSecretOfThisTest"
WORDS = ("glad", "sad")
SHAPES = ("bar", "square")

HEAD = """
version: 1
recipes:
  one: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
"""


# --- what the hub holds ---------------------------------------------------------------------------


def head(labels: tuple[str, ...]) -> dict[str, Any]:
    """Return a config's fields that name the classes."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def text_model(folder: Path, seed: int, labels: tuple[str, ...] = WORDS) -> dict[str, bytes]:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "good", "bad", "day", "the", "a"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, initializer_range=0.5, **head(labels),
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    return read_folder(folder)


def image_model(folder: Path) -> dict[str, bytes]:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **head(SHAPES)
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return read_folder(folder)


CODE = """
import os, pathlib
import torch
from huggingface_hub import get_token
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

# What a thief would look at first.
with pathlib.Path(os.environ["CODE_RAN"]).open("a") as loot:
    loot.write(f"{dict(os.environ)} {get_token()} ")
    loot.write(pathlib.Path("/proc/self/environ").read_bytes().decode())

class BagConfig(PreTrainedConfig):
    model_type = "lab-bag"

class BagForSequenceClassification(PreTrainedModel):
    config_class = BagConfig

    def __init__(self, config):
        super().__init__(config)
        self.scores = torch.nn.Embedding(config.vocabulary, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, labels=None, **other):
        scores = self.scores(input_ids) * attention_mask.unsqueeze(-1)
        logits = scores.sum(1)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
"""


def coded_model(folder: Path) -> dict[str, bytes]:
    """Return a checkpoint of an architecture that only the code beside it knows."""
    from safetensors.torch import save_file

    text_model(folder, seed=1)
    config = {
        "model_type": "lab-bag", "architectures": ["BagForSequenceClassification"],
        "vocabulary": 7, **head(WORDS),
        "auto_map": {
            "AutoConfig": "bag.BagConfig",
            "AutoModelForSequenceClassification": "bag.BagForSequenceClassification",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "bag.py").write_text(CODE)
    weights = {"scores.weight": torch.arange(14.0).reshape(7, 2).sin()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return read_folder(folder)


def pickled(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a checkpoint whose weights are a pickle, as before there were safetensors."""
    from safetensors.torch import load

    stream = io.BytesIO()
    torch.save(load(files["model.safetensors"]), stream)
    kept = {path: content for path, content in files.items() if path != "model.safetensors"}
    return {**kept, "pytorch_model.bin": stream.getvalue()}


def text_rows(seed: int, rows: int, column: str = "text") -> dict[str, list[Any]]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows).tolist()
    texts = [f"{random.choice(['the', 'a'])} {('good', 'bad')[label]} day" for label in labels]
    return {column: texts, "label": labels}


def image_rows(rows: int) -> dict[str, list[Any]]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (rows, 16, 16, 3), dtype=np.uint8)
    return {"image": [Image.fromarray(p) for p in pixels], "label": [i % 2 for i in range(rows)]}


def data_set(
    splits: dict[str, dict[str, list[Any]]], names: tuple[str, ...], column: str = "text"
) -> dict[str, bytes]:
    """Return a repository of parquet files with the card that `push_to_hub` writes."""
    import datasets

    kind = datasets.Image() if column == "image" else datasets.Value("string")
    features = datasets.Features({column: kind, "label": datasets.ClassLabel(names=list(names))})
    files, told = {}, []
    for split, rows in splits.items():
        stream = io.BytesIO()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(stream)
        files[f"data/{split}-00000-of-00001.parquet"] = stream.getvalue()
        told.append(f"  - name: {split}\n    num_bytes: 1\n    num_examples: {len(rows['label'])}")
    classes = "\n".join(f"          '{i}': {name}" for i, name in enumerate(names))
    paths = "\n".join(f"  - split: {split}\n    path: data/{split}-*" for split in splits)
    told_kind = "image" if column == "image" else "string"
    card = (
        f"---\nlicense: mit\ndataset_info:\n  features:\n  - name: {column}\n    dtype: {told_kind}"
        f"\n  - name: label\n    dtype:\n      class_label:\n        names:\n{classes}\n  splits:\n"
        + "\n".join(told)
        + f"\nconfigs:\n- config_name: default\n  data_files:\n{paths}\n---\n# A data set\n"
    )
    return {"README.md": card.encode(), ".gitattributes": b"", **files}


def words(seed: int, column: str = "text") -> dict[str, bytes]:
    rows = {"train": text_rows(seed, 48, column), "test": text_rows(seed + 100, 32, column)}
    return data_set(rows, WORDS, column)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as server:
        yield server


# --- one registry's entries -----------------------------------------------------------------------


def model_entry(hub: str, **fields: str) -> str:
    settings = {"modality": "text", "mixer": "attention", "family": "BERT", "evaluate": "true"}
    if fields.get("modality") == "image":
        settings |= {"mixer": "convolution", "family": "ResNet"}
    pairs = ", ".join(f"{key}: {value}" for key, value in (settings | fields).items())
    return f"{{hub: {hub}, {pairs}}}"


def data_entry(hub: str, **fields: str) -> str:
    settings = {"modality": "text", "columns": "{text: text}", "splits": "{calibration: 0.3}"}
    pairs = ", ".join(f"{key}: {value}" for key, value in (settings | fields).items())
    return f"{{hub: {hub}, {pairs}}}"


def write_registry(path: Path, models: dict[str, str], datasets: dict[str, str]) -> Path:
    sections = [
        HEAD,
        "models:\n" + "".join(f"  {name}: {entry}\n" for name, entry in models.items()),
        "datasets:\n" + "".join(f"  {name}: {entry}\n" for name, entry in datasets.items()),
        f"suites:\n  hub: {{models: [{', '.join(models)}], datasets: [{', '.join(datasets)}]}}\n",
    ]
    path.write_text("\n".join(sections))
    return path


def run(
    hub: LoopbackHub, registry: Path, folder: Path, *options: str, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command with a hub's cache of its own and little patience."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TRANSFORMERS_", "DISABLE_SAFETENSORS"))
    }
    settings = {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    return subprocess.run(
        command(registry, folder, "--timing", "off", "--limit", "24", "--workers", "2", *options),
        capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
        env={**inherited, **settings, **environment},
    )  # fmt: skip


def records(folder: Path) -> dict[str, Record]:
    """Return the records by model and dataset."""
    found = find_records(folder / "results")
    return {f"{record.model}/{record.dataset}": record for _, record in found}


def logits(folder: Path, run_name: str) -> np.ndarray:
    model, dataset = run_name.split("/")
    run_folder = folder / "results" / "hub-limit-24" / model / dataset / "seed-0"
    return read_split(RunFolder(run_folder), "test").logits


def times(folder: Path) -> dict[str, int]:
    found = find_records(folder / "results")
    return {
        f"{record.model}/{record.dataset}": run.record.stat().st_mtime_ns for run, record in found
    }


def assert_no_traceback(result: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in result.stdout + result.stderr


def assert_nowhere(secret: str, *folders: Path) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


# --- tests ----------------------------------------------------------------------------------------


def test_pinned_revisions_token_and_offline(hub: LoopbackHub, tmp_path: Path) -> None:
    bert, data = hub.repository("model", "lab/bert"), hub.repository("dataset", "lab/words")
    old = bert.commit(text_model(tmp_path / "bert-1", seed=1))
    new = bert.commit(text_model(tmp_path / "bert-2", seed=2))
    pickle = hub.repository("model", "lab/pickle").commit(pickled(read_folder(tmp_path / "bert-1")))
    hub.repository("model", "lab/resnet").commit(image_model(tmp_path / "resnet"))
    old_data, new_data = data.commit(words(1)), data.commit(words(2))
    shapes = data_set({"train": image_rows(40), "test": image_rows(24)}, SHAPES, "image")
    hub.repository("dataset", "lab/shapes").commit(shapes)
    models = {
        "bert-old": model_entry("lab/bert", revision=old),
        "bert-main": model_entry("lab/bert"),
        "bert-tuned": model_entry("lab/bert", evaluate="false", recipe="one", datasets="[new]"),
        "resnet": model_entry("lab/resnet", modality="image"),
        "pickle": model_entry("lab/pickle", datasets="[old]"),
    }
    sources = {
        "old": data_entry("lab/words", revision=old_data),
        "new": data_entry("lab/words", files="{train: data/train-*, test: data/test-*}"),
        "shapes": data_entry("lab/shapes", modality="image", columns="{image: image}"),
    }
    registry = write_registry(tmp_path / "registry.yaml", models, sources)
    home = tmp_path / "home"

    first = run(hub, registry, tmp_path, home=home, HF_TOKEN=TOKEN)
    assert first.returncode == 0, first.stderr
    assert "7 of 7 runs completed" in first.stdout
    done = records(tmp_path)
    assert done["bert-old/old"].provenance["model_revision"] == old
    assert done["bert-main/old"].provenance["model_revision"] == new
    assert done["bert-old/old"].provenance["data_revision"] == old_data
    assert done["bert-old/new"].provenance["data_revision"] == new_data
    assert np.abs(logits(tmp_path, "bert-old/old") - logits(tmp_path, "bert-main/old")).max() > 0.01
    assert not np.array_equal(logits(tmp_path, "bert-old/old"), logits(tmp_path, "bert-old/new"))
    assert done["pickle/old"].provenance["model_revision"] == pickle
    assert np.array_equal(logits(tmp_path, "pickle/old"), logits(tmp_path, "bert-old/old"))

    # The token goes to the hub in a header, and nowhere else: not to where it keeps large files.
    sent = {(request.to_storage, request.headers.get("authorization")) for request in hub.requests}
    assert sent == {(False, f"Bearer {TOKEN}"), (True, None)}
    assert_nowhere(TOKEN, tmp_path / "results", tmp_path / "reports", home)
    assert TOKEN not in first.stdout + first.stderr

    # All of it again without a hub, out of the cache, into another folder of results.
    models["absent"] = model_entry("lab/absent", datasets="[new]")
    models["absent-commit"] = model_entry("lab/bert", revision=f"'{'0' * 40}'", datasets="[new]")
    sources["absent-data"] = data_entry("lab/words", revision=f"'{'1' * 40}'")
    wider = write_registry(tmp_path / "wider.yaml", models, sources)
    elsewhere = tmp_path / "offline"
    hub.stop()
    offline = run(hub, wider, elsewhere, home=home, HF_HUB_OFFLINE="1")
    assert_no_traceback(offline)
    assert offline.returncode == 1
    again = records(elsewhere)
    for name in done:
        assert again[name].status == "completed", again[name].failure
        assert np.array_equal(logits(elsewhere, name), logits(tmp_path, name))
    for name, missing in {
        "absent/new": "model lab/absent (revision main)",
        "absent-commit/new": f"model lab/bert (revision {'0' * 40})",
        "bert-old/absent-data": f"dataset lab/words (revision {'1' * 40})",
    }.items():
        failure = again[name].failure
        assert again[name].status == "unavailable"
        assert failure is not None
        assert missing in failure.message
        assert "HF_HUB_OFFLINE is set" in failure.message


def test_a_branch_that_moves_is_run_anew(hub: LoopbackHub, tmp_path: Path) -> None:
    repository = hub.repository("model", "lab/bert")
    before = repository.commit(text_model(tmp_path / "bert-1", seed=1))
    repository.branches["fixed"] = before
    hub.repository("dataset", "lab/words").commit(words(1))
    models = {
        "moving": model_entry("lab/bert"),
        "fixed": model_entry("lab/bert", revision="fixed"),
    }
    registry = write_registry(
        tmp_path / "registry.yaml", models, {"words": data_entry("lab/words")}
    )
    assert run(hub, registry, tmp_path, home=tmp_path / "home").returncode == 0
    old_logits, old_times = logits(tmp_path, "moving/words"), times(tmp_path)

    after = repository.commit(text_model(tmp_path / "bert-2", seed=2))
    hub.forget_requests()
    result = run(hub, registry, tmp_path, home=tmp_path / "home")
    assert "2 runs, 1 to do" in result.stdout
    assert records(tmp_path)["moving/words"].provenance["model_revision"] == after
    assert np.abs(old_logits - logits(tmp_path, "moving/words")).max() > 0.01
    assert times(tmp_path)["fixed/words"] == old_times["fixed/words"]
    assert hub.paths(f"/resolve/{before}/") == []
    assert hub.paths("/datasets/lab/words/resolve/") == []  # prepared before, so not asked for

    hub.forget_requests()
    assert "2 runs, 0 to do" in run(hub, registry, tmp_path, home=tmp_path / "home").stdout
    asked = hub.paths()
    assert sorted(asked) == [  # each repository and revision once
        "/api/datasets/lab/words/revision/main",
        "/api/models/lab/bert/revision/fixed",
        "/api/models/lab/bert/revision/main",
    ]


def test_a_data_set_that_is_a_script_is_read_from_its_converted_branch(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    """CogComp/trec: main has only a script, which nothing runs; the hub keeps its rows beside."""
    repository = hub.repository("dataset", "lab/trec")
    ran = tmp_path / "ran"
    script = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
    repository.commit({"README.md": b"---\nlicense: unknown\n---\n", "trec.py": script.encode()})
    made = words(1)
    parts = {path.split("/")[1].split("-")[0]: path for path in made if path.startswith("data/")}
    tables = {f"default/{split}/0000.parquet": made[path] for split, path in parts.items()}
    assert set(tables) == {"default/train/0000.parquet", "default/test/0000.parquet"}
    branch = "refs/convert/parquet"
    commit = repository.commit(tables, branch=branch)
    hub.repository("model", "lab/bert").commit(text_model(tmp_path / "bert", seed=1))
    hub.repository("dataset", "lab/words").commit(made)
    sources = {
        "converted": data_entry("lab/trec", revision=branch),
        "script": data_entry("lab/trec"),
        "words": data_entry("lab/words"),
    }
    models = {"bert": model_entry("lab/bert")}
    registry = write_registry(tmp_path / "registry.yaml", models, sources)
    result = run(hub, registry, tmp_path, home=tmp_path / "home")
    assert_no_traceback(result)
    done = records(tmp_path)
    assert done["bert/converted"].status == "completed", done["bert/converted"].failure
    assert done["bert/converted"].provenance["data_revision"] == commit
    assert np.array_equal(logits(tmp_path, "bert/converted"), logits(tmp_path, "bert/words"))
    failure = done["bert/script"].failure
    assert failure is not None
    assert done["bert/script"].status == "unavailable"
    assert "found trec.py. Scripts are not run;" in failure.message
    assert "set 'revision: refs/convert/parquet'" in failure.message
    assert not ran.exists()


def test_every_misbehaviour_is_one_run_that_can_be_mended(hub: LoopbackHub, tmp_path: Path) -> None:
    weights = text_model(tmp_path / "bert", seed=1)
    names = (
        "plain", "gated", "forbidden", "bad-token", "revision", "stutter", "torn", "always-torn",
        "slow", "silent",
    )  # fmt: skip
    for name in names:
        hub.repository("model", f"lab/{name}").commit(weights)
    hub.repository("model", "lab/pickled").commit(pickled(weights))
    hub.repository("model", "lab/junk").commit({**weights, "model.safetensors": b"junk"})
    settings = {path: weights[path] for path in ("config.json", "model.safetensors")}
    hub.repository("model", "lab/no-tokenizer").commit(settings)
    three = text_model(tmp_path / "three", seed=1, labels=("glad", "sad", "cross"))
    hub.repository("model", "lab/three").commit(three)
    hub.repository("dataset", "lab/words").commit(words(1))
    hub.repository("dataset", "lab/columns").commit(words(1, column="sentence"))
    hub.repository("dataset", "lab/torn-words").commit(words(1))
    hub.plan_fault("gated", r" /lab/gated/resolve/")
    hub.plan_fault("forbidden", r" /lab/forbidden/resolve/")
    hub.plan_fault("bad-token", r"lab/bad-token")
    hub.plan_fault("error", r"GET /api/models/lab/stutter", times=2)
    hub.plan_fault("cut", r"GET /lab/torn/resolve/.*safetensors", times=2)
    hub.plan_fault("cut", r"GET /lab/always-torn/resolve/.*safetensors")
    hub.plan_fault("silence", r"GET /lab/slow/resolve/.*safetensors", times=1)
    hub.plan_fault("silence", r"/api/models/lab/silent")
    hub.plan_fault("cut", r"GET /datasets/lab/torn-words/resolve/.*parquet")
    models = {name: model_entry(f"lab/{name}", datasets="[words]") for name in names}
    models["plain"] = model_entry("lab/plain")
    models["revision"] = model_entry("lab/revision", revision="v9", datasets="[words]")
    unknown = f"'{'0' * 40}'"  # looks like a commit
    models["commit"] = model_entry("lab/revision", revision=unknown, datasets="[words]")
    for name in ("missing", "pickled", "three", "junk", "no-tokenizer"):
        models[name] = model_entry(f"lab/{name}", datasets="[words]")
    models["pickled"] = model_entry("lab/pickled", datasets="[words]", allow_pickle="false")
    sources = {name: data_entry(f"lab/{name}") for name in ("words", "columns", "torn-words")}
    registry = write_registry(tmp_path / "registry.yaml", models, sources)
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN)  # from an earlier log-in: not ours to send

    result = run(hub, registry, tmp_path, home=home)
    assert result.returncode == 1
    assert_no_traceback(result)
    assert "4 of 18 runs completed" in result.stdout
    page = hub.endpoint
    expected = {
        "gated/words": (
            "unavailable",
            f"gated (401): accept the terms on {page}/lab/gated and set",
        ),
        "forbidden/words": (
            "unavailable",
            f"gated (403): accept the terms on {page}/lab/forbidden",
        ),
        "bad-token/words": ("unavailable", "the hub refuses access (401): check HF_TOKEN"),
        "missing/words": ("unavailable", "no such model on the hub (404): check the name"),
        "revision/words": ("unavailable", "it has no revision 'v9': see"),
        "commit/words": ("unavailable", f"it has no revision {unknown}: see"),
        "always-torn/words": ("unavailable", "run the same command again to continue"),
        "silent/words": ("unavailable", "cannot be reached or broke off"),
        "pickled/words": ("unavailable", "its pickle is refused ('allow_pickle: false')"),
        "three/words": ("failed", "Checkpoint (3): glad, sad, cross. Dataset (2): glad, sad."),
        "junk/words": ("unavailable", "model junk: cannot be loaded: "),
        "no-tokenizer/words": ("unavailable", "no preprocessor at lab/no-tokenizer"),
        "plain/columns": ("failed", "no column 'text'"),
        "plain/torn-words": ("unavailable", "run the same command again to continue"),
    }
    done = records(tmp_path)
    assert len(done) == 18
    for name, (status, message) in expected.items():
        failure = done[name].failure
        assert failure is not None, name
        assert (done[name].status, failure.details) == (status, ""), failure
        assert message in failure.message
        assert failure.message in result.stderr
    healthy = {"plain/words", "stutter/words", "torn/words", "slow/words"}
    assert {name for name, record in done.items() if record.status == "completed"} == healthy
    assert not any("authorization" in request.headers for request in hub.requests)
    assert not list(home.rglob("*.incomplete"))
    before = times(tmp_path)

    hub.mend()
    for name in ("missing", "pickled", "three", "junk", "no-tokenizer"):
        hub.repository("model", f"lab/{name}").commit(weights)
    hub.repository("model", "lab/revision").commit(weights, branch="v9")
    hub.repository("dataset", "lab/columns").commit(words(1))
    models.pop("commit")
    write_registry(registry, models, sources)
    hub.forget_requests()
    again = run(hub, registry, tmp_path, home=home)
    assert again.returncode == 0, again.stderr
    assert "17 runs, 13 to do" in again.stdout
    assert "17 of 17 runs completed" in again.stdout
    after = times(tmp_path)
    assert {n for n in after if after[n] == before[n]} == {*healthy, "commit/words"}
    fetched = {path.split("/resolve/")[0] for path in hub.paths("/resolve/")}
    assert not fetched & {"/lab/stutter", "/lab/torn", "/lab/slow", "/datasets/lab/words"}
    # A file that was cut short has not been taken for a whole one.
    assert np.array_equal(logits(tmp_path, "always-torn/words"), logits(tmp_path, "plain/words"))


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.target}",))


def test_the_rule_for_weights(hub: LoopbackHub, tmp_path: Path) -> None:
    """Safetensors, else the hub's own conversion of that very pickle, else its tensors."""
    one, two = text_model(tmp_path / "one", seed=1), text_model(tmp_path / "two", seed=2)
    pickle, other = pickled(one), pickled(two)
    target = tmp_path / "ran"
    stream = io.BytesIO()
    torch.save({"classifier.bias": Attack(target)}, stream)
    evil = {**pickle, "pytorch_model.bin": stream.getvalue()}
    converted = {**pickle, "model.safetensors": one["model.safetensors"]}
    repositories: dict[str, tuple[dict[str, bytes], list[tuple[dict[str, bytes], str, str]]]] = {
        "both": ({**one, "pytorch_model.bin": other["pytorch_model.bin"]}, []),
        "pickle": (pickle, []),
        # Requests of others, those of other pickles, and those the owner has refused are no use.
        "unlike": (
            pickle,
            [
                ({**converted, "model.safetensors": two["model.safetensors"]}, "mallory", "open"),
                (two | other, "SFconvertbot", "open"),
                (converted, "SFconvertbot", "closed"),
            ],
        ),
        "converted": (pickle, [({}, "somebody", "open"), (converted, "SFconvertbot", "open")]),
        "merged": (pickle, [(converted, "SFconvertbot", "merged")]),
        "saved": (evil, [({**evil, "model.safetensors": one["model.safetensors"]},
                          "SFconvertbot", "open")]),
        "evil": (evil, []),
        "closed-forum": (pickle, []),
        "nothing": ({path: one[path] for path in one if path != "model.safetensors"}, []),
    }  # fmt: skip
    requests = {}
    for name, (files, opened) in repositories.items():
        repository = hub.repository("model", f"lab/{name}")
        repository.commit(files)
        for content, author, status in opened:
            requests[name] = repository.open_pull_request(content, author, status)
    hub.plan_fault("forbidden", r"/api/models/lab/closed-forum/discussions")
    hub.repository("dataset", "lab/words").commit(words(1))
    models = {name: model_entry(f"lab/{name}") for name in repositories}
    models["refusing"] = model_entry("lab/converted", allow_pickle="false")
    models["tuned"] = model_entry("lab/converted", evaluate="false", recipe="one")
    models["tuned-pickle"] = model_entry("lab/pickle", evaluate="false", recipe="one")
    models["tuned-evil"] = model_entry("lab/evil", evaluate="false", recipe="one")
    registry = write_registry(
        tmp_path / "registry.yaml", models, {"words": data_entry("lab/words")}
    )
    home = tmp_path / "home"
    result = run(hub, registry, tmp_path, home=home)
    assert_no_traceback(result)
    assert "10 of 13 runs completed" in result.stdout, result.stdout
    done = records(tmp_path)
    pickle_text = "pickle, read as tensors only (pytorch_model.bin)"

    def conversion(name: str, number: int) -> str:
        place = f"pull request {number} (commit {requests[name]})"
        return f"safetensors of the hub's conversion, {place}"

    expected = {
        "both": "safetensors", "pickle": pickle_text, "unlike": pickle_text,
        "converted": conversion("converted", 2), "merged": conversion("merged", 1),
        "saved": conversion("saved", 1), "closed-forum": pickle_text,
        "refusing": conversion("converted", 2), "tuned": conversion("converted", 2),
        "tuned-pickle": pickle_text,
    }  # fmt: skip
    for name, text in expected.items():
        assert done[f"{name}/words"].provenance["weights"] == text
        if not name.startswith("tuned"):
            same = np.array_equal(logits(tmp_path, f"{name}/words"), logits(tmp_path, "both/words"))
            assert same, name
    assert np.array_equal(logits(tmp_path, "tuned/words"), logits(tmp_path, "tuned-pickle/words"))
    for name in ("evil", "tuned-evil"):
        failure = done[f"{name}/words"].failure
        assert failure is not None
        assert "pytorch_model.bin holds other things than tensors: it asks for" in failure.message
    assert not target.exists()
    failure = done["nothing/words"].failure
    assert failure is not None
    assert "has no safetensors weights, nor a pytorch_model.bin" in failure.message
    assert not hub.paths(method="POST")  # nobody is asked to convert anything
    page = (tmp_path / "reports" / "hub-limit-24" / "README.md").read_text(encoding="utf-8")
    assert "Read from pickles, as tensors only: 4 models." in page

    # The conversion is pinned: neither what is pushed to it later nor a lost network matters.
    hub.repository("model", "lab/converted").commit(two | other, branch="refs/pr/2")
    hub.stop()
    models.pop("nothing")
    again = tmp_path / "again"
    offline = run(hub, registry, again, home=home, HF_HUB_OFFLINE="1")
    assert_no_traceback(offline)
    for name, text in expected.items():
        record = records(again)[f"{name}/words"]
        assert record.provenance["weights"] == text, record.failure
        assert np.array_equal(logits(again, f"{name}/words"), logits(tmp_path, f"{name}/words"))


def test_code_of_a_checkpoint_runs_only_for_those_who_trust_it(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    folder, ran, home = tmp_path / "coded", tmp_path / "ran", tmp_path / "home"
    commit = hub.repository("model", "lab/coded").commit(coded_model(folder))
    hub.repository("dataset", "lab/words").commit(words(1))
    sources = {"words": data_entry("lab/words")}

    def models(**fields: str) -> dict[str, str]:
        return {
            "hub": model_entry("lab/coded", **fields),
            "tuned": model_entry("lab/coded", evaluate="false", recipe="one", **fields),
            "local": model_entry(str(folder), **fields).replace("hub:", "path:"),
        }

    registry = write_registry(tmp_path / "registry.yaml", models(), sources)
    refused = run(hub, registry, tmp_path, home=home, CODE_RAN=str(ran))
    assert_no_traceback(refused)
    assert refused.returncode == 1
    for record in records(tmp_path).values():
        assert record.status == "unavailable"
        assert record.failure is not None
        assert "then set 'trust_remote_code: true'" in record.failure.message
    assert not ran.exists()
    assert not [path for path in hub.paths("/lab/coded/resolve/") if path.endswith(".py")]

    # The registry's word is not enough: it may have come from elsewhere.
    write_registry(registry, models(trust_remote_code="true"), sources)
    unasked = run(hub, registry, tmp_path, home=home, CODE_RAN=str(ran))
    assert unasked.returncode == 1
    for record in records(tmp_path).values():
        assert record.status == "unavailable"
        assert record.failure is not None
        assert "add --allow-remote-code" in record.failure.message
    assert not ran.exists()
    assert not [path for path in hub.paths("/lab/coded/resolve/") if path.endswith(".py")]

    allowed = ("--allow-remote-code",)
    secrets = {"HF_TOKEN": TOKEN, "LAB_API_KEY": TOKEN}
    trusted = run(hub, registry, tmp_path, *allowed, home=home, CODE_RAN=str(ran), **secrets)
    assert "3 of 3 runs completed" in trusted.stdout, trusted.stderr
    assert ran.exists()
    assert TOKEN not in ran.read_text()
    done = records(tmp_path)
    assert done["hub/words"].provenance["model_revision"] == commit
    assert np.array_equal(logits(tmp_path, "hub/words"), logits(tmp_path, "local/words"))
    assert not np.array_equal(logits(tmp_path, "hub/words"), logits(tmp_path, "tuned/words"))
    # Timing reads the fine-tuned model back, in a process that has not seen its code.
    ran.unlink()
    only_tuned = (*allowed, "--timing", "quick", "--models", "tuned")
    timed = run(hub, registry, tmp_path, *only_tuned, home=home, CODE_RAN=str(ran), **secrets)
    assert ran.exists()
    assert TOKEN not in ran.read_text()
    assert "tuned/words/seed-0  p50" in timed.stdout, timed.stdout
    assert "custom code" not in timed.stdout + timed.stderr  # no question on the terminal


def test_a_hub_out_of_reach_is_told_at_once(hub: LoopbackHub, tmp_path: Path) -> None:
    """Without a network each of many entries is named, and only the first is waited for."""
    hub.stop()
    models = {f"model-{i}": model_entry(f"lab/model-{i}") for i in range(20)}
    registry = write_registry(
        tmp_path / "registry.yaml",
        models,
        {"words": data_entry("lab/words", revision=f"'{'1' * 40}'")},
    )
    started = time.monotonic()
    result = run(hub, registry, tmp_path, "--dry-run", home=tmp_path / "home")
    assert time.monotonic() - started < 15  # 1.5 seconds of pauses for each would be 30
    assert result.returncode == 0
    assert result.stdout.count("cannot be reached or broke off") == 20
