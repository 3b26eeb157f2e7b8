"""Does a text tell how to reach somebody: e-mail addresses, IP addresses, phone numbers, and what to put there.

What is looked for, in this order, each in the text as the one before leaves it:

e-mail    letters, digits and ``!#$%&'*+/=?^_`{|}~-`` with single dots between, from a word's begin or end on,
          then "@" and a host name of at least two labels, or an IPv4 address in brackets. This is the pattern
          of datatrove's PIIFormatter (0.9.0), but no more than 64 characters before "@" are looked at, and 255
          behind it, which is what an address may have (RFC 5321, section 4.5.3.1): the time stays linear.
          datatrove also takes a tag and a colon in place of the last number in brackets.
IPv6      2 to 8 groups of hexadecimal digits that Python's ``ipaddress`` reads as an address.
IPv4      four numbers up to 255 that stand apart: unlike datatrove's, not within 1.2.3.4.5, v1.2.3.4,
          1.2.3.4a, 1.2.3.4-rc1, nor after "version", "release" or "build". Names of hosts may hold them.
phone     "+" and 8 to 15 digits (E.164), or ten digits as North America groups them, (202) 555-0100 or
          202-555-0100.

An address is public where ``ipaddress`` calls it global; of IPv6 those in 2000::/3 (RFC 4291, section 2.4),
since "a::b" is more often code.

What is put in place depends on what was found and on nothing else: one text, or one of several, chosen by a
hash of what was found. (datatrove takes its replacements in turn, so that they depend on the order of the
documents.) A placeholder that is found is left alone, and not counted.

Letters: n documents.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_LOCAL, _MOST_DOMAIN = 64, 255
_IN_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_ATOMS = re.compile(rf"{_IN_ATOM}+(?:\.{_IN_ATOM}+)*")
_EDGE = re.compile(rf"\b{_IN_ATOM}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_DOTTED = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}|\[{_DOTTED}\]")

# Each begins with one character out of a set, which Python's re finds fast, and looks back over it.
_IPV4 = re.compile(
    r"[0-9](?<!\w[0-9])(?<![0-9]\.[0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}"
    rf"(?!\w|\.[0-9]|-(?!{_DOTTED})\w)",
    re.ASCII,
)
_VERSION = re.compile(r"\b(?:versions?|ver|v|releases?|build)[.:]?\s{0,2}\Z", re.IGNORECASE | re.ASCII)
_LONGEST_VERSION = 12
_IPV6 = re.compile(
    r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])(?:(?<=:)|[0-9A-Fa-f]{0,3}:)"
    r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){1,6}(?![\w:]|\.\w)"
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")

_SEP = "[ .-]"
_INTERNATIONAL = (
    rf"(?<=\+)[0-9]{{1,3}}{_SEP}?(?:\([0-9]{{1,4}}\){_SEP}?)?[0-9]{{2,4}}(?:{_SEP}?[0-9]{{2,4}}){{1,4}}"
)
_NORTH_AMERICAN = rf"(?:(?<=\()[0-9]{{3}}\) ?|(?<=[0-9])[0-9]{{2}}{_SEP})[0-9]{{3}}{_SEP}[0-9]{{4}}"
_PHONE = re.compile(
    rf"[+(0-9](?<![\w.+-][+(0-9])(?:{_INTERNATIONAL}|{_NORTH_AMERICAN})(?!\w|[.-][0-9])", re.ASCII
)

# What a text must hold for the patterns above to be worth a look; asked of all texts at once, by RE2.
_MAYBE_IPV4 = r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
_MAYBE_IPV6 = r":[0-9A-Fa-f]{0,4}:"
_MAYBE_PHONE = r"\+[0-9]|[0-9]{3}[ .-][0-9]{4}"


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_Finder = Callable[[str], Iterator[tuple[int, int]]]
"""From a text to where something begins and ends in it, in order and without overlap."""
Placeholders = Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1)]
"""One text, or several to choose from."""


class PII(BaseModel):
    """Puts placeholders in place of e-mail addresses and public IPv4 addresses; of more, if asked.

    It drops nothing. ``pii.emails``, ``pii.ips`` (of both kinds) and ``pii.phones`` say how many were replaced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "pii"
    columns: ClassVar[dict[str, str]] = {
        "pii.emails": "uint32",
        "pii.ips": "uint32",
        "pii.phones": "uint32",
    }

    emails: bool = True
    """Whether e-mail addresses are replaced."""
    ips: bool = True
    """Whether IPv4 addresses are replaced."""
    ipv6: bool = False
    """Whether IPv6 addresses are replaced."""
    phones: bool = False
    """Whether phone numbers are replaced. Other numbers may look like one."""
    public_only: bool = True
    """Whether IP addresses of private and reserved networks stay."""
    email: Placeholders = ("email@example.com",)
    """In place of an e-mail address: a text, or a list to choose from by a hash of the address."""
    ip: Placeholders = ("22.214.171.124",)
    """In place of an IPv4 address; datatrove's first, which answered nobody when it was chosen."""
    ipv6_address: Placeholders = ("2001:db8::1",)
    """In place of an IPv6 address; of the range for documentation (RFC 3849)."""
    phone: Placeholders = ("+1-202-555-0100",)
    """In place of a phone number; of the range for fiction."""

    def rules(self) -> tuple[Rule, ...]:
        """None."""
        return ()

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The texts with placeholders, and how many of each kind.

        A text that grows has a negative count of removed characters. Where nothing changes, the very same array
        comes back. Memory: one document as a Python string at a time, those that changed, and one more copy of
        the array if there are any.

        Raises
        ------
        ValueError
            A text is null.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = documents.column("text")
        if texts.null_count:
            raise ValueError(f"texts must have no nulls; {texts.null_count} of {len(texts)} are null")
        counts = {column: np.zeros(len(texts), np.uint32) for column in self.columns}
        new: dict[int, str] = {}
        shorter_by = np.zeros(len(texts), np.int64)
        for column, maybe, find, placeholders in self._searches():
            asked = pc.match_substring(texts, "@") if maybe == "@" else pc.match_substring_regex(texts, maybe)
            # What an earlier search put in may be found by this one; it has that document asked again.
            wanted = np.flatnonzero(asked.to_numpy(zero_copy_only=False))
            for i in sorted({*wanted.tolist(), *new}):
                text = new[i] if i in new else texts[i].as_py()
                replaced, count = _replace(text, find(text), placeholders)
                if count:
                    new[i] = replaced
                    counts[column][i] += count
                    shorter_by[i] += len(text) - len(replaced)
        if not new:
            return Rewritten(texts, shorter_by, counts)
        changed = np.zeros(len(texts), bool)
        order = sorted(new)
        changed[order] = True
        replacements = pa.array([new[i] for i in order], texts.type)
        return Rewritten(pc.replace_with_mask(texts, pa.array(changed), replacements), shorter_by, counts)

    def _searches(self) -> list[tuple[str, str, _Finder, tuple[str, ...]]]:
        """Of each kind that is on: its column, what a text must hold, where it is found, its placeholders."""
        kinds = (
            (self.emails, "pii.emails", "@", _emails, self.email),
            (self.ipv6, "pii.ips", _MAYBE_IPV6, self._ipv6_addresses, self.ipv6_address),
            (self.ips, "pii.ips", _MAYBE_IPV4, self._ipv4_addresses, self.ip),
            (self.phones, "pii.phones", _MAYBE_PHONE, _phones, self.phone),
        )
        return [(column, maybe, find, put) for on, column, maybe, find, put in kinds if on]

    def _ipv4_addresses(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _IPV4.finditer(text):
            before = text[max(0, match.start() - _LONGEST_VERSION) : match.start()]
            if not _VERSION.search(before) and _is_address(match.group(), public=self.public_only):
                yield match.span()

    def _ipv6_addresses(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _IPV6.finditer(text):
            if _is_address(match.group(), public=self.public_only):
                yield match.span()


def _replace(text: str, spans: Iterator[tuple[int, int]], placeholders: tuple[str, ...]) -> tuple[str, int]:
    """``(text with a placeholder in place of each span, how many)``."""
    parts: list[str] = []
    done = count = 0
    for start, stop in spans:
        found = text[start:stop]
        if found not in placeholders:
            parts += text[done:start], _choose(found, placeholders)
            done = stop
            count += 1
    return ("".join([*parts, text[done:]]), count) if count else (text, 0)


def _choose(found: str, placeholders: tuple[str, ...]) -> str:
    if len(placeholders) == 1:
        return placeholders[0]
    digest = hashlib.blake2b(found.encode(), digest_size=8).digest()
    return placeholders[int.from_bytes(digest, "big") % len(placeholders)]


def _emails(text: str) -> Iterator[tuple[int, int]]:
    done, at = 0, text.find("@")
    while at >= 0:
        # From "@" both ways: a search from the left would try every word's begin for each run without "@".
        atoms = _ATOMS.match(text[max(done, at - _MOST_LOCAL) : at][::-1])
        edge = _EDGE.search(text, at - atoms.end(), at) if atoms else None
        domain = _DOMAIN.match(text, at + 1, at + 1 + _MOST_DOMAIN) if edge else None
        if edge and domain:
            yield edge.start(), domain.end()
            done = domain.end()
        at = text.find("@", at + 1)


def _is_address(found: str, *, public: bool) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    if not public:
        return True
    return address.is_global and (address.version == 4 or address in _GLOBAL_UNICAST)


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        digits = sum(map(str.isdecimal, match.group()))
        if 8 <= digits <= 15:
            yield match.span()
