"""A checkpoint's preprocessor as whoever uses an export calls it: one row at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.registry import Modality

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from benchmark.arrays import Float64Array
    from benchmark.data import Rows


@dataclass(frozen=True)
class TextOptions:
    """How the tokenizer is called so that a text gets the logits that were scored.

    Attributes:
        max_length: longer texts are cut to this many tokens; None: the tokenizer's own maximum.
        is_fixed: whether every text is filled up to that length, for the model's logits depend
            on it.
    """

    max_length: int | None = None
    is_fixed: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the tokenizer; its own maximum is that of the export."""
        return {"truncation": True, **({"padding": "max_length"} if self.is_fixed else {})}


@dataclass(frozen=True)
class Caller:
    """A preprocessor read from a folder, and how it is called.

    Attributes:
        processor: tokenizer or image processor of the library.
        options: of a tokenizer.
        is_grey: whether the model takes images of one channel.
    """

    processor: Any
    options: TextOptions
    is_grey: bool = False

    @classmethod
    def read(cls, folder: Path, modality: Modality, options: TextOptions, grey: bool) -> Caller:
        """Read the preprocessor of an exported folder."""
        from transformers import AutoImageProcessor, AutoTokenizer

        if modality == "text":
            return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), options)
        found = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        return cls(found, options, grey)

    def inputs(self, rows: Rows, row: int) -> dict[str, Tensor]:
        """Return the model's inputs of one row: tensors of a batch of one."""
        if rows.images is None:
            assert rows.texts is not None  # rows hold either texts or images
            pair = () if rows.text_pairs is None else (rows.text_pairs[row],)
            options = {**self.options.arguments(), "return_tensors": "pt"}
            return dict(self.processor(rows.texts[row], *pair, **options))
        from PIL import Image

        picture = Image.fromarray(np.asarray(rows.images[row]))
        if self.is_grey:
            grey = np.asarray(picture.convert("L"))[:, :, None]
            made = self.processor(grey, input_data_format="channels_last", return_tensors="pt")
        else:
            made = self.processor(picture, return_tensors="pt")
        return dict(made)


def probabilities(
    model: PreTrainedModel, caller: Caller, rows: Rows, temperature: float
) -> Float64Array:
    """Return calibrated probabilities of rows, float64 [n, K], each row by itself."""
    import torch

    found = []
    with torch.inference_mode():
        for row in range(len(rows)):
            logits = model(**caller.inputs(rows, row)).logits.double()
            found.append(torch.softmax(logits / temperature, dim=-1)[0].numpy())
    return np.stack(found)
