"""The hardware and software of a run, in one line."""

from __future__ import annotations

from typing import Any


def describe_machine(provenance: dict[str, Any]) -> str:
    """Return one line on the hardware and software of a run, from its provenance."""
    if "imported" in provenance:
        return f"an unknown machine; the logits were imported and scored on {_here(provenance)}"
    return _here(provenance)


def _here(provenance: dict[str, Any]) -> str:
    packages = provenance.get("packages") or {}
    parts = [provenance.get("device_name") or provenance.get("processor")]
    if provenance.get("cores"):
        parts.append(f"{provenance['cores']} cores")
    if provenance.get("memory_gib"):
        parts.append(f"{provenance['memory_gib']} GiB memory")
    if provenance.get("python"):
        parts.append(f"Python {provenance['python']}")
    parts += [f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages]
    return ", ".join(str(part) for part in parts if part) or "not recorded"
