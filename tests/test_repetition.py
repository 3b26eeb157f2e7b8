"""Are n-grams counted as datatrove counts them, on any words, and do Gopher's repetition rules decide as it does?"""

import io
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.gopher_repetition import GopherRepetition
from winnow.filters.repetition import NGRAM_SIGNALS, count_ngrams, hash_bytes, ngram_scratch
from winnow.filters.rules import decide
from winnow.filters.signals import scan

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"


def column(texts):
    return pa.array(texts, pa.large_string())


def slow_top(words, n):
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    top, count = Counter(grams).most_common(1)[0]
    return len(top) * count


def slow_duplicates(words, n):
    seen, chars, at = set(), 0, 0
    while at + n <= len(words):
        gram = "".join(words[at : at + n])
        if gram in seen:
            chars += len(gram)
            at += n
        else:
            seen.add(gram)
            at += 1
    return chars


def slow_counts(words):
    """The definitions read aloud."""
    return [slow_top(words, n) for n in (2, 3, 4)] + [slow_duplicates(words, n) for n in range(5, 11)]


def counts_of(texts):
    found = scan(column(texts), ["top_2gram_chars"])
    assert list(found) == list(NGRAM_SIGNALS)
    return [[int(row[i]) for row in found.values()] for i in range(len(texts))]


# Few words, so that n-grams come again; some that are the same on end though their boundaries differ ("a" + "bab"
# and "ab" + "ab"), and long ones, so that n-grams are both below and above the 16 bytes that are compared first.
VOCABULARIES = [
    ["a", "b"],
    ["a", "b", "ab", "ba", "aba", "bab"],
    ["the", "of", "étoile", "word", "long-wordlong", "x", "中文字"],
    ["aaaaaaaa", "aaaaaaa", "aaaaaaaaa", "a"],
    ["\0", "\0\0", "a", "a\0"],
]
some_words = st.sampled_from(VOCABULARIES).flatmap(
    lambda words: st.lists(st.sampled_from(words), max_size=60)
)
repeating = st.tuples(some_words, some_words, some_words).map(
    lambda parts: parts[0] + parts[1] + parts[0] + parts[2] + parts[1] + parts[0]
)
shifted = st.tuples(st.text("ab", min_size=20, max_size=60), st.lists(st.integers(1, 4), max_size=60)).map(
    lambda drawn: cut_at(drawn[0], drawn[1]) + cut_at(drawn[0], drawn[1][::-1])
)


def cut_at(text, lengths):
    """The text in words of the given lengths, what is left being the last."""
    words = []
    for length in lengths:
        words.append(text[:length])
        text = text[length:]
    return [word for word in [*words, text] if word]


@settings(deadline=None, max_examples=500)
@given(st.lists(some_words | repeating | shifted, min_size=1, max_size=4))
def test_agrees_with_the_definitions_read_aloud(documents):
    assert counts_of([" ".join(words) for words in documents]) == [slow_counts(words) for words in documents]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.data())
def test_any_text_in_any_slice(texts, data):
    start = data.draw(st.integers(0, len(texts)))
    found = scan(column(texts).slice(start), ["dup_5gram_chars"])
    for name, row in zip(
        found, zip(*(slow_counts(text.split()) for text in texts[start:]), strict=True), strict=False
    ):
        np.testing.assert_array_equal(found[name], row, err_msg=name)


@settings(deadline=None)
@given(some_words | repeating, st.randoms(use_true_random=False))
def test_words_may_lie_anywhere_in_the_text(words, random):
    """As those of other word splitters do: out of order, touching, and with other text between."""
    spelled = sorted(set(words))
    random.shuffle(spelled)
    blob = ("xx" + "".join(spelled)).encode()
    places = {word: blob.index(word.encode()) for word in spelled}
    utf8 = np.frombuffer(blob, np.uint8)
    starts = np.array([places[word] for word in words] + [0], np.int64)
    stops = np.array([places[word] + len(word.encode()) for word in words] + [0], np.int64)
    chars = np.array([len(word) for word in words] + [0], np.int32)
    hashes = np.array([hash_bytes(utf8, a, b) for a, b in zip(starts, stops, strict=True)], np.uint64)
    scratch = ngram_scratch(len(words), sum(len(word.encode()) for word in words))
    assert list(count_ngrams(utf8, starts, stops, chars, hashes, len(words), scratch)) == slow_counts(words)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_hash_depends_on_the_bytes_alone(one, other):
    def hashed(raw, before=b"", after=b""):
        return hash_bytes(np.frombuffer(before + raw + after, np.uint8), len(before), len(before + raw))

    assert hashed(one) == hashed(one, b"??", b"!") == hashed(one, b"x", b"y" * 9)
    assert (hashed(one) == hashed(other)) == (one == other)


def test_hashes_of_many_short_words_differ():
    letters = np.frombuffer(bytes(range(256)) * 2, np.uint8)
    pairs = {hash_bytes(np.array([a, b], np.uint8), 0, 2) for a in range(256) for b in range(256)}
    assert len(pairs | {hash_bytes(letters, at, at + 1) for at in range(256)}) == 256 * 256 + 256


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        pytest.param("a b a b c", "top_2gram_chars", 6, id="a-b-twice-with-its-space"),
        pytest.param("aa b c d", "top_2gram_chars", 4, id="once-is-enough"),
        pytest.param("b aa c aa b c", "top_2gram_chars", 4, id="of-equally-frequent-ones-the-first"),
        pytest.param("a\n\n  b a\tb", "top_2gram_chars", 6, id="whitespace-counts-as-one-space"),
        pytest.param("ab c a bc ab c", "top_2gram_chars", 8, id="top-n-grams-are-sequences-of-words"),
        pytest.param("a a a a a", "top_4gram_chars", 14, id="n-grams-overlap"),
        pytest.param("a b", "top_3gram_chars", 0, id="too-few-words"),
        pytest.param("a b c d e a b c d e", "dup_5gram_chars", 5, id="five-words-again"),
        pytest.param("a b c d e a b c d", "dup_5gram_chars", 0, id="only-four-again"),
        pytest.param("ab c d e f a bc d e f", "dup_5gram_chars", 6, id="duplicates-are-compared-without-spaces"),
        pytest.param("a a a a a a a a a a a a", "dup_5gram_chars", 10, id="the-walk-goes-on-behind-a-duplicate"),
        pytest.param("a " * 21, "dup_10gram_chars", 20, id="so-they-do-not-overlap"),
    ],
)  # fmt: skip
def test_by_hand(text, name, count):
    assert scan(column([text]), [name])[name][0] == count


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 200_000, id="one-word-again-and-again"),
        pytest.param("a b " * 100_000 + "c", id="two-words-again-and-again"),
        pytest.param("x" * 1_000_000, id="one-word-of-a-million-letters"),
        pytest.param(("y" * 1000 + " ") * 300, id="long-words"),
        pytest.param(" ".join(map(str, range(100_000))), id="no-word-again"),
    ],
)
def test_long_and_strange(text):
    assert counts_of([text, "a b"]) == [slow_counts(text.split()), slow_counts(["a", "b"])]


# gopher-repetition


def reasons(filter_settings, texts):
    """Name of the setting whose rule fails first for each text, None where kept."""
    rules = filter_settings.rules()
    names = {signal for rule in rules for signal in rule.score.signals}
    verdicts = decide(rules, scan(column(texts), names), len(texts))
    return [rules[i].name.partition(".")[2] if i >= 0 else None for i in verdicts.first]


DATATROVE_REASONS = {
    "dup_para_frac": "max_dup_paragraph_frac",
    "dup_para_char_frac": "max_dup_paragraph_char_frac",
    "dup_line_frac": "max_dup_line_frac",
    "dup_line_char_frac": "max_dup_line_char_frac",
    **{f"top_{n}_gram": f"max_top_{n}gram_char_frac" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_dup_{n}gram_char_frac" for n in range(5, 11)},
}


@pytest.fixture(scope="module")
def datatrove_reasons():
    """datatrove's filter on whitespace words: texts -> our names of the settings that it gives as reasons."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "datatrove.pipeline.filters.gopher_repetition_filter",
            reason="the oracle is datatrove: pip install 'winnow[datatrove]'",
        )
        from datatrove.data import Document
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "split_into_words", lambda text, language: text.split())
        peer = module.GopherRepetitionFilter()

        def found(texts):
            verdicts = [peer.filter(Document(text=text, id="")) for text in texts]
            return [None if verdict is True else DATATROVE_REASONS[verdict[1]] for verdict in verdicts]

        yield found


FEW = ["the", "of", "a", "on", "quick", "brown", "fox", "jumps.", "lazy", "dog"]
sentences = st.lists(st.sampled_from(FEW), min_size=1, max_size=12).map(" ".join)
layouts = st.lists(
    sentences | st.sampled_from(["\n", "\n\n", "\n\n\n", " \n", "The same line.", "é"]),
    min_size=1,
    max_size=24,
)
numbered = st.lists(st.integers(0, 60), min_size=1, max_size=80).map(lambda ns: " ".join(f"w{n}" for n in ns))


@settings(deadline=None, max_examples=500)
@given(texts=st.lists(layouts.map("\n".join) | layouts.map(" ".join) | numbered, min_size=1, max_size=5))
def test_gopher_repetition_agrees_with_datatrove(datatrove_reasons, texts):
    assert reasons(GopherRepetition(), texts) == datatrove_reasons(texts)


@pytest.mark.parametrize("name", ["web_prose", "low_quality", "readmes", "docs_en"])
def test_gopher_repetition_agrees_with_datatrove_on_real_text(datatrove_reasons, name):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(200), strict=False)]
    assert counts_of(texts) == [slow_counts(text.split()) for text in texts]
    ours = reasons(GopherRepetition(), texts)
    assert ours == datatrove_reasons(texts)
    assert len(set(ours)) > 2, "hardly any rule was met"


def twice(n):
    """Five times n words, each time followed by a word of their own and said again."""
    for block in range(5):
        for time in range(2):
            yield from (f"p{block}q{k}" for k in range(n))
            yield f"z{block}{time}"


# A hundred different words; in front of them, what trips a rule and none before it.
FILL = " ".join(f"w{n}x{n * n}" for n in range(100))
TRIPS = {
    "max_dup_paragraph_frac": "\n\n".join([FILL, *["a"] * 3]),
    "max_dup_paragraph_char_frac": "\n\n".join([FILL, *"abcdefg", FILL]),
    "max_dup_line_frac": "\n".join([FILL, *["a"] * 3]),
    "max_dup_line_char_frac": "\n".join([FILL, *"abcdefg", FILL]),
    "max_top_2gram_char_frac": " ".join(f"lorem ipsum {n}" for n in range(50)),
    "max_top_3gram_char_frac": " ".join(f"lorem ipsum dolor {n:014}" for n in range(50)),
    "max_top_4gram_char_frac": " ".join(f"to be or not {n:030}" for n in range(50)),
    **{f"max_dup_{n}gram_char_frac": " ".join(twice(n)) for n in range(5, 11)},
    None: FILL,
}  # fmt: skip


def test_gopher_repetition_gives_every_reason(datatrove_reasons):
    assert set(TRIPS) - {None} == set(GopherRepetition.model_fields) - {"words"}
    for setting, text in TRIPS.items():
        off = dict.fromkeys(
            field for field in GopherRepetition.model_fields if field not in ("words", setting)
        )
        alone = GopherRepetition(**off)
        assert reasons(alone, [text, FILL]) == [setting, None]
    assert reasons(GopherRepetition(), list(TRIPS.values())) == datatrove_reasons(list(TRIPS.values()))


def test_settings_are_rules_in_order():
    rules = GopherRepetition().rules()
    bounds = {name: value for name, value in GopherRepetition().model_dump().items() if name != "words"}
    assert [rule.name for rule in rules] == [f"gopher-repetition.{name}" for name in bounds]
    assert [(rule.minimum, rule.maximum) for rule in rules] == [(None, bound) for bound in bounds.values()]
    assert list(bounds.values()) == [0.3, 0.2, 0.3, 0.2, 0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.1]
    assert GopherRepetition(**dict.fromkeys(bounds)).rules() == ()


def test_words_of_datatrove_change_what_is_read_and_nothing_else():
    paper, theirs = GopherRepetition().rules(), GopherRepetition(words="datatrove").rules()
    assert [(r.name, r.maximum) for r in paper] == [(r.name, r.maximum) for r in theirs]
    read = [(a.score.dividend, b.score.dividend) for a, b in zip(paper, theirs, strict=True)]
    assert read == [(name, f"dt_{name}" if "gram" in name else name) for name, _ in read]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_dup_line_frac": 1.5}, "less than or equal to 1"),
        ({"max_top_2gram_char_frac": -0.1}, "greater than or equal to 0"),
        ({"words": "spacy"}, "'paper' or 'datatrove'"),
        ({"max_dup_4gram_char_frac": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_refuses(wrong, message):
    with pytest.raises(ValidationError, match=message):
        GopherRepetition(**wrong)
