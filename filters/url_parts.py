"""When do two URLs mean the same host, or the same page, and which words are in one?

A normal form after RFC 3986 (section 6.2.2) and the WHATWG URL Standard, of what matters for lists of URLs:

host     lower case, escapes decoded, IDN as punycode (UTS 46), without "www." in front, a dot at the end, a user
         or a port; IPv4 in four decimal parts also where it came as one number or in hex, IPv6 compressed.
address  host, a port that is not the scheme's own, path and query. Without the scheme, as lists write it: http and
         https are one. Escapes of characters that need none are decoded, others are upper case; "." and ".."
         segments are resolved; the fragment is left out.
text     what a reader sees: all of it decoded, IDN too, in lower case, with the fragment, without scheme and user.

A URL without a scheme is taken if its host has a dot. Everything is linear in the URL's length.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|//")
_AUTHORITY_END = re.compile(r"[/\\?#]")
_PORT = re.compile(r":([0-9]*)$")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PLAIN_HOST = re.compile(r"(?!www\.)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.[a-z]+")
"""Of what is already in the normal form, most; lists are long."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WORD = re.compile(r"[^\W_]+")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEEDS_NO_ESCAPE = "%:/?#[]@!$&'()*+,;=-._~"
_DEFAULT_PORTS = {"http": "80", "https": "443", "ftp": "21"}
_LONGEST_HOST = 253
"""Characters of a name in the DNS (RFC 1035); nothing longer is looked up."""


@dataclass(frozen=True, slots=True)
class UrlParts:
    """A URL in the normal form above."""

    host: str
    address: str
    text: str


def parts(url: str) -> UrlParts | None:
    """The normal form of a URL; None where there is no host in it."""
    url = url.strip().replace("\t", "").replace("\n", "").replace("\r", "")
    found = _SCHEME.match(url)
    rest = url[found.end() :] if found else url
    end = _AUTHORITY_END.search(rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    authority = authority.rpartition("@")[2]
    port = _PORT.search(authority)
    host = normal_host(authority[: port.start()] if port else authority)
    if host is None or (found is None and "." not in host):
        return None
    scheme = (found.group(1) or "").lower() if found else ""
    number = port.group(1).lstrip("0") if port else ""
    if number in ("80", "443") if not scheme else number == _DEFAULT_PORTS.get(scheme):
        number = ""
    tail, hash_, fragment = tail.partition("#")
    path, mark, query = tail.partition("?")
    path = _without_dots(_escaped(path.replace("\\", "/")))
    address = f"{host}{number and ':' + number}{path}{mark and '?' + _escaped(query)}"
    text = f"{_readable(host)}{unquote(tail + hash_ + fragment, errors='replace')}".lower()
    return UrlParts(host, address, text)


def normal_host(host: str) -> str | None:
    """The normal form of a host; None for what cannot be one."""
    if len(host) <= _LONGEST_HOST and _PLAIN_HOST.fullmatch(host):
        return host
    if host.startswith("["):
        import ipaddress

        try:
            return f"[{ipaddress.IPv6Address(host.strip('[]').partition('%')[0])}]"
        except ValueError:
            return None
    if "%" in host:
        host = unquote(host, errors="replace")
    host = host.lower().rstrip(".")
    if not host.isascii():
        host = _punycode(host) or ""
    if len(host) > _LONGEST_HOST or not _HOST.fullmatch(host):
        return None
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return None
    return host[4:] if host.startswith("www.") and "." in host[4:] else host


def domains_of(host: str) -> list[str]:
    """The host, and all domains it is below, from the longest; an IP address is below none."""
    if host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]):
        return [host]
    found = [host]
    while "." in host:
        host = host.partition(".")[2]
        found.append(host)
    return found


def words(text: str) -> list[str]:
    """Runs of letters and digits."""
    return _WORD.findall(text)


def _punycode(host: str) -> str | None:
    import idna

    if len(host) > _LONGEST_HOST:
        return None
    try:
        return idna.encode(host, uts46=True).decode("ascii").lower().rstrip(".")
    except (idna.IDNAError, UnicodeError):
        return None


def _readable(host: str) -> str:
    if "xn--" not in host:
        return host
    import idna

    try:
        return idna.decode(host)
    except (idna.IDNAError, UnicodeError):
        return host


def _escaped(text: str) -> str:
    """With the escapes that are needed, and no others."""

    def normal(escape: re.Match[str]) -> str:
        char = chr(int(escape.group(1), 16))
        return char if char in _UNRESERVED else escape.group().upper()

    return quote(
        _ESCAPE.sub(normal, _STRAY_PERCENT.sub("%25", text)), safe=_NEEDS_NO_ESCAPE, errors="replace"
    )


def _without_dots(path: str) -> str:
    """The path without "." and ".." segments; "/" for an empty one."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
