"""Who counts a signal: the kernels that scan text, by the names of the signals they give.

Names beginning with `dt_` are counted as datatrove does, with spaCy's words (datatrove_signals.py), those with
`dclm_` as DCLM does (dclm_signals.py), all others with words between whitespace (signals.py). Each of these
modules has `SIGNALS` (name -> what is counted) and `scan(texts, names)`; signals that are counted together
anyway are a group of `GROUPS`, and come together. Letters: n documents.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

FAMILIES = {
    "dt_": "winnow.filters.datatrove_signals",
    "dclm_": "winnow.filters.dclm_signals",
    "": "winnow.filters.signals",
}
"""Prefix of a signal's name -> module that counts it; the first that fits."""


def _by_family(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        module = next(module for prefix, module in FAMILIES.items() if name.startswith(prefix))
        found.setdefault(module, []).append(name)
    return found


def _with_their_groups(module: Any, names: list[str]) -> list[str]:
    """The names, and what is counted together with them, in the module's order."""
    groups: dict[str, tuple[str, ...]] = getattr(module, "GROUPS", {"all": tuple(module.SIGNALS)})
    wanted = {s for group in groups.values() if not set(names).isdisjoint(group) for s in group}
    if unknown := set(names) - wanted:
        raise KeyError(f"no scan counts {', '.join(sorted(unknown))}")
    return [s for s in module.SIGNALS if s in wanted]


def counted(names: Iterable[str]) -> list[str]:
    """The signals that a scan for `names` gives: these, and those counted together with them.

    Raises KeyError for a name that no module counts.
    """
    found: list[str] = []
    for place, mine in _by_family(names).items():
        found += _with_their_groups(importlib.import_module(place), mine)
    return found


def scan(texts: pa.LargeStringArray, names: Iterable[str]) -> dict[str, np.ndarray]:
    """``{name: uint64[n]}`` for `counted(names)`. Raises KeyError, and what the modules' scans raise."""
    found: dict[str, np.ndarray] = {}
    for place, mine in _by_family(names).items():
        module = importlib.import_module(place)
        signals = module.scan(texts, mine)
        found |= {name: signals[name] for name in _with_their_groups(module, mine)}
    return found
