"""Is a chunk of text a URL, by spaCy's pattern for them?

The pattern, of spaCy 3.8 (``spacy.lang.tokenizer_exceptions``, after Diego Perini's), says in order: a scheme
of two characters or more and "://", if any; anything and "@", if anything; a public IPv4 address, or labels of
letters and digits, each with a dot behind it, and a last label of 2 to 63 lower-case letters; a port, if any;
"/", "?" or "#" and anything, if anything. It must cover the whole chunk. As a regular expression it takes
quadratic time on some chunks. Here each place where the host may begin is tried once, and no two of them read
the same characters, so the time is linear.
"""

from winnow.filters.english_rules import DECIMAL, HOST, LOWER, RULES, WORD, char_at
from winnow.filters.jit import UTF8, njit, types

_AT = types.int64
_DOT, _COLON, _AT_SIGN, _SLASH, _QUESTION, _HASH, _PLUS, _DASH, _UNDERLINE = map(ord, ".:@/?#+-_")
_0, _1, _2, _3, _4, _5, _6, _9 = map(ord, "01234569")
_LONGEST_LABEL, _LONGEST_TOP_LABEL = 64, 63


@njit(types.boolean(UTF8, _AT, _AT, RULES, _AT, _AT))
def _is_one_of(utf8, at, stop, rules, flag, other):
    """Whether a character is at `at` that has the flag, or is the other one."""
    if at >= stop:
        return False
    point = char_at(utf8, at)[0]
    return point == other or rules.by_char[point] & flag != 0


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, RULES, _AT))
def _run(utf8, at, stop, rules, flag):
    """``(where the run of characters with this flag ends, how many they are)``."""
    chars = 0
    while at < stop:
        point, width = char_at(utf8, at)
        if rules.by_char[point] & flag == 0:
            break
        at += width
        chars += 1
    return at, chars


@njit(types.boolean(UTF8, _AT, _AT, RULES))
def _ends_well(utf8, at, stop, rules):
    """Whether what follows the host, from `at` on, is a port, a path, both or nothing."""
    if at < stop and utf8[at] == _COLON:
        at, digits = _run(utf8, at + 1, stop, rules, DECIMAL)
        if not 2 <= digits <= 5:
            return False
    return at == stop or utf8[at] == _SLASH or utf8[at] == _QUESTION or utf8[at] == _HASH


@njit(types.boolean(UTF8, _AT, _AT, _AT, _AT))
def _is_octet(utf8, at, digits, place, second):
    """Whether the run of so many digits is a number for this place (0 to 3) of an address.

    The pattern's digits are any script's; where it names a digit it means ASCII. `second` is where the second
    digit begins.
    """
    one, two = utf8[at], utf8[second]
    if digits < 1 or digits > 3:
        return False
    if digits < 3:
        return (place != 0 and place != 3) or _1 <= one <= _9
    if one == _1:
        return True
    three = utf8[second + 1]
    if one != _2:
        return False
    if place == 0:
        return two in (_0, _1) or (two == _2 and _0 <= three <= _3)
    return _0 <= two <= _4 or (two == _5 and _0 <= three <= (_4 if place == 3 else _5))


@njit(types.boolean(UTF8, _AT, _AT, RULES))
def _is_address(utf8, at, stop, rules):
    """Whether a public IPv4 address begins at `at`, and what follows is a good end."""
    local_if_next = 0
    for place in range(4):
        end, digits = _run(utf8, at, min(at + 16, stop), rules, DECIMAL)
        if digits < 1:
            return False
        second = at + char_at(utf8, at)[1]
        if not _is_octet(utf8, at, digits, place, second):
            return False
        number = 0  # of ASCII digits; any other makes it too great to mean something
        for k in range(at, end):
            number = number * 10 + (utf8[k] - _0)
        if place == 0:
            if number == 10 or number == 127:
                return False
            local_if_next = number
        elif place == 1:
            if (local_if_next == 169 and number == 254) or (local_if_next == 192 and number == 168):
                return False
            if local_if_next == 172 and digits == 2:
                decades = utf8[at], utf8[second]
                if decades[0] == _2 or (decades[0] == _1 and _6 <= decades[1] <= _9):
                    return False
                if decades[0] == _3 and _0 <= decades[1] <= _1:
                    return False
        if place < 3:
            if end >= stop or utf8[end] != _DOT:
                return False
            at = end + 1
        else:
            at = end
    return _ends_well(utf8, at, stop, rules)


@njit(types.boolean(UTF8, _AT, _AT, RULES))
def _is_host(utf8, at, stop, rules):
    """Whether a domain name or an address begins at `at`, and what follows is a good end."""
    if _is_address(utf8, at, stop, rules):
        return True
    while True:
        chars, good_end = 0, False
        if not _is_one_of(utf8, at, stop, rules, HOST, -1):
            return False
        while at < stop:
            point, width = char_at(utf8, at)
            good = rules.by_char[point] & HOST != 0
            if not good and point != _DASH and point != _UNDERLINE:
                break
            good_end = good
            chars += 1
            at += width
        if chars > _LONGEST_LABEL or not good_end or at >= stop or utf8[at] != _DOT:
            return False
        at += 1
        end, letters = _run(utf8, at, stop, rules, LOWER)
        if 2 <= letters <= _LONGEST_TOP_LABEL and _ends_well(utf8, end, stop, rules):
            return True


@njit(types.boolean(UTF8, _AT, _AT, RULES))
def is_url(utf8, start, stop, rules):
    """Whether the text from `start` to `stop`, which is not empty and has no whitespace, is a URL."""
    if _is_host(utf8, start, stop, rules):
        return True
    at, chars = start, 0
    while at < stop:
        point, width = char_at(utf8, at)
        if rules.by_char[point] & WORD == 0 and point != _PLUS and point != _DASH and point != _DOT:
            break
        at += width
        chars += 1
    if chars >= 2 and at + 3 <= stop and utf8[at] == _COLON:
        slashes = utf8[at + 1] == _SLASH and utf8[at + 2] == _SLASH
        if slashes and _is_host(utf8, at + 3, stop, rules):
            return True
    found, at = False, start + 1
    while at < stop and not found:
        found = utf8[at] == _AT_SIGN and _is_host(utf8, at + 1, stop, rules)
        at += 1
    return found
