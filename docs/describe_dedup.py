"""Write docs/dedup_settings.md: `python docs/describe_dedup.py > docs/dedup_settings.md`."""

from __future__ import annotations

import inspect
import sys

from describe_filters import cell, field_docstrings, paragraphs, shown
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from winnow.filters.decontaminate_settings import Benchmark
from winnow.filters.minhash_settings import PRESETS, StopAbove
from winnow.pipelines.dedup_settings import STEPS, WITH_EARLIER, Against

HEAD = """# Settings of dedup, step by step

What `sources.<name>.dedup` and the recipe's `dedup` may hold; [dedup.md](dedup.md) says how the steps go together. Made
from the code's own descriptions by `python docs/describe_dedup.py`. Under the recipe's `dedup` a step has `across`,
too: the sources to compare with each other and with themselves, the first named wins; `lines` is for one source alone,
and `decontaminate` has `sources` (default: all) in its place.
"""


def table(settings: type[BaseModel], *more: type[BaseModel]) -> str:
    """The settings of a class, and of those it is used with."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for owner in (settings, *more):
        meanings = field_docstrings(owner)
        for name, field in owner.model_fields.items():
            required = field.default is PydanticUndefined and field.default_factory is None
            default = "required" if required else shown(field)
            if isinstance(field.default, BaseModel):
                default = "none of it"
            rows.append(f"| `{name}` | {default} | {cell(meanings.get(name, ''))} |")
    return "\n".join(rows) + "\n"


def presets() -> str:
    """The presets of MinHash."""
    rows = ["| preset | bands | rows | threshold | from |", "| --- | --- | --- | --- | --- |"]
    rows += [f"| `{n}` | {p.bands} | {p.rows} | {p.threshold:.3g} | {p.source} |" for n, p in PRESETS.items()]
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, settings in STEPS.items():
        more = (Against,) if name in WITH_EARLIER else ()
        parts.append(f"## `{name}`\n\n{paragraphs(inspect.getdoc(settings) or '')}\n{table(settings, *more)}")
        if name == "minhash":
            parts.append(presets())
            parts.append("`stop_above`:\n\n" + table(StopAbove))
        if name == "decontaminate":
            parts.append("A benchmark:\n\n" + table(Benchmark))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
