"""A hash of what a function is given, by which the same figure is known again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xxhash
from pydantic import BaseModel

from benchmark.report.inputs import program_version


def content_key(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return the hash of a function of this program and of the content of its arguments.

    Args:
        function: that gives the same for the same arguments.
        arguments: frames, arrays, texts, numbers, and what is made of them.

    Raises:
        TypeError: an argument holds something whose content is not known here.
    """
    digest = xxhash.xxh3_128()
    for part in (program_version(), function.__module__, function.__qualname__, *arguments):
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: xxhash.xxh3_128, value: Any) -> None:
    """Add a value after its kind and length, so that no two values give the same bytes."""
    if isinstance(value, np.ndarray):
        _add_array(digest, value)
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        for part in _parts_of_frame(value):
            _add(digest, part)
    elif isinstance(value, BaseModel):
        _add(digest, [type(value).__qualname__, value.model_dump_json()])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        _add(digest, [type(value).__qualname__, fields])
    elif isinstance(value, Mapping):
        _add(digest, [list(value), list(value.values())])
    elif isinstance(value, tuple | list):
        _begin(digest, "list", len(value))
        for part in value:
            _add(digest, part)
    else:
        content = _single(value).encode()
        _begin(digest, type(value).__qualname__, len(content))
        digest.update(content)


def _parts_of_frame(value: pd.DataFrame | pd.Series | pd.Index) -> list[Any]:
    if isinstance(value, pd.DataFrame):
        columns = [value.iloc[:, position] for position in range(value.shape[1])]
        return ["frame", list(value.columns), value.index, columns]
    dtype, categories = value.dtype, []
    if isinstance(dtype, pd.CategoricalDtype):
        categories = [*dtype.categories, dtype.ordered]
    return [str(dtype), categories, value.to_numpy()]


def _add_array(digest: xxhash.xxh3_128, value: np.ndarray[Any, Any]) -> None:
    if value.dtype.kind == "O":
        content = json.dumps(value.tolist(), default=_single).encode()
    else:
        content = np.ascontiguousarray(value).tobytes()
    _begin(digest, f"array {value.dtype} {value.shape}", len(content))
    digest.update(content)


def _single(value: Any) -> str:
    if value is None or value is pd.NA or isinstance(value, str | bool | int | float | np.generic):
        return str(value) if isinstance(value, str) else repr(value)
    raise TypeError(f"no key is known for the content of {type(value).__qualname__}")


def _begin(digest: xxhash.xxh3_128, kind: str, length: int) -> None:
    digest.update(f"{kind} {length}:".encode())
