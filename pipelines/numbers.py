"""How are quantities written in a recipe, and how are they shown?

`1_000_000_000_000`, `1T` and `1.0e12` mean the same count. PyYAML reads the last as a string
(YAML 1.1 wants a signed exponent), so strings are understood everywhere a number is.
Counts use powers of 1,000 (K, M, B, T); sizes take KB … TB (powers of 1,000) and KiB … TiB.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from winnow.pipelines.located import shown

COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
SIZES = {"": 1, "B": 1} | {
    unit + suffix: base ** (i + 1)
    for suffix, base in (("B", 1000), ("IB", 1024))
    for i, unit in enumerate("KMGT")
}
NUMBER = re.compile(r"([0-9][0-9_]*\.?[0-9_]*(?:[eE][+-]?[0-9]{1,2})?)\s*([A-Za-z]*)")
"""Two digits of exponent are more than anybody means; nine would be a number that fills the memory."""


def parse_count(value: Any) -> int:
    """A whole number of things: 2048, "1T", "1.5B", "1.0e12". Raises ValueError."""
    return _whole(value, COUNTS, "a count such as 2048, 300M, 1.5B or 1T")


def parse_bytes(value: Any) -> int:
    """A size in bytes: 1048576, "64MB", "128MiB". Raises ValueError."""
    return _whole(value, SIZES, "a size such as 64MB or 128MiB")


def _whole(value: Any, units: dict[str, int], wanted: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{wanted} is wanted, not {shown(value)}")
    match = NUMBER.fullmatch(str(value).strip())
    if match is None or match[2].upper() not in units:
        raise ValueError(f"{wanted} is wanted, not {shown(value)}")
    # Decimal, not float: 4.35K is 4350, and no digit of a large count is lost.
    number = Decimal(match[1].replace("_", "")) * units[match[2].upper()]
    if number != int(number):
        raise ValueError(f"{shown(value)} is not a whole number")
    return int(number)


def parse_fraction(value: Any) -> float:
    """A share between 0 and 1: 0.01, "1%". Raises ValueError."""
    text = str(value).strip()
    percent = text.endswith("%")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(text.removesuffix("%").replace("_", ""))
    except ValueError:
        raise ValueError(f"a share such as 0.01 or 1% is wanted, not {shown(value)}") from None
    number = number / 100 if percent else number
    if not 0 <= number <= 1:
        raise ValueError(f"a share between 0 and 1 is wanted, not {shown(value)}")
    return number


def show_count(number: float) -> str:
    """A count for a table: 999, 12.3K, 4.56M, 1.00T."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.2f}{unit}"
    return f"{number:.0f}"


def show_bytes(number: float) -> str:
    """A size for a table, powers of 1,000: 12 B, 3.4 MB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number:.0f} B"
