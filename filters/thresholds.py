"""Which rules do a filter's settings stand for: one for each setting that has a score and is not None.

Shared by the filters whose settings are the bounds of published rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from winnow.filters.rules import Rule, Score


class Bounds(Protocol):
    """Settings whose fields are bounds, called ``min_...`` and ``max_...``, or flags."""

    name: ClassVar[str]


def rules_of(settings: Bounds, scores: Mapping[str, Score], source: str) -> tuple[Rule, ...]:
    """One rule for each setting in `scores` that is not None, in the order of `scores`.

    A setting called ``min_...`` is the lowest score that passes, one called ``max_...`` the highest; a flag that is
    True asks for a score of 1.
    """
    found = []
    for setting, score in scores.items():
        bound: Any = getattr(settings, setting)
        if bound is None:
            continue
        is_maximum = setting.startswith("max_")
        minimum, maximum = (None, bound) if is_maximum else (float(bound) if bound is True else bound, None)
        name = f"{settings.name}.{setting}"
        found.append(Rule(name=name, score=score, minimum=minimum, maximum=maximum, source=source))
    return tuple(found)
