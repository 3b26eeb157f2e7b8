"""How does a template make text of values that nobody vouches for?

The values are a stranger's: a template reads them, and nothing in them is ever run as one. The template is the
recipe's, or a tokenizer's from the hub: Jinja's immutable sandbox keeps it from the interpreter (no attribute
with an underscore, no change of a value), and here it is kept from time and memory as well: at most `STEPS` turns of
loops and calls, `range` as far as Jinja's sandbox allows, and no operation whose result is larger than what went in
by a number of its choice. What depends on the day or on chance (`strftime_now`, `random`) is not there.

Two kinds: a chat template is read as Hugging Face's `apply_chat_template` reads it (line breaks behind a block are
no text) and knows `{% generation %}`; a row template is plain Jinja that writes nothing for a null, and fails for a
column that is not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from winnow.tokenize.chat_turns import ChatError

STEPS = 1_000_000
MOST_TEXT = 1 << 28
"""Characters of a rendered text, or of what one operation makes."""
WIDEST = 1_000
LARGEST = 1 << 64
OPENS, CLOSES = "winnow_opens", "winnow_closes"
"""The variables that a chat template writes where a `{% generation %}` block begins and ends."""

WIDENING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
GONE = (
    "batch",
    "center",
    "format",
    "pprint",
    "random",
    "slice",
    "urlencode",
    "urlize",
    "wordwrap",
    "xmlattr",
)
"""Filters that widen, choose by chance, or write a character in another way."""
WIDE_FIELD = re.compile(r"%[^%a-zA-Z]*(\*|\d{4})")


class Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`: the body, between the two marks; its variables are its own."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        opens, closes = (nodes.Output([nodes.Name(name, "load")]) for name in (OPENS, CLOSES))
        return [node.set_lineno(line) for node in (opens, nodes.Scope(body), closes)]


class _Counted:
    """What a loop goes through; every round is a step."""

    def __init__(self, values: Any, step: Callable[[], None]):
        self._values, self._step = values, step

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._step()
            yield value

    def __len__(self) -> int:
        return len(self._values)


class _Bounds(NodeTransformer):
    """Puts a count into every loop, and a limit on what is made by putting texts together."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "counted", node.lineno)
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _filtered(node.filter, "bounded", node.lineno)
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "bounded", node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "bounded", node.lineno)


def _filtered(node: Any, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


def _bounded(made: Any) -> Any:
    if isinstance(made, str) and len(made) > MOST_TEXT:
        raise SecurityError("too long")
    return made


class Sandbox(ImmutableSandboxedEnvironment):
    """One render at a time."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.steps = 0
        for name in GONE:
            del self.filters[name]
        self.filters |= {
            "tojson": _to_json,
            "indent": _indented,
            "counted": self._counted,
            "bounded": _bounded,
        }
        self.globals["raise_exception"] = _raise_exception
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Bounds().visit(super()._parse(source, name, filename)).set_environment(self)

    def _counted(self, values: Any) -> _Counted:
        return _Counted(values, self._step)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise SecurityError("too many steps")

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self._step()
        return _bounded(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _bounded_product(left, right)
        elif operator == "**" and not all(
            isinstance(value, float) or (isinstance(value, int) and abs(value) <= most)
            for value, most in ((left, LARGEST), (right, 64))
        ):
            raise SecurityError("too large a power")
        elif operator == "%" and isinstance(left, str) and WIDE_FIELD.search(left):
            raise SecurityError("too wide a field")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("text is put together with ~, not with format")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in WIDENING)


def _bounded_product(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple) and isinstance(other, int) and len(one) * other > MOST_TEXT:
            raise SecurityError("too long")
        if isinstance(one, int) and abs(one) > LARGEST:
            raise SecurityError("too large a number")


def _raise_exception(message: str) -> None:
    raise TemplateRuntimeError(message)


def _to_json(value: Any, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Hugging Face's, without `ensure_ascii`: characters stay as they are."""
    if indent is not None and indent > WIDEST:
        raise SecurityError("too wide")
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


def _indented(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if (len(width) if isinstance(width, str) else width) > WIDEST:
        raise SecurityError("too wide")
    return do_indent(text, width, first, blank)


@lru_cache
def _chats() -> Sandbox:
    return Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])


@lru_cache
def _rows() -> Sandbox:
    return Sandbox(
        extensions=[loopcontrols],
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: "" if value is None else value,
    )


@lru_cache(maxsize=64)
def chat_template(source: str) -> jinja2.Template:
    """A chat template, compiled. Raises jinja2.TemplateSyntaxError."""
    return _chats().from_string(source)


@lru_cache(maxsize=64)
def row_template(source: str) -> jinja2.Template:
    """A template over a row's columns, compiled. Raises jinja2.TemplateSyntaxError."""
    return _rows().from_string(source)


def render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """The text that a template makes of values.

    Raises ChatError: `missing-column` where a row template names what is not there, `too-large`, and `template` for
    everything else that it cannot do with these values.
    """
    environment = template.environment
    environment.steps = 0  # type: ignore[attr-defined]
    try:
        return "".join(_within(template.root_render_func(template.new_context(dict(values))), MOST_TEXT))
    except ChatError:
        raise
    except jinja2.UndefinedError as error:
        strict = environment.undefined is jinja2.StrictUndefined
        raise ChatError("missing-column" if strict else "template") from error
    except Exception as error:  # whatever a template does with a stranger's value, the row is at fault
        raise ChatError("template") from error


def _within(parts: Iterable[str], most: int) -> Iterator[str]:
    size = 0
    for part in parts:
        size += len(part)
        if size > most:
            raise ChatError("too-large")
        yield part


def columns_of(source: str) -> frozenset[str]:
    """The top-level names that a row template reads."""
    return frozenset(meta.find_undeclared_variables(_rows().parse(source)))


def syntax_error(source: str, chat: bool = False) -> str | None:
    """What is wrong with a template, and on which of its lines; None for nothing."""
    try:
        (chat_template if chat else row_template)(source)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno} of the template: {error.message}"
    except RecursionError:
        return "the template is nested too deeply"
    return None
