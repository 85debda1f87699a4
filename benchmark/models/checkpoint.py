"""Model entry -> preprocessor (tokenizer or image processor) and model.

A `scratch` entry goes the same way as a hub checkpoint: its tokenizer or image processor is
made from the training split, saved as a checkpoint folder, and loaded by the Auto classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
)
from transformers.image_utils import SizeDict
from transformers.utils import logging as transformers_logging

from benchmark.data import Corpus
from benchmark.failures import RunError, UnavailableError, first_line
from benchmark.hub import access_token, fetch_settings, fetch_weights, is_missing_file
from benchmark.models import lfm2_convolution, text_cnn
from benchmark.plan import RunSpec
from benchmark.registry import ModelEntry

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel

Preprocessor = Any
"""A transformers tokenizer or image processor; the library types neither."""

_MODEL_CLASSES = {
    "image": AutoModelForImageClassification,
    "text": AutoModelForSequenceClassification,
}
_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

_PLACEHOLDER_LABEL = re.compile(r"label[_ ]\d+$", re.IGNORECASE)
_SHOWN_LABELS = 12
_LARGEST_NEW_SHARE = 0.2
"""Of a backbone's weights; a pooler that was not pretrained is less."""

# The library's advice (unused weights, missing torchvision) is noise in a run's log: what
# matters is checked here and raised as a typed error.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def register_models() -> None:
    """Make the text convolution models known to the Auto classes; may be called repeatedly.

    After it `AutoConfig.for_model("text-cnn")`, `AutoModelForSequenceClassification.from_config`
    and `from_pretrained` of a saved folder work as they do for a model of the library.
    """
    lfm2_convolution.register()
    text_cnn.register()


register_models()


@dataclass(frozen=True)
class LoadedPreprocessor:
    """A tokenizer or image processor, and a key that is equal when its output is."""

    processor: Preprocessor
    key: str

    @property
    def pad_token_id(self) -> int | None:
        """The token that pads texts; None for images."""
        return getattr(self.processor, "pad_token_id", None)


def load_preprocessor(spec: RunSpec, corpus: Corpus, cache: Path) -> LoadedPreprocessor:
    """Return the tokenizer or image processor that belongs to the run's checkpoint.

    Args:
        spec: the run.
        corpus: its data; a scratch entry's preprocessor is made from the training split.
        cache: folder for what is made once and shared by runs.

    Raises:
        UnavailableError: the checkpoint has none, or it cannot be fetched.
    """
    if spec.model.scratch is not None:
        key = _scratch_key(spec)
        source = str(_scratch_preprocessor(spec, corpus, cache / "preprocessors" / key))
        return LoadedPreprocessor(_auto_preprocessor(spec, source), key)
    size = spec.dataset.image_size
    key = _short_hash([_source_name(spec.model), spec.model_revision, *([size] if size else [])])
    processor = _auto_preprocessor(spec, _source_name(spec.model))
    if size is not None and spec.model.modality == "image":
        if hasattr(processor, "size"):
            _resize_output(processor, size)
        _require_image_size(spec, processor, size)
    return LoadedPreprocessor(processor, key)


def _auto_preprocessor(spec: RunSpec, source: str) -> Preprocessor:
    entry, options = spec.model, _source_options(spec)
    if entry.hub is not None:
        remote_code = entry.trust_remote_code
        with _naming(entry):
            fetch_settings(entry.hub, str(spec.model_revision), remote_code=remote_code)
    try:
        if entry.modality == "text":
            return _with_vocabulary(entry, AutoTokenizer.from_pretrained(source, **options))
        return AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except ImportError as error:
        raise _missing_library(entry, error) from None
    except (OSError, ValueError) as error:
        reason = "its files hold none" if is_missing_file(error) else _reason(error)
        raise UnavailableError(
            f"model {entry.name}: no preprocessor at {source}: {reason}"
        ) from error


def _with_vocabulary(entry: ModelEntry, tokenizer: Preprocessor) -> Preprocessor:
    """Refuse the empty tokenizer that the library makes up where a checkpoint has none."""
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UnavailableError(
            f"model {entry.name}: no preprocessor at {_source_name(entry)}: its files hold no "
            "tokenizer; name a revision or a folder that has one"
        )
    return tokenizer


@contextmanager
def _naming(entry: ModelEntry) -> Iterator[None]:
    """Name the registry's entry in what the hub's errors say."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(f"model {entry.name}: {error}") from error


def _missing_library(entry: ModelEntry, error: ImportError) -> UnavailableError:
    """Say which library a checkpoint needs; the libraries' own texts run over many lines."""
    reason = first_line(error).partition(" You can install")[0].rstrip(".")
    return UnavailableError(
        f"model {entry.name}: {reason}: pip install it and run the same command again"
    )


def _reason(error: Exception) -> str:
    """Return what the library says in one line, and in our words where code is not trusted."""
    if "trust_remote_code" in str(error):
        return (
            "it needs code of its own, which is run only for those who trust it: read the code, "
            "then set 'trust_remote_code: true'"
        )
    return first_line(error)


def _resize_output(processor: Preprocessor, size: int) -> None:
    """Let an image processor give images of `size` x `size` pixels.

    Where it enlarges the image and cuts out the centre, the share cut off stays the same.
    """
    old, crop = processor.size, getattr(processor, "crop_size", None)
    edge, resized = old.height or old.shortest_edge or size, size
    if crop is not None and getattr(processor, "do_center_crop", False):
        resized = round(size * max(1.0, edge / crop.height))
        processor.crop_size = SizeDict(height=size, width=size)
    # LeViT's and PoolFormer's processors add a margin of their own.
    if old.height:
        processor.size = SizeDict(height=resized, width=resized)
    else:
        processor.size = SizeDict(shortest_edge=resized)


def _require_image_size(spec: RunSpec, processor: Preprocessor, size: int) -> None:
    """Refuse an image processor that cannot be set to another size."""
    sample = np.zeros((size + 3, size + 7, 3), dtype=np.uint8)
    pixels = processor(images=[sample], return_tensors="np", input_data_format="channels_last")
    shape = pixels["pixel_values"].shape
    if shape[-2:] != (size, size):
        raise RunError(
            f"model {spec.model.name}: its image processor ({type(processor).__name__}) gives "
            f"{shape[-2]} x {shape[-1]} pixels and cannot be set to the image_size {size} of "
            f"dataset {spec.dataset.name}; leave image_size out"
        )


def build_model(spec: RunSpec, corpus: Corpus, preprocessor: Preprocessor) -> PreTrainedModel:
    """Return the checkpoint with a head for the dataset's classes, on the CPU.

    New weights (all of a scratch model's, else the head's) are drawn from the run's seed.

    Raises:
        RunError: a scratch config is invalid, or the checkpoint lacks weights: any of a head
            that is scored as published, too many of a backbone that is fine-tuned.
        UnavailableError: the weights cannot be read or fetched.
    """
    transformers.set_seed(spec.seed)
    label_options = _label_options(corpus)
    model_class = _MODEL_CLASSES[spec.model.modality]
    if spec.model.scratch is not None:
        config = _scratch_config(spec, corpus, preprocessor, label_options)
        new_model: PreTrainedModel = model_class.from_config(config)
        return new_model
    if spec.model.hub is not None:
        allow_pickle = spec.model.allow_pickle
        with _naming(spec.model):
            fetch_weights(spec.model.hub, str(spec.model_revision), allow_pickle=allow_pickle)
    try:
        model: PreTrainedModel
        model, loading = model_class.from_pretrained(
            _source_name(spec.model),
            ignore_mismatched_sizes=True,  # what did not fit is looked at below
            output_loading_info=True,
            # None: safetensors where there are, else a pickle read as tensors only.
            use_safetensors=None if spec.model.allow_pickle else True,
            **({} if spec.model.evaluate else label_options),
            **_source_options(spec),
        )
    except ImportError as error:
        raise _missing_library(spec.model, error) from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnavailableError(
            f"model {spec.model.name}: cannot be loaded: {_reason(error)}"
        ) from error
    _require_weights(spec, model, loading)
    model.float()
    return model


def _require_weights(
    spec: RunSpec, model: PreTrainedModel, loading: Mapping[str, Iterable[Any]]
) -> None:
    """Refuse a checkpoint whose weights are not those of the model that was built.

    Args:
        spec: the run.
        model: as loaded.
        loading: what `from_pretrained` tells: names of missing keys, and mismatched ones as
            (name, shape in the checkpoint, shape in the model).
    """
    new = set(loading["missing_keys"])
    new |= {entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"]}
    if not new:
        return
    some = ", ".join(sorted(new)[:3]) + (", ..." if len(new) > 3 else "")
    if spec.model.evaluate:
        raise RunError(
            f"model {spec.model.name}: the checkpoint has no fitting weights for {some}, so it "
            "has no published head to score (evaluate); fine-tune it instead, with a recipe"
        )
    backbone = {f"{model.base_model_prefix}.{name}": p for name, p in _backbone_weights(model)}
    total = sum(weight.numel() for weight in backbone.values())
    missing = sum(weight.numel() for name, weight in backbone.items() if name in new)
    if missing > _LARGEST_NEW_SHARE * total:
        raise RunError(
            f"model {spec.model.name}: {missing / total:.0%} of the backbone's weights are not in "
            f"the checkpoint ({some}): it belongs to another architecture than its config says"
        )


def _backbone_weights(model: PreTrainedModel) -> Iterator[tuple[str, Parameter]]:
    backbone = getattr(model, model.base_model_prefix, None)
    if backbone is not None:
        yield from backbone.named_parameters()


def label_columns(
    model: PreTrainedModel,
    corpus: Corpus,
    labels: Literal["dataset-order"] | tuple[str, ...] | None = None,
) -> list[int]:
    """Return, for each class of the dataset, the column of a published head that means it.

    Names are compared without regard to case and underscores. Of several classes with one name
    (ImageNet has two cranes) the first is taken to be the first in both lists.

    Args:
        model: has the published head.
        corpus: has the dataset's classes.
        labels: the head's classes in column order, where its config does not name them;
            dataset-order: those of the dataset, possibly under other names.

    Raises:
        RunError: the classes differ, or the head does not name them; the message prints both
            lists.
    """
    data = corpus.label_names
    head = labels if isinstance(labels, tuple) else _head_names(model)
    if labels == "dataset-order":
        if len(head) == len(data) and _half_agrees(head, data):
            return list(range(len(data)))
        raise _label_mismatch(head, data, "not in the dataset's order ('labels: dataset-order')")
    if any(_PLACEHOLDER_LABEL.match(name) for name in head):
        raise _label_mismatch(
            head, data, "not named in its config: name them in column order with 'labels: [...]'"
        )
    ours, theirs = _numbered(data), _numbered(head)
    if sorted(ours) != sorted(theirs):
        raise _label_mismatch(head, data, "not the dataset's")
    column = {name: index for index, name in enumerate(theirs)}
    return [column[name] for name in ours]


def _head_names(model: PreTrainedModel) -> tuple[str, ...]:
    names: Any = model.config.id2label
    return tuple(str(names[index]) for index in sorted(names))


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return normalised names, each with how often it came before."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in map(_normalised, names):
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def _half_agrees(head: Sequence[str], data: Sequence[str]) -> bool:
    """Say whether at least half of the classes have one name in both; numbers name nothing."""
    pairs = [(_normalised(a), _normalised(b)) for a, b in zip(head, data, strict=True)]
    told = [(a, b) for a, b in pairs if not (_names_nothing(a) or _names_nothing(b))]
    return 2 * sum(a == b for a, b in told) >= len(told)


def _names_nothing(name: str) -> bool:
    return name.isdigit() or _PLACEHOLDER_LABEL.match(name) is not None


def _label_mismatch(head: Sequence[str], data: Sequence[str], what: str) -> RunError:
    lists = f"Checkpoint ({len(head)}): {_shortened(head)}. Dataset ({len(data)}): "
    lists += f"{_shortened(data)}."
    ours, theirs = set(map(_normalised, data)), set(map(_normalised, head))
    if ours & theirs and len(head) + len(data) > 2 * _SHOWN_LABELS:
        only_head = [name for name in head if _normalised(name) not in ours]
        only_data = [name for name in data if _normalised(name) not in theirs]
        lists += f" Only in the checkpoint: {_shortened(only_head)}."
        lists += f" Only in the dataset: {_shortened(only_data)}."
    return RunError(f"the checkpoint's classes are {what}. {lists}")


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_LABELS]) or "none"
    return f"{shown}, ..." if len(names) > _SHOWN_LABELS else shown


def load_trained_model(folder: Path, entry: ModelEntry) -> PreTrainedModel:
    """Return the entry's fine-tuned model saved in `folder`, in evaluation mode on the CPU."""
    model: PreTrainedModel = _MODEL_CLASSES[entry.modality].from_pretrained(
        folder, use_safetensors=True, trust_remote_code=entry.trust_remote_code
    )
    model.eval()
    return model


def count_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _source_options(spec: RunSpec) -> dict[str, Any]:
    # Never None, with which the library asks a question on the terminal and waits.
    code = {"trust_remote_code": spec.model.trust_remote_code}
    if spec.model.hub is None:
        return code
    return {
        **code,
        "revision": spec.model_revision,
        "token": access_token(),
        # All that is needed has been fetched; code of an entry may come from elsewhere.
        "local_files_only": not spec.model.trust_remote_code,
    }


def _source_name(entry: ModelEntry) -> str:
    return entry.hub if entry.hub is not None else str(entry.path)


def _label_options(corpus: Corpus) -> dict[str, Any]:
    names = corpus.label_names
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


# --- scratch entries ------------------------------------------------------------------------


def _scratch_config(
    spec: RunSpec, corpus: Corpus, preprocessor: Preprocessor, label_options: dict[str, Any]
) -> Any:
    """Complete the entry's architecture with what the data decide."""
    settings = dict(spec.model.scratch or {})
    model_type = settings.pop("model_type")
    if spec.model.modality == "image":
        filled = {"image_size": _image_size(spec, corpus), "num_channels": 3}
    else:
        filled = {
            "vocab_size": len(preprocessor),
            "pad_token_id": preprocessor.pad_token_id,
            "max_position_embeddings": preprocessor.model_max_length,
        }
    try:
        return AutoConfig.for_model(model_type, **{**settings, **filled}, **label_options)
    except Exception as error:  # each architecture validates its config in its own way
        raise RunError(f"model {spec.model.name}: scratch config: {first_line(error)}") from error


def _image_size(spec: RunSpec, corpus: Corpus) -> int:
    wanted = (spec.model.scratch or {}).get("image_size", spec.dataset.image_size)
    if wanted is not None:
        return int(wanted)
    assert corpus.train.images is not None
    height, width, _ = corpus.train.images[0].shape
    return int(max(height, width))


def _scratch_key(spec: RunSpec) -> str:
    scratch = spec.model.scratch or {}
    made_from = {"image_size": spec.dataset.image_size}
    made_from |= {name: scratch[name] for name in ("vocab_size", "image_size") if name in scratch}
    return _short_hash([spec.data_key(), spec.dataset.max_length, made_from])


def _short_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _scratch_preprocessor(spec: RunSpec, corpus: Corpus, folder: Path) -> Path:
    """Make the preprocessor folder unless it exists; safe with several processes at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".tmp-"))
            try:
                _make_preprocessor(spec, corpus).save_pretrained(temporary)
                os.replace(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _make_preprocessor(spec: RunSpec, corpus: Corpus) -> Preprocessor:
    if spec.model.modality == "image":
        return _fit_image_processor(corpus, _image_size(spec, corpus))
    vocab_size = int((spec.model.scratch or {}).get("vocab_size", 8000))
    return _train_tokenizer(corpus, vocab_size, spec.dataset.max_length or 512)


def _fit_image_processor(corpus: Corpus, size: int) -> Preprocessor:
    """Return a processor that standardises each channel by the training split's statistics."""
    assert corpus.train.images is not None
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    for index in range(len(corpus.train.images)):
        image = corpus.train.images[index].astype(np.float64).reshape(-1, 3) / 255
        sums, squares = sums + image.sum(axis=0), squares + (image**2).sum(axis=0)
        pixels += len(image)
    mean = sums / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-12))
    return ViTImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=[round(float(value), 6) for value in mean],
        image_std=[round(float(value), 6) for value in deviation],
    )


def _train_tokenizer(corpus: Corpus, vocab_size: int, max_length: int) -> Preprocessor:
    """Return a byte-level BPE tokenizer (Radford et al. 2019) of the training split.

    Trainers that mark the parts of a word (WordPiece's ##) number them in the order of a hash
    table that differs from process to process; this one gives the same tokenizer each time.
    """
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    assert corpus.train.texts is not None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus.train.texts, *(corpus.train.text_pairs or [])], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, **_SPECIAL_TOKENS
    )
