"""How the hub is asked: with which token and patience, and how often."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.hub.errors import may_pass
from benchmark.hub.settings import access_token, endpoint, is_offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ResultT = TypeVar("ResultT")

DOWNLOAD_ATTEMPTS = 2
"""The library makes some of its own in each of ours, and goes on where a file was cut off."""
_FIRST_DELAY = 0.5  # seconds, doubled after each attempt


@functools.cache
def _limit_waiting() -> None:
    """Let every request of the library give up in time; some of its own wait for ever."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils._http import default_client_factory

    def make_client() -> Any:
        made = default_client_factory()
        made.timeout = HF_HUB_DOWNLOAD_TIMEOUT
        return made

    set_client_factory(make_client)


def client() -> HfApi:
    """Return the library's client, with our token and an end to its patience."""
    from huggingface_hub import HfApi

    _limit_waiting()
    return HfApi(token=access_token())


def with_retries(work: Callable[[], ResultT], attempts: int) -> ResultT:
    """Do `work`; try again after a while if the connection or the hub failed for the moment."""
    delay = _FIRST_DELAY
    for _ in range(attempts - 1):
        try:
            return work()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(delay)
        delay *= 2
    return work()


def request_errors() -> tuple[type[Exception], ...]:
    """Return what the library raises when a request or its answer is not as it should be."""
    from httpx2 import HTTPError

    return (OSError, ValueError, RuntimeError, HTTPError)


def hub_state() -> tuple[str, str]:
    """Return the hub's address and why it cannot be asked, in words; "" where it answers."""
    import httpx2

    address = endpoint()
    if is_offline():
        return address, "not asked (HF_HUB_OFFLINE)"
    try:
        httpx2.head(f"{address}/api/models", timeout=5, follow_redirects=True)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return address, f"no answer ({error or type(error).__name__})"
    return address, ""
