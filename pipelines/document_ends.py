"""Does a token tell where a document ends?

The EOS behind a document does, and so does the BOS before it, as long as no document has one inside. The template of a
chat may write it around every exchange: then each exchange looks like a document. Whether a template does so is tried
on a conversation of two questions with answers, or of one where the recipe makes the turns of a row's columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from winnow.pipelines.recipe import Recipe
    from winnow.tokenize.chat_settings import Chat
    from winnow.tokenize.encoder import Vocabulary


def written_inside(
    recipe: Recipe, vocabulary: Vocabulary, id_: int | None, *, begins: bool = False
) -> str | None:
    """The first source whose chat template writes a control token within documents; None where none does.

    id_ : of the token that ends documents, or that begins them.
    """
    names = {name for name, control in vocabulary.controls.items() if control == id_}
    for name, source in recipe.sources.items():
        chat = source.read.chat
        if chat is not None and _writes_inside(chat, names, begins=begins):
            return name
    return None


def _writes_inside(chat: Chat, tokens: set[str], *, begins: bool) -> bool:
    from winnow.pipelines.chat_tokens import KEY
    from winnow.tokenize.chat import ChatError, Conversation
    from winnow.tokenize.chat_templates import control_tokens

    if tokens.isdisjoint(control_tokens(chat)):
        return False
    exchanges = 1 if sum(turn.role == "assistant" for turn in chat.turns) == 1 else 2
    trial = chat.model_copy(update={"column": "trial", "kind": "alternating", "turns": ()})
    try:
        text, meta = Conversation(trial)({"trial": ["question", "answer"] * exchanges})
    except ChatError:  # a template that cannot write this: it may
        return True
    data = text.encode()
    return any(
        data[start:end].decode() in tokens and (start > 0 if begins else end < len(data))
        for start, end in meta[KEY]["control"]
    )
