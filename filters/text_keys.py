"""Are two texts, or two URLs, the same but for how they are written?

Exact dedup compares keys of 128 bits, xxh3's of a normal form:

text   its words in lower case with one space between them. A word is a run of letters, digits and "_", as ``\\w+``
       of Python's `re` has it, so that punctuation, markup and line breaks are left out of account. A text without
       a word is compared by its bytes.
URL    the address of url_parts.py: http and https, "www.", the scheme's own port, the case of the host, escapes
       that need not be, "." and ".." and the fragment make no difference (RFC 3986, 6.2.2 and 6.2.3; url_parts.py
       adds what the WHATWG URL Standard says), and here neither does a "/" at the path's end. All else in path and
       query does, case included.

Lower case is ``str.lower``'s, character by character: what is around a sigma does not matter, and the final ς is σ.
datatrove 0.9.0 (url_dedup.py, 64 bits of SHA-1) and DCLM (dedup_jsonl.py, MD5) hash a URL as it stands, unless they
are given a function that normalises it.

Letters: n documents, b bytes of text.
"""

import itertools
from collections.abc import Iterable
from functools import cache

import numpy as np
import pyarrow as pa
import xxhash
from winnow.filters.characters import ALNUM, character_tables, decode
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.url_parts import parts

KEY = pa.binary(16)
"""A key, big-endian."""
SPELLINGS = types.Array(types.uint32, 1, "C", readonly=True)
"""uint32[2**21]: the UTF-8 that stands for a code point, the first byte lowest; 0 for one that is left out."""

_BYTES = types.Array(types.uint8, 1, "C")
_EDGES = types.Array(types.int64, 1, "C")
_AT, _U32, _U64 = types.int64, types.uint32, types.uint64
_SPACE = ord(" ")
_SCHEMES = ("http://", "https://")


def lower_case() -> np.ndarray:
    """uint32[2**21], writable: each code point's lower case as `SPELLINGS` describes it; the final ς is σ."""
    points = np.zeros(1 << 21, np.uint32)
    points[:0x110000] = np.strings.lower(np.arange(0x110000, dtype=np.uint32).view("U1")).view(np.uint32)
    points[ord("ς")] = ord("σ")
    spellings = spelled(points)
    # The one character whose lower case is two.
    spellings[ord("İ")] = int.from_bytes("İ".lower().encode(), "little")
    return spellings


def spelled(points: np.ndarray) -> np.ndarray:
    """uint32[n]: the UTF-8 of code points (uint32[n]), the first byte lowest; 0 for U+0000."""
    head, low = np.uint32(0x80), np.uint32(0x3F)
    a, b, c = points & low | head, points >> 6 & low | head, points >> 12 & low | head
    return np.select(
        [points < 0x80, points < 0x800, points < 0x10000],
        [points, points >> 6 | 0xC0 | a << 8, points >> 12 | 0xE0 | b << 8 | a << 16],
        (points >> 18 & 7) | 0xF0 | c << 8 | b << 16 | a << 24,
    ).astype(np.uint32)


@cache
def _word_spellings() -> np.ndarray:
    """`SPELLINGS` of what words are made of, in lower case."""
    _, by_char = character_tables()
    spellings = lower_case()
    in_words = by_char & ALNUM != 0
    in_words[ord("_")] = True
    spellings[~in_words] = 0
    spellings.flags.writeable = False
    return spellings


@njit(_AT(_U32))
def spelled_bytes(spelling):
    """How many bytes a spelling has."""
    return _AT(spelling > 0) + _AT(spelling > 0xFF) + _AT(spelling > 0xFFFF) + _AT(spelling > 0xFFFFFF)


@njit(types.void(OFFSETS, UTF8, SPELLINGS, _BYTES, _EDGES))
def write_words(offsets, utf8, spellings, out, edges):
    """Write every document's words with one space between them.

    out : uint8[>= 1.5 b + 2], as no lower case is longer than one and a half times its character.
    edges : int64[n + 1], filled: document i is ``out[edges[i]:edges[i + 1]]``.
    """
    k = 0
    edges[0] = 0
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        in_word = False
        while at < end:
            lead = utf8[at]
            if lead < 0x80:
                spelling, width = spellings[lead], 1
            else:
                point, width = decode(utf8, at)
                spelling = spellings[point]
            at += width
            # A space is written behind each word, and over it what follows where that is none.
            if spelling < 0x80:
                is_word = spelling != 0
                out[k] = spelling if is_word else _SPACE
                k += is_word | in_word
                in_word = is_word
            else:
                while spelling:
                    out[k] = spelling & _U32(0xFF)
                    spelling >>= _U32(8)
                    k += 1
                in_word = True
        if k > edges[i] and not in_word:
            k -= 1
        edges[i + 1] = k


def normalised_keys(texts: pa.LargeStringArray) -> pa.FixedSizeBinaryArray:
    """The `KEY` of every text. Memory: one and a half times the text. Raises what `text_buffers` does."""
    offsets, utf8 = text_buffers(texts)
    n = len(offsets) - 1
    size = int(offsets[-1] - offsets[0])
    words, edges = np.empty(size + size // 2 + 2, np.uint8), np.empty(n + 1, np.int64)
    write_words(offsets, utf8, _word_spellings(), words, edges)
    data, raw = words.data, utf8.data
    digest = xxhash.xxh3_128_digest
    found = [
        digest(data[a:b]) if b > a else digest(raw[c:d])
        for (a, b), (c, d) in zip(
            itertools.pairwise(edges.tolist()), itertools.pairwise(offsets.tolist()), strict=True
        )
    ]
    return pa.Array.from_buffers(KEY, n, [None, pa.py_buffer(b"".join(found))])


def url_keys(urls: Iterable[str | None]) -> pa.FixedSizeBinaryArray:
    """The `KEY` of every URL; null for None, and for what is no URL of http or https with a host."""
    return pa.array([_url_key(url) for url in urls], KEY)


def _url_key(url: str | None) -> bytes | None:
    # A publisher's own id may look like a host without a scheme, and another scheme's address is another thing.
    if url is None or not url.lstrip()[:8].lower().startswith(_SCHEMES):
        return None
    found = parts(url)
    if found is None:
        return None
    path, mark, query = found.address.partition("?")
    return xxhash.xxh3_128_digest(f"{path.removesuffix('/')}{mark}{query}".encode())
