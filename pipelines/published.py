"""How is what a run published read back?"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson
from winnow.pipelines.records import SCHEMA_VERSION, SchemaError
from winnow.shards import storage

NAME = re.compile(r"[^./][^/]*")
"""Of a source, a directory of a stage or a published file: one that begins with a dot would be another place."""


def torn(run: str, manifest: dict[str, Any]) -> list[str]:
    """The published files that are not there, or not those the manifest was written after."""

    def as_written(name: str, digest: str) -> bool:
        place = storage.join(run, name)
        return storage.exists(place) and hashlib.sha256(storage.read_bytes(place)).hexdigest() == digest

    return [name for name, digest in manifest["published"].items() if not as_written(name, digest)]


def check_names(run: str, manifest: dict[str, Any]) -> None:
    """Raises SchemaError for a manifest that names what is not below RUN."""
    sources, streams = manifest["sources"], manifest["streams"]
    names = [value for facts in (*sources, *streams) for value in facts.values() if isinstance(value, str)]
    names += [name for facts in sources for name in facts["dedup"]]
    names += [facts["directory"] for facts in manifest["stages"]]
    for name in [*names, *manifest["published"]]:
        if not NAME.fullmatch(name) or not name.isprintable():
            raise SchemaError(f"{run}/manifest.json is damaged: {name!r} is no name of anything in a run")


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
