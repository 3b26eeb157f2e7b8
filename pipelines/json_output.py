"""How is JSON printed?"""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls that JSON allows in a string as they are: of terminals, and of the direction of writing."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def json_text(value: Any) -> str:
    """JSON in which every character that a terminal could obey is an escape."""
    import orjson

    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(value: Any) -> None:
    """A value on standard output."""
    print(json_text(value))
