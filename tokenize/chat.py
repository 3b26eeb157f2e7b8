"""How do a row's turns, or its columns, become the text of a document?

`Conversation` writes turns by a chat template (chat_templates.py) and says where the template's own control tokens
are, what is trained on, and where the document may be cut. `RowText` writes columns by a template.

A control token is what the template writes, never what a turn says. While a template renders, every control string
in a turn is broken by a noncharacter that no turn holds, and so is an end of a turn that could become part of one
beside the template's words; afterwards what is found whole is the template's, and the noncharacters go. That holds
for a turn written whole, trimmed, cut or put beside others; not for one that a template takes characters out of, or
writes in another case. The ends of `{% generation %}` blocks are found in the same way, wherever the template puts
them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from winnow.tokenize.chat_sandbox import (
    CLOSES,
    OPENS,
    chat_template,
    columns_of,
    render,
    row_template,
    syntax_error,
)
from winnow.tokenize.chat_settings import Chat
from winnow.tokenize.chat_templates import control_tokens, template_of
from winnow.tokenize.chat_turns import ChatError, Turns, is_alternating, turns_of, without

__all__ = ["ChatError", "Conversation", "RowText", "check", "check_template"]

META = "winnow_chat"
NONCHARACTERS = [
    *map(chr, range(0xFDD0, 0xFDF0)),
    *(chr(p << 16 | e) for p in range(17) for e in (0xFFFE, 0xFFFF)),
]
PRIVATE = range(0xF0000, 0xFFFFE)
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True)
class Conversation:
    """Turns of a row as one text; made once, called with each row's columns.

    The columns that the turns are made of are left out of `meta`: the column of `chat.column`, or every column that a
    template of `chat.turns` names. In their place is `winnow_chat`, of byte offsets in the text's UTF-8:

    control   [start, end] of each control token that the template wrote
    trained   [start, end] of each answer, with the token that ends it: the template's `{% generation %}` blocks; a
              template without such blocks is trained on as a whole
    turns     the ends of exchanges: behind an answer, and behind what the template writes after the last answer where
              the same stands there (the line break of ChatML); ascending, each once, none before the first byte. The
              last is the end of the text; a template that does not write one block for each answer has only that.
    """

    settings: Chat

    def __reduce__(self) -> tuple[Any, ...]:
        return Conversation, (self.settings,)  # compiled templates are not pickled

    def __call__(self, columns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The text, and the columns that `meta` is to have.

        Raises ChatError: the reasons of chat_turns.py and of chat_sandbox.py, `roles` where question and answer do not
        take turns and the format cannot say so, `no-answer` where the template wrote nothing of the answers,
        `surrogate` for half a character.
        """
        turns = turns_of(columns, self.settings, self._turns)
        if self._template.alternating and not is_alternating(turns):
            raise ChatError("roles")
        text, spans = self._written(turns)
        return text, self._rest(columns) | {META: spans}

    @cached_property
    def _template(self) -> Any:
        return template_of(self.settings)

    @cached_property
    def _turns(self) -> list[Any]:
        return [RowText(turn.text).text for turn in self.settings.turns]

    @cached_property
    def _controls(self) -> _Controls:
        return _Controls(control_tokens(self.settings))

    @cached_property
    def _used(self) -> frozenset[str]:
        return frozenset().union(*(columns_of(turn.text) for turn in self.settings.turns))

    def _rest(self, columns: dict[str, Any]) -> dict[str, Any]:
        if self.settings.column is not None:
            return without(columns, self.settings.column)
        return {name: value for name, value in columns.items() if name not in self._used}

    def _written(self, turns: Turns) -> tuple[str, dict[str, list[Any]]]:
        template = self._template
        texts = [template.source, template.bos_token, template.eos_token]
        breaks, opens, closes = _unused(texts + [turn["content"] for turn in turns])
        broken = [turn | {"content": self._controls.broken(turn["content"], breaks)} for turn in turns]
        values = {
            "messages": broken, "tools": None, "documents": None, "add_generation_prompt": False,
            "bos_token": template.bos_token, "eos_token": template.eos_token, OPENS: opens, CLOSES: closes,
        }  # fmt: skip
        rendered = render(chat_template(template.source), values)
        text, control, blocks = _found(rendered, self._controls.finder(breaks, opens, closes), opens, closes)
        if not GENERATION.search(template.source):
            blocks = [(0, len(text))]
        elif not blocks:
            raise ChatError("no-answer")
        answers = sum(turn["role"] == "assistant" for turn in turns)
        ends = _ends(text, blocks, control) if len(blocks) == answers else [len(text)]
        if not text:
            raise ChatError("no-answer")
        trained = [block for block in blocks if block[0] < block[1]]
        places = _bytes_at(text, [*(p for span in control + trained for p in span), *ends])
        spans = [[[places[start], places[end]] for start, end in found] for found in (control, trained)]
        return text, {"control": spans[0], "trained": spans[1], "turns": [places[end] for end in ends]}


@dataclass(frozen=True)
class RowText:
    """A template over a row's columns; the columns that it names are left out of `meta`."""

    template: str

    def __call__(self, columns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The text, and the columns that `meta` is to have. Raises ChatError: the reasons of chat_sandbox.py."""
        used = _columns_of(self.template)
        return self.text(columns), {name: value for name, value in columns.items() if name not in used}

    def text(self, columns: dict[str, Any]) -> str:
        """The text alone."""
        return render(row_template(self.template), columns)


_columns_of = lru_cache(maxsize=64)(columns_of)


class _Controls:
    """The strings that only a template may write."""

    def __init__(self, tokens: Sequence[str]):
        self._tokens = tuple(sorted(filter(None, tokens), key=lambda token: (-len(token), token)))
        either = "|".join(map(re.escape, self._tokens))
        self._found = either
        self._starts = re.compile(f"(?s:(?={either}).)") if either else None
        self._heads = tuple({token[:i] for token in self._tokens for i in range(1, len(token))})
        self._tails = tuple({token[i:] for token in self._tokens for i in range(1, len(token))})

    def broken(self, text: str, mark: str) -> str:
        """A text in which no control string is whole, nor becomes so beside others. Blanks around it stay outside."""
        if self._starts is None:
            return text
        core = text.strip()
        left = len(text) - len(text.lstrip())
        right = text[left + len(core) :]
        before = mark if core.startswith(self._tails) or any(core in token for token in self._tokens) else ""
        behind = mark if core.endswith(self._heads) else ""
        core = self._starts.sub(lambda found: found.group() + mark, core)
        return text[:left] + before + core + behind + right

    def finder(self, *marks: str) -> re.Pattern[str]:
        return _finder(self._found, "".join(marks))


@lru_cache(maxsize=64)
def _finder(either: str, marks: str) -> re.Pattern[str]:
    return re.compile(f"{either}|[{marks}]" if either else f"[{marks}]")


def _unused(texts: Sequence[str]) -> list[str]:
    """Three characters that are in none of the texts."""
    free = [mark for mark in NONCHARACTERS[:3] if not any(mark in text for text in texts)]
    if len(free) < 3:
        used = set().union(*texts)
        free = [mark for mark in _candidates() if mark not in used][:3]
    if len(free) < 3:
        raise ChatError("template")
    return free


def _candidates() -> Iterator[str]:
    yield from NONCHARACTERS
    yield from map(chr, PRIVATE)


Spans = list[tuple[int, int]]


def _found(rendered: str, finder: re.Pattern[str], opens: str, closes: str) -> tuple[str, Spans, Spans]:
    """The text without marks, and where in it the control tokens and the outermost generation blocks are."""
    parts: list[str] = []
    control: Spans = []
    blocks: Spans = []
    size = last = depth = start = 0
    for match in finder.finditer(rendered):
        token = match.group()
        parts.append(rendered[last : match.start()])
        size += match.start() - last
        last = match.end()
        if token == opens:
            start = start if depth else size
            depth += 1
        elif token == closes:
            depth -= 1
            if not depth:
                blocks.append((start, size))
        elif len(token) > 1:
            control.append((size, size + len(token)))
            parts.append(token)
            size += len(token)
    if depth:
        raise ChatError("template")
    parts.append(rendered[last:])
    return "".join(parts), control, blocks


def _ends(text: str, blocks: Spans, control: Spans) -> list[int]:
    """Where exchanges end, ascending.

    What stands behind the last block (a line break) ends another exchange, too, where the same stands behind its block
    and before the next one, and no control token goes on behind it. A template may write nothing for an answer (one
    that was all thoughts): that exchange ends where another does, or before the first character, and so nowhere.
    """
    tail = len(text) - blocks[-1][1]
    tokens = [start for start, _ in control]
    found = {len(text)}
    for (_, end), (following, _) in pairwise(blocks):
        behind = end + tail
        at = bisect_left(tokens, behind) - 1
        is_whole = behind <= following and (at < 0 or control[at][1] <= behind)
        found.add(behind if is_whole and text.endswith(text[end:behind]) else end)
    return sorted(found - {0})


def _bytes_at(text: str, places: Iterable[int]) -> dict[int, int]:
    """Byte offsets of places in a text. Raises ChatError for a text that has no UTF-8."""
    found: dict[int, int] = {}
    last = size = 0
    try:
        for place in sorted({*places, len(text)}):
            size += len(text[last:place].encode())
            found[place], last = size, place
    except UnicodeEncodeError:
        raise ChatError("surrogate") from None
    return found


def check(chat: Chat) -> str | None:
    """What is wrong with a chat's templates and tokens; None for nothing.

    A chat template is tried on one question with its answer, which every template must be able to write.
    """
    for turn in chat.turns:
        if (error := syntax_error(turn.text)) is not None:
            return error
    for token in control_tokens(chat):
        if len(token) < 2 or token != token.strip():
            return f"a control token has two characters or more, and no blank at its ends: {token!r} has not"
    template = template_of(chat)
    if (error := syntax_error(template.source, chat=True)) is not None:
        return error
    trial = Chat(**(chat.model_dump() | {"column": "trial", "kind": "alternating", "turns": ()}))
    try:
        text, _ = Conversation(trial)({"trial": ["question", "answer"]})
    except ChatError as failure:
        return f"the template cannot write a question with its answer: {failure.__cause__ or failure}"
    if "answer" not in text:
        return "the template does not write the answer"
    return None


def check_template(template: str) -> str | None:
    """What is wrong with a template over a row's columns; None for nothing."""
    return syntax_error(template)
