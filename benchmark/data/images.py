"""Image files of any mode -> uint8 RGB. What has no plain meaning as RGB is refused, by name."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from benchmark.arrays import AnyArray
from benchmark.data.rows import Image
from benchmark.shell import special_kind

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file starts that git-lfs has not fetched."""
MAX_PIXELS = 89_478_485
"""Those of a quarter of a gigabyte in RGB; above it Pillow, too, suspects an attack."""
_TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels, so it is not decoded: scale it down"
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_SIXTEEN_BITS = (0.0, 65535.0)
_VISIBLE = 8
"""Grey levels by which a picture drawn in the alpha channel differs from its background."""


class BrokenImageError(ValueError):
    """An image cannot be read as RGB; the message says why, and not which one it is."""


@dataclass(frozen=True)
class ImageReading:
    """How images are turned into RGB.

    Attributes:
        background: grey level that transparent pixels are laid on, 0 ... 255.
        pixel_range: values of black and white in images of more than 8 bits; None: the range of
            16 bits, and deeper ones are refused.
    """

    background: int = 255
    pixel_range: tuple[float, float] | None = None

    def read(self, content: bytes | Path) -> Image:
        """Return an image file as uint8 [height, width, 3], upright as its EXIF tag says.

        Of an animation or a stack the first picture is taken.

        Raises:
            BrokenImageError: it is no image, is cut short, or its pixels have no plain meaning.
        """
        try:
            return self._decode(content)
        except UnidentifiedImageError:
            raise BrokenImageError(_not_an_image(content)) from None
        except BrokenImageError:
            raise
        except Pillow.DecompressionBombError as error:
            raise BrokenImageError(f"{_TOO_LARGE} ({error})") from None
        except FileNotFoundError:
            raise BrokenImageError("there is no such file") from None
        except Exception as error:  # each decoder has errors of its own
            raise BrokenImageError(f"the image is broken or cut short ({error})") from error

    def _decode(self, content: bytes | Path) -> Image:
        kind = None if isinstance(content, bytes) else special_kind(content)
        if kind is not None:
            raise BrokenImageError(f"it is {kind}, not a file")
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with Pillow.open(source, formats=_formats()) as image:
            _refuse_bomb(image)  # before anything is decoded
            image.load()
            _refuse_bomb(image)  # a file of several sizes may load another one
            return self.to_rgb(image)

    def to_rgb(self, image: Pillow.Image) -> Image:
        """Return a decoded image of any mode as uint8 [height, width, 3]; see `read`."""
        sixteen_bits = _has_sixteen_bits(image)
        image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_MODES:
            return self.scale(np.asarray(image), sixteen_bits=sixteen_bits)
        if image.mode == "La":  # alpha multiplied in, from which RGB cannot be made at once
            image = image.convert("LA")
        if image.has_transparency_data or image.mode == "RGBa":
            return self._lay_on_background(image.convert("RGBA"))
        try:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
        except ValueError:
            raise BrokenImageError(
                f"images of mode {image.mode} cannot be read as RGB: save it as RGB"
            ) from None

    def _lay_on_background(self, image: Pillow.Image) -> Image:
        below = Pillow.new("RGBA", image.size, (self.background,) * 3 + (255,))
        laid = np.asarray(Pillow.alpha_composite(below, image).convert("RGB"), dtype=np.uint8)
        alpha = np.asarray(image.getchannel("A"))
        if not alpha.any():
            raise BrokenImageError("it is wholly transparent: save it without its alpha channel")
        contrast = np.abs(laid.astype(np.int64) - self.background).max()
        if alpha.min() < alpha.max() and contrast < _VISIBLE:
            other = "black" if self.background else "white"
            raise BrokenImageError(
                "what it shows has the colour of the background that transparent images are laid "
                f"on: take the other one with background: {other}"
            )
        return laid

    def scale(self, values: AnyArray, *, sixteen_bits: bool) -> Image:
        """Return deep values, [height, width] or [height, width, 1 or 3], as uint8 RGB.

        Raises:
            BrokenImageError: their range is not known, or they lie outside it.
        """
        bounds = self.pixel_range or (_SIXTEEN_BITS if sixteen_bits else None)
        low, high = values.min(), values.max()
        if bounds is None:
            raise BrokenImageError(
                f"its values ({low:g} to {high:g}) have no range of their own: say which are black "
                "and white, e.g. pixel_range: [0, 1]"
            )
        black, white = bounds
        if not (min(bounds) <= low and high <= max(bounds)):
            raise BrokenImageError(
                f"its values ({low:g} to {high:g}) lie outside of {black:g} (black) to {white:g} "
                "(white): see pixel_range"
            )
        share = (values.astype(np.float64) - black) / (white - black)
        grey = np.rint(share * 255).astype(np.uint8)
        return as_rgb(grey)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return what is read: all formats but those whose pictures another program would run."""
    Pillow.init()
    return tuple(name for name in Pillow.ID if name not in ("EPS", "WMF"))


def _refuse_bomb(image: Pillow.Image) -> None:
    """Refuse an image of more pixels than pictures have: a small file can stand for gigabytes."""
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImageError(f"{_TOO_LARGE} ({image.width:,} x {image.height:,})")


def as_rgb(values: Image) -> Image:
    """Return uint8 [height, width], or with 1 or 3 channels last, as [height, width, 3]."""
    if values.ndim == 2:
        values = values[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _has_sixteen_bits(image: Pillow.Image) -> bool:
    if image.mode.startswith("I;16"):
        return True
    return image.mode == "I" and image.format in ("PNG", "PPM")  # which have no deeper ones


def _not_an_image(content: bytes | Path) -> str:
    start = content[:64] if isinstance(content, bytes) else _start(content)
    if start.startswith(LFS_POINTER):
        return "git-lfs has not fetched it: run 'git lfs pull' where it lies"
    if not start:
        return "the image is empty"
    return f"it is no image that can be read (it starts with {start[:8]!r})"


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(64)


def pixels_of(value: Any) -> AnyArray:
    """Return an image given as numbers, [height, width] or [height, width, 1 or 3].

    Raises:
        BrokenImageError: it has another shape.
    """
    try:
        values = np.asarray(value)
    except ValueError:  # rows of unequal lengths
        values = np.asarray([])
    shaped = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))
    if not shaped or values.size == 0 or values.dtype.kind not in "uif":
        raise BrokenImageError(
            "it is no table of numbers, height by width, with 1 or 3 channels last or none"
        )
    return values


def read_pixels(value: Any, reading: ImageReading) -> Image:
    """Return an image given as numbers as uint8 RGB; whole numbers of 0 ... 255 are 8 bits.

    Raises:
        BrokenImageError: it has another shape, or its range is not known.
    """
    values = pixels_of(value)
    is_bytes = values.dtype.kind in "ui" and values.min() >= 0 and values.max() <= 255
    if is_bytes and reading.pixel_range is None:
        return as_rgb(values.astype(np.uint8))
    return reading.scale(values, sixteen_bits=False)
