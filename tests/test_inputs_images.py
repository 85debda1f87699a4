from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from input_files import NAMES, image_entry, read, smooth_picture
from PIL import Image

from benchmark.arrays import AnyArray
from benchmark.data.images import BrokenImageError, ImageReading
from benchmark.failures import RunError

READING = ImageReading()
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gap(first: AnyArray, second: AnyArray) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "PA"])
def test_every_opaque_mode_looks_like_the_plain_file(mode: str) -> None:
    """The picture is black and white for mode 1; colours are lost where the mode has none."""
    plain = smooth_picture()
    if mode == "1":
        plain = plain.point(lambda value: 255 if value > 100 else 0)
    via_p = plain.convert("P") if mode == "PA" else plain
    found = READING.to_rgb(via_p.convert(mode))
    assert found.dtype == np.uint8
    assert found.shape == (16, 24, 3)
    # A palette of the web's 216 colours has steps of 51 levels, which dithering scatters.
    limit = 30 if mode in ("P", "PA") else 3
    assert gap(found, np.asarray(plain)) < limit


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "I;16", {}),
        ("TIFF", "I;16", {}),
        ("TIFF", "I;16B", {}),
        ("PPM", "I", {}),  # a grey map of 16 bits, which Pillow opens as 32
        ("JPEG2000", "I;16", {"irreversible": False}),
    ],
)
def test_sixteen_bits_are_scaled_by_their_range(
    kind: str, mode: str, options: dict[str, object]
) -> None:
    grey = np.asarray(smooth_picture().convert("L"))
    dtype = {"I;16B": ">u2", "I": "<i4"}.get(mode, "<u2")
    deep = Image.fromarray((grey.astype(np.int64) * 257).astype(dtype))
    found = READING.read(encoded(deep, kind, **options))
    np.testing.assert_array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from([np.uint16, np.int32, np.float32]),
    st.sampled_from([(0, 1), (0, 4095), (100, 200), (-1000, 3000), (1, 0)]),
)
def test_deep_values_are_scaled_linearly_or_refused(
    data: st.DataObject, dtype: type, bounds: tuple[float, float]
) -> None:
    low, high = max(min(bounds), 0 if dtype is np.uint16 else -(10**6)), max(bounds)
    elements = (
        st.floats(low, high, width=32) if dtype is np.float32 else st.integers(int(low), int(high))
    )
    values = data.draw(arrays.arrays(dtype, SIZES, elements=elements))
    image = Image.fromarray(values)
    black, white = bounds
    found = ImageReading(pixel_range=bounds).to_rgb(image)
    exact = (values.astype(np.float64) - black) / (white - black) * 255
    assert np.abs(found - exact[:, :, None]).max() <= 0.5 + 1e-9
    if dtype is not np.uint16:
        with pytest.raises(BrokenImageError, match="pixel_range"):
            READING.to_rgb(image)
    outside = values.astype(np.float64) + 2 * (high - low) + 1
    if dtype is np.float32:
        with pytest.raises(BrokenImageError, match="lie outside"):
            ImageReading(pixel_range=bounds).to_rgb(Image.fromarray(outside.astype(np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value: float) -> None:
    image = Image.fromarray(np.full((3, 3), value, dtype=np.float32))
    with pytest.raises(BrokenImageError, match="lie outside of 0"):
        ImageReading(pixel_range=(0, 1)).to_rgb(image)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["RGBA", "LA"]), st.sampled_from([0, 255]))
def test_alpha_is_laid_on_the_background(data: st.DataObject, mode: str, background: int) -> None:
    channels = len(mode)
    size = data.draw(SIZES)
    pixels = data.draw(arrays.arrays(np.uint8, (*size, channels)))
    alpha = pixels[:, :, -1:].astype(float) / 255
    colour = np.broadcast_to(pixels[:, :, :-1], (*size, 3)).astype(float)
    exact = alpha * colour + (1 - alpha) * background
    try:
        found = ImageReading(background).to_rgb(Image.fromarray(pixels))
    except BrokenImageError:
        # Nothing can be seen of it.
        assert not alpha.any() or np.abs(exact - background).max() < 9
    else:
        assert np.abs(found - exact).max() <= 1.5


@pytest.mark.parametrize("ink", ["black", "white"])
def test_a_picture_drawn_in_the_alpha_channel_is_seen_or_asked_for(ink: str) -> None:
    shape = smooth_picture().convert("L")
    image = Image.new("RGBA", shape.size, ink)
    image.putalpha(shape)
    drawing = encoded(image, "PNG")
    on_ink = ImageReading(0 if ink == "black" else 255)
    other = "white" if ink == "black" else "black"
    with pytest.raises(BrokenImageError, match=f"background: {other}"):
        on_ink.read(drawing)
    assert ImageReading(255 - on_ink.background).read(drawing).std() > 10


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_one_transparent_colour_is_laid_on_the_background(mode: str) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = (200, 200, 200)
    image = Image.fromarray(pixels)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    key: object = (200, 200, 200) if mode == "RGB" else image.getpixel((5, 0))
    found = READING.read(encoded(image, "PNG", transparency=key))
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 0, 255, 255, 255])


def test_wholly_transparent_images_are_refused() -> None:
    with pytest.raises(BrokenImageError, match="wholly transparent"):
        READING.read(encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG"))


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, -1),
}
"""How a camera stores an upright picture for each orientation tag."""


@pytest.mark.parametrize("tag", TURNS)
@pytest.mark.parametrize("deep", [False, True])
def test_turned_images_are_upright(tag: int, deep: bool) -> None:
    upright = np.asarray(smooth_picture())
    stored = np.ascontiguousarray(TURNS[tag](upright))
    exif = Image.Exif()
    exif[0x0112] = tag
    image = Image.fromarray(stored[:, :, 0].astype(np.uint16) * 257 if deep else stored)
    np.testing.assert_array_equal(READING.read(encoded(image, "PNG", exif=exif)), upright)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_files_cut_short_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    assert READING.read(content).shape == (40, 40, 3)
    with pytest.raises(BrokenImageError):
        READING.read(content[: int(len(content) * share)])


def test_the_first_picture_of_several_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (250, 10)]
    for kind in ("GIF", "TIFF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert gap(READING.read(content), np.asarray(frames[0])) < 6


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted({*Image.MODES, "I;16", "I;16B", "PA", "La", "RGBa"})))
def test_any_mode_becomes_rgb_or_is_refused(data: st.DataObject, mode: str) -> None:
    width, height = data.draw(SIZES)
    content = data.draw(st.binary(min_size=width * height * 4, max_size=width * height * 4))
    bits = Image.new(mode, (width, height)).tobytes()
    image = Image.frombytes(mode, (width, height), content[: len(bits)])
    try:
        found = READING.to_rgb(image)
    except BrokenImageError:
        return  # no other error is allowed
    assert found.dtype == np.uint8
    assert found.shape == (height, width, 3)


def test_a_broken_file_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(6):
                smooth_picture().save(tmp_path / split / name / f"{i}.jpg")
    for name in ("train/elm/2.jpg", "train/oak/4.jpg"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"train/elm/2\.jpg: .*cut short.* \(and 1 other images\)"):
        read(image_entry(tmp_path))


def test_options_of_the_entry_reach_the_images(tmp_path: Path) -> None:
    grey = np.asarray(smooth_picture().convert("L"))
    for i in range(15):
        (tmp_path / NAMES[i % 3]).mkdir(exist_ok=True)
        deep = Image.fromarray(grey.astype(np.float32) / 255)
        deep.save(tmp_path / NAMES[i % 3] / f"{i}.tiff")
    with pytest.raises(RunError, match=r"\.tiff: its values .*pixel_range: \[0, 1\]"):
        read(image_entry(tmp_path))
    corpus = read(image_entry(tmp_path, pixel_range=[0, 1]))
    assert corpus.test.images is not None
    np.testing.assert_array_equal(corpus.test.images[0][:, :, 0], grey)
