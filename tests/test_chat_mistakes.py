"""Is it said, at its place, where a recipe would change a conversation's text or has a template that is none?"""

from __future__ import annotations

import pytest
from winnow.pipelines.located import RecipeError
from winnow.pipelines.recipe import read

CHAT = "chat: {format: chatml, column: messages}"
RECIPE = """\
name: chats
tokenizer: {{name: mistral-7b-v0.1}}
sources:
  talk:
    read: {{format: jsonl, path: x, {read}}}
{source}
  web: {{read: {{format: jsonl, path: y}}}}
{more}
"""
BENCHMARKS = "benchmarks: {b: {path: b.jsonl, text: q}}"


def errors(*, chat: str = CHAT, source: str = "", more: str = "") -> list[str]:
    try:
        read(RECIPE.format(read=chat, source=source and f"    {source}", more=more), "r.yaml")
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("source", "more", "place"),
    [
        ("filters: [nfc]", "", "6:15: nfc changes text"),
        ("filters: [{length: {min_words: 3}}, c4]", "", "6:41: c4 changes text"),
        ("dedup: {lines: true}", "", "6:13: lines cuts text; that of the chat 'talk'"),
        ("dedup: {substrings: true}", "", "6:13: substrings cuts text; that of the chat 'talk'"),
        ("dedup: {bloom: true}", "", "6:13: bloom cuts text; that of the chat 'talk'"),
        ("dedup: {bloom: {remove: paragraph}}", "", "6:13: bloom cuts text; that of the chat 'talk'"),
        ("", "dedup: {substrings: {across: [web, talk]}}", "8:21: substrings cuts text; that of the chat 'talk'"),
        ("", f"dedup: {{decontaminate: {{{BENCHMARKS}}}}}", "8:24: decontaminate cuts text; that of the chat 'talk'"),
    ],
)  # fmt: skip
def test_what_would_change_a_conversations_text(source: str, more: str, place: str) -> None:
    (found,) = errors(source=source, more=more)
    assert found.startswith(f"r.yaml:{place}")
    assert found.endswith("must stay as it is")
    assert errors(chat="text: text", source=source, more=more) == [], "of other sources it may change"


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("filters: [gopher-quality, {length: {min_words: 3}}]", ""),
        ("dedup: {exact: true, minhash: true, bloom: {remove: document}}", ""),
        ("", f"dedup: {{decontaminate: {{{BENCHMARKS}, action: drop}}}}"),
        ("", f"dedup: {{decontaminate: {{{BENCHMARKS}, method: cosmopedia}}}}"),
    ],
)
def test_what_only_drops_documents_goes_with_a_chat(source: str, more: str) -> None:
    assert errors(source=source, more=more) == []


@pytest.mark.parametrize(
    "chat",
    [
        'template: "{{ a"',
        'chat: {column: messages, template: "{% for"}',
        'chat: {format: chatml, turns: [{role: user, text: "{{ a"}]}',
    ],
    ids=["of-a-row", "of-a-chat", "of-a-turn"],
)
def test_a_template_that_is_none(chat: str) -> None:
    (found,) = errors(chat=chat)
    assert found.startswith("r.yaml:5:36: line 1 of the template: unexpected ")


def test_a_template_of_a_classifiers_examples() -> None:
    good = '{read: {format: jsonl, path: g, template: "{{ a"}}'
    more = f"classifiers: {{c: {{positive: {{g: {good}}}, negative: {{b: {{read: {{format: text, path: b}}}}}}}}}}"
    (found,) = errors(chat="text: text", more=more)
    assert found.startswith("r.yaml:8:")
    assert "line 1 of the template" in found
