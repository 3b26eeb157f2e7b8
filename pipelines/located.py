"""Where in the recipe is the mistake, and how is it said?

YAML is composed into nodes, never constructed, so that a recipe cannot name a Python object;
every key and value keeps its file, line and column, and every error is `file:line:column: message`.
What `--set` puts in has places of its own: the file is then called `--set key.path`.
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
Place = tuple[str, int, int]
"""File, line, column; both count from 1."""
MOST_BYTES = 4 << 20
MOST_NODES = 100_000
"""More than any recipe; stops aliases that multiply."""
LONGEST_NUMBER = 100
"""Characters; what Python makes of longer ones takes more than linear time."""
DEEPEST = 50
"""Levels below the top; a recipe has eight."""
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp")}
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
KEY_TAGS = TAGS | {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}
TOO_LARGE = "the recipe is too large or nested too deeply"
SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, where it is, and what to do."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class RecipeError(ValueError):
    """A recipe that cannot be run; `problems` holds every mistake found."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


@dataclass(slots=True)
class Document:
    """A YAML file as plain values, with the place of every path in it."""

    file: str
    value: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """A problem at a path, or at the nearest thing above it that is in the file."""
        first, second = (self.keys, self.values) if at_key else (self.values, self.keys)
        for n in range(len(path), -1, -1):
            place = first.get(path[:n]) or second.get(path[:n])
            if place:
                return Problem(*place, message)
        return Problem(self.file, 1, 1, message)

    def order(self, problem: Problem) -> tuple[bool, str, int, int]:
        """Sorts problems by place, those of `--set` after the file's own."""
        return problem.file != self.file, problem.file, problem.line, problem.column


class _Loader(yaml.SafeLoader):
    """Composes no more than `MOST_NODES`."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise yaml.MarkedYAMLError(problem=TOO_LARGE, problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


def text_of(path: pathlib.Path, file: str) -> str:
    """The text of a recipe. Raises RecipeError for one that cannot be read, is too large or no UTF-8."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecipeError([Problem(file, 1, 1, TOO_LARGE)])
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        raise RecipeError([Problem(file, line, column, "the recipe is not UTF-8 text")]) from None
    except OSError as error:
        raise RecipeError([Problem(file, 1, 1, f"cannot be read: {error.strerror}")]) from None


def parse(text: str, file: str) -> Document:
    """Parse a recipe. Raises RecipeError for YAML that is broken, repeats a key or has a tag of its own."""
    document = _parse(text, file)
    if not document.values:
        raise RecipeError([Problem(file, 1, 1, "the recipe is empty")])
    return document


def _parse(text: str, file: str) -> Document:
    document = Document(file)
    if len(text) > MOST_BYTES:
        raise RecipeError([Problem(file, 1, 1, TOO_LARGE)])
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise RecipeError([Problem(file, line, column, _syntax(error))]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise RecipeError([Problem(file, line, column, message)]) from None
    except RecursionError:
        raise RecipeError([Problem(file, 1, 1, "the recipe is nested too deeply")]) from None
    if node is not None:
        document.value = _plain(node, (), document, [0])
    return document


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's complaint in a recipe author's words."""
    problem = (error.problem or error.context or "not YAML").replace("'<stream end>'", "the end of the text")
    if problem.startswith("found character '\\t'"):
        return "a tab cannot indent; use spaces"
    if problem.startswith("but found another document"):
        return "a second document begins here; a recipe is one"
    if problem.startswith("mapping values are not allowed"):
        return "a ': ' is not allowed here; put text that holds one in quotes, or look at the indentation"
    if problem == "second occurrence":
        return (error.context or problem).split(";", 1)[0]
    if error.context and error.context_mark and error.problem:
        return f"{problem} {error.context}, which begins in line {error.context_mark.line + 1}"
    return problem


def _plain(node: yaml.Node, path: Path, document: Document, count: list[int]) -> Any:
    mark = (document.file, node.start_mark.line + 1, node.start_mark.column + 1)
    document.values[path] = mark
    count[0] += 1
    if count[0] > MOST_NODES or len(path) > DEEPEST:
        raise RecipeError([Problem(*mark, TOO_LARGE)])
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return _mapping(node, path, document, count)
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_plain(item, (*path, i), document, count) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.ScalarNode) or node.tag not in TAGS:
        raise RecipeError([Problem(*mark, _tag_refused(node))])
    if node.tag.endswith(":timestamp"):
        return node.value  # the schema says what it wants
    try:
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise ValueError
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, KeyError):
        kind = node.tag.rsplit(":", 1)[1]
        raise RecipeError([Problem(*mark, f"{shown(node.value)} cannot be read as YAML's {kind}")]) from None


def _mapping(node: yaml.MappingNode, path: Path, document: Document, count: list[int]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = (document.file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError([Problem(*mark, "a key must be a plain word")])
        if key_node.tag not in KEY_TAGS:
            raise RecipeError([Problem(*mark, _tag_refused(key_node))])
        key = key_node.value
        if key in out:
            raise RecipeError([Problem(*mark, f"the key {shown(key)} is there twice")])
        document.keys[(*path, key)] = mark
        out[key] = _plain(value_node, (*path, key), document, count)
    return out


def _tag_refused(node: yaml.Node) -> str:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!", 1)
    return f"the tag {shown(tag)} is not allowed: a recipe is plain data"


def override(document: Document, assignment: str) -> None:
    """Apply one `--set key.path=value`; the value is YAML, nothing at all is null.

    Raises RecipeError located at `--set`.
    """
    name, equals, text = assignment.partition("=")
    keys = name.split(".")
    if not equals or not all(keys):
        raise RecipeError([Problem("--set", 1, 1, f"{shown(assignment)} is not KEY.PATH=VALUE")])
    place = (f"--set {name}", 1, 1)
    given = _parse(text, place[0])
    if not isinstance(document.value, dict):
        raise RecipeError([document.problem((), f"a recipe is a mapping, not {shown(document.value)}")])
    target: Any = document.value
    path: Path = ()
    for i, key in enumerate(keys):
        step = _step(target, key, place)
        path = (*path, step)
        if i + 1 == len(keys):
            break
        if isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
            document.keys[path] = document.values[path] = place
        target = target[step]
        if not isinstance(target, dict | list):
            message = f"{'.'.join(keys[: i + 1])} is {shown(target)}, which has no parts"
            raise RecipeError([Problem(*place, message)])
    target[path[-1]] = given.value
    _replace_places(document, path, given, place)


def _replace_places(document: Document, path: Path, given: Document, place: Place) -> None:
    for places, theirs in ((document.values, given.values), (document.keys, given.keys)):
        for old in [p for p in places if p[: len(path)] == path]:
            del places[old]
        places.update({path + inner: mark for inner, mark in theirs.items()})
    document.keys[path] = place
    document.values.setdefault(path, place)


def _step(target: dict | list, key: str, place: Place) -> str | int:
    if isinstance(target, dict):
        return key
    if key.isascii() and key.isdigit() and int(key) < len(target):
        return int(key)
    items = "an empty list" if not target else f"a list of {len(target)}; its first item is 0"
    raise RecipeError([Problem(*place, f"{key!r} is not an item of {items}")])


def nearest(word: str, valid: Iterable[str], otherwise: str = "valid here") -> str:
    """`; did you mean 'x'?`, or the list of what is valid."""
    valid = list(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; {otherwise}: {', '.join(sorted(valid))}" if valid else ""


def shown(value: Any) -> str:
    """A value in a message, as an author of YAML knows it; at most `SHOWN_CHARS` characters of it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."


BOUNDS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
}
WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}


def wording(item: Mapping[str, Any]) -> str:
    """The message of one of pydantic's errors (an item of `ValidationError.errors()`)."""
    kind, given, context = item["type"], shown(item["input"]), item.get("ctx", {})
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        bound = f"{context[name]:,}".removesuffix(".0")
        return f"{words} {bound}, not {given}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        if isinstance(item["input"], str):
            return f"{given} is not known here{nearest(item['input'], choices)}"
        return f"wanted is one of {', '.join(choices)}, not {given}"
    if kind in ("too_short", "string_too_short"):
        least, there = context["min_length"], context.get("actual_length", 0)
        return f"at least {least} are wanted, not {there}" if least > 1 else "must not be empty"
    if kind == "string_type" and isinstance(item["input"], bool | int | float):
        return f"text is wanted, not {given}; put it in quotes"
    wanted = WANTED.get(kind.split("_", 1)[0])
    if wanted and kind not in ("value_error", "assertion_error"):
        return f"{wanted} is wanted, not {given}"
    return item["msg"].removeprefix("Value error, ")
