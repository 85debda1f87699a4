"""Published tables: the map, what is dropped, and Minderer et al. 2021."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.claim import evaluate_claim, main
from benchmark.claim.data import ClaimError
from benchmark.claim.published_table import TABLE_METRIC, error_variances, read_table
from benchmark.claim.table_map import read_column_map

ROOT = Path(__file__).parents[1]
IMAGENET = ROOT.parent / "shared" / "data" / "tables" / "imagenet_timm_1116.csv"
IMAGENET_MAP = ROOT / "docs" / "examples" / "imagenet_timm_columns.yaml"
MINDERER = ROOT.parent / "shared" / "data" / "tables" / "minderer2021_fig2_vector.csv"
MINDERER_MAP = ROOT / "docs" / "examples" / "minderer2021_columns.yaml"

MAP = """
columns:
  model: name
  family: family
  mixer: {from: name, rules: {"vit*": attention, "*": convolution}}
  error_before: ece
  accuracy: accuracy
drop:
  - {column: temperature, above: 100, reason: the fit ran away}
  - {column: temperature, equals: 1.5, reason: the optimiser never left its start}
"""
TABLE = """name,family,ece,accuracy,temperature
vit-s,ViT,0.02,0.8,1.1
vit-b,ViT,0.03,0.81,200
resnet,ResNet,0.05,0.79,1.5
regnet,RegNet,,0.79,1.2
"""
PERCENT = TABLE.replace(",0.0", ",")


def files(tmp_path: Path, table: str = TABLE, columns: str = MAP) -> tuple[Path, Path]:
    paths = tmp_path / "table.csv", tmp_path / "map.yaml"
    for path, text in zip(paths, (table, columns), strict=True):
        path.write_text(text)
    return paths


def test_facts_come_from_columns_rules_and_constants(tmp_path: Path) -> None:
    frame = read_table(*files(tmp_path)).frame.set_index("model")
    assert frame.loc["vit-s", "mixer"] == "attention"
    assert frame.loc["resnet", "mixer"] == "convolution"
    assert frame.loc["vit-s", "calibration_error_none"] == 0.02
    assert set(frame["dataset"]) == {"this table"}
    assert frame.loc["vit-s", "accuracy_none"] == 0.8
    assert frame["parameters"].isna().all()


def test_failed_fits_are_filtered_by_rule_and_counted(tmp_path: Path) -> None:
    frame = read_table(*files(tmp_path)).frame.set_index("model")
    assert frame["status"].to_dict() == {
        "vit-s": "completed",
        "vit-b": "skipped",
        "resnet": "skipped",
        "regnet": "skipped",
    }
    result = evaluate_claim(frame.reset_index(), metric=TABLE_METRIC)
    assert {item.reason for item in result.dropped} == {
        "the fit ran away",
        "the optimiser never left its start",
        "no calibration error in the table",
    }


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (TABLE, MAP.replace("model: name", "model: nam"), "no column 'nam', did you mean 'name'"),
        (TABLE, MAP.replace("accuracy: acc", "acuracy: acc"), "did you mean 'accuracy'"),
        (TABLE, MAP.replace("convolution}", "conv}"), "line 4: unknown mixer 'conv'"),
        (TABLE, MAP.replace("  error_before: ece\n", ""), "name the calibration error"),
        (TABLE.replace("0.02", "two"), MAP, "line 2: 'ece' is 'two', not a number"),
        (TABLE.replace("0.02", "-0.02"), MAP, "line 2: 'ece' is -0.02, below 0"),
        (TABLE.replace("0.8,", "80,"), MAP, "fractions of 1, not percentages"),
        (TABLE.replace("ResNet", ""), MAP, "line 4: 'family' is missing"),
        ("name\n", MAP, "has no rows"),
        ("", MAP, "has no rows"),
        (TABLE.replace("0.02", "2.1"), MAP, "line 2: 'ece' is 2.1, and 1 of 3 values are above 1"),
        (PERCENT, MAP, "line 2: 'ece' is 2, and 3 of 3 values are above 1; errors and accuracies"),
        (PERCENT, MAP, "say so with {column: ..., percent: true}"),
        (TABLE.replace("0.02", "0,02"), MAP.replace("ece", "nr"), "line 2: has 6 cells, but the"),
        (TABLE.replace("0.79,1.2", "0.79"), MAP, "line 5: has 4 cells, but the header has 5"),
        (TABLE.replace("0.02", "inf"), MAP, "line 2: 'ece' is 'inf', not a number"),
        (
            TABLE.replace("200", "ran off"),
            MAP,
            "line 3: 'temperature', which a drop rule compares,",
        ),
        (TABLE.replace("family", "name", 1), MAP, "the column 'name' stands twice"),
        ("\n\n" + TABLE.replace("ViT,", ",", 1), MAP, "line 4: 'family' is missing"),
        (TABLE.replace("vit-s", '"vit-\ns"').replace("0.03", "x"), MAP, "line 4: 'ece' is 'x'"),
        (TABLE, "columns: [", "not valid YAML"),
        (TABLE, "columns: 3", "columns"),
        (TABLE, MAP.replace(", above: 100", ""), "a drop rule needs"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, table: str, columns: str, message: str) -> None:
    with pytest.raises(ClaimError) as error:
        read_table(*files(tmp_path, table, columns))
    assert message in str(error.value)


@pytest.mark.parametrize("dash", ["-", "\u2013", "n/a", "NaN", " "])
def test_a_dash_is_no_value_and_leaves_the_rules_as_they_are(tmp_path: Path, dash: str) -> None:
    expected = read_table(*files(tmp_path)).frame["status"].tolist()
    for cell in ("1.1", "1.2"):
        table = TABLE.replace(f",{cell}\n", f",{dash}\n")
        assert read_table(*files(tmp_path, table)).frame["status"].tolist() == expected
    reworded = TABLE.replace("1.5", "1.50")
    assert read_table(*files(tmp_path, reworded)).frame["status"].tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("\n", ",,\n").replace(",,\n", "\n", 1),
        lambda text: text.replace(",", ", "),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    ],
)
def test_tables_as_people_write_them_mean_the_same(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    pd.testing.assert_frame_equal(
        read_table(*files(tmp_path, change(TABLE))).frame, read_table(*files(tmp_path)).frame
    )


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, columns = files(tmp_path)
    assert main(["--table", "nowhere.csv", "--columns", str(columns)]) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert main(["--table", str(table), "--columns", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_rows_of_one_model_are_its_seeds(tmp_path: Path) -> None:
    frame = read_table(*files(tmp_path, TABLE + "vit-s,ViT,0.04,0.8,1.1\n")).frame
    assert frame.loc[frame["model"] == "vit-s", "seed"].tolist() == [0, 1]


def test_flags_are_read_as_words(tmp_path: Path) -> None:
    table = "name,family,ece,accuracy,temperature,mixup\na,A,.1,.5,1,yes\nb,B,.1,.5,1,0\n"
    columns = MAP.replace("accuracy: accuracy", "accuracy: accuracy\n  mixup: mixup")
    assert read_table(*files(tmp_path, table, columns)).frame["mixup"].tolist() == [True, False]
    with pytest.raises(ClaimError, match="not true or false"):
        read_table(*files(tmp_path, table.replace("yes", "maybe"), columns))


needs_minderer = pytest.mark.skipif(
    not MINDERER.exists(), reason=f"needs the published table {MINDERER.name} of the shared data"
)


def test_example_map_is_valid() -> None:
    assert read_column_map(MINDERER_MAP).title.startswith("Minderer")


@needs_minderer
def test_minderer_runs_and_says_what_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_table(MINDERER, MINDERER_MAP).frame
    assert len(frame) == 26
    assert frame["mixer"].value_counts().to_dict() == {
        "convolution": 16,
        "attention": 6,
        "mlp": 4,
    }
    assert frame["parameters"].notna().all()
    assert frame["pretraining_examples"].notna().all()
    result = evaluate_claim(frame, metric=TABLE_METRIC)
    assert result.primary is not None
    assert result.permutation is not None
    # Two attention families (ViT and half of CLIP) among seven: 21 labellings.
    assert result.permutation.assignments == 21
    assert result.permutation.smallest_p == pytest.approx(1 / 21)
    assert result.primary.families == {"attention": 2, "convolution": 5}
    assert result.verdict.outcome == "undecided"
    assert main(["--table", str(MINDERER), "--columns", str(MINDERER_MAP)]) == 0
    assert capsys.readouterr().out.startswith("# The claim: Minderer")


def test_a_thousand_rows_of_ninety_families_take_seconds(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    family = np.arange(1000) % 90
    attention = family < 45
    table = pd.DataFrame(
        {
            "name": [f"{'vit' if a else 'cnn'}-{i}" for i, a in enumerate(attention)],
            "family": [f"family-{number}" for number in family],
            "ece": np.exp(
                -3
                + generator.normal(0, 0.3, 90)[family]
                + generator.normal(0, 0.3, 1000)
                - 0.4 * attention
            ),
            "accuracy": generator.uniform(0.6, 0.9, 1000),
            "temperature": 1.0,
        }
    )
    started = time.perf_counter()
    frame = read_table(*files(tmp_path, table.to_csv(index=False))).frame
    result = evaluate_claim(frame, metric=TABLE_METRIC)
    assert time.perf_counter() - started < 60
    assert result.verdict.outcome == "supported"
    assert result.primary is not None
    assert result.primary.estimate.ratio == pytest.approx(np.exp(-0.4), rel=0.15)


# --- The map ------------------------------------------------------------------------------------


def test_a_percentage_that_is_declared_is_divided(tmp_path: Path) -> None:
    table = TABLE.replace("0.8,", "80,").replace("0.81,", "81,").replace("0.79,", "79,")
    columns = MAP.replace("accuracy: accuracy", "accuracy: {column: accuracy, percent: true}")
    frame = read_table(*files(tmp_path, table, columns)).frame
    expected = read_table(*files(tmp_path)).frame
    assert frame["accuracy_none"].tolist() == pytest.approx(expected["accuracy_none"].tolist())
    with pytest.raises(ClaimError, match="line 2: 'accuracy' is 180, above 100 percent"):
        read_table(*files(tmp_path, table.replace("80,", "180,"), columns))


def test_rules_can_go_by_the_family_that_other_rules_gave(tmp_path: Path) -> None:
    columns = MAP.replace(
        'family: family\n  mixer: {from: name, rules: {"vit*": attention, "*": convolution}}',
        'family: {from: name, rules: {"vit-*": A, "*": B}}\n'
        "  mixer: {from: family, rules: {A: attention, B: convolution}}",
    )
    table = TABLE.replace(",family", ",unused")
    frame = read_table(*files(tmp_path, table, columns)).frame
    assert frame["family"].tolist() == ["A", "A", "B", "B"]
    assert frame["mixer"].tolist() == ["attention"] * 2 + ["convolution"] * 2
    circle = columns.replace('{from: name, rules: {"vit-*"', '{from: family, rules: {"vit-*"')
    with pytest.raises(ClaimError, match="has no column 'family'"):
        read_table(*files(tmp_path, table, circle))


def test_what_no_rule_matches_is_listed(tmp_path: Path) -> None:
    columns = MAP.replace('{"vit*": attention, "*": convolution}', '{"vit-s": attention}')
    with pytest.raises(ClaimError) as error:
        read_table(*files(tmp_path, TABLE, columns))
    assert (
        "no rule on 'name' matches 'vit-b' (line 3), 'resnet' (line 4), 'regnet' (line 5); add a"
        " rule for each, or '*' for all others"
    ) in str(error.value)


@pytest.mark.skipif(not IMAGENET.exists(), reason=f"needs {IMAGENET.name} in shared/data/tables")
def test_the_map_of_imagenet_names_every_model_by_a_rule_that_is_used() -> None:
    mapping = read_column_map(IMAGENET_MAP).columns
    frame = read_table(IMAGENET, IMAGENET_MAP).frame
    assert frame.groupby("mixer")["model"].size().to_dict() == {
        "attention": 280,
        "convolution": 666,
        "hybrid": 143,
        "mlp": 14,
        "other": 13,
    }
    assert frame.groupby("mixer")["family"].nunique().to_dict() == {
        "attention": 25,
        "convolution": 64,
        "hybrid": 19,
        "mlp": 3,
        "other": 2,
    }
    assert (frame["status"] == "completed").sum() == 1096
    for name in ("family", "mixer", "pretraining_examples", "distillation"):
        fact = getattr(mapping, name)
        used = {
            next(rule for rule in fact.rules if fnmatchcase(value, rule))
            for value in frame[fact.source]
        }
        assert set(fact.rules) == used, name
        assert ("*" in fact.rules) == (name in ("pretraining_examples", "distillation"))


# --- How well published errors are known --------------------------------------------------------


@pytest.mark.parametrize(("rows", "bins", "gap"), [(2000, 15, 0.0), (2000, 15, 0.1), (500, 5, 0.2)])
def test_variances_from_rows_and_bins_are_upper_limits(rows: int, bins: int, gap: float) -> None:
    """Of simulated predictions, squared ECEs vary by at most what the formula says."""
    generator = np.random.default_rng(0)
    squares, debiased = [], []
    for _ in range(1500):
        confidence = generator.uniform(0.6, 0.9, rows)
        right = generator.random(rows) < confidence - gap
        which = np.minimum(((confidence - 0.6) / 0.3 * bins).astype(int), bins - 1)
        counts = np.bincount(which, minlength=bins)
        gaps = np.bincount(which, right - confidence, minlength=bins) / counts
        squares.append(float(np.average(np.abs(gaps), weights=counts)) ** 2)
        debiased.append(float(np.average(gaps**2, weights=counts)))
    accuracy = np.array([0.75 - gap])
    null, slope = error_variances(accuracy, np.array([float(rows)]), bins)
    limit = float(null[0] + slope[0] * gap**2)
    assert np.var(squares) < limit
    # The root mean square's variance is the one that the formula bounds closely.
    assert 0.75 * limit < np.var(debiased) < 1.1 * limit


def test_variances_come_with_rows_and_bins_only(tmp_path: Path) -> None:
    columns = "bins: 15\n" + MAP.replace("accuracy: accuracy", "accuracy: accuracy\n  test_rows: n")
    table = TABLE.replace("temperature\n", "temperature,n\n").replace("1.1\n", "1.1,1000\n")
    table = table.replace("200\n", "200,\n").replace("1.5\n", "1.5,\n").replace("1.2\n", "1.2,\n")
    known = read_table(*files(tmp_path, table, columns))
    column = f"{TABLE_METRIC}_squared_none_null_variance"
    assert known.frame[column].notna().tolist() == [True, False, False, False]
    assert known.frame[column][0] == pytest.approx(2 * 15 * (0.8 * 0.2 / 1000) ** 2)
    assert "1,000 test rows, 15 bins" in known.variances
    without = read_table(*files(tmp_path, table, columns.replace("bins: 15\n", "")))
    assert column not in without.frame
    assert "the map gives no number of bins" in without.variances
