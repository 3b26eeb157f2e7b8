"""What is wrong with a document, in words, where the schema does not accept it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

import pydantic
from pydantic import BaseModel
from winnow.pipelines.located import Document, Problem, nearest, shown, wording


def refusals(model: type[BaseModel], document: Document, error: pydantic.ValidationError) -> list[Problem]:
    """Every mistake that a schema found in a document, at its place, in the document's order."""
    found = []
    for item in error.errors(include_url=False):
        path, kind = tuple(item["loc"]), item["type"]
        if kind == "extra_forbidden":
            # …, filters, an item's number, a filter's name
            what = "filter" if len(path) > 3 and path[-3] == "filters" else "key"
            hint = nearest(str(path[-1]), _valid_keys(model, path[:-1])) or "; nothing can be set here"
            message = f"unknown {what} {shown(path[-1])}{hint}"
            found.append(document.problem(path, message, at_key=True))
        elif kind == "missing":
            found.append(document.problem(path[:-1], f"{path[-1]!r} is missing", at_key=len(path) > 1))
        elif path[-1:] == ("[key]",):
            found.append(document.problem(path[:-1], wording(item), at_key=True))
        else:
            found.append(document.problem(path, wording(item)))
    return sorted(found, key=document.order)


def _valid_keys(model: Any, path: Sequence[str | int]) -> list[str]:
    """The keys the schema allows at a path."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {f.alias or n: f.annotation for n, f in model.model_fields.items()}
        if not path:
            return list(fields)
        return _valid_keys(fields.get(str(path[0])), path[1:])
    if get_origin(model) is dict and path:
        return _valid_keys(get_args(model)[1], path[1:])
    if get_origin(model) is list and path:
        return _valid_keys(get_args(model)[0], path[1:])
    for option in get_args(model):
        if keys := _valid_keys(option, path):
            return keys
    return []
