"""Files that runs share: what is not as it was written is set aside, and made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmark.models.encoding import _verify_arrays
from benchmark.models.stored import is_whole
from benchmark.records import BLANK, seal, seal_folder, verify_folder


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "rows.safetensors"
    save_file({"ids": np.arange(4)}, path, metadata={"checksum": BLANK})
    seal(path)
    return path


def test_what_is_whole_stays(arrays: Path, tmp_path: Path) -> None:
    assert is_whole(arrays, _verify_arrays)
    assert not is_whole(tmp_path / "absent.safetensors", _verify_arrays)
    assert [path.name for path in tmp_path.iterdir()] == [arrays.name]


def test_a_changed_byte_and_an_end_that_is_lost(arrays: Path) -> None:
    content = arrays.read_bytes()
    for number, damaged in enumerate((content[:-1] + b"\xff", content[: len(content) // 2]), 1):
        arrays.write_bytes(damaged)
        assert not is_whole(arrays, _verify_arrays)
        assert not arrays.exists()
        assert len(list(arrays.parent.glob("*.corrupt*"))) == number


def test_arrays_without_a_checksum_that_cannot_be_opened(arrays: Path) -> None:
    arrays.write_bytes(b"no arrays")
    assert not is_whole(arrays, _verify_arrays)
    assert not arrays.exists()


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    assert not is_whole(folder, verify_folder)
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    seal_folder(folder)
    assert is_whole(folder, verify_folder)
    (folder / "tokenizer.json").write_text("[]")
    assert not is_whole(folder, verify_folder)
    assert not folder.exists()
    assert list(tmp_path.glob("tokenizer.corrupt*"))
