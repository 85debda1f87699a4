"""Figures: nothing overlaps or is cut, palette and text are consistent, SVG is reproducible."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from synthetic import MODELS, TEXT_MODELS, FakeModel, write_tree

from benchmark.claim import evaluate_claim
from benchmark.registry import Claim, Mixer
from benchmark.report import (
    across_table,
    choice_figure,
    claim_figures,
    figure_style,
    figures,
    scatter_figures,
    temperature_figures,
)
from benchmark.report.across_table import across_tables
from benchmark.report.choice import choose
from benchmark.report.contents import Contents, _about_sizes, _ask_across, _sections
from benchmark.report.data import UNKNOWN, ReportData, over_seeds
from benchmark.report.drawings import Drawings, done
from benchmark.report.evaluations import evaluate_models
from benchmark.report.figure_style import MIXER_COLORS, MIXER_MARKERS, Drawing
from benchmark.report.reading import read_suite
from benchmark.report.reliability import BINS, reliability


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    results = tmp_path_factory.mktemp("small")
    write_tree(results, rows=300)
    write_tree(results, TEXT_MODELS, ["bbc-sentences"], rows=300, classes=5)
    return read_suite(results, "embedded")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    results = tmp_path_factory.mktemp("crowded")
    mixers = list(MIXER_COLORS)
    models = [
        FakeModel(
            f"a-model-with-a-rather-long-name-{i}",
            mixers[i % 5],
            f"A family with a long name {i % 40} $x$ <&>",
            10_000 * (i + 1),
            2 + i / 40,
            0.8 + i / 60,
            0.3 + i,
        )
        for i in range(70)
    ]
    write_tree(results, models, ["one", "two"], rows=120, classes=4, seeds=[0], with_logits=True)
    return read_suite(results, "embedded")


@dataclass
class Drawn:
    """All drawings of a report, and the figures they were rendered from."""

    drawings: list[Drawing]
    figures: list[Figure]


def draw_all(data: ReportData) -> Drawn:
    kept: list[Figure] = []
    render = figure_style.to_svg

    def keep(figure: Figure) -> str:
        kept.append(figure)
        return render(figure)

    with pytest.MonkeyPatch.context() as patch:
        for module in (across_table, choice_figure, claim_figures, figures, scatter_figures):
            patch.setattr(module, "to_svg", keep)
        patch.setattr(temperature_figures, "to_svg", keep)
        table = over_seeds(data.in_distribution)
        evaluations, problems = evaluate_models(data, table)
        assert not problems
        asked = Drawings()
        drawings = [
            d for section in _sections(data, table, evaluations, asked) for d in section.drawings
        ]
        drawings += done(_ask_across(data, table, asked))
        choice = choose(data)
        drawings += [across.drawing for across in across_tables(table, choice, asked)]
        result = evaluate_claim(data.frame.drop(columns="folder"), Claim())
        extra = [
            choice_figure.front_figure(choice, "front"),
            claim_figures.forest(result, "contrast"),
            claim_figures.variance_shares(result.variance_shares, "variance-shares"),
            claim_figures.specification_curve(result, "specification-curve"),
        ]
    return Drawn(drawings + [drawing for drawing in extra if drawing is not None], kept)


@pytest.fixture(scope="module")
def small_drawn(small: ReportData) -> Drawn:
    return draw_all(small)


@pytest.fixture(scope="module")
def crowded_drawn(crowded: ReportData) -> Drawn:
    return draw_all(crowded)


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """What is really drawn: ticks out of view exist as artists, but draw nothing."""
    canvas = FigureCanvasAgg(figure)
    drawn: list[Text] = []
    draw = Text.draw

    def record(text: Text, renderer: object) -> None:
        drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        canvas.draw()
    shown = [text for text in drawn if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in shown]


@pytest.mark.parametrize("which", ["small_drawn", "crowded_drawn"])
def test_no_text_overlaps_or_leaves_the_figure(which: str, request: pytest.FixtureRequest) -> None:
    drawn: Drawn = request.getfixturevalue(which)
    assert len(drawn.figures) == len(drawn.drawings) >= 8
    for figure in drawn.figures:
        boxes = texts(figure)
        assert boxes
        edges = figure.bbox.padded(1)
        for text, box in boxes:
            inside = edges.contains(box.x0, box.y0) and edges.contains(box.x1, box.y1)
            assert inside, f"cut: {text!r}"
        for index, (text, box) in enumerate(boxes):
            for other, rival in boxes[index + 1 :]:
                inner = Bbox.intersection(box, rival)
                overlap = inner is not None and min(inner.width, inner.height) > 2
                assert not overlap, f"{text!r} overlaps {other!r}"


def test_every_text_has_the_style_also_where_it_is_made_late(crowded_drawn: Drawn) -> None:
    """A tick made outside the style would set $x$ in a family's name as mathematics."""
    for figure in crowded_drawn.figures:
        for text in figure.findobj(Text):
            assert not text.get_parse_math(), text.get_text()
            assert text.get_fontname() == "DejaVu Sans"


def test_marks_have_the_colour_and_the_place_of_their_models(small: ReportData) -> None:
    table = over_seeds(small.in_distribution)
    rows = table[table["dataset"] == "mnist-5k"]
    figure = Figure()
    axes = figure.subplots()
    scatter_figures._draw_models(axes, rows, scatter_figures.ACCURACY, scatter_figures.ERROR)
    wanted = {
        MIXER_COLORS[mixer]: 100 * own[["accuracy_none", scatter_figures.ERROR]].to_numpy(float)
        for mixer, own in rows.groupby("mixer")
    }
    drawn = {tuple(m.get_facecolor()[0, :3]): m.get_offsets() for m in axes.collections[1:]}
    assert sum(map(len, wanted.values())) == len(rows) == 7
    for colour, places in wanted.items():
        np.testing.assert_allclose(drawn[colour], places)


def test_lines_under_shift_are_means_and_bands_the_middle_of_models(crowded: ReportData) -> None:
    table = over_seeds(crowded.scored)
    error = "debiased_calibration_error_temperature"
    rows = table[table["dataset"] == "one"].assign(
        severity=lambda t: t["split"].str.extract(r"-(\d+)$")[0].astype(float)
    )
    axes = Figure().subplots()
    figures._shift_panel(axes, rows, error)
    clean = 100 * rows.loc[(rows["mixer"] == "mlp") & (rows["split"] == "test"), error]
    drawn = {tuple(line.get_color()): line.get_ydata() for line in axes.lines}
    assert drawn[MIXER_COLORS["mlp"]][0] == pytest.approx(clean.mean())
    bands = [band.get_paths()[0].vertices for band in axes.collections]
    ends = [sorted(set(band[band[:, 0] == 0, 1])) for band in bands]
    assert any(np.allclose(end, np.quantile(clean, [0.1, 0.9])) for end in ends if len(end) == 2)


def test_one_model_without_noise_floor_is_drawn(small: ReportData) -> None:
    table = over_seeds(small.in_distribution)[:1].assign(ece_15_temperature_floor_q95=float("nan"))
    assert "of 1 models" in figures.dumbbell(table, "one", "x").alt


def test_drawings_are_whole_and_reproducible(small: ReportData, small_drawn: Drawn) -> None:
    first, second = small_drawn.drawings, draw_all(small).drawings
    assert [d.name for d in first] == [d.name for d in second]
    for one, other in zip(first, second, strict=True):
        assert one.svg == other.svg, one.name
        assert one.caption.endswith(".")
        assert one.alt.endswith(".")
        root = ElementTree.fromstring(one.svg)
        assert root.tag.endswith("svg")
        assert "<metadata" not in one.svg
        assert "<!--" not in one.svg
        assert not re.search(r"https?://(?!www\.w3\.org/)", one.svg), "nothing is fetched"


def test_captions_say_how_many_and_how_intervals_were_made(small_drawn: Drawn) -> None:
    for drawing in small_drawn.drawings:
        assert re.search(r"\d", drawing.caption + drawing.method), drawing.name
        assert re.search(r"[Ii]nterval|95%", drawing.caption + drawing.method), drawing.name
        assert len(drawing.caption) < 330, drawing.name


def test_crowded_figures_say_what_is_left_out(crowded_drawn: Drawn) -> None:
    captions = {d.name: f"{d.caption} {d.method}" for d in crowded_drawn.drawings}
    assert "30 of 40 families, the largest of every mixer in turn" in captions["ece-one"]
    assert "16 of 70 models" in captions["reliability-one"]
    assert "mean of a family" in captions["error-by-parameters"]


def test_many_temperatures_of_a_family_become_a_box(crowded: ReportData) -> None:
    table = over_seeds(crowded.in_distribution).assign(family=lambda rows: rows["mixer"])
    drawing = temperature_figures.temperature_by_family(table, "x")
    assert drawing is not None
    assert "the mark is the median" in drawing.method
    axes = Figure().subplots()
    rows = table[table["family"] == "mlp"].assign(position=0)
    low, high = temperature_figures._draw_boxes(axes, rows)
    values = rows["temperature"].to_numpy(float)
    assert low == pytest.approx(min(1, np.quantile(values, 0.025)))
    assert high == pytest.approx(np.quantile(values, 0.975))
    thick = axes.collections[1].get_segments()[0]
    np.testing.assert_allclose(thick[:, 0], np.quantile(values, [0.25, 0.75]))
    assert axes.collections[2].get_offsets()[0, 0] == pytest.approx(np.median(values))


def test_models_are_counted_once_however_many_datasets(crowded_drawn: Drawn) -> None:
    across = [d for d in crowded_drawn.drawings if d.name in ("latency-and-error", "front")]
    assert len(across) == 2
    for drawing in across:
        assert "70 model" in drawing.caption
        assert "140" not in drawing.caption + drawing.method + drawing.alt


def test_front_of_a_crowded_panel_is_named(crowded: ReportData) -> None:
    kept: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scatter_figures, "to_svg", lambda figure: kept.append(figure) or "")
        scatter_figures.pareto(over_seeds(crowded.in_distribution), "x")
    table = over_seeds(crowded.in_distribution)
    rows = table[table["dataset"] == "one"]
    error = "debiased_calibration_error_temperature"
    front = rows.iloc[scatter_figures.undominated(rows["latency_p50_ms"], rows[error])]
    short = figure_style.short_names([*front["model"]], 18)
    named = {text.get_text() for text in kept[0].axes[0].texts}
    assert named
    assert named <= set(short.values())


def test_every_mixer_has_its_own_colour_and_marker() -> None:
    from typing import get_args

    assert set(MIXER_COLORS) == set(MIXER_MARKERS) == {*get_args(Mixer), UNKNOWN}
    assert len(set(MIXER_COLORS.values())) == len(set(MIXER_MARKERS.values())) == 6


def test_pareto_front_against_brute_force() -> None:
    rng = np.random.default_rng(3)
    costs, errors = rng.random(60).round(1), rng.random(60).round(1)
    front = scatter_figures.undominated(costs, errors)
    points = {(costs[i], errors[i]) for i in front}
    for cost, error in zip(costs, errors, strict=True):
        better = [
            (c, e)
            for c, e in zip(costs, errors, strict=True)
            if c <= cost and e <= error and (c, e) != (cost, error)
        ]
        assert ((cost, error) in points) == (not better)
    assert list(costs[front]) == sorted(costs[front])


def test_reliability_counts_every_row_once_and_bands_hold_calibrated_models() -> None:
    rng = np.random.default_rng(5)
    inside = total = 0
    for _ in range(40):
        confidence = rng.uniform(0.3, 1, 2000)
        confidence[:3] = 1.0
        correct = rng.random(2000) < confidence
        diagram = reliability(confidence, correct)
        assert diagram.counts.sum() == 2000
        assert len(diagram.counts) == BINS
        used = diagram.counts > 0
        mean = np.average(diagram.accuracy[used], weights=diagram.counts[used])
        assert math.isclose(mean, correct.mean())
        low, high = diagram.band_low[used], diagram.band_high[used]
        inside += int(((diagram.accuracy[used] >= low) & (diagram.accuracy[used] <= high)).sum())
        total += int(used.sum())
    assert 0.93 <= inside / total <= 0.99


def test_long_names_are_shortened_in_the_middle() -> None:
    assert figure_style.shorten("abcdefghij", 5) == "ab…ij"
    assert figure_style.shorten("abcde", 5) == "abcde"


@given(st.lists(st.text("ab-", max_size=60), unique=True, max_size=12), st.integers(8, 30))
def test_short_names_stay_apart_and_short(names: list[str], limit: int) -> None:
    short = figure_style.short_names(names, limit)
    assert list(short) == names
    assert len(set(short.values())) == len(names)


def test_names_that_part_in_the_middle_are_cut_around_it() -> None:
    names = [f"vision-transformer-base-{kind}-patch16-224-in21k-finetuned" for kind in "ab"]
    short = figure_style.short_names(names, 20)
    assert all(len(text) <= 21 for text in short.values())
    assert len(set(short.values())) == 2


def test_sizes_that_are_alike_are_not_drawn(small: ReportData) -> None:
    """Models of 185 to 351 thousand parameters; the reader is told in place of a figure."""
    table = over_seeds(small.in_distribution)
    contents = Contents(small, about_sizes=_about_sizes(table))
    contents.asked["across"] = _ask_across(small, table, Drawings())
    assert "error-by-parameters" not in [drawing.name for drawing in contents.across]
    assert "185k to 351k" in contents.not_drawn[0]


def test_shares_that_chance_explains_are_not_drawn() -> None:
    from benchmark.claim import VarianceShares

    share = {"factor": "size", "share": 0.3, "high": 0.6, "columns": 1, "probability_largest": 1}
    told = [{**share, "low": low, "by_chance": 0.1} for low in (0.05, 0.2)]
    shares = [VarianceShares(shares=[one], families=9, resamples=100) for one in told]
    assert claim_figures.variance_shares(shares[0], "x") is None
    assert claim_figures.variance_shares(shares[1], "x") is not None


def test_missing_values_give_no_figure(tmp_path: Path) -> None:
    write_tree(tmp_path, MODELS[:2], rows=50, shifts=())
    table = over_seeds(read_suite(tmp_path, "embedded").in_distribution)
    empty = table.assign(latency_p50_ms=float("nan"), parameters=float("nan"), temperature=0.0)
    assert scatter_figures.pareto(empty, "x") is None
    assert scatter_figures.scatter(empty, scatter_figures.PARAMETERS, "x") is None
    assert temperature_figures.temperature_by_family(empty, "x") is None
    assert figures.under_shift(empty, "x") is None
