"""Shifts: determinism, independence of the split, growing strength, clear errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.rows import Rows
from benchmark.data.shifts import SEVERITIES, SHIFTS, apply_shift

IMAGE_KINDS = sorted(kind for kind, modality in SHIFTS.items() if modality == "image")
TEXT_KINDS = sorted(kind for kind, modality in SHIFTS.items() if modality == "text")


def _image_rows(n: int = 6, side: int = 28) -> Rows:
    random = np.random.default_rng(0)
    smooth = np.linspace(0, 255, side)[None, :, None, None] * np.ones((n, 1, side, 3))
    images = (smooth * random.random((n, side, side, 1))).astype(np.uint8)
    return Rows(ids=np.arange(n) * 7 + 3, labels=np.arange(n) % 2, images=images)


def _text_rows(texts: list[str], pairs: list[str] | None = None) -> Rows:
    n = len(texts)
    return Rows(ids=np.arange(n) + 11, labels=np.zeros(n, np.int64), texts=texts, text_pairs=pairs)


def _pixels(rows: Rows) -> np.ndarray:
    assert rows.images is not None
    return np.stack([rows.images[i] for i in range(len(rows))])


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_images_keep_shape_ids_and_labels_and_the_clean_rows_stay_clean(kind: str) -> None:
    rows = _image_rows()
    before = _pixels(rows).copy()
    shifted = apply_shift(rows, kind, 2, seed=5)
    assert _pixels(shifted).shape == before.shape
    assert _pixels(shifted).dtype == np.uint8
    assert not np.array_equal(_pixels(shifted), before)
    np.testing.assert_array_equal(shifted.ids, rows.ids)
    np.testing.assert_array_equal(shifted.labels, rows.labels)
    np.testing.assert_array_equal(_pixels(rows), before)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_a_selection_of_images_is_corrupted_as_the_whole_is(kind: str) -> None:
    rows = _image_rows()
    positions = np.array([4, 1])
    part = apply_shift(rows.take(positions), kind, 3, seed=5)
    whole = apply_shift(rows, kind, 3, seed=5)
    np.testing.assert_array_equal(_pixels(part), _pixels(whole)[positions])
    np.testing.assert_array_equal(_pixels(whole.take(positions)), _pixels(whole)[positions])


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_severity_moves_images_further_from_the_clean_ones(kind: str) -> None:
    # A blob: a turned or blurred one differs more, the more it is turned or blurred.
    side = 28
    y, x = np.mgrid[:side, :side]
    blob = 255 * np.exp(-(((x - 14) / 8) ** 2 + ((y - 14) / 2) ** 2))
    images = np.repeat(blob[None, :, :, None], 3, axis=-1).astype(np.uint8)
    rows = Rows(ids=np.array([1]), labels=np.array([0]), images=images)
    distances = [
        np.abs(_pixels(apply_shift(rows, kind, s, 0)).astype(float) - images).mean()
        for s in SEVERITIES
    ]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_noise_has_the_stated_strength_and_differs_between_channels() -> None:
    grey = np.full((1, 200, 200, 3), 128, np.uint8)
    rows = Rows(ids=np.array([1]), labels=np.array([0]), images=grey)
    noisy = _pixels(apply_shift(rows, "noise", 1, 0)).astype(float) - 128
    assert noisy.std() == pytest.approx(0.15 * 255, rel=0.02)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.02


def test_rotation_turns_either_way_about_the_centre() -> None:
    image = np.zeros((1, 29, 29, 3), np.uint8)
    image[0, 14, :, :] = 255  # a horizontal bar
    rows = Rows(
        ids=np.arange(40), labels=np.zeros(40, np.int64), images=np.repeat(image, 40, axis=0)
    )
    turned = _pixels(apply_shift(rows, "rotation", 3, 0))
    assert (turned[:, 14, 14, 0] > 200).all()
    rising = turned[:, 6, 22, 0] > 60  # 45 degrees: the bar passes (6, 22) or (22, 22)
    falling = turned[:, 22, 22, 0] > 60
    assert (rising != falling).all()
    assert 8 <= rising.sum() <= 32


@given(
    texts=st.lists(st.text(max_size=40), min_size=1, max_size=5),
    kind=st.sampled_from(TEXT_KINDS),
    severity=st.sampled_from(SEVERITIES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_text_shifts_are_deterministic_and_keep_words_apart(
    texts: list[str], kind: str, severity: int, seed: int
) -> None:
    rows = _text_rows(texts)
    shifted = apply_shift(rows, kind, severity, seed)
    assert shifted.texts == apply_shift(rows, kind, severity, seed).texts
    assert shifted.texts is not None
    for before, after in zip(texts, shifted.texts, strict=True):
        spaces = [c for c in after if c.isspace()]
        assert spaces == [c for c in before if c.isspace()]
        assert bool(after.strip()) == bool(before.strip())
        if kind == "swap":
            assert sorted(after) == sorted(before)
        else:
            rest = iter(before)
            assert all(c in rest for c in after)  # a subsequence


@pytest.mark.parametrize(("kind", "rates"), [("drop", (0.05, 0.1, 0.2))])
def test_dropped_share_is_as_stated_and_nested_in_severity(
    kind: str, rates: tuple[float, ...]
) -> None:
    rows = _text_rows(["abcdefghij" * 2000])
    lengths = []
    for severity, rate in zip(SEVERITIES, rates, strict=True):
        texts = apply_shift(rows, kind, severity, 0).texts
        assert texts is not None
        lengths.append(len(texts[0]))
        assert 1 - lengths[-1] / 20000 == pytest.approx(rate, rel=0.1)
    assert lengths == sorted(lengths, reverse=True)


def test_swapped_characters_moved_by_one_place() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(3000))  # all different
    texts = apply_shift(_text_rows([text]), "swap", 2, 0).texts
    assert texts is not None
    moves = [abs(text.index(c) - i) for i, c in enumerate(texts[0])]
    assert set(moves) == {0, 1}
    # A pair that follows a swapped one cannot be swapped: p / (1 + p) of the places.
    assert sum(moves) / 2 / 3000 == pytest.approx(0.1 / 1.1, rel=0.15)


def test_text_pairs_are_both_corrupted_and_selection_does_not_matter() -> None:
    firsts = [f"the first sentence number {i}" for i in range(8)]
    seconds = [f"another sentence with number {i}" for i in range(8)]
    rows = _text_rows(firsts, seconds)
    whole = apply_shift(rows, "drop", 3, seed=1)
    part = apply_shift(rows.take(np.array([6, 2])), "drop", 3, seed=1)
    assert whole.texts is not None
    assert whole.text_pairs is not None
    assert part.texts == [whole.texts[6], whole.texts[2]]
    assert part.text_pairs == [whole.text_pairs[6], whole.text_pairs[2]]
    assert whole.texts != firsts
    assert whole.text_pairs != seconds


def test_seed_and_id_decide_the_corruption() -> None:
    rows = _text_rows(["the same sentence for both rows"] * 2)
    shifted = apply_shift(rows, "drop", 3, 0).texts
    assert shifted is not None
    assert shifted[0] != shifted[1]
    assert apply_shift(rows, "drop", 3, 1).texts != shifted
    negative = replace(rows, ids=np.array([-1, -2]))
    assert len(apply_shift(negative, "drop", 3, 0)) == 2


def test_errors_say_what_to_do() -> None:
    text, image = _text_rows(["some words"]), _image_rows()
    with pytest.raises(ValueError, match="did you mean 'rotation'"):
        apply_shift(image, "rotaton", 1, 0)
    with pytest.raises(ValueError, match="'noise' is for image rows; for text rows: drop, swap"):
        apply_shift(text, "noise", 1, 0)
    with pytest.raises(ValueError, match="'swap' is for text rows; for image rows: noise, blur"):
        apply_shift(image, "swap", 1, 0)
    with pytest.raises(ValueError, match="1, 2 or 3, got 4"):
        apply_shift(image, "noise", 4, 0)
