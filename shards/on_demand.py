"""How is a long sequence held whose items need not be there all at once?

Splits of a large source, records of a stage, and what each task of an exchange reads are small objects by the hundred
thousand. They are held as columns or compressed, and an item is made when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


class OnDemand(Sequence[T]):
    """A sequence whose items are made when they are asked for; equal to a list of the same items.

    A subclass says `__len__` and `made`. A slice is made on demand, too.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def made(self, at: int) -> T:
        """The item at a place in 0 … len - 1."""
        raise NotImplementedError

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...

    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        places = range(len(self))[at]
        return self.made(places) if isinstance(places, int) else _Taken(self, places)

    def taken(self, places: Sequence[int] | np.ndarray) -> Sequence[T]:
        """The items at these places, in this order."""
        return _Taken(self, places)

    def __iter__(self) -> Iterator[T]:
        return map(self.made, range(len(self)))

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))


class _Taken(OnDemand[T]):
    """Some items of another sequence."""

    __slots__ = ("of", "places")

    def __init__(self, of: OnDemand[T], places: Sequence[int] | np.ndarray):
        self.of = of
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def made(self, at: int) -> T:
        return self.of.made(int(self.places[at]))
