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

The kernels read every byte a small number of times. A document with what may be an IPv4 is given to `re`, and so are
the first letters of one that begins with a character beyond ASCII, where `quirks` asks.

Letters: n documents, b bytes of text, t nodes of the tree of top-level domains, c its columns.
"""

import re
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
_DOT, _ZERO, _UNDERSCORE = (ord(c) for c in ".0_")
_UNDECIDED = 2
# Bits of a node of the tree: a domain ends here, and with a letter or digit, or with a mark that is neither.
_ENDS, _ENDS_IN_MARK = 1, 2

_AT, _U64 = types.int64, types.uint64
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
    looked_at = np.ones(n, np.uint8)
    if quirks:
        _find_openings(offsets, utf8, *_url_tables()[1:], looked_at)
        for i in np.flatnonzero(looked_at == _UNDECIDED):
            looked_at[i] = _patterns()[0].match(texts[int(i)].as_py()) is not None
    new_offsets, out = np.empty(n + 1, np.int64), np.empty(offsets[-1] - offsets[0], np.uint8)
    _cut_urls(offsets, utf8, *character_tables(), *_url_tables(), looked_at, new_offsets, out)
    cut = _unless_as_long(texts, new_offsets, out)
    numbered = np.zeros(n, np.uint8)
    _find_dotted_numbers(*text_buffers(cut), numbered)
    if numbered.any():
        left = [_patterns()[1].sub("", cut[int(i)].as_py()) for i in np.flatnonzero(numbered)]
        cut = pc.replace_with_mask(cut, pa.array(numbered.astype(bool)), pa.array(left, texts.type))
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


@cache
def _patterns() -> tuple[re.Pattern, re.Pattern]:
    """What DCLM looks for: a top-level domain in any case, and an IPv4 address."""
    tlds = "|".join((ASCII_TLDS + OTHER_TLDS).split())
    number = "[0-2]?[0-9]{1,2}"
    ipv4 = rf"\s{{0,10}}\b(?:(?:https?|ftp)://)?(?:{number}\.){{3}}{number}{_PATH}"
    return re.compile(tlds, re.IGNORECASE), re.compile(ipv4)


@cache
def _url_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(url_byte, column, tree)``: what an ASCII byte may be in, uint8[256], and the tree of domains, int16[t, c].

    ``tree[node, column[byte]]`` is the node after a byte of UTF-8, 0 for none; ``tree[node, 0]`` is what ends there.
    About 1 MB.
    """
    url_byte = np.zeros(256, np.uint8)
    for byte in range(128):
        in_host = re.fullmatch(_HOST, chr(byte)) is not None
        in_path = re.fullmatch(_PATH, chr(byte)) is not None
        url_byte[byte] = _IN_HOST * in_host + _IN_PATH * in_path
    names = (ASCII_TLDS + OTHER_TLDS).split()
    in_names = sorted({byte for name in names for byte in name.encode()})
    column = np.zeros(256, np.uint8)
    column[in_names] = range(1, len(in_names) + 1)
    tree = np.zeros((sum(len(name.encode()) for name in names) + 1, len(in_names) + 1), np.int16)
    nodes = 1
    for name in names:
        node = 0
        for byte in name.encode():
            if not tree[node, column[byte]]:
                tree[node, column[byte]] = nodes
                nodes += 1
            node = tree[node, column[byte]]
        tree[node, 0] = _ENDS if re.match(r"\w", name[-1]) else _ENDS_IN_MARK
    tree = tree[:nodes].copy()
    for table in (url_byte, column, tree):
        table.flags.writeable = False
    return url_byte, column, tree


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8))
def _ends_before(utf8, at, end, by_byte, by_char):
    """The bit of a domain that may end at `at`: with a letter where none follows, with a mark where one does."""
    if at >= end:
        return _ENDS
    kind = by_byte[utf8[at]]
    if kind & WIDE:
        point, _ = decode(utf8, at)
        kind = by_char[point]
    return _ENDS_IN_MARK if kind & ALNUM or utf8[at] == _UNDERSCORE else _ENDS


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, UTF8, _TREE))
def _tld_stop(utf8, start, end, by_byte, by_char, column, tree):
    """Where the longest top-level domain at `start` ends; 0 where there is none."""
    at, node, stop = start, _AT(0), _AT(0)
    while at < end and column[utf8[at]]:
        node = _AT(tree[node, column[utf8[at]]])
        at += 1
        if node == 0:
            break
        if tree[node, 0] and tree[node, 0] & _ends_before(utf8, at, end, by_byte, by_char):
            stop = at
    return stop


@njit(types.void(OFFSETS, UTF8, UTF8, _TREE, _FLAGS))
def _find_openings(offsets, utf8, column, tree, found):
    """Set ``found[i]``, uint8[n], where a document begins with a top-level domain, in any case.

    It is 2 where a character beyond ASCII has to be asked: `re` takes some for letters of ASCII.
    """
    for i in range(len(offsets) - 1):
        found[i] = 0
        node = _AT(0)
        for at in range(offsets[i], offsets[i + 1]):
            byte = _AT(utf8[at])
            if byte >= 0x80:
                found[i] = _UNDECIDED
                break
            node = _AT(tree[node, column[byte | 32 if byte > 64 else byte]])
            if node == 0:
                break
            if tree[node, 0]:
                found[i] = 1
                break


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


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, _AT, _AT, _AT, UTF8, UTF8, UTF8, UTF8, _TREE))
def _url_around(utf8, dot, stop, run, floor, end, by_byte, by_char, url_byte, column, tree):
    """``(start, stop)`` of the URL whose first domain follows `dot` and ends at `stop`.

    run, floor : where the characters of a host before `dot` begin; where the URL before has ended.
    """
    host = max(run, dot - _LONGEST_HOST)
    # The last domain that the longest host leads to is the one `re` takes.
    at = dot + 1
    while at < end and at <= host + _LONGEST_HOST and url_byte[utf8[at]] & _IN_HOST:
        if utf8[at] == _DOT:
            stop = max(stop, _tld_stop(utf8, at + 1, end, by_byte, by_char, column, tree))
        at += 1
    while stop < end and url_byte[utf8[stop]] & _IN_PATH:
        stop += 1
    return _before_space(utf8, _before_scheme(utf8, host, floor), floor, by_byte, by_char), stop


@njit(_AT(UTF8, _AT, _AT, _OUT, _AT))
def _copy(utf8, start, stop, out, write):
    """Write ``utf8[start:stop]``; returns where it ends."""
    for k in range(stop - start):
        out[_U64(write + k)] = utf8[_U64(start + k)]
    return write + stop - start


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, UTF8, UTF8, _TREE, _OUT, _AT))
def _cut_document(utf8, begin, end, by_byte, by_char, url_byte, column, tree, out, write):
    """Write the document without URLs; returns where it ends in `out`."""
    at = run = floor = begin
    while at < end:
        byte = utf8[_U64(at)]
        if byte == _DOT and at > run:
            stop = _tld_stop(utf8, at + 1, end, by_byte, by_char, column, tree)
            if stop > 0:
                start, stop = _url_around(
                    utf8, at, stop, run, floor, end, by_byte, by_char, url_byte, column, tree
                )
                write = _copy(utf8, floor, start, out, write)
                at = run = floor = stop
                continue
        at += 1
        if not url_byte[byte] & _IN_HOST:
            run = at
    return _copy(utf8, floor, end, out, write)


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, UTF8, UTF8, _TREE, _FLAGS, _OFFSETS_OUT, _OUT))
def _cut_urls(offsets, utf8, by_byte, by_char, url_byte, column, tree, looked_at, new_offsets, out):
    """Write every document into `out`, without its URLs where ``looked_at[i]``, uint8[n], is not 0.

    `new_offsets`, int64[n + 1], becomes where each begins; `out` is uint8[b].
    """
    write = new_offsets[0] = 0
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        if looked_at[i]:
            write = _cut_document(utf8, begin, end, by_byte, by_char, url_byte, column, tree, out, write)
        else:
            write = _copy(utf8, begin, end, out, write)
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
