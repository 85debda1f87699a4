"""How runs become rows: seeds, floors, covariates, and what is left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_frames import runs, two_modalities

from benchmark.claim.data import (
    ClaimError,
    checkpoints,
    dropped_runs,
    log_outcomes,
    seed_variance,
    squared_errors,
)
from benchmark.claim.design import build_design, connected_strata, dropped_checkpoints, family_cells
from benchmark.registry import Claim

METRIC = "debiased_calibration_error"


def design_of(frame: pd.DataFrame, claim: Claim | None = None, **options: object):
    averaged = checkpoints(frame)
    clean = averaged[~averaged["shifted"]].reset_index(drop=True)
    y = log_outcomes(clean, METRIC, "none")
    return clean, build_design(clean, y, claim or Claim(), **options)  # type: ignore[arg-type]


def reasons(design: object) -> dict[str, str]:
    return {item.name: item.reason for item in design.left_out}  # type: ignore[attr-defined]


def test_seeds_are_averaged_by_squares_with_sign() -> None:
    frame = runs(seeds=2, shifts=())
    model = frame["model"].iloc[0]
    frame.loc[frame["model"] == model, f"{METRIC}_none"] = [0.05, -0.03]
    frame.loc[frame["model"] == model, "ece_15_none"] = [0.05, 0.03]
    row = checkpoints(frame).set_index("model").loc[model]
    assert row[f"{METRIC}_none"] == pytest.approx(np.sqrt((0.05**2 - 0.03**2) / 2))
    assert row["ece_15_none"] == pytest.approx(0.04)
    assert row["seeds"] == 2


def test_failed_runs_are_listed_and_not_averaged() -> None:
    frame = runs(seeds=2, shifts=())
    whole = checkpoints(frame)
    extra = frame.iloc[[0]].assign(seed=7, status="failed", split=None, shifted=None)
    extra[f"{METRIC}_none"] = np.nan
    frame = pd.concat([frame, extra], ignore_index=True)
    pd.testing.assert_frame_equal(checkpoints(frame), whole, check_dtype=False)
    (dropped,) = dropped_runs(frame)
    assert dropped.name.endswith("/seed-7")
    assert dropped.status == "failed"


def test_covariates_are_logs_and_test_error_is_of_the_clean_split() -> None:
    frame = runs(seeds=1)
    frame.loc[frame["shifted"], "accuracy_none"] = 0.1
    averaged = checkpoints(frame)
    assert averaged["log_parameters"].to_numpy() == pytest.approx(np.log(averaged["parameters"]))
    assert (averaged["log_pretraining_examples"] == 0).all()
    assert averaged["test_error"].max() <= 0.2 + 1e-9
    assert set(averaged["label_smoothing"]) == {0.0}


def test_loss_and_teacher_become_flags_and_gaps_stay_gaps() -> None:
    frame = runs(seeds=1, shifts=())
    models = sorted(frame["model"].unique())[:4]
    facts = {
        "loss": ["binary_cross_entropy", "cross_entropy", "none", None],
        "teacher_mixer": ["convolution", "attention", None, None],
        "distillation": [True, True, False, None],
    }
    for column, values in facts.items():
        known = dict(zip(models, values, strict=True))
        frame[column] = frame["model"].map(lambda name, known=known: known.get(name)).astype(object)
    averaged = checkpoints(frame).set_index("model").loc[models]
    expected = [1.0, 0.0, 0.0, np.nan]
    np.testing.assert_array_equal(averaged["binary_cross_entropy"], expected)
    np.testing.assert_array_equal(averaged["convolutional_teacher"], expected)


def test_squares_come_with_the_parts_of_their_variance() -> None:
    frame = runs(seeds=2, shifts=())
    squared = frame[f"{METRIC}_none"] ** 2
    z, null, slope = 1.959964, 1e-8, 1e-4
    reach = z * np.sqrt(null + slope * squared + (z * slope / 2) ** 2)
    frame[f"{METRIC}_squared_none_low"] = squared + z**2 * slope / 2 - reach
    frame[f"{METRIC}_squared_none_high"] = squared + z**2 * slope / 2 + reach
    errors = squared_errors(checkpoints(frame), METRIC, "none")
    assert errors.null_variance == pytest.approx(np.full(len(errors.squared), null), rel=1e-4)
    assert errors.slope == pytest.approx(np.full(len(errors.squared), slope), rel=1e-4)
    means = squared.groupby(frame["model"]).mean()
    assert errors.squared == pytest.approx(means.to_numpy())
    assert errors.resolved.all()


def test_negative_squares_stay_negative() -> None:
    frame = runs(seeds=1, shifts=())
    frame.loc[0, f"{METRIC}_none"] = -0.02
    errors = squared_errors(checkpoints(frame), METRIC, "none")
    assert errors.squared.min() == pytest.approx(-(0.02**2))


def test_an_exact_error_of_zero_is_known_no_better_than_the_smallest() -> None:
    frame = runs(seeds=1, shifts=())
    frame.loc[0, "ece_15_none"] = 0.0
    errors = squared_errors(checkpoints(frame), "ece_15", "none")
    smallest = frame["ece_15_none"].iloc[1:].min()
    assert errors.null_variance.max() == pytest.approx(smallest**4)
    assert (errors.null_variance > 0).sum() == 1


def test_logs_of_the_curve_have_a_floor() -> None:
    frame = runs(seeds=1, shifts=())
    frame.loc[0, f"{METRIC}_none"] = 0.0
    averaged = checkpoints(frame)
    logs = log_outcomes(averaged, METRIC, "none")
    assert np.isfinite(logs).all()
    smallest = frame[f"{METRIC}_none"].iloc[1:].min()
    assert np.exp(logs.min()) == pytest.approx(smallest / 2)


def test_divergences_are_put_on_the_scale_of_errors() -> None:
    averaged = checkpoints(runs(seeds=1, shifts=()))
    logs = log_outcomes(averaged, "brier_calibration", "none")
    assert np.exp(2 * logs) == pytest.approx(averaged["brier_calibration_none"].to_numpy())


def test_a_metric_that_is_missing_or_infinite_has_no_outcome() -> None:
    frame = runs(seeds=1, shifts=())
    frame.loc[0, "ece_15_none"] = np.nan
    frame.loc[1, "ece_15_none"] = np.inf
    values = log_outcomes(checkpoints(frame), "ece_15", "none")
    assert np.isnan(values).sum() == 2


def test_covariates_without_use_are_named_with_the_reason() -> None:
    _, design = design_of(runs(families=(6, 6)))
    assert design.covariates == ("log_parameters", "test_error")
    assert reasons(design)["log_pretraining_examples"] == "the same for every checkpoint"
    assert reasons(design)["mixup"] == "the same for every checkpoint"
    assert np.linalg.matrix_rank(design.x) == design.x.shape[1]


def test_a_covariate_that_the_mixer_determines_is_left_out() -> None:
    frame = runs(families=(6, 6))
    frame["mixup"] = frame["mixer"] == "attention"
    _, design = design_of(frame)
    assert "determined by the mixer" in reasons(design)["mixup"]


def test_a_covariate_nobody_reports_is_left_out() -> None:
    frame = runs(families=(6, 6))
    frame["pretraining_examples"] = None
    _, design = design_of(frame)
    assert reasons(design)["log_pretraining_examples"] == "unknown for every checkpoint"
    assert len(design.rows) == 24


def test_few_families_do_not_carry_covariates_between_families() -> None:
    frame = runs(families=(3, 3), checkpoints=1)
    generator = np.random.default_rng(0)
    frame["pretraining_examples"] = frame["model"].map(
        {model: 10 ** generator.uniform(3, 8) for model in frame["model"].unique()}
    )
    _, design = design_of(frame)
    assert design.covariates == ("log_parameters",)
    assert "would leave fewer than 3" in reasons(design)["log_pretraining_examples"]


def test_covariates_that_vary_within_families_take_no_family_away() -> None:
    _, design = design_of(runs(families=(2, 2), checkpoints=4))
    assert design.covariates == ("log_parameters", "test_error")
    assert design.family_df == 2


def test_rows_without_a_covariate_in_use_are_dropped_and_listed() -> None:
    frame = runs(families=(6, 6))
    generator = np.random.default_rng(0)
    models = frame["model"].unique()
    amounts = {model: 10 ** generator.uniform(3, 8) for model in models}
    unknown = models[0]
    frame["pretraining_examples"] = frame["model"].map(amounts | {unknown: np.nan})
    clean, design = design_of(frame)
    assert "log_pretraining_examples" in design.covariates
    assert unknown not in set(clean.iloc[design.rows]["model"])
    (dropped,) = dropped_checkpoints(clean, design)
    assert dropped.name.startswith(unknown)
    assert dropped.reason == "lacks log_pretraining_examples"


def test_a_covariate_known_for_one_side_only_is_left_out() -> None:
    frame = runs(families=(6, 6))
    generator = np.random.default_rng(0)
    sizes = frame["mixer"].map({"attention": 1.0, "convolution": np.nan})
    frame["pretraining_examples"] = sizes * 10 ** generator.uniform(3, 8, len(frame))
    _, design = design_of(frame)
    assert "too few for the contrast" in reasons(design)["log_pretraining_examples"]
    assert len(design.rows) == 24


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (runs(families=(4, 0)), "no checkpoint is known to mix by convolution"),
        (runs(families=(1, 1)), "2 families cannot tell"),
    ],
)
def test_designs_without_a_contrast_say_why(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ClaimError, match=message):
        design_of(frame)


def test_mixers_that_never_meet_on_a_dataset_cannot_be_compared() -> None:
    frame = runs(families=(4, 4))
    frame.loc[frame["mixer"] == "attention", "dataset"] = "elsewhere"
    with pytest.raises(ClaimError, match="no dataset has both"):
        design_of(frame)


def test_modalities_are_strata_of_their_own() -> None:
    frame = checkpoints(two_modalities())
    strata = connected_strata(frame["family"], frame["dataset"])
    by_modality = pd.Series(strata).groupby(frame["modality"].to_numpy()).unique()
    assert sorted(map(tuple, by_modality)) == [(0,), (1,)]


def test_datasets_that_share_a_family_are_one_stratum() -> None:
    family = pd.Series(["a", "a", "b", "c"])
    dataset = pd.Series(["x", "y", "x", "y"])
    assert connected_strata(family, dataset).tolist() == [0, 0, 0, 0]


def test_a_family_of_two_mixers_is_two_units() -> None:
    used = pd.DataFrame(
        {"family": ["clip", "clip", "vit"], "mixer": ["attention", "convolution", "attention"]}
    )
    assert len(set(family_cells(used))) == 3


def test_other_mixers_get_a_level_each() -> None:
    frame = pd.concat([runs(families=(4, 4)), runs(families=(2, 0), seed=9)], ignore_index=True)
    added = frame.index >= len(frame) - len(runs(families=(2, 0)))
    frame.loc[added, "mixer"] = "hybrid"
    frame.loc[added, "family"] = "hybrid-" + frame.loc[added, "family"]
    frame.loc[added, "model"] = "hybrid-" + frame.loc[added, "model"]
    _, design = design_of(frame)
    assert design.names[0] == "mixer attention"
    assert "mixer hybrid" in design.names


def test_seed_variance_is_recovered() -> None:
    found = seed_variance(runs(families=(20, 20), seeds=4, noise_sd=0.3), METRIC, "none")
    assert found.standard_deviation == pytest.approx(0.3, rel=0.1)
    assert found.seeds == 4


def test_one_seed_has_no_variance_between_seeds() -> None:
    assert seed_variance(runs(seeds=1), METRIC, "none").standard_deviation is None
