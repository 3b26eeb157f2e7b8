"""What do conversations need of a recipe and its tokenizer, and how do their marks get to the tokens?

A source with `read.chat` has in each document's `meta` the key `winnow_chat`: byte ranges of the text where the
template wrote control tokens (`control`), what is trained on (`trained`), and where the text may end (`turns`). They
are of the text as it was read: what rewrites or cuts texts cannot go with them (chat_mistakes.py). That a control
token is the tokenizer's is checked before any work.

A conversation of more than `max_tokens` of which not even the first exchange fits is a document without tokens: it is
counted, as `too_long_chats`, lies in no sample, and is in RUN/dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from winnow.tokenize.source import TokenizerError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from winnow.pipelines.recipe import Recipe
    from winnow.tokenize.encoder import Vocabulary
    from winnow.tokenize.templated import Marks

KEY = "winnow_chat"


def check(recipe: Recipe, vocabulary: Vocabulary, piece_bytes: np.ndarray | None) -> None:
    """Raises RecipeError (located) where a chat's control tokens, or a loss mask, are not to be had.

    piece_bytes : what `tokens.spelling` knows of the tokenizer; None for nothing.
    """
    chats = {name: s.read.chat for name, s in recipe.sources.items() if s.read.chat is not None}
    if not chats:
        return
    from winnow.shards import loss_mask
    from winnow.tokenize.chat_templates import control_tokens, template_of

    for name, chat in chats.items():
        for token in control_tokens(chat):
            if token not in vocabulary.controls:
                template = template_of(chat)
                ends = {"eos_token": template.eos_token, "bos_token": template.bos_token}
                own = next((key for key, named in ends.items() if token == named), None)
                key = (
                    "control_tokens"
                    if chat.control_tokens
                    else own or ("format" if chat.format else "template")
                )
                hint = f"name the tokenizer's own in read.chat.{own}, " if own else ""
                raise recipe.located(
                    ("sources", name, "read", "chat", key),
                    f"{token!r} is no control token of {recipe.tokenizer.name}: {hint}put it into tokenizer.add, or "
                    "say in read.chat.control_tokens which strings of the template become one ([]: none)",
                )
    if loss_mask.COLUMN in recipe.shards.columns and piece_bytes is None:
        message = "which tokens are trained on is known only with a tokenizer whose pieces spell bytes"
        raise recipe.located(("shards", "columns"), message)


def marks_of(meta: pa.StringArray) -> list[Marks]:
    """The marks of some documents by their `meta`. Raises TokenizerError for a document without."""
    from winnow.tokenize.templated import Marks

    found = []
    for value in meta.to_pylist():
        try:
            mark = orjson.loads(value)[KEY]
            control, trained = ([(start, stop) for start, stop in mark[k]] for k in ("control", "trained"))
            found.append(Marks(control, trained, mark["turns"]))
        except (KeyError, TypeError, ValueError):
            raise TokenizerError(f"a conversation's meta has no {KEY}, or a damaged one") from None
    return found
