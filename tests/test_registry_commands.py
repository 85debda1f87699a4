"""`python -m benchmark.registry`: validate, show, add (against a stub of the hub) and schema."""

from __future__ import annotations

import difflib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import REGISTRY
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from benchmark.registry import DEFAULT_REGISTRY, Registry
from benchmark.registry.architectures import ARCHITECTURES
from benchmark.registry.commands import main
from benchmark.registry.schema import registry_schema, schema_text

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

VIT = {
    "id": "owner/vit",
    "sha": COMMIT,
    "pipeline_tag": "image-classification",
    "config": {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
    "safetensors": {"parameters": {"F32": 86_567_656}, "total": 86_567_656},
    "tags": ["transformers", "vit", "arxiv:2010.11929", "license:apache-2.0"],
    "siblings": [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}],
    "gated": False,
}
UNKNOWN = {
    **VIT,
    "id": "owner/unknown",
    "config": {"model_type": "brand-new", "auto_map": {"AutoModel": "code.Model"}},
    "pipeline_tag": None,
    "siblings": [{"rfilename": "pytorch_model.bin"}],
    "safetensors": None,
}
TOPICS = {
    "id": "owner/topics",
    "sha": COMMIT,
    "tags": ["license:cc-by-4.0"],
    "siblings": [],
    "gated": "manual",
    "cardData": {
        "license": "cc-by-4.0",
        "dataset_info": {
            "features": [
                {"name": "sentence", "dtype": "string"},
                {"name": "topic", "dtype": {"class_label": {"names": {"0": "a", "1": "b"}}}},
            ],
            "splits": [{"name": "train"}, {"name": "validation"}],
        },
    },
}
PAIRS = {
    **TOPICS,
    "id": "owner/pairs",
    "cardData": {
        "dataset_info": [
            {
                "config_name": name,
                "features": [
                    {"name": "premise", "dtype": "string"},
                    {"name": "hypothesis", "dtype": "string"},
                    {"name": "label", "dtype": {"class_label": {"names": {"0": "a"}}}},
                ],
                "splits": [{"name": "train"}, {"name": "validation"}, {"name": "test"}],
            }
            for name in ("small", "large")
        ]
    },
}


class _Hub(BaseHTTPRequestHandler):
    """Answers the two calls that `add` makes."""

    answers: ClassVar[dict[str, tuple[int, dict[str, str], Any]]] = {
        "/api/models/owner/vit": (200, {}, VIT),
        "/api/models/owner/unknown": (200, {}, UNKNOWN),
        "/api/models/owner/gated": (403, {"X-Error-Code": "GatedRepo"}, {"error": "gated"}),
        f"/api/models/owner/vit/revision/{COMMIT}": (200, {}, VIT),
        "/api/models/owner/vit/revision/old": (404, {"X-Error-Code": "RevisionNotFound"}, {}),
        "/api/models/owner/uncommitted": (200, {}, {**VIT, "sha": "main"}),
        "/api/models/owner/broken": (500, {}, {"error": "internal"}),
        "/api/datasets/owner/topics": (200, {}, TOPICS),
        "/api/datasets/owner/pairs": (200, {}, PAIRS),
    }

    def do_GET(self) -> None:
        missing = (404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"})
        status, headers, content = self.answers.get(self.path, missing)
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    server.shutdown()
    server.server_close()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def added_lines(before: str, after: str) -> list[str]:
    """Return the lines that were added; fail if any was changed or taken away."""
    difference = list(difflib.ndiff(before.splitlines(True), after.splitlines(True)))
    assert not [line for line in difference if line.startswith("- ")]
    return [line[2:] for line in difference if line.startswith("+ ")]


# --- validate -------------------------------------------------------------------------------------


def test_validate_counts_and_warns(registry_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = registry_file.read_text() + "  more: {models: [vit], datasets: [digits]}\n"
    twins = "".join(
        f"  hub-{name}:\n    hub: a/b\n    modality: text\n    mixer: attention\n"
        "    family: X\n    evaluate: true\n"
        for name in "ab"
    )
    registry_file.write_text(text.replace("datasets:\n  digits", f"{twins}datasets:\n  digits"))
    code, out, err = run(capsys, "validate", registry_file)
    assert (code, err) == (0, "")
    assert f"{registry_file}: valid: 6 models, 2 datasets, 2 recipes, 3 suites, 1 file" in out
    assert f"{registry_file}:28: warning: models.bert: in no suite" in out
    assert "models.hub-b: the same hub repository and revision as hub-a" in out
    assert "warning: 2 hub entries are not pinned to a commit (hub-a, hub-b)" in out


def test_validate_prints_every_error_at_once(
    registry_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = registry_file.read_text().replace("mixer: attention", "mixer: attn")
    registry_file.write_text(text)
    code, out, err = run(capsys, "validate", "--registry", registry_file)
    assert (code, out) == (2, "")
    assert err.count("unknown mixer 'attn', did you mean 'attention'?") == 3
    assert f"{registry_file}:11:12: models.vit.mixer" in err
    assert err.count("^") == 3
    assert f"{registry_file}: not valid; problems: 3" in err


def test_the_shipped_registry_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "validate")
    assert code == 0
    assert f"{DEFAULT_REGISTRY}: valid: " in out
    code, _, err = run(capsys, "validate", "a.yaml", "--registry", "b.yaml")
    assert code == 2
    assert "one registry file" in err


# --- show -----------------------------------------------------------------------------------------


def test_show_fills_in_defaults_and_extends(
    registry_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = registry_file.with_name("child.yaml")
    child.write_text(
        "extends: registry.yaml\nsuites:\n  mine: {models: [vit], datasets: [digits]}\n"
    )
    code, out, _ = run(capsys, "show", "vit", "quick", "digits", "mine", "--registry", child)
    assert code == 0
    assert f"model vit  ({registry_file}:7)" in out
    assert f"suite mine  ({child}:3)" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "mixer attention" in lines
    assert "trust_remote_code default false" in lines
    assert "used by suite mine, suite small, suite failing" in lines
    assert "used by model vit, model resnet, model bert" in lines
    assert "columns.label default label" in lines


def test_show_without_names_is_an_overview(
    registry_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "show", "--registry", registry_file)
    assert code == 0
    for name in ("small (default)", "vit", "digits", "quick", "embedded bbc-sentences"):
        assert name in out


def test_show_suggests_names(registry_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "vitt", "vit", "rsnet", "--registry", registry_file)
    assert (code, out) == (2, "")
    assert "no entry 'vitt', did you mean 'vit'?" in err
    assert "no entry 'rsnet', did you mean 'resnet'?" in err


# --- add ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_add_only_adds_lines(
    registry_file: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    before = ("# why" + registry_file.read_text() + "# the end").replace("\n", ending)
    registry_file.write_bytes(before.encode())
    registry_file.chmod(0o640)
    arguments = ("add", "owner/vit", "--name", "vit-base", "--registry", registry_file)
    code, out, err = run(capsys, *arguments, "--recipe", "quick")
    assert code == 0, err
    assert f"added to {registry_file}:35" in out
    added = added_lines(before, registry_file.read_bytes().decode())
    assert added == [
        f"{line}{ending}"
        for line in (
            "  vit-base:",
            "    hub: owner/vit",
            f"    revision: {COMMIT}",
            "    modality: image",
            "    mixer: attention",
            "    family: ViT",
            "    recipe: quick",
            "    parameters: 86567656",
            "    licence: Apache-2.0",
            "    reference: arXiv:2010.11929",
        )
    ]
    assert stat.S_IMODE(registry_file.stat().st_mode) == 0o640
    assert [path.name for path in registry_file.parent.iterdir()] == ["registry.yaml"]
    model = Registry.load(registry_file).models["vit-base"]
    assert (model.hub, model.revision, model.parameters) == ("owner/vit", COMMIT, 86_567_656)
    code, _, err = run(capsys, *arguments, "--recipe", "quick")
    assert code == 2
    assert "models has 'vit-base' already; give another --name" in err
    code, _, err = run(capsys, *arguments[:2], "--name", "x", *arguments[4:], "--recipe", "quick")
    assert code == 2
    assert "'vit-base' is owner/vit at this revision already" in err


@pytest.mark.usefixtures("hub")
def test_add_to_a_copy_of_the_shipped_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "registry.yaml"
    before = DEFAULT_REGISTRY.read_text(encoding="utf-8")
    path.write_text(before, encoding="utf-8")
    for arguments in (
        ("owner/vit", "--name", "new-vit", "--evaluate", "--revision", COMMIT),
        ("owner/topics", "--name", "new-topics", "--dataset"),
    ):
        code, _, err = run(capsys, "add", *arguments, "--registry", path)
        assert code == 0, err
    added = added_lines(before, path.read_text(encoding="utf-8"))
    assert "  new-topics:\n" in added
    registry, old = Registry.load(path), Registry.load(DEFAULT_REGISTRY)
    assert set(registry.models) - set(old.models) == {"new-vit"}
    topics = registry.datasets["new-topics"]
    assert topics.columns.text == "sentence"
    assert topics.columns.label == "topic"
    assert topics.splits.test == "validation"
    assert topics.licence == "CC-BY-4.0"


@pytest.mark.usefixtures("hub")
def test_dry_run_writes_nothing(registry_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = registry_file.read_bytes()
    code, out, _ = run(
        capsys, "add", "owner/topics", "--dataset", "--dry-run", "--registry", registry_file
    )
    assert code == 0
    assert "    splits:\n      test: validation\n" in out
    assert "it is gated" in out
    assert registry_file.read_bytes() == before


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_say_must_be_given(
    registry_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("add", "owner/unknown", "--registry", registry_file)
    before = registry_file.read_bytes()
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "'brand-new': give --modality, --mixer, --family" in err
    assert "--trust-remote-code" in err
    assert "--recipe (one of quick, broken)" in err
    assert registry_file.read_bytes() == before
    facts = ("--modality", "text", "--mixer", "other", "--family", "New", "--recipe", "quick")
    code, out, err = run(capsys, *arguments, *facts, "--trust-remote-code")
    assert code == 0, err
    model = Registry.load(registry_file).models["unknown"]
    assert (model.mixer, model.family, model.allow_pickle) == ("other", "New", True)
    assert model.trust_remote_code
    assert "it has no safetensors: the hub's conversion is read where there is one" in out


@pytest.mark.usefixtures("hub")
def test_configurations_and_pairs_of_columns_are_asked_for(
    registry_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("add", "owner/pairs", "--dataset", "--registry", registry_file)
    assert "choose --config from small, large" in run(capsys, *arguments)[2]
    assert "did you mean 'small'?" in run(capsys, *arguments, "--config", "smal")[2]
    assert "give --text-column" in run(capsys, *arguments, "--config", "small")[2]
    columns = ("--text-column", "premise", "--text-pair-column", "hypothesis")
    code, _, err = run(capsys, *arguments, "--config", "small", *columns)
    assert code == 0, err
    entry = Registry.load(registry_file).datasets["pairs"]
    assert (entry.config, entry.columns.text_pair) == ("small", "hypothesis")
    assert entry.splits.calibration == "validation"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("owner/none",), "model owner/none: is not on the hub, or is private"),
        (("owner/gated",), "is gated: accept its terms on the hub, then set HF_TOKEN"),
        (("owner/vit", "--name", "v", "--revision", "old"), "has no revision 'old'"),
        (("owner/broken",), "the hub cannot be reached"),
        (("owner/uncommitted",), "the hub names no commit for it"),
        (("a/b/c",), "is no repository's name: write owner/name"),
    ],
)
def test_trouble_with_the_hub_is_said_plainly(
    registry_file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    before = registry_file.read_bytes()
    code, out, err = run(capsys, "add", *arguments, "--registry", registry_file)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert registry_file.read_bytes() == before


JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    1e9,
    "",
    "x",
    "\n",
    "\x1b",
    [],
    [1],
    ["x"],
    {},
    {"x": 1},
    [{}],
]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_any_answer_of_the_hub_ends_well(
    registry_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    before = registry_file.read_bytes()
    good = VIT if kind == "models" else TOPICS
    arguments = ["add", "owner/junk", "--registry", str(registry_file)]
    arguments += ["--recipe", "quick"] if kind == "models" else ["--dataset"]
    codes = set()
    for field in good:
        for junk in JUNK:
            answer = (200, {}, {**good, field: junk})
            monkeypatch.setitem(_Hub.answers, f"/api/{kind}/owner/junk", answer)
            code, _, err = run(capsys, *arguments)
            assert err or code == 0
            if code == 0:
                assert "junk" in getattr(Registry.load(registry_file), kind)
                registry_file.write_bytes(before)
            assert registry_file.read_bytes() == before
            codes.add(code)
    assert codes == {0, 1, 2}


def test_no_hub_at_all(registry_file: Path) -> None:
    command = [sys.executable, "-m", "benchmark.registry", "add", "owner/vit", "--name", "v"]
    for settings, message in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set: unset it"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ):
        done = subprocess.run(
            [*command, "--registry", str(registry_file)],
            env={**os.environ, **settings},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("hub")
def test_a_section_in_braces_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = YAML(typ="safe").load(REGISTRY)
    path = tmp_path / "registry.yaml"
    path.write_text(json.dumps(tree))
    before = path.read_bytes()
    code, _, err = run(capsys, "add", "owner/vit", "--name", "v", "--evaluate", "--registry", path)
    assert code == 2
    assert "write the section as a block" in err
    assert "    hub: owner/vit" in err  # to be put in by hand
    assert path.read_bytes() == before


def test_architectures_are_those_of_transformers() -> None:
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )

    classes = {
        "image": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        "text": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    }
    for model_type, architecture in ARCHITECTURES.items():
        assert CONFIG_MAPPING[model_type] in classes[architecture.modality], model_type


def test_scratch_models_agree_with_the_table_of_architectures() -> None:
    for model in Registry.load(DEFAULT_REGISTRY).models.values():
        known = ARCHITECTURES.get((model.scratch or {}).get("model_type", ""))
        if known is not None:
            facts = (model.modality, model.mixer, model.family)
            assert facts == (known.modality, known.mixer, known.family)


# --- schema ---------------------------------------------------------------------------------------


def test_the_published_schema_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "schema")[1] == schema_text()
    published = (ROOT / "docs" / "registry.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "python -m benchmark.registry schema > docs/..."


def _schema_errors(text: str) -> list[str]:
    validator = Draft202012Validator(registry_schema())
    return [error.json_path for error in validator.iter_errors(YAML(typ="safe").load(text))]


def test_the_schema_accepts_what_is_valid() -> None:
    Draft202012Validator.check_schema(registry_schema())
    assert _schema_errors(REGISTRY) == []
    assert _schema_errors(DEFAULT_REGISTRY.read_text(encoding="utf-8")) == []
    assert _schema_errors("extends: registry.yaml\nsuites: {}\n") == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("mixer: attention", "mixer: attn", "$.models.vit.mixer"),
        ("family: ViT", "famly: ViT", "$.models.vit"),
        ("family: ViT", "family: [ViT]", "$.models.vit.family"),
        ("epochs: 2", "epochs: -2", "$.recipes.quick.epochs"),
        ("version: 1", "version: 2", "$.version"),
        ("version: 1", "verzion: 1", "$"),
        ("  resnet:", "  res net:", "$.models"),
        ("recipes:", "recipe:", "$"),
    ],
)
def test_the_schema_rejects_what_is_not(old: str, new: str, place: str) -> None:
    assert place in _schema_errors(REGISTRY.replace(old, new, 1))


HEADINGS = {
    "Lora": "## Recipes",
    "Registry": "## File",
    "ModelEntry": "## Models",
    "Pretraining": "### Pretraining",
    "Processor": "### Processor",
    "DatasetEntry": "## Datasets",
    "Columns": "### Columns",
    "Splits": "### Splits",
    "Recipe": "## Recipes",
    "Suite": "## Suites",
    "Published": "### Published\n",
    "StochasticFit": "### Published\n",
    "Claim": "## Claim",
}


def test_every_field_is_described_under_its_heading() -> None:
    text = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    schema = registry_schema()
    definitions = {"Registry": schema, **schema["$defs"]}
    assert set(definitions) == set(HEADINGS)
    for title, definition in definitions.items():
        section = text.split(f"\n{HEADINGS[title]}", 1)[1].split("\n## ")[0]
        for field in definition["properties"]:
            assert f"`{field}`" in section, f"{title}: {field}"


def test_help_is_there_at_once() -> None:
    script = (
        "import sys; sys.argv = ['registry', '--help']\n"
        "from benchmark.registry import commands\n"
        "try:\n    commands.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub', 'ruamel', 'tabulate'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "validate" in done.stdout
    assert done.stderr.strip() == "[]"
