"""What is left of a text where only its words count, as datatrove's ``simplify_text`` leaves it?

datatrove 0.9.0 compares documents by such text (MinhashDedupSignature): `simplify` gives what its ``simplify_text``
gives with the settings it has there, without Python strings. The steps, in this order:

lower case      that of ``str.lower``.
numbers         decimal digits in a row, of any script (Nd), are "0", with those after a single separator (one of
                ``.,،٫⎖⎗⎘``): "1.2.3" is "0.0".
punctuation     the characters of datatrove's PUNCTUATION are spaces.
whitespace      as much of it as there is in a row is one space, and none at both ends.
marks           the text in Unicode's decomposed form, NFD, less its non-spacing marks (category Mn); not composed
                again. A mark between two spaces leaves both of them.

All but two things is decided character by character, by a table made from Python's and the ``regex`` package's
Unicode data and datatrove's own characters. A document with "Σ", whose lower case depends on its neighbours, is
lower-cased by Python first. One with a mark that is not dropped but may change places (38 characters: Hangul tone
marks, some viramas, notes) goes through Python's NFD, piece by piece.

Letters: n documents, b bytes of text.
"""

import itertools
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa
from winnow.filters.english_rules import char_at
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

_AT, _U64 = types.int64, types.uint64

# What becomes of a character: itself, bytes of its own (maybe none), a space, part of a number; or Python is asked.
_SAME, _FORM, _SPACE, _DIGIT, _ASK = range(5)
_KIND, _SEPARATOR = 7, 8
_LENGTH_BITS, _PLACE_BITS = 4, 8
_MOST_FORM_BYTES = 15

# The same of a byte of ASCII, besides what it is written as, which is "!" or above, or a space.
_WIDE_BYTE, _DIGIT_BYTE = 0, 1
_BLANK, _ZERO = ord(" "), ord("0")

_NO_ROOM, _LEFT_TO_PYTHON = -1, -2

PAD = 32
"""Bytes behind simplified texts that may be read, whatever is in them."""

CODES = types.Array(types.uint32, 1, "C", readonly=True)
"""uint32[2**21]: of each code point the kind, whether it separates digits, and length and place of its form."""
_OUT = types.Array(types.uint8, 1, "C")
_ENDS = types.Array(types.int64, 1, "C")


def _written_as(char: str) -> str | None:
    """A character in lower case, decomposed, without marks; None where that depends on its neighbours."""
    if char == "Σ":
        return None
    parts = unicodedata.normalize("NFD", char.lower())
    kept = "".join(part for part in parts if unicodedata.category(part) != "Mn")
    return None if any(map(unicodedata.combining, kept)) else kept


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(by_byte, by_char, forms)``: uint8[256], uint32[2**21] as `CODES`, and all forms on end, uint8.

    Raises ModuleNotFoundError where the extra `datatrove` is not installed.
    """
    try:
        from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"datatrove's signatures need datatrove and spaCy ({error}): pip install 'winnow[datatrove]'"
        ) from error
    every_char = [chr(p) for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    digits = {found[0] for found in NUMBERS_PATTERN.finditer("x".join(every_char))}
    between = NUMBERS_PATTERN.finditer("x".join(f"0{char}0" for char in every_char))
    separators = {found[0][1] for found in between if len(found[0]) == 3} - digits
    spaces = {*PUNCTUATION, *filter(str.isspace, every_char)}
    by_char = np.zeros(1 << 21, np.uint32)
    forms = bytearray()
    for char in every_char:
        if char in digits:
            code = _DIGIT
        elif char in spaces:
            code = _SPACE
        elif (form := _written_as(char)) == char:
            code = _SAME
        elif form is None:
            code = _ASK
        else:
            utf8 = form.encode()
            assert len(utf8) <= _MOST_FORM_BYTES
            code = _FORM | len(utf8) << _LENGTH_BITS | len(forms) << _PLACE_BITS
            forms += utf8
        by_char[ord(char)] = code | _SEPARATOR * (char in separators)
    by_byte = np.full(256, _WIDE_BYTE, np.uint8)
    for byte in range(128):
        kind = by_char[byte] & _KIND
        by_byte[byte] = {_SPACE: _BLANK, _DIGIT: _DIGIT_BYTE}.get(int(kind), ord(chr(byte).lower()))
    tables = by_byte, by_char, np.frombuffer(bytes(forms), np.uint8)
    for table in tables:
        table.flags.writeable = False
    return tables


@njit(_AT(UTF8, _AT, _AT, CODES))
def _end_of_digits(utf8, at, end, by_char):
    while at < end:
        point, width = char_at(utf8, at)
        if by_char[point] & _KIND != _DIGIT:
            break
        at += width
    return at


@njit(_AT(UTF8, _AT, _AT, CODES))
def _end_of_number(utf8, at, end, by_char):
    """Where the number ends that begins at `at`."""
    at = _end_of_digits(utf8, at, end, by_char)
    if at < end:
        point, width = char_at(utf8, at)
        if by_char[point] & _SEPARATOR:
            stop = _end_of_digits(utf8, at + width, end, by_char)
            if stop > at + width:
                return stop
    return at


@njit(_AT(UTF8, _AT, _AT, UTF8, CODES, UTF8, _OUT, _AT))
def _simplify_document(utf8, at, end, by_byte, by_char, forms, out, filled):
    """Write the document from `at` to `end` into `out` from `filled` on; where it ends there.

    Or _NO_ROOM, or _LEFT_TO_PYTHON. There is room for all that is ahead, one byte for each, at every turn.
    """
    begin, room = filled, len(out) - PAD
    if filled + end - at > room:
        return _NO_ROOM
    after_space = True  # there is none at the front
    while at < end:
        byte = by_byte[utf8[_U64(at)]]
        if byte > _DIGIT_BYTE:
            # Written in any case, and over it again where it is a space too many: no branch to mispredict.
            out[_U64(filled)] = byte
            is_space = byte == _BLANK
            filled += not (is_space and after_space)
            after_space = is_space
            at += 1
            continue
        point, width = char_at(utf8, at)
        code = _AT(by_char[point])
        kind = code & _KIND
        if kind == _DIGIT:
            at = _end_of_number(utf8, at, end, by_char)
            out[filled] = _ZERO
            filled += 1
            after_space = False
            continue
        if kind == _SAME:
            for k in range(width):
                out[filled + k] = utf8[at + k]
            filled += width
            after_space = False
        elif kind == _SPACE:
            out[filled] = _BLANK
            filled += not after_space
            after_space = True
        elif kind == _FORM:
            length, place = code >> _LENGTH_BITS & _MOST_FORM_BYTES, code >> _PLACE_BITS
            if filled + length + end - at - width > room:
                return _NO_ROOM
            for k in range(length):
                out[filled + k] = forms[place + k]
            filled += length
            after_space = filled == begin
        else:
            return _LEFT_TO_PYTHON
        at += width
    while filled > begin and out[filled - 1] == _BLANK:
        filled -= 1
    return filled


@njit(types.UniTuple(_AT, 2)(OFFSETS, UTF8, UTF8, CODES, UTF8, _AT, _OUT, _ENDS))
def _simplify_documents(offsets, utf8, by_byte, by_char, forms, i, out, ends):
    """Simplify documents from `i` on; ``(the first that is not, why not)``, or ``(n, 0)``.

    Document i is written from ``ends[i]`` on, and ``ends[i + 1]`` is where it stops.
    """
    while i < len(offsets) - 1:
        stop = _simplify_document(utf8, offsets[i], offsets[i + 1], by_byte, by_char, forms, out, ends[i])
        if stop < 0:
            return i, stop
        ends[i + 1] = stop
        i += 1
    return i, 0


def simplify(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Each text as datatrove's ``simplify_text`` has it. Memory and errors are those of `simplified`."""
    offsets, utf8 = simplified(texts)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(utf8))


def simplified(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """``(offsets, utf8)`` of the simplified texts, typed `OFFSETS` and `UTF8`; behind the last are `PAD` bytes more.

    `texts` may be a slice.

    Memory: as many bytes as the texts have, more by doubling where decomposed text is longer (three times at most,
    for Hangul); 8 MB of tables, made in two seconds by each process. A document that is left to Python is held as
    Python strings, and its longest piece without a space as one for each character.

    Raises
    ------
    ModuleNotFoundError
        The extra `datatrove` is not installed.
    TypeError, ValueError
        As `text_buffers` does.
    """
    offsets, utf8 = text_buffers(texts)
    n, done = len(texts), 0
    out = np.empty(offsets[-1] - offsets[0] + PAD, np.uint8)
    ends = np.zeros(n + 1, np.int64)
    while True:
        done, why = _simplify_documents(offsets, utf8, *_tables(), done, out, ends)
        if done == n:
            break
        if why == _LEFT_TO_PYTHON:
            simple = _simplified_by_python(texts[done].as_py()).encode()
            stop = ends[done] + len(simple)
            while stop + PAD > len(out):
                out = _doubled(out)
            out[ends[done] : stop] = np.frombuffer(simple, np.uint8)
            done += 1
            ends[done] = stop
        else:
            out = _doubled(out)
    for array in (ends, out):
        array.flags.writeable = False
    return ends, out


def _doubled(out: np.ndarray) -> np.ndarray:
    return np.concatenate([out, np.empty_like(out)])


def _simplified_by_python(text: str) -> str:
    """One text that holds a character which asks Python."""
    if "Σ" in text:
        return simplify(pa.array([text.lower()], pa.large_string()))[0].as_py()
    from datatrove.utils.text import TextNormConfig, simplify_text

    # No run of marks reaches over a space.
    pieces = simplify_text(text, TextNormConfig(norm_unicode_diacritics=False)).split(" ")
    return " ".join(map(_without_marks, pieces)).strip()


def _without_marks(text: str) -> str:
    """``unicodedata.normalize("NFD", text)`` without marks, but in linear time.

    Python's, of a long run of marks, takes time that grows with the square of its length.
    """
    parts = "".join(unicodedata.normalize("NFD", char) for char in text)
    runs = itertools.groupby(parts, lambda char: unicodedata.combining(char) > 0)
    # Sorting is stable, and characters that are no marks all have the class 0.
    ordered = itertools.chain.from_iterable(sorted(run, key=unicodedata.combining) for _, run in runs)
    return "".join(char for char in ordered if unicodedata.category(char) != "Mn")
