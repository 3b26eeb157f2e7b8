"""How does a Jupyter notebook become a script?

As Jupytext's light format does it, which made StarCoder's scripts (arXiv:2305.06161, section 3.2): code cells as they
are, Markdown and raw cells as comments of the notebook's language, magics as comments, a blank line between cells.
Unlike there no line is added that is no cell's: neither the header of metadata nor the marks `# +` and `# -`, which
are there to make a notebook of the script again. Notebooks of nbformat 2, 3 and 4 are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from winnow.shards.conversion import Converted, Unconvertible
from winnow.shards.convert_settings import Notebook

OUTPUT_CHARACTERS = 2000
"""Of what a cell printed, as whole lines. Ours: progress bars and tables are longer than the code they come from."""
COMMENTS = {
    "python": "#", "sage": "#", "coconut": "#", "xonsh": "#", "r": "#", "julia": "#", "bash": "#", "sh": "#",
    "ruby": "#", "perl": "#", "powershell": "#", "tcl": "#", "gnuplot": "#", "robotframework": "#", "sos": "#",
    "scheme": ";;", "clojure": ";;", "lisp": ";;", "idl": ";",
    "matlab": "%", "octave": "%", "prolog": "%", "logtalk": "%", "erlang": "%", "latex": "%",
    "haskell": "--", "lua": "--", "sql": "--",
    "c++": "//", "c": "//", "java": "//", "javascript": "//", "typescript": "//", "scala": "//", "kotlin": "//",
    "groovy": "//", "rust": "//", "go": "//", "swift": "//", "php": "//", "csharp": "//", "fsharp": "//",
    "stata": "//", "q": "/",
    "ocaml": "(* *)", "wolfram language": "(* *)", "maxima": "/* */", "sas": "/* */",
}  # fmt: skip
"""What begins (and ends) a line of comment, by language; of others it is `#`."""
PYTHONS = ("python", "sage", "coconut", "xonsh")
NO_MAGICS = ("r", "matlab", "octave", "prolog", "logtalk", "erlang", "latex", "sas")
"""Where a line may begin with `%` and be code, or a comment."""
OTHER_LANGUAGES = (
    "bash", "sh", "script", "cmd", "system", "sx", "!", "javascript", "js", "html", "svg", "latex", "markdown", "perl",
    "ruby", "r", "cython", "sql", "bigquery", "julia", "octave", "matlab", "fortran",
)  # fmt: skip
"""Cell magics behind which stands another language: such cells are comments as a whole."""
FILE_MAGICS = ("writefile", "file")
"""Behind these stands a file's content, which may be Python or anything else: its name tells."""

_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_QUOTES = re.compile(r"#|\\.|'''|\"\"\"|'|\"")
_MAGIC = re.compile(r"\s*%{1,3}[a-zA-Z]")
_CRATE = re.compile(r":[a-zA-Z]")
_SHELL_OR_HELP = re.compile(r"\s*(?:\?|!(?!=))")
_ASSIGNED = re.compile(r"\s*[A-Za-z_]\w*\s*=\s*[%!]{1,3}[A-Za-z]")
_HELP_BEHIND = re.compile(r"\s*[^\s?#]+\?{1,2}\s*$")
_COMMAND = re.compile(r"(?:cat|cd|cp|mv|rm|rmdir|mkdir|copy|ddir|echo|ls|ldir|ren)(?:\s*$|\s[^=,])")


def script(data: bytes | str, settings: Notebook) -> Converted:
    """The script of a notebook, and what it says of its language and kernel.

    Raises Unconvertible: `not-a-notebook` for what is no JSON or has no cells, `utf8`.
    """
    notebook = _json(data)
    cells = list(_cells(notebook))
    columns = _columns(notebook, cells)
    language = _plain_name(columns.get("language", "python"))
    opening, _, closing = COMMENTS.get(language, "#").partition(" ")
    blocks = []
    for cell in cells:
        lines = _LINE_ENDS.split(_source(cell))
        while lines and not lines[-1].strip():
            lines.pop()
        while lines and not lines[0].strip():
            lines.pop(0)
        if cell.get("cell_type") == "code":
            lines = list(_code(lines, language, opening, closing))
            if settings.outputs == "keep":
                lines += [_comment(line, opening, closing) for line in _printed(cell)]
        else:
            lines = [_comment(line, opening, closing) for line in lines]
        if lines:
            blocks.append("\n".join(lines) + "\n")
    return Converted("\n".join(blocks), columns)


def _json(data: bytes | str) -> dict[str, Any]:
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unconvertible("utf8") from None
    try:
        notebook = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        try:
            notebook = json.loads(text)  # takes NaN, and escapes of half a character
        except (ValueError, RecursionError):
            raise Unconvertible("not-a-notebook") from None
    if not isinstance(notebook, dict):
        raise Unconvertible("not-a-notebook")
    return notebook


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    sheets = notebook.get("worksheets") if "cells" not in notebook else [notebook]
    for sheet in _list(sheets):
        if not isinstance(sheet, dict):
            raise Unconvertible("not-a-notebook")
        for cell in _list(sheet.get("cells")):
            if not isinstance(cell, dict):
                raise Unconvertible("not-a-notebook")
            yield cell


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unconvertible("not-a-notebook")
    return value


def _source(cell: Mapping[str, Any]) -> str:
    text = _text(cell.get("source", cell.get("input", "")))
    if text is None:
        raise Unconvertible("not-a-notebook")
    level = cell.get("level", 1)
    if cell.get("cell_type") == "heading" and isinstance(level, int) and 1 <= level <= 6:
        return "#" * level + " " + text
    return text


def _text(value: Any) -> str | None:
    """A text that may be a list of its lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value if isinstance(value, str) else None


def _columns(notebook: Mapping[str, Any], cells: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Language and kernel, as far as the notebook tells; of nbformat 3 its cells do."""
    metadata = _dict(notebook.get("metadata"))
    kernel, info = _dict(metadata.get("kernelspec")), _dict(metadata.get("language_info"))
    of_cells = (cell.get("language") for cell in cells if cell.get("cell_type") == "code")
    languages = [kernel.get("language"), info.get("name"), *of_cells]
    found = {
        "language": next((name for name in languages if isinstance(name, str) and name), None),
        "kernel": kernel.get("name"),
    }
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain_name(language: str) -> str:
    """A language's name as in COMMENTS: kernels have versions in theirs."""
    name = language.lower().replace("c#", "csharp").replace("f#", "fsharp")
    if name.startswith("c++"):
        return "c++"
    return re.sub(r"[\s\d.]+$", "", name)


def _comment(line: str, opening: str, closing: str) -> str:
    words = [opening, line] if line else [opening]
    return " ".join([*words, closing] if closing else words)


# ---- code -------------------------------------------------------------------------------------------------------


def _code(lines: list[str], language: str, opening: str, closing: str) -> Iterator[str]:
    """A code cell's lines, those that are for the notebook and not for the language as comments."""
    if _in_another_language(lines, language):
        for line in lines:
            yield _comment(line, opening, closing)
        return
    quote, continued = "", False
    for line in lines:
        if quote or not (continued or _is_magic(line, language)):
            yield line
            continued = False
            if language in PYTHONS:
                quote = _open_quote(line, quote)
        elif continued:
            yield _comment(line, opening, closing)
            continued = line.rstrip().endswith("\\")
        else:
            bare = line.lstrip()
            yield line[: len(line) - len(bare)] + _comment(bare, opening, closing)
            continued = language in PYTHONS and line.rstrip().endswith("\\")


def _in_another_language(lines: list[str], language: str) -> bool:
    if not lines or not lines[0].startswith("%%"):
        return False
    name, *rest = lines[0][2:].split() or [""]
    if name in FILE_MAGICS:
        return not (rest and language in PYTHONS and rest[-1].endswith(".py"))
    return name.lower() in OTHER_LANGUAGES and name.lower() != language


def _is_magic(line: str, language: str) -> bool:
    """Whether a line is IPython's and not the language's, by rules as Jupytext 1.19 has for it."""
    if language in NO_MAGICS:
        return False
    if language == "rust" and _CRATE.match(line):
        return True
    if _MAGIC.match(line):
        return True
    rules = (_SHELL_OR_HELP, _ASSIGNED, _HELP_BEHIND, _COMMAND) if language in PYTHONS else ()
    return any(rule.match(line) for rule in rules)


def _open_quote(line: str, quote: str) -> str:
    """The three quotes that are open behind a line of Python; `quote` are those before it."""
    inside = quote
    for match in _QUOTES.finditer(line):
        found = match[0]
        if inside:
            # Three quotes in a string of one are its end and an empty one behind it.
            if found in (inside, 3 * inside):
                inside = ""
        elif found == "#":
            break
        elif found[0] != "\\":
            inside = found
    return inside if len(inside) == 3 else ""


# ---- outputs ----------------------------------------------------------------------------------------------------


def _printed(cell: Mapping[str, Any]) -> list[str]:
    """The lines that a cell's streams and values show as text, as a terminal would."""
    text = "".join(_output_texts(cell.get("outputs")))
    lines, held = [], 0
    for line in _ESCAPES.sub("", text).replace("\r\n", "\n").rstrip().split("\n"):
        shown = line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()
        held += len(shown) + 1
        if held > OUTPUT_CHARACTERS:
            break
        lines.append(shown)
    return lines if text.strip() else []


def _output_texts(outputs: Any) -> Iterator[str]:
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            continue
        text = _text(_dict(output.get("data")).get("text/plain", output.get("text")))
        if text:
            yield text if text.endswith("\n") else text + "\n"
