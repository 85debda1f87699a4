"""The JSON schema of registry files, for editors and other tools: docs/registry.schema.json."""

from __future__ import annotations

import json
from typing import Any

from benchmark.registry.loading import NAMED_SECTIONS, SECTIONS, Registry

_TITLE = "Registry of the calibration benchmark"
_EXTENDS = "registry files that this one adds to, relative to it; its own entries come first"
_NAMED = ("ModelEntry", "DatasetEntry", "Suite")


def registry_schema() -> dict[str, Any]:
    """Return the schema of one file.

    A file's entries take their names from their keys, and a file that extends others need not
    have every section itself.
    """
    schema = Registry.model_json_schema()
    for definition in _NAMED:
        entry = schema["$defs"][definition]
        name = entry["properties"].pop("name")
        entry["required"].remove("name")
        # A name may be written out, too; then it is the key.
        entry["properties"]["name"] = {**name, "description": "default: the entry's key"}
    properties = schema["properties"]
    for section in NAMED_SECTIONS:
        pattern = schema["$defs"]["Suite"]["properties"]["name"]["pattern"]
        properties[section]["propertyNames"] = {"pattern": pattern}
    texts = {"type": "array", "items": {"type": "string"}}
    properties["extends"] = {
        "title": "Extends",
        "description": _EXTENDS,
        "anyOf": [{"type": "string"}, texts, {"type": "null"}],
    }
    del schema["required"]
    properties["suites"].pop("minProperties", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": _TITLE,
        "anyOf": [{"required": ["extends"]}, {"required": list(SECTIONS)}],
    }


def schema_text() -> str:
    """Return the schema as it is published."""
    return json.dumps(registry_schema(), indent=2, ensure_ascii=False) + "\n"
