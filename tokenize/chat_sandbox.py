"""How does a template make text of values that nobody vouches for?

The values are a stranger's: a template reads them, and nothing in them is ever run as one. The template is the
recipe's, or a tokenizer's from the hub: Jinja's immutable sandbox keeps it from the interpreter (no attribute
with an underscore, no change of a value), and here it is kept from time and memory as well: at most `STEPS` turns of
loops, calls and filters, `range` as far as Jinja's sandbox allows, and at most `MOST_MADE` characters in all that one
text makes, the parts that it throws away among them. Where a result can be larger than what goes in by a number of the
template's choice (`*`, `replace`, `join`, a list written out), its size is known before it is made; elsewhere it is
counted when it is there. What depends on the day or on chance (`strftime_now`, `random`) is not there.

Memory: at most four bytes for each of `MOST_MADE` characters, where a template keeps all that it makes.

Two kinds: a chat template is read as Hugging Face's `apply_chat_template` reads it (line breaks behind a block are
no text) and knows `{% generation %}`; a row template is plain Jinja that writes nothing for a null, and fails for a
column that is not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from functools import lru_cache, partial, wraps
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from winnow.tokenize.chat_turns import ChatError

STEPS = 1_000_000
MOST_TEXT = 1 << 28
"""Characters of a rendered text."""
MOST_MADE = 2 * MOST_TEXT
"""Characters that a template makes on the way to one text; an item of a list counts as `ITEM`, the bytes it takes."""
ITEM = 8
WRITTEN_OUT: tuple[type[Iterable[Any]], ...] = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)
WIDEST = 1_000
LARGEST = 1 << 64
OPENS, CLOSES = "winnow_opens", "winnow_closes"
"""The variables that a chat template writes where a `{% generation %}` block begins and ends."""

WIDENING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill", "to_bytes"})
GONE = (
    "batch", "center", "format", "pprint", "random", "slice", "urlencode", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
"""Filters that widen, choose by chance, or write a character in another way."""
WRITING = (
    "capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "striptags", "title", "trim", "upper",
    "wordcount",
)  # fmt: skip
"""Filters that write out a value that is no text."""
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

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "bounded", node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filtered(part, "measured", node.lineno) for part in node.nodes]
        return _filtered(node, "bounded", node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "bounded", node.lineno) if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: Any, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """One render at a time."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self, **options: Any):
        super().__init__(finalize=self._written, **options)
        self.steps = self.made = 0
        for name in GONE:
            del self.filters[name]
        own = {"indent": self._indented, "join": self._join, "replace": self._replace, "sum": self._sum}
        own |= {"tojson": self._to_json}
        self.filters = {name: self._watched(name, use) for name, use in (self.filters | own).items()}
        self.filters |= {"counted": self._counted, "bounded": self._bounded, "measured": self._measured}
        self.globals["raise_exception"] = _raise_exception
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Bounds().visit(super()._parse(source, name, filename)).set_environment(self)

    def start(self) -> None:
        """Count from nothing: for another text."""
        self.steps = self.made = 0

    def _check(self, size: int) -> None:
        """Whether so much may still be made."""
        if self.made + size > MOST_MADE:
            raise SecurityError("too long")

    def _make(self, size: int) -> None:
        self._check(size)
        self.made += size

    def _bounded(self, made: Any) -> Any:
        """What was made, counted."""
        if isinstance(made, str | bytes):
            self._make(len(made))
        elif isinstance(made, list | tuple):
            self._make(ITEM * len(made))
        return made

    def _measured(self, value: Any) -> Any:
        """A value whose text can be made; what lists hold many times is there as often."""
        if isinstance(value, str):
            return value
        size = 0
        left: list[Iterator[Any]] = [iter((value,))]
        while left:
            for item in left[-1]:
                self._step()
                if isinstance(item, Namespace):
                    raise SecurityError("a namespace is no text")
                if isinstance(item, str | bytes):
                    size += len(item)
                    self._check(size)
                elif isinstance(item, Mapping):
                    left.append(iter(item.items()))
                    break
                elif isinstance(item, WRITTEN_OUT):
                    left.append(iter(item))
                    break
            else:
                left.pop()
        return value

    def _written(self, value: Any) -> Any:
        return self._measured(value)

    def _watched(self, name: str, use: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose results count."""

        @wraps(use)  # with Jinja's marks of what is passed first
        def watched(*values: Any, **options: Any) -> Any:
            self._step()
            if name in WRITING:
                for value in values:
                    self._measured(value)
            return self._bounded(use(*values, **options))

        return watched

    def concat(self, parts: Iterable[str]) -> str:  # type: ignore[override]
        """What a macro or a block wrote, as one text."""
        parts = list(parts)
        self._make(sum(map(len, parts)))
        return "".join(parts)

    def _text(self, value: Any) -> str:
        return str(self._measured(value))

    def _replaced(self, text: Any, old: Any, new: Any, count: int = -1) -> Any:
        found = text.count(old) if count < 0 else min(text.count(old), count)
        self._check(len(text) + found * (len(new) - len(old)))
        return text.replace(old, new, count)

    def _joined(self, between: Any, values: Iterable[Any]) -> Any:
        parts, size = [], 0
        for part in values:
            size += len(part) + len(between)
            self._check(size)
            parts.append(part)
        return between.join(parts)

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = map(self._text, (text, old, new))
        return self._replaced(text, old, new, -1 if count is None else count)

    def _join(self, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return self._joined(self._text(d), map(self._text, values))

    def _sum(self, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        for value in values if attribute is None else map(make_attrgetter(self, attribute), values):
            self._step()
            start = self._bounded(start + value)
        return start

    def _indented(self, text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        wide = len(width) if isinstance(width, str) else width
        if wide > WIDEST:
            raise SecurityError("too wide")
        self._check(wide * len(text.splitlines()))
        return do_indent(text, width, first, blank)

    def _to_json(
        self, value: Any, indent: int | None = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """Hugging Face's, without `ensure_ascii`: characters stay as they are."""
        if indent is not None and indent > WIDEST:
            raise SecurityError("too wide")
        made = json.JSONEncoder(ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        parts, size = [], 0
        for part in made.iterencode(self._measured(value)):
            size += len(part)
            self._check(size)
            parts.append(part)
        return "".join(parts)

    def _counted(self, values: Any) -> _Counted:
        return _Counted(values, self._step)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise SecurityError("too many steps")

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self._step()
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str | bytes) and called.__name__ in ("replace", "join"):
            called = partial(self._replaced if called.__name__ == "replace" else self._joined, owner)
        return self._bounded(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            self._product(left, right)
        elif operator == "**" and not all(
            isinstance(value, float) or (isinstance(value, int) and abs(value) <= most)
            for value, most in ((left, LARGEST), (right, 64))
        ):
            raise SecurityError("too large a power")
        elif operator == "%" and isinstance(left, str | bytes):
            if isinstance(left, bytes) or WIDE_FIELD.search(left):
                raise SecurityError("too wide a field")
            self._measured(right)
        return self._bounded(super().call_binop(context, operator, left, right))

    def _product(self, left: Any, right: Any) -> None:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
                self._check(len(one) * other * (1 if isinstance(one, str | bytes) else ITEM))
            if isinstance(one, int) and abs(one) > LARGEST:
                raise SecurityError("too large a number")

    def wrap_str_format(self, value: Any) -> None:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("text is put together with ~, not with format")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (
            isinstance(obj, str | bytes | int) and attr in WIDENING
        )


def _raise_exception(message: str) -> None:
    raise TemplateRuntimeError(message)


class Rows(Sandbox):
    """Of templates that write nothing for a null."""

    def _written(self, value: Any) -> Any:
        return "" if value is None else self._measured(value)


@lru_cache
def _chats() -> Sandbox:
    return Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])


@lru_cache
def _rows() -> Sandbox:
    return Rows(extensions=[loopcontrols], undefined=jinja2.StrictUndefined)


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
    environment.start()  # type: ignore[attr-defined]
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
