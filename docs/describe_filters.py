"""Write docs/filters.md from the filters' own descriptions: `python docs/describe_filters.py > docs/filters.md`."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap

from pydantic_core import PydanticUndefined
from winnow.filters.catalogue import FILTERS

HEAD = """# Filters

What `sources.<name>.filters` may hold: a name, or `name: {{setting: value}}`. Made from the code's own descriptions by
`python docs/describe_filters.py`; a setting of `null` switches its rule off.

Filters are applied in order. Each rule has a score and a bound, and a name, `<filter>.<setting>`; the first rule that
fails is the reason a document is dropped for, and every failing rule is stored with it (`winnow audit RUN`).
A filter that rewrites opens a new segment: what follows is measured on the new text. Bounds of the last segment
can be changed without reading any text again; `signals: until-drop` spares measuring (and storing) what is dropped.

**Two kinds of words.** `words: paper`, the default, counts runs of characters between whitespace. `words:
datatrove` counts spaCy's English tokens and decides as datatrove 0.9.0 does (extra `datatrove`). spaCy cuts
punctuation off and counts it: "(see below)." is two words here and five there, of which three have no letter. So
Gopher's rule that 80 % of words have a letter is much harsher there: of 5,027 documents (documentation, code,
novels, a textbook) 66 % fall below it with spaCy's tokens, 8 % with words between whitespace.

**Fractions.** A filter with `keep_fraction` keeps exactly ⌈fraction · n⌉ of the n documents of its source that have
a score and pass the filters before it: the highest scores, and of equal ones those with the smallest hash of seed
and id. It belongs behind the last filter that rewrites. (`c4-bad-words` means something else by it.)

{contents}
"""


def described(settings: type) -> str:
    """One filter: what it is for, where it comes from, its settings."""
    module = sys.modules[settings.__module__]
    text = f"## `{settings.name}`\n\n" + paragraphs(inspect.getdoc(settings) or "")
    meanings = field_docstrings(settings)
    rows = []
    for name, field in settings.model_fields.items():
        default = (
            "required"
            if field.default is PydanticUndefined and field.default_factory is None
            else shown(field)
        )
        rows.append(f"| `{field.alias or name}` | {default} | {cell(meanings.get(name, ''))} |")
    if rows:
        text += "\n| setting | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    source = next((s for s in (getattr(module, "_SOURCE", None),) if isinstance(s, str)), None)
    return (
        text
        + (f"\nSource: {source}. " if source else "\n")
        + f"Defined in `filters/{module.__name__.rsplit('.', 1)[-1]}.py`.\n"
    )


def shown(field) -> str:
    """A default as YAML has it."""
    value = field.get_default(call_default_factory=True)
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"`{v}`" for v in value)
    return (
        f"{value:g}"
        if isinstance(value, float)
        else f"{value}"
        if isinstance(value, int)
        else f"`{value}`"
        if value != {}
        else "{}"
    )


def field_docstrings(settings: type) -> dict[str, str]:
    """The text below each field, in its class and those it is made from."""
    found: dict[str, str] = {}
    for owner in reversed(settings.__mro__):
        if not owner.__module__.startswith("winnow."):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(text.value.value)
    return found


def paragraphs(text: str) -> str:
    """A docstring as Markdown."""
    return text.replace("``", "`").strip() + "\n"


def cell(text: str) -> str:
    """A docstring as a cell of a table."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).replace("|", "\\|").strip()


def page() -> str:
    """The whole of docs/filters.md."""
    names = sorted(FILTERS)
    contents = " · ".join(f"[`{name}`](#{name})" for name in names)
    return HEAD.format(contents=contents) + "\n" + "\n".join(described(FILTERS[name]) for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())
