"""Names of repositories on the hub, and the addresses that people paste in their place."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator


class HubPage(NamedTuple):
    """What the address of a page of the hub speaks of."""

    name: str
    revision: str | None
    is_dataset: bool


def hub_page(address: str) -> HubPage | None:
    """Take apart an address as it is copied from a browser; None where it is none."""
    found = re.fullmatch(r"https?://[^/]+/(datasets/|models/)?([^?#]*)(?:[?#].*)?", address)
    if found is None:
        return None
    parts = [part for part in found[2].split("/") if part]
    at_revision = len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "commit")
    return HubPage("/".join(parts[:2]), parts[3] if at_revision else None, found[1] == "datasets/")


def _without_address(hub: str) -> str:
    """Refuse the address of a page, with what to write in its place."""
    page = hub_page(hub)
    if page is not None:
        pin = f", revision: {page.revision}" if page.revision else ""
        raise ValueError(f"is the address of a page: write owner/name, hub: {page.name}{pin}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub, re.ASCII):
        raise ValueError(f"'{hub}' is not owner/name of a repository on the hub")
    return hub


HubName = Annotated[str, AfterValidator(_without_address)]
