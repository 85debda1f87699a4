"""Published tables: the map, what is dropped, and Minderer et al. 2021."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.claim import evaluate_claim, main
from benchmark.claim.data import ClaimError
from benchmark.claim.published_table import TABLE_METRIC, read_table
from benchmark.claim.table_map import read_column_map

ROOT = Path(__file__).parents[1]
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
