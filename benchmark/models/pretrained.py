"""How the library's `from_pretrained` is called for an entry, and what its errors mean."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

from benchmark.failures import UnavailableError, first_line
from benchmark.hub import access_token, refusal_of_code
from benchmark.models import lfm2_convolution, metaformer, text_cnn
from benchmark.plan import RunSpec
from benchmark.registry import ModelEntry

Preprocessor = Any
"""A transformers tokenizer or image processor; the library types neither."""

# The library's advice (unused weights, missing torchvision) is noise in a run's log: what
# matters is checked here and raised as a typed error.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def register_models() -> None:
    """Make our own architectures known to the Auto classes; may be called repeatedly.

    After it `AutoConfig.for_model("text-cnn")`, `AutoModelForSequenceClassification.from_config`
    and `from_pretrained` of a saved folder work as they do for a model of the library.
    """
    lfm2_convolution.register()
    metaformer.register()
    text_cnn.register()


register_models()


def trusted_code(entry: ModelEntry) -> bool:
    """Say whether `from_pretrained` may run code that comes with an entry's checkpoint.

    Raises:
        UnavailableError: the entry asks for it, but this process does not allow it.
    """
    refusal = refusal_of_code() if entry.trust_remote_code else None
    if refusal is not None:
        raise UnavailableError(f"model {entry.name}: {refusal}")
    return entry.trust_remote_code


def source_options(spec: RunSpec) -> dict[str, Any]:
    """Return the options of `from_pretrained` that say where an entry's files come from.

    Raises:
        UnavailableError: it needs code of its own, which this process does not allow.
    """
    # Never None, with which the library asks a question on the terminal and waits.
    code = {"trust_remote_code": trusted_code(spec.model)}
    if spec.model.hub is None:
        return code
    return {
        **code,
        "revision": spec.model_revision,
        "token": access_token(),
        # All that is needed has been fetched; code of an entry may come from elsewhere.
        "local_files_only": not spec.model.trust_remote_code,
    }


def source_name(entry: ModelEntry) -> str:
    """Return the repository or the folder of an entry that is not a scratch one."""
    return entry.hub if entry.hub is not None else str(entry.path)


@contextmanager
def naming(entry: ModelEntry) -> Iterator[None]:
    """Name the registry's entry in what the hub's errors say."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(f"model {entry.name}: {error}") from error


def missing_library(entry: ModelEntry, error: ImportError) -> UnavailableError:
    """Say which library a checkpoint needs; the libraries' own texts run over many lines."""
    problem = first_line(error).partition(" You can install")[0].rstrip(".")
    what = "it"
    if "timm" in problem:
        what = "timm, and torchvision from the index that torch is from (the extra 'timm'),"
    elif "entencePiece" in problem or "protobuf" in problem:
        what = "sentencepiece protobuf (the extra 'text')"
    return UnavailableError(
        f"model {entry.name}: {problem}: pip install {what} and run the same command again"
    )


def missing_text_libraries(error: Exception) -> ImportError | None:
    """Return what is missing where the library asks for tiktoken to read a SentencePiece model.

    It falls back on tiktoken when sentencepiece or protobuf is not there, and tiktoken cannot
    read such a file.
    """
    absent = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
    if "tiktoken" not in str(error).lower() or not absent:
        return None
    return ImportError("its tokenizer is a SentencePiece model, read with sentencepiece, protobuf")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is not there, or it is blocked
        return False


def load_problem(error: Exception) -> str:
    """Return what the library says in one line, and in our words where code is not trusted."""
    if "trust_remote_code" in str(error):
        return (
            "it needs code of its own, which is run only for those who trust it: read the code, "
            "then set 'trust_remote_code: true' and add --allow-remote-code"
        )
    return first_line(error)
