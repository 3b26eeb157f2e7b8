"""Where is the copy of a place that a recipe names?

`mirrors` has places by prefix, a repository, all of the hub's data sets or any other directory or URL, each with the
directory or URL of a copy that is laid out like it. It is a table in the recipe, or a YAML file with such a table. The
longest prefix that ends where a name ends counts. Ids go by the place that is named, so they are the same with and
without a mirror. A copy is read as it is: it has no revisions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from winnow.pipelines.located import Document, Problem, RecipeError, parse, shown
from winnow.pipelines.recipe import Recipe
from winnow.shards import storage


@dataclass(frozen=True)
class Mirrors:
    """Places by prefix; none ends in a slash."""

    table: Mapping[str, str]

    def of(self, location: str) -> str | None:
        """Where the copy of a location is that names no revision; None where there is none."""
        prefix = location.rstrip("/")
        while prefix not in self.table:
            prefix, slash, _ = prefix.rpartition("/")
            if not slash:
                return None
        return self.table[prefix] + location.rstrip("/")[len(prefix) :]


def read_mirrors(recipe: Recipe) -> Mirrors:
    """The mirrors of a recipe.

    Raises RecipeError, at its place, for a file that is no such table, a directory that is not there, and a prefix
    with a revision.
    """
    if isinstance(recipe.mirrors, str):
        return _from_file(recipe, recipe.mirrors)
    table = {}
    for prefix, target in recipe.mirrors.items():
        if message := _mistake(prefix, storage.absolute(target)):
            raise recipe.located(("mirrors", prefix), message)
        table[storage.absolute(prefix)] = storage.absolute(target)
    return Mirrors(table)


def _mistake(prefix: str, target: str) -> str | None:
    if prefix.startswith(storage.HUB) and "@" in prefix:
        return f"{shown(prefix)}: a copy has no revisions; leave out what begins with @"
    if storage.is_local(target) and not os.path.isdir(target):
        return f"there is no directory {target}"
    return None


def _from_file(recipe: Recipe, name: str) -> Mirrors:
    """Targets that are relative paths begin where the file lies."""
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise recipe.located(("mirrors",), f"{name}: cannot be read: {why}") from error
    document = parse(text, name)
    if not isinstance(document.value, dict):
        raise _problem(document, (), f"prefixes with their mirrors are wanted, not {shown(document.value)}")
    table = {}
    for prefix, target in document.value.items():
        if not isinstance(target, str) or not target:
            raise _problem(document, (prefix,), f"a directory or URL is wanted, not {shown(target)}")
        if storage.is_local(target):
            target = os.path.join(path.parent, os.path.expanduser(storage.local_path(target)))
        target = storage.absolute(target)
        if message := _mistake(prefix, target):
            raise _problem(document, (prefix,), message)
        table[storage.absolute(prefix)] = target
    return Mirrors(table)


def _problem(document: Document, path: tuple[str, ...], message: str) -> RecipeError:
    problem: Problem = document.problem(path, message)
    return RecipeError([problem])
