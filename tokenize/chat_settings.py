"""What may a recipe say of rows that are conversations, or questions with answers?"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Format = Literal[
    "chatml", "llama-inst", "user-assistant", "alpaca-chat", "mc-concise", "tldr", "vicuna", "alpaca", "dclm-it",
    "phi-qa", "phi-dialogue", "phi-code",
]  # fmt: skip
"""The chat formats that Winnow knows: tokenize/chat_templates.py."""
FORMATS: tuple[str, ...] = get_args(Format)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(Model):
    """A turn that is made of a row's columns."""

    role: Literal["system", "user", "assistant"]
    text: str
    """A Jinja template over the row's columns; a turn without text is left out."""


class Chat(Model):
    """Where a row's turns are, and how they are written. One of `column`, `turns`."""

    format: Format | None = None
    """A known way to write turns; or give `template`."""
    template: str | None = Field(None, min_length=1)
    """A Jinja chat template as tokenizers carry it: `messages`, `bos_token`, `eos_token`, and `{% generation %}` around
    what is trained on."""
    column: str | None = Field(None, min_length=1)
    """The column that holds the turns, of one of the `kind`s. A path of keys with dots between."""
    kind: Literal["messages", "alternating", "pairs", "inst"] = "messages"
    """`messages`: objects with a role and a text (`messages`, and ShareGPT's `conversations`); `alternating`: a list of
    texts, the first of them the user's (UltraChat); `pairs`: objects with the user's and the assistant's text
    (Capybara); `inst`: one text with `[INST]` and `[/INST]` in it."""
    role: str = "role"
    content: str = "content"
    """Keys of `messages`: `from` and `value` in ShareGPT's."""
    user: str = "input"
    assistant: str = "output"
    """Keys of `pairs`."""
    turns: tuple[Turn, ...] = ()
    """Turns made of columns: Alpaca's, questions with answers."""
    roles: dict[str, Literal["system", "user", "assistant"]] = Field(default={})
    """Further names of roles; `human`, `gpt` and their like are known."""
    system: Literal["keep", "drop"] = "keep"
    """What becomes of a row's own system turns (Pints drops SlimOrca's)."""
    prompt: str | None = Field(None, min_length=1)
    """A system turn for rows that have none; default: what the format says."""
    bos_token: str | None = None
    eos_token: str | None = None
    """What a template calls so; default: those of the format, `<s>` and `</s>` for a template of your own. An empty
    string leaves it out."""
    control_tokens: tuple[str, ...] | None = None
    """Strings of the template that become control tokens of the tokenizer. Default: `bos_token` and `eos_token` where
    the template writes them, and everything in it that looks like `<|...|>`. Text of a turn never becomes one."""
    max_tokens: int | None = Field(None, ge=2)
    """Last turns are left out until a document is no longer (Pints: 2,048); one whose first answer is not reached
    is dropped, and counted."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Chat:
        if (self.format is None) == (self.template is None):
            raise ValueError("a chat has a `format` or a `template`, one of them")
        if (self.column is None) == (not self.turns):
            raise ValueError("a chat has its turns in a `column`, or made by `turns`: one of them")
        return self
