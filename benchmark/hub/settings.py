"""What the environment says of the hub: token, patience, address, and whether to ask at all."""

from __future__ import annotations

import os
from typing import Literal


def access_token() -> str | Literal[False]:
    """Return the token of HF_TOKEN, or False: send none, whatever a file on disk holds."""
    return os.environ.get("HF_TOKEN", "").strip() or False


def is_offline() -> bool:
    """Say whether the hub must not be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub.constants import is_offline_mode

    return bool(is_offline_mode())


def patience() -> int:
    """Return the seconds to wait for an answer without content (HF_HUB_ETAG_TIMEOUT)."""
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    return int(HF_HUB_ETAG_TIMEOUT)


def endpoint() -> str:
    """Return the address of the hub (HF_ENDPOINT)."""
    from huggingface_hub.constants import ENDPOINT

    return str(ENDPOINT)
