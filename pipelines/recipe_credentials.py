"""Does a recipe hold a key?

What a recipe says stands in RUN/recipe.yaml, in logs and in error messages: a URL with somebody's key or a signature in
it is refused before anything else is said of the recipe, and without being repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from winnow.pipelines.located import Document, RecipeError
from winnow.shards.storage_errors import carries_credentials

REFUSED = (
    "a location with a key or a signature in it; what a recipe says is written into RUN and logs: give credentials by "
    "the environment of every node (docs/object_stores.md)"
)


def refuse_credentials(document: Document) -> None:
    """Raises RecipeError, located, for URLs that carry credentials, as values or as keys."""
    problems = [document.problem(path, REFUSED) for path in _paths(document.value, ())]
    if problems:
        raise RecipeError(sorted(problems, key=document.order))


def _paths(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if _carries(key):
                yield path
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _paths(inner, (*path, i))
    elif _carries(value):
        yield path


def _carries(value: Any) -> bool:
    return isinstance(value, str) and carries_credentials(value)
