"""What in a recipe does not go together with conversations?

Where a conversation's control tokens and answers lie in its text is known when it is read, and goes with it to the
tokenizer (tokenize/chat.py). So nothing in between may change the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winnow.pipelines.recipe import Recipe
    from winnow.pipelines.source_settings import Read

Place = tuple[str | int, ...]


def cuts(step: str, settings: Any) -> bool:
    """Whether a step of dedup may cut stretches out of a text."""
    if step == "bloom":
        return settings.remove != "document"
    if step == "decontaminate":
        return settings.action == "cut"
    return step in ("lines", "substrings")


def chat_mistakes(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """(place, what is wrong) of templates that are none, and of what would change a conversation's text."""
    conversations = {name for name, source in recipe.sources.items() if source.read.chat is not None}
    for name, source in recipe.sources.items():
        yield from _template_mistakes(("sources", name, "read"), source.read)
        for i, use in enumerate(source.filters if name in conversations else ()):
            if hasattr(use.settings, "rewrite"):  # type: ignore[attr-defined]
                message = f"{use.settings.name} changes text; of a chat it must stay as it is"  # type: ignore[attr-defined]
                yield ("sources", name, "filters", i), message
    for step in recipe.dedup_steps():
        for group in step.groups:
            inside = conversations & set(group.sources) if cuts(step.name, group.settings) else set()
            for name in sorted(inside):
                owner: Place = ("sources", name, "dedup") if len(group.sources) == 1 else ("dedup",)
                yield (
                    (*owner, step.name),
                    f"{step.name} cuts text; that of the chat {name!r} must stay as it is",
                )
    for kind in ("classifiers", "embedding_classifiers"):
        for name, classifier in getattr(recipe, kind).items():
            for label in ("positive", "negative", "scored"):
                for part, examples in getattr(classifier, label, {}).items():
                    yield from _template_mistakes((kind, name, label, part, "read"), examples.read)


def _template_mistakes(place: Place, read: Read) -> Iterator[tuple[Place, str]]:
    if read.chat is None and read.template is None:
        return
    from winnow.tokenize.chat import check, check_template  # Jinja is wanted by few recipes

    if read.template is not None and (message := check_template(read.template)) is not None:
        yield (*place, "template"), message
    if read.chat is not None and (message := check(read.chat)) is not None:
        yield (*place, "chat"), message
