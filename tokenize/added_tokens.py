"""Which control tokens has a tokenizer, once a recipe has renamed some and added others?

A *control token* is an added token that is marked special: document text never becomes one. In a `tokenizer.json` its
name stands among the added tokens, in many files in the model's vocabulary as well, and in the post-processor's
templates; a new name has to stand in all of them, or the library gives the token another id. What text becomes does
not change: no merge makes a control token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winnow.tokenize.source import TokenizerError

SHOWN = 8


def controls(document: Mapping[str, Any]) -> dict[str, int]:
    """The ids of a tokenizer's control tokens by name, ascending."""
    special = [
        (int(token["id"]), token["content"]) for token in document["added_tokens"] if token.get("special")
    ]
    return {name: i for i, name in sorted(special)}


def remap(document: dict[str, Any], rename: Mapping[str, str], add: Sequence[str], origin: str) -> None:
    """Rename control tokens of a `tokenizer.json`, and put new ones behind its largest id, in order.

    document : the parsed file; changed in place
    rename : new names by old ones, all at once, so that two may change places
    add : names; one that `rename` made free may be among them
    origin : of the file, for people

    Raises TokenizerError that begins with ``rename:`` or ``add:`` where an old name is no control token, and where a
    new one is there already.
    """
    tokens, model = document["added_tokens"], document["model"]
    known = {token["content"] for token in tokens if token.get("special")}
    for old in rename:
        if old not in known:
            some = ", ".join(sorted(known, key=len)[:SHOWN]) or "none"
            raise TokenizerError(f"rename: {old!r} is not a control token of {origin}; those are: {some}")
    ids = entries(model["vocab"])
    taken = (ids.keys() | {token["content"] for token in tokens}) - rename.keys()
    for what, names in (("rename", rename.values()), ("add", add)):
        for name in names:
            if name in taken:
                raise TokenizerError(
                    f"{what}: {name!r} is there already; a name stands for one entry of {origin}"
                )
            taken.add(name)
    if isinstance(model["vocab"], dict):
        model["vocab"] = {rename.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[rename.get(piece, piece), *rest] for piece, *rest in model["vocab"]]
    if model.get("unk_token") in rename:
        model["unk_token"] = rename[model["unk_token"]]
    document["post_processor"] = _renamed(document.get("post_processor"), rename)
    first = 1 + max([*ids.values(), *(int(token["id"]) for token in tokens)])
    for token in tokens:
        token["content"] = rename.get(token["content"], token["content"])
    tokens += [_control(first + i, name) for i, name in enumerate(add)]


def under(rename: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Names to look for: first what a recipe calls those that it renamed, then the names themselves."""
    return (*(rename[name] for name in names if name in rename), *names)


def _control(token_id: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, **plain, "special": True}


def entries(vocab: Any) -> dict[str, int]:
    """Ids by piece: an object for BPE and WordPiece, a list of [piece, score] for unigram."""
    return dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, *_) in enumerate(vocab)}


def _renamed(value: Any, rename: Mapping[str, str]) -> Any:
    """A part of a JSON document with every string that is an old name replaced, keys too."""
    if isinstance(value, dict):
        return {rename.get(key, key): _renamed(part, rename) for key, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, rename) for part in value]
    return rename.get(value, value) if isinstance(value, str) else value
