"""Where are URLs in a text, as DCLM looks for them, and what is the text without them?

DCLM's `url_removal_modifier` and `newline_removal_modifier` (mlfoundations/dclm, modifiers.py; RefinedWeb cuts URLs
too). Cut are, each with up to 10 whitespace characters before it:

URL     "http://", "https://", "ftp://" or nothing; 1 to 256 of ``A-Z a-z 0-9 - @ : % . _ + ~ # =``; a dot; a
        top-level domain of dclm_tlds.py that no letter, digit or "_" follows; then all of what may be in a URL's
        path, the same characters and ``( ) ? & /``. So "e.g.this" is none, "file.py" is one, and so is an address.
IPv4    four numbers of up to three digits with dots between them, a scheme before and a path behind as above.

Then newlines: of more than `max_newlines` in a row only that many stay.

The one thing not done as DCLM does: it looks for URLs only in a page whose very first letters are a top-level
domain, in any case ("see", "The", "http", but not "a plain"), by what looks like an anchored search meant for the
whole page. `quirks` repeats that. (IPv4 is cut everywhere.)

The kernel finds what is ASCII. A document with a name of another script where a top-level domain may be, or with what
may be an IPv4, is given to `re`.

Letters: n documents, b bytes of text, t nodes of the tree of top-level domains.
"""

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.characters import ALNUM, NEWLINE, SPACE, WIDE, character_tables, decode
from winnow.filters.dclm_tlds import ASCII_TLDS, OTHER_TLDS
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

_IN_HOST, _IN_PATH = 1, 2
_HOST = r"[-a-zA-Z0-9@:%._+~#=]"
_PATH = r"[-a-zA-Z0-9()@:%_+.~#?&/=]*"
_LONGEST_HOST, _LONGEST_GAP = 256, 10
_DOT, _A, _ZERO, _UNDERSCORE = (ord(c) for c in ".a0_")
_UNDECIDED = -1
_ENDS, _GOES_ON = 1, 2

_AT = types.int64
_TREE = types.Array(types.int16, 2, "C", readonly=True)
_OUT = types.Array(types.uint8, 1, "C")
_OFFSETS_OUT = types.Array(types.int64, 1, "C")
_FLAGS = types.Array(types.uint8, 1, "C")


def cut_urls(texts: pa.LargeStringArray, *, quirks: bool, max_newlines: int | None) -> pa.LargeStringArray:
    """The texts without URLs and IPv4 addresses, and with at most `max_newlines` newlines in a row (None: any).

    Where nothing is cut, the very same array comes back. Memory: up to two more copies of the texts.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    n = len(texts)
    undecided = np.zeros(n, np.uint8)
    new_offsets, out = np.empty(n + 1, np.int64), np.empty(offsets[-1] - offsets[0], np.uint8)
    tables = (*character_tables(), *_url_tables())
    _cut_urls(offsets, utf8, *tables, quirks, new_offsets, out, undecided)
    cut = _unless_as_long(texts, new_offsets, out)
    if undecided.any():
        cut = _replace(cut, undecided, texts, lambda text: _without_urls(text, quirks))
    numbered = np.zeros(n, np.uint8)
    _find_dotted_numbers(*text_buffers(cut), numbered)
    if numbered.any():
        cut = _replace(cut, numbered, cut, lambda text: _patterns()[2].sub("", text))
    if max_newlines is not None:
        new_offsets, out = np.empty(n + 1, np.int64), np.empty(_bytes_of(cut), np.uint8)
        _limit_newlines(*text_buffers(cut), max_newlines, new_offsets, out)
        cut = _unless_as_long(cut, new_offsets, out)
    return cut if _bytes_of(cut) < _bytes_of(texts) else texts


def _bytes_of(texts: pa.LargeStringArray) -> int:
    offsets, _ = text_buffers(texts)
    return int(offsets[-1] - offsets[0])


def _unless_as_long(texts: pa.LargeStringArray, offsets: np.ndarray, utf8: np.ndarray) -> pa.LargeStringArray:
    """The array in these buffers, or `texts` where it is as long: text is only ever taken out."""
    if offsets[-1] == _bytes_of(texts):
        return texts
    buffers = pa.py_buffer(offsets), pa.py_buffer(utf8)
    return pa.LargeStringArray.from_buffers(len(texts), *buffers)


def _replace(
    texts: pa.LargeStringArray,
    chosen: np.ndarray,
    source: pa.LargeStringArray,
    rewrite: Callable[[str], str],
) -> pa.LargeStringArray:
    """`texts` with what `rewrite` makes of each chosen document of `source` in its place."""
    new = [rewrite(source[int(i)].as_py()) for i in np.flatnonzero(chosen)]
    return pc.replace_with_mask(texts, pa.array(chosen.astype(bool)), pa.array(new, texts.type))


@cache
def _patterns() -> tuple[re.Pattern, re.Pattern, re.Pattern]:
    """What DCLM looks for: a top-level domain in any case, a URL, an IPv4 address."""
    tlds = "|".join(sorted((ASCII_TLDS + OTHER_TLDS).split(), key=len, reverse=True))
    url = rf"\s{{0,10}}(?:(?:https?|ftp)://)?{_HOST}{{1,256}}\.(?:{tlds})\b{_PATH}"
    number = "[0-2]?[0-9]{1,2}"
    ipv4 = rf"\s{{0,10}}\b(?:(?:https?|ftp)://)?(?:{number}\.){{3}}{number}{_PATH}"
    return re.compile(tlds, re.IGNORECASE), re.compile(url), re.compile(ipv4)


def _without_urls(text: str, quirks: bool) -> str:
    opening, url, _ = _patterns()
    return text if quirks and not opening.match(text) else url.sub("", text)


@cache
def _url_tables() -> tuple[np.ndarray, np.ndarray]:
    """``(url_byte, tree)``: uint8[256] of what an ASCII byte may be in, int16[t, 27] of top-level domains.

    ``tree[node, letter]`` is the node after a letter, 0 for none; ``tree[node, 26]`` has bits for a domain that ends
    here and for one that goes on with a character beyond ASCII.
    """
    url_byte = np.zeros(256, np.uint8)
    for byte in range(128):
        in_host = re.fullmatch(_HOST, chr(byte)) is not None
        in_path = re.fullmatch(_PATH, chr(byte)) is not None
        url_byte[byte] = _IN_HOST * in_host + _IN_PATH * in_path
    rows = [[0] * 27]
    for name in (ASCII_TLDS + OTHER_TLDS).split():
        node = 0
        for char in name:
            if not char.isascii():
                rows[node][26] |= _GOES_ON
                break
            letter = ord(char) - _A
            if not rows[node][letter]:
                rows[node][letter] = len(rows)
                rows.append([0] * 27)
            node = rows[node][letter]
        else:
            rows[node][26] |= _ENDS
    tree = np.array(rows, np.int16)
    for table in (url_byte, tree):
        table.flags.writeable = False
    return url_byte, tree


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, _TREE))
def _tld_stop(utf8, start, end, by_byte, by_char, tree):
    """Where the top-level domain at `start` ends; 0 where there is none, -1 where a name beyond ASCII may be one."""
    at, node = start, _AT(0)
    while at < end and 0 <= _AT(utf8[at]) - _A < 26:
        node = _AT(tree[node, _AT(utf8[at]) - _A])
        at += 1
        if node == 0:
            return 0
    stop = at if tree[node, 26] & _ENDS else _AT(0)
    if at == end:
        return stop
    kind = by_byte[utf8[at]]
    if kind & WIDE:
        point, _ = decode(utf8, at)
        if by_char[point] & ALNUM:
            return _UNDECIDED if tree[node, 26] & _GOES_ON else 0
    elif kind & ALNUM or utf8[at] == _UNDERSCORE:
        return 0
    return stop


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, _TREE))
def _opens_with_tld(utf8, at, end, by_byte, by_char, tree):
    """Whether the text at `at` begins with a top-level domain, in any case; -1 where ASCII does not tell."""
    node = _AT(0)
    while at < end:
        if utf8[at] >= 0x80:
            return _UNDECIDED
        letter = (_AT(utf8[at]) | 32) - _A
        if not 0 <= letter < 26:
            return 0
        node = _AT(tree[node, letter])
        if node == 0:
            return 0
        if tree[node, 26] & _ENDS:
            return 1
        at += 1
    return 0


@njit(_AT(UTF8, _AT, _AT))
def _before_scheme(utf8, at, floor):
    """Where the scheme that ends at `at` begins; `at` itself where there is none behind `floor`."""
    if at - floor < 6 or utf8[at - 1] != 47 or utf8[at - 2] != 47 or utf8[at - 3] != 58:  # "://"
        return at
    p, t = utf8[at - 4] == 112, utf8[at - 5] == 116
    if p and t and at - floor >= 7 and utf8[at - 6] == 116 and utf8[at - 7] == 104:  # http
        return at - 7
    if p and t and utf8[at - 6] == 102:  # ftp
        return at - 6
    https = at - floor >= 8 and utf8[at - 4] == 115 and utf8[at - 5] == 112 and utf8[at - 6] == 116
    if https and utf8[at - 7] == 116 and utf8[at - 8] == 104:
        return at - 8
    return at


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8))
def _before_space(utf8, at, floor, by_byte, by_char):
    """Go back from `at` over up to 10 whitespace characters, not beyond `floor`."""
    for _ in range(_LONGEST_GAP):
        if at <= floor:
            break
        start = at - 1
        while start > floor and utf8[start] & 0xC0 == 0x80:
            start -= 1
        kind = by_byte[utf8[start]]
        if kind & WIDE:
            point, _ = decode(utf8, start)
            kind = by_char[point]
        if not kind & SPACE:
            break
        at = start
    return at


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, _AT, _AT, UTF8, UTF8, UTF8, _TREE))
def _url_around(utf8, dot, run, floor, end, by_byte, by_char, url_byte, tree):
    """``(start, stop)`` of the URL whose first domain follows `dot`; `stop` is -1 where ASCII does not tell.

    run, floor : where the characters of a host before `dot` begin; where the URL before has ended.
    """
    host = max(run, dot - _LONGEST_HOST)
    stop = _tld_stop(utf8, dot + 1, end, by_byte, by_char, tree)
    # The last domain that the longest host leads to is the one `re` finds. Behind the first everything ASCII may
    # be path, so that it matters only where a name beyond ASCII is one.
    at = dot + 1
    while at < end and at <= host + _LONGEST_HOST and url_byte[utf8[at]] & _IN_HOST:
        if utf8[at] == _DOT and _tld_stop(utf8, at + 1, end, by_byte, by_char, tree) == _UNDECIDED:
            return host, _UNDECIDED
        at += 1
    while stop < end and url_byte[utf8[stop]] & _IN_PATH:
        stop += 1
    return _before_space(utf8, _before_scheme(utf8, host, floor), floor, by_byte, by_char), stop


@njit(_AT(UTF8, _AT, _AT, _OUT, _AT))
def _copy(utf8, start, stop, out, write):
    for at in range(start, stop):
        out[write + at - start] = utf8[at]
    return write + stop - start


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, UTF8, _TREE, _OUT, _AT))
def _cut_document(utf8, begin, end, by_byte, by_char, url_byte, tree, out, write):
    """Write the document without URLs; returns where it ends in `out`, -1 where ASCII does not tell."""
    at = run = floor = begin
    while at < end:
        byte = utf8[at]
        if byte == _DOT and at > run:
            stop = _tld_stop(utf8, at + 1, end, by_byte, by_char, tree)
            if stop > 0:
                start, stop = _url_around(utf8, at, run, floor, end, by_byte, by_char, url_byte, tree)
            if stop == _UNDECIDED:
                return _UNDECIDED
            if stop > 0:
                write = _copy(utf8, floor, start, out, write)
                at = run = floor = stop
                continue
        at += 1
        if not url_byte[byte] & _IN_HOST:
            run = at
    return _copy(utf8, floor, end, out, write)


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, UTF8, _TREE, types.boolean, _OFFSETS_OUT, _OUT, _FLAGS))
def _cut_urls(offsets, utf8, by_byte, by_char, url_byte, tree, quirks, new_offsets, out, undecided):
    """Write every document without its URLs into `out`, and where it ends into `new_offsets`, int64[n + 1].

    `undecided`, uint8[n], comes as zeros and becomes 1 where ASCII does not tell: such a document is left empty.
    """
    write = new_offsets[0] = 0
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        looks = _opens_with_tld(utf8, begin, end, by_byte, by_char, tree) if quirks else 1
        stop = _UNDECIDED
        if looks == 1:
            stop = _cut_document(utf8, begin, end, by_byte, by_char, url_byte, tree, out, write)
        elif looks == 0:
            stop = _copy(utf8, begin, end, out, write)
        undecided[i] = stop == _UNDECIDED
        write = max(write, stop)
        new_offsets[i + 1] = write


@njit(types.void(OFFSETS, UTF8, _FLAGS))
def _find_dotted_numbers(offsets, utf8, found):
    """Set ``found[i]``, zero before, where three dots have digits of ASCII around them and nothing else between."""
    for i in range(len(offsets) - 1):
        dots, digits = 0, False
        for at in range(offsets[i], offsets[i + 1]):
            if utf8[at] - _ZERO < 10 and utf8[at] >= _ZERO:
                digits = True
                if dots >= 3:
                    found[i] = 1
                    break
            elif utf8[at] == _DOT and digits:
                dots += 1
                digits = False
            else:
                dots, digits = 0, False


@njit(types.void(OFFSETS, UTF8, _AT, _OFFSETS_OUT, _OUT))
def _limit_newlines(offsets, utf8, most, new_offsets, out):
    """Write every document with at most `most` newlines in a row, and where it ends into `new_offsets`."""
    write = new_offsets[0] = 0
    for i in range(len(offsets) - 1):
        newlines = 0
        for at in range(offsets[i], offsets[i + 1]):
            newlines = newlines + 1 if utf8[at] == NEWLINE else 0
            out[write] = utf8[at]
            write += newlines <= most
        new_offsets[i + 1] = write
