"""Who says what in a row?

Data sets hold conversations in a handful of shapes (`Chat.kind`); each becomes a list of turns, `{"role", "content"}`
with the roles `system`, `user` and `assistant`. Then, whatever the shape:

- `system: drop` leaves out the system turns; `prompt` is put first where there is none.
- A conversation ends before its first question or answer without text; of `turns`, which are made of columns, and of
  system turns such a one is left out.
- Questions behind the last answer are left out: nothing is trained on there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winnow.tokenize.chat_settings import Chat

ROLES = {
    "system": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "bot": "assistant",
}  # fmt: skip
"""Names of roles in `messages` and ShareGPT's `conversations`, in lower case."""

Turns = list[dict[str, str]]


class ChatError(ValueError):
    """A row that makes no text; the message is the reason, a word or two with hyphens."""

    @property
    def reason(self) -> str:
        return str(self)


def turns_of(columns: Mapping[str, Any], chat: Chat, templates: Sequence[Callable[..., str]]) -> Turns:
    """The turns of a row, the last of them an answer.

    `templates` are those of `chat.turns`, ready to be called with the columns. Raises ChatError: `missing-column`;
    `wrong-type` for a column of another shape; `roles` for a role that is not known; `no-turns` and `no-answer` where
    no text is the user's, or none the assistant's.
    """
    if chat.turns:
        made = zip(chat.turns, templates, strict=True)
        turns = [{"role": turn.role, "content": template(columns)} for turn, template in made]
        turns = [turn for turn in turns if turn["content"].strip()]
    else:
        turns = _KINDS[chat.kind](at_path(columns, chat.column or ""), chat)
    return _answered(_with_system(turns, chat))


def is_alternating(turns: Turns) -> bool:
    """Whether question and answer take turns, behind at most one system turn, which is first."""
    spoken = [turn["role"] for turn in turns[turns[0]["role"] == "system" :]]
    return all(role == ("assistant" if i % 2 else "user") for i, role in enumerate(spoken))


def at_path(columns: Mapping[str, Any], path: str) -> Any:
    """The value at a path of keys with dots between; a column of just that name comes first. Raises ChatError."""
    if path in columns:
        return columns[path]
    value: Any = columns
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ChatError("missing-column")
        value = value[key]
    return value


def without(columns: dict[str, Any], path: str) -> dict[str, Any]:
    """The columns but for the one at a path; what holds it is copied."""
    if path in columns:
        return {name: value for name, value in columns.items() if name != path}
    head, _, rest = path.partition(".")
    inner = columns.get(head)
    return columns | {head: without(inner, rest)} if rest and isinstance(inner, dict) else columns


def _with_system(turns: Turns, chat: Chat) -> Turns:
    if chat.system == "drop":
        turns = [turn for turn in turns if turn["role"] != "system"]
    else:
        turns = [turn for turn in turns if turn["role"] != "system" or turn["content"].strip()]
    if chat.prompt is not None and all(turn["role"] != "system" for turn in turns):
        turns = [{"role": "system", "content": chat.prompt}, *turns]
    return turns


def _answered(turns: Turns) -> Turns:
    """The turns up to the last answer before the first turn without text."""
    end, roles = 0, set()
    for i, turn in enumerate(turns):
        if not turn["content"].strip():
            break
        roles.add(turn["role"])
        if turn["role"] == "assistant":
            end = i + 1
    if "user" not in roles:
        raise ChatError("no-turns")
    if not end:
        raise ChatError("no-answer")
    return turns[:end]


def _from_messages(value: Any, chat: Chat) -> Turns:
    turns = []
    for item in _listed(value):
        role, content = _field(item, chat.role), _field(item, chat.content)
        if not isinstance(role, str):
            raise ChatError("wrong-type")
        known = chat.roles.get(role) or ROLES.get(role.lower())
        if known is None:
            raise ChatError("roles")
        turns.append({"role": known, "content": _text(content)})
    return turns


def _from_alternating(value: Any, chat: Chat) -> Turns:
    return [
        {"role": "assistant" if i % 2 else "user", "content": _text(item)}
        for i, item in enumerate(_listed(value))
    ]


def _from_pairs(value: Any, chat: Chat) -> Turns:
    turns = []
    for item in _listed(value):
        turns.append({"role": "user", "content": _text(_field(item, chat.user))})
        turns.append({"role": "assistant", "content": _text(_field(item, chat.assistant))})
    return turns


def _from_inst(value: Any, chat: Chat) -> Turns:
    """Llama 2's written form, read back; blanks around a text are no part of it. The last question may be open."""
    if value is not None and not isinstance(value, str):
        raise ChatError("wrong-type")
    head, *exchanges = (value or "").split("[INST]")
    if not exchanges:
        raise ChatError("no-turns")
    if head.strip() not in ("", "<s>"):
        raise ChatError("wrong-type")
    turns: Turns = []
    for number, exchange in enumerate(exchanges, start=1):
        question, closed, answer = exchange.partition("[/INST]")
        is_open = not closed and number == len(exchanges)
        if not closed and not is_open:
            raise ChatError("wrong-type")
        question = question.strip()
        if not turns and question.startswith("<<SYS>>"):
            system, _, question = question.removeprefix("<<SYS>>").partition("<</SYS>>")
            turns.append({"role": "system", "content": system.strip()})
        turns.append({"role": "user", "content": question.strip()})
        if is_open:
            break
        answer = answer.rstrip().removesuffix("<s>").rstrip().removesuffix("</s>")
        turns.append({"role": "assistant", "content": answer.strip()})
    return turns


_KINDS: dict[str, Callable[[Any, Chat], Turns]] = {
    "messages": _from_messages,
    "alternating": _from_alternating,
    "pairs": _from_pairs,
    "inst": _from_inst,
}


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ChatError("wrong-type")
    return value


def _field(item: Any, key: str) -> Any:
    if not isinstance(item, Mapping) or key not in item:
        raise ChatError("wrong-type")
    return item[key]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ChatError("wrong-type")
    return value
