"""Which rules for English words does the installed spaCy have?

spaCy states them as regular expressions over character classes, a dictionary of special cases and a pattern
for URLs. `load` asks for all of them, once per process (two to three seconds, most of it importing spaCy), and
lays them out as the tables of english_rules.py. What the kernels know by heart, which expressions there are and
how they are put together, is compared with the installed spaCy's, and anything else is an error: words that are
nearly spaCy's are not given out.

Needs the extra `datatrove`: spaCy, and datatrove for the characters that it counts as punctuation.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from winnow.filters.english_rules import (
    ACTIVE,
    BEFORE_DOT,
    DECIMAL,
    DIGIT,
    ENDS_SENTENCE,
    HAS_LETTER,
    HAS_NON_PUNCTUATION,
    HAS_WORD_CHAR,
    HOST,
    ICON,
    LAYOUT,
    LETTER,
    LOWER,
    MOST_PATTERN_WORDS,
    MOST_SPECIAL_BYTES,
    PREFIX,
    QUOTE,
    SLOTS,
    SPACE,
    SUFFIX,
    UPPER,
    WORD,
    extend,
    first_slot,
    hash_bytes,
)  # fmt: skip


class _SpaCy(NamedTuple):
    """What the installed spaCy says, checked to be of the form that the kernels carry out."""

    prefixes: set[str]
    suffixes: set[str]
    units: set[str]
    classes: dict[int, str]
    specials: dict[str, list[str]]
    patterns: dict[str, list[str]]


@cache
def load() -> np.void:
    """The tables, a record of the type `RULES`, from the installed spaCy and datatrove.

    Raises
    ------
    ModuleNotFoundError
        The extra `datatrove` is not installed.
    RuntimeError
        This spaCy has rules that the kernels do not know.
    """
    try:
        spacy = _ask_spacy()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`words: datatrove` needs spaCy and datatrove ({error}): pip install 'winnow[datatrove]'"
        ) from error
    rules: np.void = np.zeros(1, LAYOUT)[0]
    tables = _specials(spacy.specials) | _units(spacy.units) | _paths(spacy)
    tables["by_char"] = _characters(spacy)
    for name, table in tables.items():
        _known(len(table) <= len(rules[name]), "rules, and more,")
        rules[name][: len(table)] = table
    return rules


def _known(condition: bool, what: str) -> None:
    if not condition:
        import spacy

        raise RuntimeError(f"spaCy {spacy.__version__} has other English {what} than those compiled here")


def _ask_spacy() -> _SpaCy:
    from spacy.lang import char_classes as chars
    from spacy.lang.en import English
    from spacy.lang.tokenizer_exceptions import URL_PATTERN
    from spacy.symbols import ORTH

    defaults: Any = English.Defaults
    al, au, a, q = chars.ALPHA_LOWER, chars.ALPHA_UPPER, chars.ALPHA, chars.CONCAT_QUOTES
    dots, icons = r"\.\.+", f"[{chars.CONCAT_ICONS}]"
    before_dot = rf"0-9{al}%²\-\+{chars.PUNCT}(?:{q})"

    prefixes, others = _singles(defaults.prefixes)
    _known(others == {r"\+(?![0-9])", "……", dots, r"US\$", r"C\$", r"A\$", icons}, "prefixes")
    suffixes, others = _singles(defaults.suffixes)
    units = {piece for piece in others if piece.startswith("(?<=[0-9])(?:")}
    _known(
        others - units
        == {"……", dots, icons, "'s", "'S", "’s", "’S", r"(?<=[0-9])\+", r"(?<=°[FfCcKk])\."}
        | {rf"(?<=[{before_dot}])\.", rf"(?<=[{au}][{au}])\."},
        "suffixes",
    )
    infixes = [
        *(dots, "…", icons, r"(?<=[0-9])[+\-\*^](?=[0-9-])", rf"(?<=[{al}{q}])\.(?=[{au}{q}])"),
        *(rf"(?<=[{a}]),(?=[{a}])", rf"(?<=[{a}0-9])(?:-|–|—|--|---|——|~)(?=[{a}])"),
        rf"(?<=[{a}0-9])[:<>=/](?=[{a}])",
    ]
    _known(list(defaults.infixes) == infixes, "infixes")
    url = sha256(URL_PATTERN.replace(al, "").encode()).hexdigest()
    _known(url == _URL_PATTERN and defaults.url_match.__self__.pattern == "(?u)" + URL_PATTERN, "URLs")
    _known(defaults.token_match is None, "token match")

    specials = {
        text: [word[ORTH] for word in words]
        for text, words in defaults.tokenizer_exceptions.items()
        if not any(map(str.isspace, text))
    }
    return _SpaCy(
        prefixes=prefixes,
        suffixes=suffixes,
        units={re.sub(r"\\(.)", r"\1", unit) for piece in units for unit in piece[13:-1].split("|")} | {"+"},
        classes={LOWER: al, UPPER: au, LETTER: a, QUOTE: q, ICON: chars.CONCAT_ICONS, BEFORE_DOT: before_dot},
        specials=specials,
        patterns=_patterns(defaults, specials),
    )


_URL_PATTERN = "58dcb8367df020512382a25fc9fe841eaceb96698d7b511df95e470d7b31776a"
"""SHA-256 of spaCy 3.8's pattern for URLs, its class of letters left out."""


def _singles(pieces: Iterable[str]) -> tuple[set[str], set[str]]:
    """The expressions that are one character each, as characters, and the others; spaCy drops empty ones."""
    ones, others = set(), set()
    for piece in pieces:
        if len(piece) == 1:
            ones.add(piece)
        elif len(piece) == 2 and piece[0] == "\\" and not piece[1].isalnum():
            ones.add(piece[1])
        elif piece.strip():
            others.add(piece)
    return ones, others


def _patterns(defaults: Any, specials: dict[str, list[str]]) -> dict[str, list[str]]:
    """Special cases that spaCy also looks for over words already cut: those with an affix in them.

    Each with the words that it is cut into where no special case is known.
    """
    from spacy.tokenizer import Tokenizer
    from spacy.util import compile_infix_regex, compile_prefix_regex, compile_suffix_regex
    from spacy.vocab import Vocab

    bare = Tokenizer(
        Vocab(),
        prefix_search=compile_prefix_regex(defaults.prefixes).search,
        suffix_search=compile_suffix_regex(defaults.suffixes).search,
        infix_finditer=compile_infix_regex(defaults.infixes).finditer,
        url_match=defaults.url_match,
    )
    found = {}
    for text, words in specials.items():
        if bare.find_prefix(text) or bare.find_suffix(text) or bare.find_infix(text):
            pattern = [word.text for word in bare(text)]
            # A pattern of one word can change nothing, where it becomes that word.
            _known(pattern == words or 1 < len(pattern) <= MOST_PATTERN_WORDS, f"special case {text!r}")
            if len(pattern) > 1:
                found[text] = pattern
    return found


def _characters(spacy: _SpaCy) -> np.ndarray:
    from datatrove.utils.text import PUNCTUATION_SET
    from spacy.pipeline import Sentencizer

    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    chars = np.strings.isspace(every_char) * np.uint32(SPACE)
    chars |= np.strings.isalpha(every_char) * np.uint32(HAS_LETTER)
    chars |= np.uint32(HAS_WORD_CHAR)
    chars[[ord(c) for c in PUNCTUATION_SET]] &= ~np.uint32(HAS_WORD_CHAR)
    punctuation = [unicodedata.category(chr(c))[0] == "P" for c in range(0x110000)]
    chars[~np.array(punctuation)] |= np.uint32(HAS_NON_PUNCTUATION)
    chars[[ord(c) for c in Sentencizer.default_punct_chars]] |= np.uint32(ENDS_SENTENCE)

    text = "".join(map(chr, range(0x110000)))
    ranges = {DIGIT: "0-9", DECIMAL: r"\d", WORD: r"\w", HOST: "A-Za-z0-9\u00a1-\uffff"}
    for bit, members in (spacy.classes | ranges).items():
        for run in re.finditer(f"[{members}]+", text):
            chars[run.start() : run.end()] |= np.uint32(bit)
    chars[[ord(c) for c in spacy.prefixes]] |= np.uint32(PREFIX)
    chars[[ord(c) for c in spacy.suffixes]] |= np.uint32(SUFFIX)
    chars[chars & ICON != 0] |= np.uint32(PREFIX | SUFFIX)
    # A chunk without any such character is one word, unless it is a special case.
    chars[chars & (PREFIX | SUFFIX | DIGIT) != 0] |= np.uint32(ACTIVE)
    chars[[ord(c) for c in ".…+-*^,–—~:<>=/"]] |= np.uint32(ACTIVE)
    _known(not any(chars[ord(c)] & LOWER for c in ":/?#.@"), "letters")
    return chars


def _end_to_end(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """``(utf8, ends)``: uint8 and int32[len + 1]."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def _key(word: str) -> int:
    utf8 = np.frombuffer(word.encode(), np.uint8)
    return int(hash_bytes(utf8, 0, len(utf8)))


def _specials(specials: dict[str, list[str]]) -> dict[str, np.ndarray]:
    first, last = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
    slots = np.zeros(SLOTS, np.int32)
    for i, text in enumerate(specials):
        utf8 = text.encode()
        _known(len(utf8) <= MOST_SPECIAL_BYTES and "".join(specials[text]) == text, f"special case {text!r}")
        first[utf8[0]] |= np.uint64(1 << len(utf8))
        last[utf8[-1]] |= np.uint64(1 << len(utf8))
        slot = first_slot(_key(text))
        while slots[slot]:
            slot = (slot + 1) % SLOTS
        slots[slot] = i + 1
    texts, ends = _end_to_end(specials)
    cuts = [[len(word.encode()) for word in words] for words in specials.values()]
    return {
        "special_first": first,
        "special_last": last,
        "special_slots": slots,
        "special_text": texts,
        "special_ends": ends,
        "cuts": np.concatenate(cuts),
        "cut_ends": np.cumsum([0, *map(len, cuts)]),
    }


def _units(units: set[str]) -> dict[str, np.ndarray]:
    ordered = sorted(units, key=lambda unit: (unit.encode()[-1], -len(unit.encode()), unit))
    texts, ends = _end_to_end(ordered)
    last = [unit.encode()[-1] for unit in ordered]
    return {"unit_text": texts, "unit_ends": ends, "unit_ranges": np.searchsorted(last, np.arange(257))}


def _paths(spacy: _SpaCy) -> dict[str, np.ndarray]:
    keys, rules = np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int32)
    for i, text in enumerate(spacy.specials):
        path = 0
        pattern = spacy.patterns.get(text, [])
        for k, word in enumerate(pattern):
            path = int(extend(path, _key(word)))
            if not k:
                continue
            slot = first_slot(path)
            while keys[slot] not in (0, path):
                slot = (slot + 1) % SLOTS
            keys[slot] = path
            if k == len(pattern) - 1:
                rules[slot] = i + 1
    return {"path_keys": keys, "path_rules": rules}
