"""Seeded corruptions of test rows, in three severities, for calibration under shift.

In the manner of Hendrycks and Dietterich (2019), arXiv:1903.12261, for images and Belinkov and
Bisk (2018), arXiv:1711.02173, for texts; the strengths below are ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmark.arrays import Float64Array, IntArray
from benchmark.data.rows import Image, ImageSequence, Rows
from benchmark.registry import did_you_mean

SEVERITIES = (1, 2, 3)

# One value per severity.
_NOISE = (0.15, 0.3, 0.45)  # standard deviation; 1 is the range from black to white
_BLUR = (0.03, 0.06, 0.09)  # standard deviation of the Gaussian; 1 is the shorter side
_ROTATION = (15.0, 30.0, 45.0)  # degrees, either way
_DROP = (0.05, 0.1, 0.2)  # probability per character that is not white space
_SWAP = (0.05, 0.1, 0.2)  # probability per pair of neighbours within a word

_ImageShift = Callable[[Image, int, np.random.Generator], Image]
_TextShift = Callable[[str, int, np.random.Generator], str]


def apply_shift(rows: Rows, kind: str, severity: int, seed: int) -> Rows:
    """Corrupt every row in a way that depends on its id and nothing else in the split.

    A selection of rows is therefore corrupted as the whole split is. A row draws the same random
    numbers at each severity, so that severities differ in strength alone. Images are corrupted
    when they are read.

    Args:
        rows: clean rows; they are left as they are.
        kind: a key of `SHIFTS`.
        severity: 1 (mild), 2 or 3 (strong).
        seed: at least 0.

    Returns:
        Rows with the same ids and labels. A text never becomes empty.

    Raises:
        ValueError: the kind or the severity is unknown, or the kind is for the other modality.
    """
    if kind not in SHIFTS:
        raise ValueError(f"no shift is called {kind!r}{did_you_mean(kind, SHIFTS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity of shift {kind!r} must be 1, 2 or 3, got {severity}")
    modality = "text" if rows.images is None else "image"
    if SHIFTS[kind] != modality:
        usable = ", ".join(
            name for name, for_modality in SHIFTS.items() if for_modality == modality
        )
        raise ValueError(
            f"shift {kind!r} is for {SHIFTS[kind]} rows; for {modality} rows: {usable}"
        )
    if rows.images is not None:
        corrupt = _IMAGE_SHIFTS[kind]
        view = _ShiftedImages(rows.images, rows.ids, corrupt, kind, severity, seed)
        return replace(rows, images=view)
    return _shift_texts(rows, kind, severity, seed)


def _shift_texts(rows: Rows, kind: str, severity: int, seed: int) -> Rows:
    corrupt = _TEXT_SHIFTS[kind]
    texts, pairs = [], []
    for position, row_id in enumerate(rows.ids):
        random = _generator(seed, kind, int(row_id))
        if rows.texts is not None:
            texts.append(_keep_nonempty(corrupt, rows.texts[position], severity, random))
        if rows.text_pairs is not None:
            pairs.append(_keep_nonempty(corrupt, rows.text_pairs[position], severity, random))
    return replace(rows, texts=texts, text_pairs=None if rows.text_pairs is None else pairs)


def _keep_nonempty(
    corrupt: _TextShift, text: str, severity: int, random: np.random.Generator
) -> str:
    """Corrupt a text unless nothing would be left of it, which no model should be asked."""
    corrupted = corrupt(text, severity, random)
    return corrupted if corrupted.strip() else text


def _generator(seed: int, kind: str, row_id: int) -> np.random.Generator:
    # The modulus only maps a negative id to something that a generator accepts as its seed.
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), row_id % 2**63])


@dataclass(frozen=True)
class _ShiftedImages:
    """Another image sequence, corrupted on access."""

    images: ImageSequence
    ids: IntArray
    corrupt: _ImageShift
    kind: str
    severity: int
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        random = _generator(self.seed, self.kind, int(self.ids[index]))
        return self.corrupt(self.images[index], self.severity, random)


def _to_image(values: Float64Array) -> Image:
    """Round to the nearest of 0 ... 255."""
    rounded: Image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _noise(image: Image, severity: int, random: np.random.Generator) -> Image:
    """Add Gaussian noise, independent for each pixel and channel."""
    return _to_image(image + 255 * _NOISE[severity - 1] * random.standard_normal(image.shape))


def _blur(image: Image, severity: int, random: np.random.Generator) -> Image:
    """Blur with a Gaussian; nothing about it is random."""
    from scipy.ndimage import gaussian_filter  # slow to import, and texts do without

    sigma = _BLUR[severity - 1] * min(image.shape[:2])
    return _to_image(gaussian_filter(image.astype(np.float64), sigma=(sigma, sigma, 0)))


def _rotate(image: Image, severity: int, random: np.random.Generator) -> Image:
    """Turn about the centre, clockwise or not; the corners repeat the pixels at the edge."""
    from scipy.ndimage import rotate  # slow to import, and texts do without

    angle = _ROTATION[severity - 1] * (1 if random.random() < 0.5 else -1)  # nosec B311 # repeatable, no secret
    turned = rotate(image.astype(np.float64), angle, reshape=False, order=1, mode="nearest")
    return _to_image(turned)


def _drop(text: str, severity: int, random: np.random.Generator) -> str:
    """Leave out characters; white space stays, so that words do not run together."""
    draws = random.random(len(text))  # nosec B311 # repeatable, no secret
    kept = (
        c for c, draw in zip(text, draws, strict=True) if c.isspace() or draw >= _DROP[severity - 1]
    )
    return "".join(kept)


def _swap(text: str, severity: int, random: np.random.Generator) -> str:
    """Exchange neighbours within a word; no character moves twice."""
    characters = list(text)
    chosen = random.random(len(text)) < _SWAP[severity - 1]  # nosec B311 # repeatable, no secret
    position = 0
    while position < len(text) - 1:
        left, right = text[position], text[position + 1]
        if chosen[position] and not left.isspace() and not right.isspace():
            characters[position], characters[position + 1] = right, left
            position += 1
        position += 1
    return "".join(characters)


_IMAGE_SHIFTS: Mapping[str, _ImageShift] = {"noise": _noise, "blur": _blur, "rotation": _rotate}
_TEXT_SHIFTS: Mapping[str, _TextShift] = {"drop": _drop, "swap": _swap}

SHIFTS: Mapping[str, Literal["image", "text"]] = {
    **dict.fromkeys(_IMAGE_SHIFTS, "image"),
    **dict.fromkeys(_TEXT_SHIFTS, "text"),
}
"""Every kind of shift and the modality of the rows it applies to."""
