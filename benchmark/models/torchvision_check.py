"""Whether an installed torchvision fits torch: the library imports it with its image processors."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import version

from benchmark.failures import UnavailableError, first_line


def require_fitting_torchvision() -> None:
    """Refuse a torchvision that was built for another torch, which no model can be loaded with.

    Its absence is fine: only timm checkpoints need it.

    Raises:
        UnavailableError: it cannot be imported, as when its operators (`torchvision::nms`) are
            compiled for another version or kind of torch; the message says what to install.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError, OSError, AttributeError) as error:
        raise UnavailableError(
            f"torchvision {version('torchvision')} does not fit torch {version('torch')} "
            f"({first_line(error)}): install both from one index, e.g. both with '--index-url' of "
            "torch's CPU wheels, or uninstall torchvision (only timm checkpoints need it)"
        ) from None
