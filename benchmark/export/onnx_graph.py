"""A model -> one ONNX graph whose outputs are calibrated probabilities.

The graph takes what the model's preprocessor gives, by its names, in batches of any size and texts
of any length; the division by the temperature and the softmax are in it.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.export.errors import ExportError
from benchmark.failures import first_line
from benchmark.hub import causes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from benchmark.arrays import Float64Array

FILE = "model.onnx"
OUTPUT = "probabilities"
_OPSET = 18
_LARGEST_FILE = 1_500_000_000
"""Bytes of weights that one file holds, which protobuf limits to 2 GiB; more go beside it."""


def write_graph(
    path: Path,
    model: PreTrainedModel,
    batch: Mapping[str, Tensor],
    temperature: float,
    about: Mapping[str, Any],
) -> None:
    """Write a model with its temperature as an ONNX graph.

    Args:
        path: of the file.
        model: in evaluation mode, on the CPU.
        batch: inputs of two rows or more, by name; texts of one length.
        temperature: above 0.
        about: goes into the graph's metadata, as JSON.

    Raises:
        ExportError: the extra is missing, or the model does something that ONNX cannot say.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import torch

    try:
        with _quiet(), _plain_attention(model):
            program = torch.onnx.export(
                _calibrated(model, tuple(batch), temperature),
                tuple(batch.values()),
                input_names=list(batch),
                output_names=[OUTPUT],
                dynamic_shapes={"values": tuple(_axes(value) for value in batch.values())},
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter's own, and whatever the model's code raises
        *_, cause = causes(error)  # the exporter's own texts tell where to report it
        raise ExportError(
            f"{type(model).__name__} cannot be exported to ONNX ({first_line(cause)[:300]}); "
            "--format transformers exports its checkpoint"
        ) from None
    assert program is not None  # None is what the older exporter returns
    for key, value in about.items():
        program.model.metadata_props[key] = json.dumps(value, ensure_ascii=False)
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    program.save(path, external_data=weights > _LARGEST_FILE)


def _calibrated(model: PreTrainedModel, names: Sequence[str], temperature: float) -> Any:
    """Return a module: the values of a batch's inputs -> calibrated probabilities."""
    import torch

    class Calibrated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Tensor) -> Tensor:
            logits = self.model(**dict(zip(names, values, strict=True))).logits
            return torch.softmax(logits.float() / temperature, dim=-1)

    return Calibrated().eval()


def _axes(value: Tensor) -> dict[int, Any]:
    """Return which axes of an input vary: the rows, and of texts the tokens."""
    from torch.export import Dim

    axes = {0: Dim("batch")}
    return axes | ({1: Dim("sequence")} if value.ndim == 2 else {})


def graph_probabilities(path: Path, batches: Sequence[Mapping[str, Any]]) -> Float64Array:
    """Return what a graph gives for batches of inputs, float64 [rows, K], one after the other."""
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}
    found = [
        session.run(None, {name: np.asarray(v) for name, v in batch.items() if name in taken})[0]
        for batch in batches
    ]
    return np.concatenate(found).astype(np.float64)


def _require(*modules: str) -> None:
    """Refuse where a package of the extra is not installed."""
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--format onnx needs {', '.join(missing)}: pip install 'calibration-benchmark[onnx]'"
        )


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Write attention out as products and a softmax; the exporter trips over fused kernels."""
    before = getattr(model.config, "_attn_implementation", None)
    if before is None or before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says of its own versions; its errors are told."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
