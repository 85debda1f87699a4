"""The stamp of a claim: written once, agreed on, and compared with what is tested now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
from claim_frames import runs

from benchmark.claim import claim_passages, declaration_of, evaluate_claim
from benchmark.claim.command import main as claim_command
from benchmark.records import ResultsError, read_stamp, stamp_claim
from benchmark.records import claim_stamp as module
from benchmark.registry import Claim
from benchmark.report.command import write_report

TITLE = "What was declared"


def said(declaration):
    result = evaluate_claim(runs()).model_copy(update={"declaration": declaration})
    return next(p.sentences for p in claim_passages(result) if p.title == TITLE)


def test_it_is_written_once(tmp_path: Path) -> None:
    first = stamp_claim(tmp_path, "suite", Claim())
    text = (tmp_path / "suite" / "claim-stamp.json").read_bytes()
    assert stamp_claim(tmp_path, "suite", Claim(alpha=0.1)) == first
    assert (tmp_path / "suite" / "claim-stamp.json").read_bytes() == text
    assert first.claim == Claim().model_dump(mode="json")
    assert first.records_before == 0
    assert [path.name for path in (tmp_path / "suite").iterdir()] == ["claim-stamp.json"]


PROGRAM = """
import sys, time
from pathlib import Path
from benchmark.records import stamp_claim
from benchmark.registry import Claim
place, own, start = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
while time.time() < start:
    pass
print(stamp_claim(place, "suite", Claim(alpha=own)).model_dump_json())
"""


@pytest.mark.parametrize("links", [True, False])
def test_processes_that_begin_at_once_agree(tmp_path: Path, links: bool) -> None:
    """Five, each with a claim of its own: all see one and the same stamp."""
    import time

    program = PROGRAM
    if not links:
        program = "import os\ndef no(*_):\n    raise OSError(1, 'no')\nos.link = no\n" + program
    start = time.time() + 6
    values = [0.01, 0.02, 0.03, 0.04, 0.05]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(alpha), str(start)],
            stdout=subprocess.PIPE, text=True,
        )
        for alpha in values
    ]  # fmt: skip
    stamps = {process.communicate(timeout=120)[0] for process in processes}
    assert len(stamps) == 1
    (stamp,) = stamps
    assert json.loads(stamp)["claim"]["alpha"] in values
    left = [path.name for path in (tmp_path / "suite").iterdir() if path.suffix == ".tmp"]
    assert not left


def test_a_changed_claim_is_said(tmp_path: Path) -> None:
    stamp = stamp_claim(tmp_path, "suite", Claim())
    same = said(declaration_of(tmp_path, "suite", Claim()))
    when = f"{stamp.stamped_at:%Y-%m-%d %H:%M} UTC"
    assert same == (
        f"Declared on {when}, hash {stamp.digest[:12]}, before the first run.",
        "What is tested is what was declared.",
    )
    other = Claim(alpha=0.1, covariates=("log_parameters",))
    changed = said(declaration_of(tmp_path, "suite", other))[1]
    assert "alpha was 0.05, now 0.1" in changed
    assert "covariates was log_parameters, " in changed
    assert "recipe, now log_parameters;" in changed


def test_results_that_have_none_say_so(tmp_path: Path) -> None:
    assert said(declaration_of(tmp_path, "suite", Claim()))[0].startswith("Not stamped")
    assert TITLE not in [p.title for p in claim_passages(evaluate_claim(runs()))]


def test_a_stamp_after_the_first_run_is_no_declaration(tmp_path: Path) -> None:
    synthetic.write_tree(tmp_path, synthetic.MODELS[:2], with_logits=False)
    stamp = stamp_claim(tmp_path, "embedded", Claim())
    assert stamp.records_before == 4
    sentence = said(declaration_of(tmp_path, "embedded", Claim()))[0]
    assert "when 4 runs had a record already" in sentence


def test_a_damaged_or_edited_stamp_is_left_and_said(tmp_path: Path) -> None:
    stamp_claim(tmp_path, "suite", Claim())
    path = tmp_path / "suite" / "claim-stamp.json"
    whole = path.read_text()
    path.write_text(whole.replace("0.05", "0.01"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ResultsError, match="checksum"):
        read_stamp(tmp_path, "suite")
    assert "cannot be used" in said(declaration_of(tmp_path, "suite", Claim()))[0]
    content = json.loads(whole)
    del content["checksum"]
    content["claim"]["alpha"] = 0.01
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="hash"):
        stamp_claim(tmp_path, "suite", Claim())


def test_report_and_command_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = synthetic.write_tree(tmp_path / "results")
    (results / "embedded" / "claim-stamp.json").unlink(missing_ok=True)
    stamp = stamp_claim(results, "embedded", Claim())
    write_report(results, tmp_path / "reports", Claim(alpha=0.01))
    readme = (tmp_path / "reports" / "embedded" / "README.md").read_text()
    assert readme.count("alpha was 0.05, now 0.01") == 2  # beside the verdict, and in its passage
    assert stamp.digest[:12] in readme
    page = (tmp_path / "reports" / "embedded" / "index.html").read_text()
    assert TITLE in page
    told = json.loads((tmp_path / "reports" / "embedded" / "tables" / "claim.json").read_text())
    assert told["declaration"]["changed"][0]["name"] == "alpha"
    assert claim_command([str(results / "embedded"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["declaration"]["digest"] == stamp.digest
    assert claim_command([str(results / "embedded")]) == 0
    assert f"hash {stamp.digest[:12]}" in capsys.readouterr().out


def test_digest_is_of_the_parsed_claim() -> None:
    content = Claim().model_dump(mode="json")
    assert module.claim_digest(content) == module.claim_digest(dict(reversed(content.items())))
    assert module.claim_digest(content) != module.claim_digest(content | {"alpha": 0.01})
