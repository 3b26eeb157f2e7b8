"""How is what a run published read back?"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from winnow.pipelines.records import SCHEMA_VERSION, SchemaError
from winnow.shards import storage


def torn(run: str, manifest: dict[str, Any]) -> list[str]:
    """The published files that are not there, or not those the manifest was written after."""

    def as_written(name: str, digest: str) -> bool:
        place = storage.join(run, name)
        return storage.exists(place) and hashlib.sha256(storage.read_bytes(place)).hexdigest() == digest

    return [name for name, digest in manifest["published"].items() if not as_written(name, digest)]


def read_json(run: str, name: str) -> dict[str, Any]:
    """A published JSON file. Raises FileNotFoundError, or SchemaError for a damaged one or another schema version."""
    try:
        value = orjson.loads(storage.read_bytes(storage.join(run, name)))
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"{run}/{name} is damaged ({error}); `winnow run` writes it again") from None
    if not isinstance(value, dict) or "schema" not in value:
        raise SchemaError(f"{run}/{name} is damaged: `winnow run` writes it again")
    if value["schema"] != SCHEMA_VERSION:
        raise SchemaError(f"{run}/{name}: schema {value['schema']}, this Winnow reads {SCHEMA_VERSION}")
    return value
