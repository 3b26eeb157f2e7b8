"""How is YAML read that a run left, or that says it did?

As plain data: no tags beyond YAML's own, as with PyYAML's safe loader, and no merge keys (`<<`): twenty lines of them
that name each other are expanded to millions of pairs, and Winnow writes none. Aliases are the same object again, which
costs nothing. A recipe is read by pipelines/located.py, with the place of everything.
"""

from __future__ import annotations

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leaves merge keys as they are; no value is made of them, which is an error."""


def load(data: str | bytes) -> Any:
    """The value of one YAML document. Raises yaml.YAMLError."""
    try:
        return yaml.load(data, Loader=_PlainLoader)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's constructors raise them for a 99th of May, `!!int x`, 5,000 digits, a thousand brackets.
        raise yaml.YAMLError(f"a value that is none: {type(error).__name__}") from None
