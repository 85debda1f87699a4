"""The whole test of the claim: verdicts, what they rest on, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from claim_frames import METRICS, runs, two_modalities
from hypothesis import given
from hypothesis import strategies as st

from benchmark.claim import claim_passages, evaluate_claim, main
from benchmark.claim.calibration_rows import (
    COLUMN,
    accuracy_column,
    with_calibration_rows_error,
)
from benchmark.claim.data import ClaimError
from benchmark.claim.result import ClaimResult, RatioInterval
from benchmark.claim.text import render_markdown
from benchmark.claim.verdict import judge
from benchmark.claim.wording import p_statement, p_value
from benchmark.records import RunFolder
from benchmark.records.logits import LogitsSplit, write_logits
from benchmark.registry import Claim

PRIMARY = "debiased_calibration_error"


def test_a_clear_advantage_of_attention_is_supported() -> None:
    result = evaluate_claim(two_modalities(ratio=0.5, families=(5, 5)))
    assert result.verdict.outcome == "supported"
    assert result.primary is not None
    assert result.primary.estimate.low < 0.5 < result.primary.estimate.high
    assert result.primary.families == {"attention": 10, "convolution": 10}
    assert result.permutation is not None
    assert result.permutation.p_value <= 0.05
    assert result.verdict.sentences[0].startswith("Supported: on image-data and text-data, before")
    assert result.verdict.primary_factor is True


def test_the_opposite_contradicts_the_claim() -> None:
    result = evaluate_claim(two_modalities(ratio=2.0, families=(5, 5)))
    assert result.verdict.outcome == "contradicted"


def test_swapping_the_contrast_inverts_the_ratio() -> None:
    frame = two_modalities(ratio=0.5, families=(5, 5))
    claim = Claim(contrast=("convolution", "attention"))
    forward, backward = evaluate_claim(frame), evaluate_claim(frame, claim)
    assert forward.primary is not None
    assert backward.primary is not None
    assert backward.primary.estimate.ratio == pytest.approx(1 / forward.primary.estimate.ratio)
    assert backward.verdict.outcome == "contradicted"
    assert forward.permutation is not None
    assert backward.permutation is not None
    assert backward.permutation.p_value == pytest.approx(forward.permutation.p_value)


def test_many_like_families_are_equivalent() -> None:
    frame = two_modalities(families=(12, 12), family_sd=0.01, noise_sd=0.02)
    result = evaluate_claim(frame)
    assert result.verdict.outcome == "equivalent"
    assert result.verdict.power is not None
    assert result.verdict.power.families_for_equivalence == 48


def test_one_interval_judges_difference_and_equivalence() -> None:
    interval = RatioInterval(ratio=0.97, low=0.93, high=0.99, p_value=0.01, df=20)
    assert judge(Claim(), interval) == "equivalent"
    assert judge(Claim(), interval.model_copy(update={"low": 0.8})) == "supported"
    assert judge(Claim(), interval.model_copy(update={"low": 0.8, "high": 1.2})) == "undecided"
    assert judge(Claim(), interval.model_copy(update={"low": 1.2, "high": 2})) == "contradicted"
    assert judge(Claim(), interval.model_copy(update={"low": 0})) == "supported"


def test_a_difference_needs_the_exchange_of_labels_too() -> None:
    result = evaluate_claim(runs(ratio=0.1, families=(3, 3)))
    assert result.primary is not None
    assert result.primary.estimate.high < 1
    assert result.verdict.outcome == "undecided"
    assert (
        "exchanging labels among them gives p = 0.10 (the least it could give is 0.1)"
        in result.verdict.reasons[0]
    )
    assert result.permutation is not None
    assert result.permutation.smallest_p == pytest.approx(0.1)
    passages = {passage.title: passage for passage in claim_passages(result)}
    assert "could have reached is 0.10" in passages["Exchange of labels"].sentences[0]


def test_an_end_that_cannot_be_given_is_said() -> None:
    """The errors of attention models are far below what the test set resolves."""
    frame = runs(families=(6, 6), seeds=1, shifts=())
    attention = frame["mixer"] == "attention"
    generator = np.random.default_rng(0)
    squared = np.where(attention, 0.0, frame[f"{PRIMARY}_none"] ** 2)
    squared = squared + 2e-4 * generator.normal(size=len(frame))
    slope, null, z = 1e-4, 4e-8, 1.959964
    reach = z * np.sqrt(np.maximum(null + slope * squared + (z * slope / 2) ** 2, 0))
    frame[f"{PRIMARY}_none"] = np.sign(squared) * np.sqrt(np.abs(squared))
    frame[f"{PRIMARY}_squared_none_low"] = squared + z**2 * slope / 2 - reach
    frame[f"{PRIMARY}_squared_none_high"] = squared + z**2 * slope / 2 + reach
    result = evaluate_claim(frame, Claim(covariates=()))
    assert result.primary is not None
    assert result.primary.estimate.low == 0
    assert result.primary.estimate.high < 1
    assert result.primary.unresolved >= 8
    assert "no lower limit can be given" in result.verdict.numbers[0]
    assert "nan" not in render_markdown(result)
    assert ClaimResult.model_validate_json(result.model_dump_json()) == result


def test_the_verdict_names_the_datasets_it_is_about() -> None:
    one = evaluate_claim(runs(ratio=0.5, families=(6, 6)))
    assert one.verdict.sentences[0].startswith("Supported: on image-data, before")
    assert one.verdict.new_dataset is None
    assert "Of a new dataset nothing can be said" in one.verdict.numbers[3]
    two = evaluate_claim(two_modalities(ratio=0.5, families=(6, 6)))
    assert two.verdict.sentences[0].startswith("Supported: on image-data and text-data, before")
    assert two.verdict.new_dataset == "undecided"
    assert "that takes more datasets" in two.verdict.numbers[3]


def test_analyses_stand_side_by_side() -> None:
    frame = two_modalities(families=(6, 6))
    result = evaluate_claim(frame)
    assert result.primary is not None
    assert result.unadjusted is not None
    assert result.adjusted is not None
    assert result.primary.covariates == ("log_parameters",)
    assert result.unadjusted.covariates == ()
    assert result.adjusted.covariates == ("log_parameters", "test_error")


def test_accuracy_comes_from_the_calibration_rows(tmp_path: Path) -> None:
    frame = runs(families=(1, 1), checkpoints=1, seeds=1, shifts=())
    labels = np.array([0, 1, 0, 1])
    for index in frame.index:
        folder = tmp_path / str(index)
        logits = np.eye(2, dtype=np.float32)[[0, 1, 1, 1]]  # the third row is wrong
        splits = {n: LogitsSplit(np.arange(4), logits, labels) for n in ("calibration", "test")}
        write_logits(RunFolder(folder), splits, key="made-up")
        frame.loc[index, "folder"] = str(folder)
    wider = with_calibration_rows_error(frame)
    assert wider[COLUMN].tolist() == [0.25, 0.25]
    assert accuracy_column(wider) == COLUMN
    frame.loc[frame.index[0], "folder"] = str(tmp_path / "nowhere")
    assert accuracy_column(with_calibration_rows_error(frame)) == "test_error"


def test_signed_gaps_are_means_over_families() -> None:
    frame = runs(families=(2, 3), checkpoints=2, seeds=1, shifts=())
    frame["signed_gap_none"] = np.where(frame["mixer"] == "attention", 0.02, -0.01)
    gaps = {item.mixer: item for item in evaluate_claim(frame).signed_gaps}
    assert gaps["attention"].gap == pytest.approx(0.02)
    assert gaps["convolution"].gap == pytest.approx(-0.01)
    assert (gaps["attention"].families, gaps["convolution"].families) == (2, 3)
    assert (gaps["convolution"].over_confident, gaps["convolution"].under_confident) == (0, 6)
    assert gaps["attention"].low == pytest.approx(0.02)


def test_a_missing_side_is_undecided_with_the_reason() -> None:
    result = evaluate_claim(runs(families=(4, 0)))
    assert result.primary is None
    assert result.verdict.outcome == "undecided"
    assert "no checkpoint is known to mix by convolution" in result.verdict.sentences[1]
    assert "no checkpoint is known to mix by convolution" in render_markdown(result)


def test_unknown_mixers_are_not_said_to_be_others() -> None:
    frame = runs(families=(4, 4))
    frame["mixer"] = None
    said = evaluate_claim(frame).verdict.sentences[1]
    assert "known to mix by attention (mixer or family unknown: " in said


def test_no_completed_run_is_an_error() -> None:
    frame = runs().assign(status="failed")
    with pytest.raises(ClaimError, match="no completed run"):
        evaluate_claim(frame)


def test_failed_runs_are_listed() -> None:
    frame = two_modalities()
    lost = frame["model"] == frame["model"].iloc[0]
    frame.loc[lost, "status"] = "failed"
    result = evaluate_claim(frame)
    assert {item.status for item in result.dropped} == {"failed"}
    assert len(result.dropped) == 2


def test_the_test_is_repeated_without_a_covariate_that_has_gaps() -> None:
    frame = two_modalities(families=(6, 6))
    generator = np.random.default_rng(0)
    models = frame["model"].unique()
    amounts = {model: 10 ** generator.uniform(3, 8) for model in models}
    amounts[models[0]] = np.nan
    frame["pretraining_examples"] = frame["model"].map(amounts)
    result = evaluate_claim(frame)
    assert result.primary is not None
    assert "log_pretraining_examples" in result.primary.covariates
    (repeated,) = result.repeated
    assert "log_pretraining_examples" not in repeated.covariates
    assert repeated.checkpoints == result.primary.checkpoints + 1
    assert [item.reason for item in result.dropped] == ["lacks log_pretraining_examples"]


def test_a_confounder_is_adjusted_for() -> None:
    """Larger models are worse calibrated here, and attention models are larger."""
    frame = two_modalities(families=(10, 10), family_sd=0.02, noise_sd=0.02)
    generator = np.random.default_rng(1)
    sizes = {
        model: 15 + ("attention" in model) + generator.normal() for model in frame["model"].unique()
    }
    size = frame["model"].map(sizes)
    frame["parameters"] = np.exp(size)
    for metric in METRICS:
        power = 2 if metric in ("nll_calibration", "brier_calibration") else 1
        for map_name in ("none", "temperature"):
            frame[f"{metric}_{map_name}"] *= np.exp(0.3 * power * (size - 15))
    adjusted = evaluate_claim(frame)
    naive = evaluate_claim(frame, Claim(covariates=()))
    assert adjusted.primary is not None
    assert naive.primary is not None
    assert adjusted.primary.estimate.ratio == pytest.approx(1, abs=0.05)
    assert naive.primary.estimate.ratio > 1.2
    shares = {item.factor: item.share for item in adjusted.variance_shares.shares}
    assert max(shares, key=lambda factor: shares[factor]) == "size"
    assert adjusted.verdict.primary_factor is False


def test_order_of_rows_changes_nothing() -> None:
    frame = two_modalities()
    shuffled = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    assert evaluate_claim(shuffled).verdict == evaluate_claim(frame).verdict


def test_result_survives_json_and_is_deterministic() -> None:
    frame = two_modalities()
    result = evaluate_claim(frame)
    assert ClaimResult.model_validate_json(result.model_dump_json()) == result
    assert evaluate_claim(frame) == result


def test_after_scaling_can_be_primary() -> None:
    result = evaluate_claim(two_modalities(), Claim(primary="after"))
    assert result.primary is not None
    assert result.primary.map == "temperature"
    assert result.secondary is not None
    assert result.secondary.map == "none"


def test_a_default_sized_suite_takes_seconds() -> None:
    frame = two_modalities(families=(3, 4), checkpoints=1)
    evaluate_claim(frame)
    started = time.process_time()
    evaluate_claim(frame)
    assert time.process_time() - started < 4


def test_neither_torch_nor_statsmodels_is_imported() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from claim_frames import two_modalities;"
        "from benchmark.claim import evaluate_claim; evaluate_claim(two_modalities());"
        "print({'torch', 'statsmodels', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_help_does_not_wait_for_heavy_imports() -> None:
    code = (
        "import sys; from benchmark.claim import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'pandas', 'scipy', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("set()"), done.stderr


def test_texts_from_the_data_cannot_break_the_page() -> None:
    frame = two_modalities()
    model = frame["model"].iloc[0]
    frame["model"] = frame["model"].replace({model: "a|b<script>alert(1)</script>"})
    text = render_markdown(evaluate_claim(frame), "x|<b>")
    assert "<script>" not in text
    assert "<b>" not in text


@given(st.floats(0, 1))
def test_p_values_keep_two_digits_and_are_never_zero(value: float) -> None:
    text = p_value(value)
    if value < 1e-4:
        assert text == "under 0.0001"
        assert p_statement(value) == "p under 0.0001"
    else:
        assert float(text) == pytest.approx(value, rel=0.05)
        assert len(text.replace(".", "").lstrip("0")) == 2
        assert p_statement(value) == f"p = {text}"


def test_a_result_is_put_into_words_and_tables() -> None:
    frame = two_modalities(families=(6, 6))
    lost = frame["model"] == frame["model"].iloc[0]
    frame.loc[lost, ["status", "reason"]] = ["failed", "out of memory"]
    result = evaluate_claim(frame)
    assert result.primary is not None
    tiny = result.primary.estimate.model_copy(update={"p_value": 0.00035})
    primary = result.primary.model_copy(update={"estimate": tiny, "unresolved": 3})
    passages = claim_passages(result.model_copy(update={"primary": primary}), ["About pairs."])
    by_title = {passage.title: passage for passage in passages}
    assert len(by_title) == len(passages) == 10
    contrast = by_title["The contrast"]
    assert contrast.table is not None
    first = [cell.text for cell in contrast.table.rows[0]]
    assert first[0] == "before scaling (primary)"
    assert first[2:5] == [f"{tiny.ratio:.2f}", f"{tiny.low:.2f} to {tiny.high:.2f}", "0.00035"]
    assert any("3 of" in sentence and "standard error" in sentence for sentence in contrast[1])
    assert "About pairs." in by_title["Matched pairs"].sentences
    assert "2: failed, out of memory." in by_title["Not in the test"].sentences
    shares = by_title["Do size and pretraining account for it?"].table
    assert shares is not None
    assert {row[0].text for row in shares.rows} == {s.factor for s in result.variance_shares.shares}
    assert all(sentence.endswith(".") for passage in passages for sentence in passage.sentences)


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "no records here" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_code:
        main(["--table", "x.csv"])
    assert exit_code.value.code == 2
    registry = tmp_path / "registry.yaml"
    registry.write_text("version: 1\nclaim: {alpa: 0.05}\n")
    assert main([str(tmp_path), "--registry", str(registry)]) == 2
    assert "did you mean 'alpha'" in capsys.readouterr().err


def test_json_output_is_a_claim_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    columns = tmp_path / "columns.yaml"
    clean = runs(seeds=1, shifts=())
    clean[["model", "family", "mixer", "ece_15_none", "parameters"]].to_csv(table, index=False)
    columns.write_text(
        "columns: {model: model, family: family, mixer: mixer, error_before: ece_15_none,"
        " parameters: parameters}\n"
    )
    assert main(["--table", str(table), "--columns", str(columns), "--json"]) == 0
    result = ClaimResult.model_validate(json.loads(capsys.readouterr().out))
    assert result.metric == "calibration_error"
    assert result.secondary is None


def test_other_mixers_are_shown_but_not_in_the_contrast() -> None:
    frame = two_modalities(families=(4, 4))
    extra = runs(families=(3, 0), modality="mlp-like", seed=5)
    extra["mixer"], extra["dataset"], extra["modality"] = "mlp", "image-data", "image"
    both = pd.concat([frame, extra], ignore_index=True)
    result = evaluate_claim(both)
    assert result.primary is not None
    levels = {item.mixer: item for item in result.primary.levels}
    assert levels["mlp"].estimate is not None
    assert levels["mlp"].families == 3
    assert levels["convolution"].estimate is None
    assert result.primary.families == {"attention": 8, "convolution": 8}
