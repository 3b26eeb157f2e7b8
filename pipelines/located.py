"""Where in the recipe is the mistake?

YAML is composed into nodes, never constructed, so that a recipe cannot name a Python object;
every key and value keeps its line and column, and every error is `file:line:column: message`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
MOST_NODES = 100_000
"""More than any recipe; stops aliases that multiply."""


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
    """A YAML file as plain values, with the position of every path in it."""

    file: str
    value: Any = None
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """A problem at a path, or at the nearest thing above it that is in the file."""
        first, second = (self.keys, self.values) if at_key else (self.values, self.keys)
        for n in range(len(path), -1, -1):
            mark = first.get(path[:n]) or second.get(path[:n])
            if mark:
                return Problem(self.file, *mark, message)
        return Problem(self.file, 1, 1, message)


def parse(text: str, file: str) -> Document:
    """Parse a recipe. Raises RecipeError for YAML that is broken, repeats a key or has a tag of its own."""
    document = Document(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise RecipeError([Problem(file, line, column, str(error.problem or error.context))]) from None
    except yaml.YAMLError as error:
        raise RecipeError([Problem(file, 1, 1, str(error).splitlines()[0])]) from None
    except RecursionError:
        raise RecipeError([Problem(file, 1, 1, "nested too deeply")]) from None
    if node is None:
        raise RecipeError([Problem(file, 1, 1, "the recipe is empty")])
    document.value = _plain(node, (), document, [0])
    return document


def _plain(node: yaml.Node, path: Path, document: Document, count: list[int]) -> Any:
    mark = (node.start_mark.line + 1, node.start_mark.column + 1)
    document.values[path] = mark
    count[0] += 1
    if count[0] > MOST_NODES or len(path) > 50:
        raise RecipeError([Problem(document.file, *mark, "the recipe is too large or nested too deeply")])
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise RecipeError([Problem(document.file, *mark, f"the tag {node.tag!r} is not allowed in a recipe")])
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError([Problem(document.file, *key_mark, "a key must be a plain word")])
            key = key_node.value
            if key in out:
                raise RecipeError([Problem(document.file, *key_mark, f"the key {key!r} is there twice")])
            document.keys[(*path, key)] = key_mark
            out[key] = _plain(value_node, (*path, key), document, count)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), document, count) for i, item in enumerate(node.value)]
    if node.tag.rsplit(":", 1)[1] not in ("str", "int", "float", "bool", "null"):
        return node.value  # dates and the like: the schema says what it wants
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError([Problem(document.file, *mark, f"{node.value!r}: {error}")]) from None


def override(document: Document, assignment: str) -> None:
    """Apply one `--set key.path=value`; the value is YAML. Raises RecipeError located at `--set`."""
    name, equals, text = assignment.partition("=")
    keys = name.split(".")
    place = f"--set {name}"
    if not equals or not all(keys):
        raise RecipeError([Problem("--set", 1, 1, f"{assignment!r} is not key.path=value")])
    value = parse(text, place) if text.strip() else Document(place)
    if not isinstance(document.value, dict):
        raise RecipeError([document.problem((), "the recipe must be a mapping")])
    target: Any = document.value
    for i, key in enumerate(keys[:-1]):
        step = _step(target, key, place)
        if isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
        target = target[step]
        if not isinstance(target, dict | list):
            raise RecipeError([Problem(place, 1, 1, f"{'.'.join(keys[: i + 1])} has no parts")])
    target[_step(target, keys[-1], place)] = value.value


def _step(target: dict | list, key: str, place: str) -> str | int:
    if isinstance(target, dict):
        return key
    if key.isdigit() and int(key) < len(target):
        return int(key)
    raise RecipeError([Problem(place, 1, 1, f"{key!r} is not an item of a list of {len(target)}")])


def nearest(word: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what is valid."""
    valid = list(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid here: {', '.join(sorted(valid))}" if valid else ""
