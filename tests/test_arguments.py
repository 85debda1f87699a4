"""One command for all: its words, its environment variables, a shell's completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.__main__ import COMMANDS, main
from benchmark.arguments import Names, Parser, parse, positive

ROOT = Path(__file__).parents[1]


@pytest.fixture
def parser() -> Parser:
    made = Parser(prog="try")
    made.add_argument("--models", nargs="+", action=Names, default=["all"])
    made.add_argument("--workers", type=positive)
    made.add_argument("--timing", choices=("quick", "off"), default="quick")
    made.add_argument("--force", action="store_true")
    made.add_argument("--set", action="append", default=[])
    return made


@pytest.mark.parametrize("line", [["a,b", "c"], ["a, b,c"], ["a", "b", "c"], ["a,", "b", ",c"]])
def test_names_stand_with_commas_or_spaces(parser: Parser, line: list[str]) -> None:
    assert parse(parser, ["--models", *line]).models == ["a", "b", "c"]


@pytest.mark.parametrize("line", [[","], [""], [" , "]])
def test_no_name_is_an_error(
    parser: Parser, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(parser, ["--models", *line])
    assert "argument --models: give at least one name" in capsys.readouterr().err


def test_every_option_may_be_an_environment_variable(
    parser: Parser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIBRATION_BENCHMARK_WORKERS", "3")
    monkeypatch.setenv("CALIBRATION_BENCHMARK_FORCE", "yes")
    monkeypatch.setenv("CALIBRATION_BENCHMARK_MODELS", "a,b c")
    options = parse(parser, [])
    assert (options.workers, options.force, options.models) == (3, True, ["a", "b", "c"])
    assert parse(parser, ["--workers", "5", "--models", "d"]).workers == 5
    assert parse(parser, ["--models", "d"]).models == ["d"]
    monkeypatch.setenv("CALIBRATION_BENCHMARK_FORCE", "0")
    assert not parse(parser, []).force


@pytest.mark.parametrize(
    ("name", "value"), [("TIMING", "ful"), ("WORKERS", "-1"), ("FORCE", "maybe")]
)
def test_an_error_names_the_variable(
    parser: Parser,
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"CALIBRATION_BENCHMARK_{name}", value)
    with pytest.raises(SystemExit, match="2"):
        parse(parser, [])
    error = capsys.readouterr().err
    assert f"argument --{name.lower()}: " in error
    assert f"(CALIBRATION_BENCHMARK_{name} is set)" in error


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_each_command_says_its_own_name(name: str) -> None:
    done = program(name, "--help")
    assert done.returncode == 0
    stated = "report" if name == "compare" else name
    assert done.stdout.startswith(f"usage: calibration-benchmark {stated} ")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == "calibration-benchmark 0.1.0\n"


def test_an_unknown_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["reprot"])
    assert "no command 'reprot', did you mean 'report'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("calibration-benchmark re", {"report", "registry"}),
        ("calibration-benchmark run --timing ", {"quick", "full", "off"}),
        ("calibration-benchmark run --models vit-tiny,resnet-t", {"vit-tiny,resnet-tiny"}),
        ("calibration-benchmark run --suite smo", {"smoke"}),
        ("calibration-benchmark registry val", {"validate"}),
        ("calibration-benchmark report --com", {"--compare"}),
    ],
)
def test_a_shell_can_complete_a_line(line: str, expected: set[str], tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "63",
    }
    program(environment=asked)
    assert {word.strip() for word in answer.read_text().splitlines()} == expected


def program(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program as its console script does, in the checkout."""
    start = "import sys; from benchmark.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        timeout=120,
        check=False,
    )
