"""How is what a run published read back?"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from winnow.pipelines.records import SCHEMA_VERSION, SchemaError
from winnow.shards import storage


def torn(run: str, manifest: dict[str, Any]) -> list[str]:
    """The published files that are not those the manifest was written after."""
    return [
        name
        for name, digest in manifest["published"].items()
        if hashlib.sha256(storage.read_bytes(storage.join(run, name))).hexdigest() != digest
    ]


def read_json(run: str, name: str) -> dict[str, Any]:
    """A published JSON file. Raises FileNotFoundError, or SchemaError for another schema version."""
    value = orjson.loads(storage.read_bytes(storage.join(run, name)))
    if value.get("schema") != SCHEMA_VERSION:
        raise SchemaError(f"{run}/{name}: schema {value.get('schema')}, this Winnow reads {SCHEMA_VERSION}")
    return value
