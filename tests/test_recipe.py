"""Does a recipe mean what it says, and does every mistake in one get its place and a way out?

Messages are compared whole. The smallest recipe is `SMALL`; a case adds lines to it, or replaces a part of it.
"""

from __future__ import annotations

import errno
import math
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters.catalogue import FILTERS
from winnow.pipelines import load
from winnow.pipelines.located import MOST_NODES, Problem, RecipeError, nearest, shown
from winnow.pipelines.numbers import parse_bytes, parse_count, parse_fraction, show_bytes, show_count
from winnow.pipelines.recipe import dump, read, shipped, values

SMALL = """\
name: small
tokenizer: {name: mistral-7b-v0.1}
sources:
  web:
    read: {format: text, path: "*.txt"}
"""
TOP_KEYS = (
    "classifiers, dedup, dropped_text, embedding_classifiers, embeddings, limits, max_bad_rows, mirrors, mixture, "
    "name, printed, seed, sequence, shards, signals, sources, tokenizer"
)
COUNT = "a count such as 2048, 300M, 1.5B or 1T is wanted, not"
FILTER = "a filter's name, or a name with its settings, is wanted, not"


def errors(text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a recipe, a line each; [] for nothing."""
    try:
        read(text, "r.yaml", overrides)
    except RecipeError as error:
        return str(error).split("\n")
    return []


def case(added: str, message: str, name: str):
    return pytest.param(SMALL + added, f"r.yaml:{message}", id=name)


def changed(old: str, new: str, message: str, name: str):
    assert SMALL.count(old) == 1
    return pytest.param(SMALL.replace(old, new), f"r.yaml:{message}", id=name)


def test_the_smallest_recipe_has_no_mistake():
    assert errors(SMALL) == []


# ---- unknown, missing, repeated ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        case("sead: 3\n", "6:1: unknown key 'sead'; did you mean 'seed'?", "top"),
        case("zzz: 3\n", f"6:1: unknown key 'zzz'; valid here: {TOP_KEYS}", "top-nothing-near"),
        case("5: 3\n", f"6:1: unknown key '5'; valid here: {TOP_KEYS}", "a-number-as-key"),
        changed("{name: m", "{apend: eos, name: m", "2:13: unknown key 'apend'; did you mean 'append'?", "tokenizer"),
        case("sequence: {lenght: 2}\n", "6:12: unknown key 'lenght'; did you mean 'length'?", "sequence"),
        case("    filtres: []\n", "6:5: unknown key 'filtres'; did you mean 'filters'?", "source"),
        changed("{format", "{exlude: x, format", "5:12: unknown key 'exlude'; did you mean 'exclude'?", "read"),
        case("    dedup: {minhahs: {}}\n", "6:13: unknown key 'minhahs'; did you mean 'minhash'?", "source-dedup"),
        case("    dedup: {fuzzy: {}}\n", "6:13: unknown key 'fuzzy'; valid here: bloom, exact, lines, minhash, "
             "prototypes, semantic, substrings", "source-dedup-nothing-near"),
        case("    dedup: {minhash: {band: 3}}\n", "6:23: unknown key 'band'; did you mean 'bands'?", "source-minhash"),
        case("    dedup: {exact: {across: [web]}}\n", "6:21: unknown key 'across'; valid here: against, by, url",
             "source-across"),
        case("dedup: {lines: {across: [web]}}\n", "6:9: unknown key 'lines'; valid here: bloom, decontaminate, exact, "
             "minhash, prototypes, semantic, substrings", "lines-across"),
        case("    heldout: {fractoin: 0.1}\n", "6:15: unknown key 'fractoin'; did you mean 'fraction'?\n"
             "r.yaml:6:5: 'fraction' is missing", "heldout"),
        case("dedup: {exact: {accross: [web]}}\n", "6:17: unknown key 'accross'; did you mean 'across'?\n"
             "r.yaml:6:9: 'across' is missing", "dedup-across"),
        case("shards: {<<: {hashes: []}}\n", "6:10: unknown key '<<'; valid here: columns, compression, hashes, "
             "size_limit",
             "yaml-merge"),
        case("    filters: [gopher-qualty]\n", "6:15: unknown filter 'gopher-qualty'; did you mean 'gopher-quality'?",
             "filter-as-word"),
        case("    filters:\n      - gopher-qualty:\n          min_words: 3\n",
             "7:9: unknown filter 'gopher-qualty'; did you mean 'gopher-quality'?", "filter-as-mapping"),
        case("    filters: [{gopher-qualty: null}]\n",
             "6:16: unknown filter 'gopher-qualty'; did you mean 'gopher-quality'?", "filter-with-null"),
        case("    filters: [gopher_quality]\n", "6:15: unknown filter 'gopher_quality'; did you mean 'gopher-quality'?",
             "filter-by-its-python-name"),
        case("    filters: [nfc, {gopher-quality: {min_word: 3}}]\n",
             "6:38: unknown key 'min_word'; did you mean 'min_words'?", "filter-setting"),
        case("    filters: [{nfc: {form: NFKC}}]\n", "6:22: unknown key 'form'; nothing can be set here",
             "filter-without-settings"),
        pytest.param("name: x\n", "r.yaml:1:1: 'tokenizer' is missing\nr.yaml:1:1: 'sources' is missing", id="missing"),
        changed('read: {format: text, path: "*.txt"}', "weight: 1", "4:3: 'read' is missing", "missing-in-source"),
        changed(', path: "*.txt"', "", "5:5: 'path' is missing", "missing-in-read"),
        case("name: y\n", "6:1: the key 'name' is there twice", "twice"),
        case("    weight: 1\n    weight: 2\n", "7:5: the key 'weight' is there twice", "twice-deep"),
    ],
)  # fmt: skip
def test_keys(text, message):
    assert sorted(errors(text)) == sorted(message.split("\n"))


# ---- YAML ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "1:1: the recipe is empty", id="empty"),
        pytest.param("# nothing\n", "1:1: the recipe is empty", id="comment-only"),
        pytest.param("~", "1:1: a mapping is wanted, not nothing", id="null"),
        pytest.param("hello\n", "1:1: a mapping is wanted, not 'hello'", id="a-word"),
        pytest.param("\n- a\n", "2:1: a mapping is wanted, not a list", id="a-list"),
        pytest.param(SMALL + "\tseed: 3\n", "6:1: a tab cannot indent; use spaces", id="tab"),
        pytest.param(SMALL + "seed: [1, 2\n", "7:1: expected ',' or ']', but got the end of the text while parsing a "
                     "flow sequence, which begins in line 6", id="open-bracket"),
        pytest.param("name: x: y\n", "1:8: a ': ' is not allowed here; put text that holds one in quotes, or look at "
                     "the indentation", id="colon"),
        pytest.param("name: *x\n", "1:7: found undefined alias 'x'", id="unknown-alias"),
        pytest.param("name: &a x\nseed: &a 2\n", "2:7: found duplicate anchor 'a'", id="anchor-twice"),
        pytest.param(SMALL + "---\nname: y\n", "6:1: a second document begins here; a recipe is one",
                     id="two-documents"),
        pytest.param("name: x\nse\x00ed: 3\n", "2:3: the character U+0000 is not allowed in YAML", id="nul"),
        pytest.param("name: !!int x\n", "1:7: 'x' cannot be read as YAML's int", id="no-int"),
        pytest.param(SMALL + "? [a]\n: 3\n", "6:3: a key must be a plain word", id="list-as-key"),
        pytest.param("[" * 5000 + "]" * 5000, "1:1: the recipe is nested too deeply", id="deep"),
        pytest.param("[" * 60 + "]" * 60, "1:52: the recipe is too large or nested too deeply", id="fairly-deep"),
        pytest.param("name: x\nsources: &a\n  a: *a\n", "2:10: the recipe is too large or nested too deeply",
                     id="alias-of-itself"),
        pytest.param(SMALL + "seed: !!binary aGVsbG8=\n", "6:7: the tag '!!binary' is not allowed: a recipe is plain "
                     "data", id="binary"),
        pytest.param(SMALL + "seed: !!set {a, b}\n", "6:7: the tag '!!set' is not allowed: a recipe is plain data",
                     id="set"),
        pytest.param(SMALL + "!!python/name:os.system x: 3\n", "6:1: the tag '!!python/name:os.system' is not allowed: "
                     "a recipe is plain data", id="tag-on-a-key"),
    ],
)  # fmt: skip
def test_yaml(text, message):
    assert errors(text) == [f"r.yaml:{message}"]


@pytest.mark.parametrize("where", ["seed: ", "evil: ", "sources: ", "name: "])
def test_a_tag_runs_nothing(tmp_path, where):
    pwned = tmp_path / "pwned"
    text = f"{where}!!python/object/apply:os.system ['touch {pwned}']\n"
    message = "the tag '!!python/object/apply:os.system' is not allowed: a recipe is plain data"
    assert errors(text) == [f"r.yaml:1:{len(where) + 1}: {message}"]
    assert not pwned.exists()


def test_aliases_that_multiply_are_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert 10 ** len(lines) > 1000 * MOST_NODES
    started = time.monotonic()
    (message,) = errors("\n".join(lines))
    assert message.endswith("the recipe is too large or nested too deeply")
    assert time.monotonic() - started < 20


def test_an_alias_may_be_used():
    recipe = read(
        SMALL + "    filters: &f [nfc]\n  more:\n    read: {format: text, path: b}\n    filters: *f\n", "r"
    )
    assert recipe.sources["web"].filters == recipe.sources["more"].filters != []


@pytest.mark.parametrize("text", ["\ufeff" + SMALL, SMALL.replace("\n", "\r\n")], ids=["bom", "crlf"])
def test_other_editors(text):
    assert errors(text) == []


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        case("seed: abc\n", "6:7: a whole number is wanted, not 'abc'", "word-for-number"),
        case("seed: 1.5\n", "6:7: a whole number is wanted, not 1.5", "fraction-for-whole"),
        case("seed: yes\n", "6:7: a number is wanted, not true", "true-for-number"),
        case("seed:\n", "6:6: a whole number is wanted, not nothing", "nothing-for-number"),
        case("seed: -3\n", "6:7: must be at least 0, not -3", "negative"),
        case("seed: 2026-11-21\n", "6:7: a whole number is wanted, not '2026-11-21'", "date"),
        case(f"seed: {'x' * 200}\n", f"6:7: a whole number is wanted, not '{'x' * 56}...", "long"),
        changed("name: small", "name: 5", "1:7: text is wanted, not 5; put it in quotes", "number-for-text"),
        changed("name: small", "name: a/b", "1:7: 'a/b' is no name for a run: letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit", "name"),
        changed("web", "Web 1", "4:3: 'Web 1' is no name for a source: at most 64 lower-case letters, digits, '-' and "
                "'_', beginning with a letter or digit", "source-name"),
        changed("web", "w" * 65, f"4:3: '{'w' * 56}... is no name for a source: at most 64 lower-case letters, digits, "
                "'-' and '_', beginning with a letter or digit", "source-name-long"),
        changed("format: text", "format: jsonlines", "5:20: 'jsonlines' is not known here; did you mean 'jsonl'?",
                "choice"),
        changed("format: text", "format: tarball", "5:20: 'tarball' is not known here; valid here: arxiv, code, "
                "dataset, jsonl, mediawiki, parquet, stackexchange, text, warc, wet", "choice-nothing-near"),
        changed("format: text", "format:", "5:19: wanted is one of jsonl, parquet, text, code, warc, wet, mediawiki, "
                "stackexchange, arxiv, dataset, not nothing",
                "choice-nothing"),
        changed('"*.txt"', '""', "5:32: must not be empty", "empty-text"),
        changed('"*.txt"', "[]", "5:32: must not be empty", "empty-list"),
        changed('"*.txt"', "[a, null]", "5:36: text is wanted, not nothing", "nothing-in-list"),
        pytest.param("name: x\ntokenizer: {name: m}\nsources: [a]\n", "r.yaml:3:10: a mapping is wanted, not a list",
                     id="list-for-mapping"),
        pytest.param("name: x\ntokenizer: {name: m}\nsources: {}\n", "r.yaml:3:10: must not be empty", id="no-source"),
        pytest.param("name: x\ntokenizer: m\nsources: {a: }\n", "r.yaml:2:12: a mapping is wanted, not 'm'\n"
                     "r.yaml:3:13: a mapping is wanted, not nothing", id="word-and-nothing-for-mappings"),
        case("sequence: {length: two}\n", f"6:20: {COUNT} 'two'", "count-word"),
        case("sequence: {length: [1]}\n", f"6:20: {COUNT} a list", "count-list"),
        case("sequence: {length: true}\n", f"6:20: {COUNT} true", "count-true"),
        case("sequence: {length: 2.5}\n", "6:20: 2.5 is not a whole number", "count-fraction"),
        case("sequence: {length: 2G}\n", "6:20: must be at most 1,048,576, not '2G'", "count-large"),
        case("mixture: {tokens: .inf}\n", f"6:19: {COUNT} inf", "count-inf"),
        case("mixture: {tokens: 1e999999999}\n", f"6:19: {COUNT} '1e999999999'", "count-that-fills-memory"),
        case("mixture: {tokens: 1TB}\n", f"6:19: {COUNT} '1TB'", "count-with-unit-of-size"),
        case("mixture: {tokens: 0}\n", "6:19: must be above 0, not 0", "count-zero"),
        case("mixture: {max_epochs: .inf}\n", "6:23: a finite number is wanted, not inf", "epochs-inf"),
        case("shards: {size_limit: 64XB}\n", "6:22: a size such as 64MB or 128MiB is wanted, not '64XB'", "size-unit"),
        case("shards: {size_limit: 4GiB}\n", "6:22: must be below 4,294,967,296, not '4GiB'", "size-large"),
        case("shards: {hashes: [md5]}\n", "6:19: 'md5' is not known here; valid here: sha1, xxh64", "hash"),
        case("shards: {compression: zstd:23}\n", "6:23: zstd, or zstd:1 to zstd:22, is wanted, not 'zstd:23'",
             "compression"),
        case("max_bad_rows: 3\n", "6:15: a share between 0 and 1 is wanted, not 3", "share-large"),
        case("max_bad_rows: few\n", "6:15: a share such as 0.01 or 1% is wanted, not 'few'", "share-word"),
        case("max_bad_rows: .nan\n", "6:15: a share between 0 and 1 is wanted, not nan", "share-nan"),
        case("    heldout: {fraction: 100%}\n", "6:25: must be below 1, not '100%'", "heldout-everything"),
        case("    heldout: 0.01\n", "6:14: a mapping is wanted, not 0.01", "heldout-short"),
        case("    weight: yes\n", "6:13: a number is wanted, not true", "weight-true"),
        case("    weight: heavy\n", "6:13: a number is wanted, not 'heavy'", "weight-word"),
        case("    weight: 0\n", "6:13: must be above 0, not 0", "weight-zero"),
        case("    weight: .nan\n", "6:13: a finite number is wanted, not nan", "weight-nan"),
        case("    dedup: {exact: 1}\n", "6:20: true, false or the step's settings are wanted, not 1",
             "step-number"),
        case("    dedup: {exact: maybe}\n", "6:20: true, false or the step's settings are wanted, not "
             "'maybe'", "step-word"),
        case("    dedup: {minhash: mine}\n", "6:22: 'mine' is not known here; valid here: datatrove, dclm, dolma3, "
             "fineweb, refinedweb", "no-preset"),
        case("    dedup: {minhash: {anchors: yes}}\n", "6:32: a whole number is wanted, not 'true'", "step-true"),
        case("    dedup: {minhash: {bands: 3}}\n", "6:22: bands is given without rows: a split needs both", "bands"),
        case("    dedup: {substrings: {min_bytes: 1}}\n", "6:37: must be at least 8, not 1", "step-bound"),
        case("dedup: {exact: true}\n", "6:16: a mapping is wanted, not true", "flag-for-mapping"),
        case("    filters: nfc\n", "6:14: a list is wanted, not 'nfc'", "filters-word"),
        case("    filters:\n", "6:13: a list is wanted, not nothing", "filters-nothing"),
        case("    filters: [3]\n", f"6:15: {FILTER} 3", "filter-number"),
        case("    filters: [[nfc]]\n", f"6:15: {FILTER} a list", "filter-list"),
        case("    filters: [nfc, ]\n    weight: [\n]", "7:13: a number is wanted, not a list", "weight-list"),
        case("    filters: [{nfc: {}, gopher-quality: {}}]\n",
             "6:15: an item is one filter: a name, or a name with its settings", "filter-two-in-one"),
        case("    filters: [{gopher-quality: false}]\n", "6:32: a mapping is wanted, not false", "filter-false"),
        case("    filters: [length]\n", "6:15: length needs at least one of min_words, max_words, min_chars, "
             "max_chars, min_bytes, max_bytes, min_tokens, max_tokens", "filter-without-bound"),
        case("    filters: [{gopher-quality: {min_words: many}}]\n", "6:44: a whole number is wanted, not 'many'",
             "filter-word"),
        case("    filters: [{gopher-quality: {min_words: yes}}]\n", "6:44: a whole number is wanted, not 'true'",
             "filter-true"),
        case("    filters: [{gopher-quality: {max_bullet_line_frac: 2}}]\n", "6:55: must be at most 1, not 2",
             "filter-bound"),
        case("    filters: [{gopher-quality: {max_hashes_per_word: .nan}}]\n",
             "6:54: a finite number is wanted, not nan", "filter-nan"),
        case("    filters: [{gopher-quality: {max_words: 9}}]\n",
             "6:32: min_words (50) is above max_words (9): nothing would pass", "filter-contradiction"),
    ],
)  # fmt: skip
def test_values(text, message):
    assert errors(text) == message.split("\n")


TWO = SMALL + "  docs:\n    read: {format: text, path: d}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(TWO + "    weight: 1\n", "4:3: source 'web' has no weight, but 'docs' has one", id="weights"),
        pytest.param(TWO + "dedup: {exact: {across: [web, dcs]}}\n", "8:31: there is no source 'dcs'; did you mean "
                     "'docs'?", id="across-unknown"),
        pytest.param(TWO + "dedup: {exact: {across: [web, web]}}\n", "8:31: 'web' is named twice", id="across-twice"),
        pytest.param(TWO + "    dedup: {minhash: dclm}\ndedup: {minhash: {across: [web, docs]}}\n",
                     "8:13: 'docs' is compared by the recipe's `dedup` with other settings than its own here",
                     id="across-other-settings"),
        pytest.param(TWO + "    dedup: {exact: {against: /r}}\ndedup: {exact: {across: [web, docs]}}\n",
                     "8:13: 'docs' is compared by the recipe's `dedup` with other settings than its own here",
                     id="across-other-runs"),
        pytest.param(SMALL + "    dedup: {minhash: {survivor_score: words}}\n",
                     "6:23: source 'web' has no signal 'words' in its last segment of filters; no filter of it "
                     "measures anything", id="score-of-nothing"),
        pytest.param(SMALL + "    filters: [{length: {min_words: 3}}]\n    dedup: {minhash: {survivor_score: wrods}}\n",
                     "7:23: source 'web' has no signal 'wrods' in its last segment of filters; did you mean 'words'?",
                     id="score-unknown"),
        pytest.param(TWO + "dedup: {decontaminate: {benchmarks: {b: {path: b, text: t}}, sources: [wbe]}}\n",
                     "8:72: there is no source 'wbe'; did you mean 'web'?", id="decontaminate-unknown"),
        pytest.param(TWO + "dedup: {exact: {across: [web]}}\n", "8:25: at least 2 are wanted, not 1", id="across-one"),
        pytest.param(TWO.replace("0.1}", "0.1, append: none, eos_token: x}"), "2:61: eos_token is given, but append is "
                     "'none'", id="eos-for-nothing"),
    ],
)  # fmt: skip
def test_contradictions(text, message):
    assert errors(text) == [f"r.yaml:{message}"]


def test_several_mistakes_are_reported_together_in_the_order_of_the_file():
    text = SMALL + "    wieght: 1\n    heldout: {fraction: 7}\nsead: 3\nsequence: {length: 1}\nseed: x\n"
    assert errors(text, ("max_bad_rows=9", "mixture.tokns=1")) == [
        "r.yaml:6:5: unknown key 'wieght'; did you mean 'weight'?",
        "r.yaml:7:25: a share between 0 and 1 is wanted, not 7",
        "r.yaml:8:1: unknown key 'sead'; did you mean 'seed'?",
        "r.yaml:9:20: must be at least 2, not 1",
        "r.yaml:10:7: a whole number is wanted, not 'x'",
        "--set max_bad_rows:1:1: a share between 0 and 1 is wanted, not 9",
        "--set mixture.tokns:1:1: unknown key 'tokns'; did you mean 'tokens'?",
    ]


# ---- dedup ---------------------------------------------------------------------------------------------------


def test_the_steps_of_dedup_have_an_order_and_their_groups():
    text = (
        TWO.replace(
            "path: d}",
            "path: d}\n    dedup: {substrings: {min_bytes: 1KiB}, exact: true, minhash: dolma3, lines: true}",
        )
        + "  more:\n    read: {format: text, path: m}\n    dedup: {minhash: true, bloom: {memory: 2MiB}}\n"
        + "dedup:\n  exact: {across: [docs, web]}\n  decontaminate: {benchmarks: {b: {path: b, text: t}}}\n"
    )
    steps = read(text, "r.yaml").dedup_steps()
    assert [(s.name, [group.sources for group in s.groups]) for s in steps] == [
        ("exact", [("docs", "web")]), ("lines", [("docs",)]), ("minhash", [("docs",), ("more",)]),
        ("bloom", [("more",)]), ("substrings", [("docs",)]), ("decontaminate", [("web", "docs", "more")]),
    ]  # fmt: skip
    settings = {s.name: [group.settings for group in s.groups] for s in steps}
    assert settings["substrings"][0].min_bytes == 1024
    assert settings["bloom"][0].memory == 2 << 20
    assert [s.resolved.bands for s in settings["minhash"]] == [26, 14]
    assert not hasattr(settings["exact"][0], "across"), "the sources are the group's"
    again = read(dump(read(text, "r.yaml")), "r.yaml")
    assert again.dedup_steps() == steps


# ---- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["1_000_000_000_000", "1T", "1.0e12", "1.0e+12", "1000B", "1e12", "1_000G", "1 T"]
)
def test_a_trillion_is_a_trillion(text):
    assert read(SMALL + f"mixture: {{tokens: {text}}}\n", "r").mixture.tokens == 10**12


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MB", 64 * 10**6),
        ("64MiB", 1 << 26),
        ("67108864", 1 << 26),
        ("64mib", 1 << 26),
        ("0.5GB", 5 * 10**8),
    ],
)
def test_sizes(text, size):
    assert read(SMALL + f"shards: {{size_limit: {text}}}\n", "r").shards.size_limit == size


@pytest.mark.parametrize("text", ["0.03", "3%", "'3%'", "3.0e-2", "3 %"])
def test_shares(text):
    assert read(SMALL + f"max_bad_rows: {text}\n", "r").max_bad_rows == pytest.approx(0.03)


@pytest.mark.parametrize("text", ["100000", "100_000", "100K", "1.0e5"])
def test_filters_understand_the_same_numbers(text):
    recipe = read(SMALL + f"    filters: [{{gopher-quality: {{max_words: {text}}}}}]\n", "r")
    assert recipe.sources["web"].filters[0].settings.max_words == 100_000


@given(st.integers(0, 10**9), st.integers(0, 6), st.sampled_from(["", "K", "m", "B", "t"]), st.booleans())
@settings(deadline=None)
def test_counts_are_exact(digits, places, unit, underscore):
    """Against Python's fractions: 4.35K is 4350, which floating point does not say."""
    number = Fraction(digits, 10**places)
    whole, rest = divmod(digits, 10**places)
    text = f"{whole:_}" if underscore else str(whole)
    text += (f".{rest:0{places}d}" if places else "") + unit
    wanted = number * {"": 1, "K": 10**3, "m": 10**6, "B": 10**9, "t": 10**12}[unit]
    if wanted.denominator == 1:
        assert parse_count(text) == wanted
    else:
        with pytest.raises(ValueError, match=r"^'[^']*' is not a whole number$"):
            parse_count(text)


@given(
    st.one_of(
        st.text(max_size=12), st.floats(), st.integers(), st.none(), st.booleans(), st.lists(st.integers())
    )
)
@settings(deadline=None)
def test_numbers_are_understood_or_refused_in_a_line(value):
    for parse in (parse_count, parse_bytes, parse_fraction):
        try:
            number = parse(value)
        except ValueError as error:
            number, said = 0, str(error)
        else:
            said = ""
        assert len(said) < 200
        assert 0 <= number < math.inf


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [(0, "0", "0 B"), (999, "999", "999 B"), (1500, "1.50K", "1.5 kB"), (10**12, "1.00T", "1.0 TB"),
     (4.56e6, "4.56M", "4.6 MB")],
)  # fmt: skip
def test_shown_numbers(number, count, size):
    assert (show_count(number), show_bytes(number)) == (count, size)


def test_shown_values_are_short_and_have_no_python_in_them():
    assert [shown(v) for v in (None, True, [1], {"a": 1}, 3, "x")] == [
        "nothing",
        "true",
        "a list",
        "a mapping",
        "3",
        "'x'",
    ]
    assert len(shown("x" * 1000)) == 60


# ---- filters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["gopher-quality", "{gopher-quality: null}", "{gopher-quality: }",
                                     "{gopher-quality: {}}", "{gopher-quality: {min_words: 50}}"])  # fmt: skip
def test_ways_to_write_a_filter(written):
    (use,) = read(SMALL + f"    filters: [{written}]\n", "r").sources["web"].filters
    assert use.settings == FILTERS["gopher-quality"]()


def test_a_setting_of_none_switches_a_rule_off_and_zero_does_not():
    recipe = read(SMALL + "    filters: [{gopher-quality: {min_words: null, min_stop_words: 0}}]\n", "r")
    given_ = recipe.sources["web"].filters[0].settings
    assert (given_.min_words, given_.min_stop_words) == (None, 0)


# ---- --set ---------------------------------------------------------------------------------------------------


def test_set_adds_changes_and_reaches_into_lists():
    text = SMALL + "    filters: [nfc, {length: {min_words: 5}}]\n"
    recipe = read(text, "r", (
        "seed=3", "mixture.tokens=1.0e9", "sources.web.filters.1.length.min_words=7",
        "sources.web.filters.0=gopher-quality", "sources.docs={read: {format: text, path: [a, b]}}",
        "shards.compression=zstd:3", "sources.web.heldout.fraction=1%",
    ))  # fmt: skip
    assert (recipe.seed, recipe.mixture.tokens, recipe.shards.compression) == (3, 10**9, "zstd:3")
    gopher, length = recipe.sources["web"].filters
    assert gopher.settings == FILTERS["gopher-quality"]()
    assert length.settings.min_words == 7
    assert recipe.sources["docs"].read.path == ["a", "b"]
    assert recipe.sources["web"].heldout.fraction == 0.01


def test_set_to_nothing_is_null():
    assert read(SMALL + "mixture: {tokens: 5}\n", "r", ("mixture.tokens=",)).mixture.tokens is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "--set:1:1: 'seed' is not KEY.PATH=VALUE"),
        ("=3", "--set:1:1: '=3' is not KEY.PATH=VALUE"),
        ("a..b=3", "--set:1:1: 'a..b=3' is not KEY.PATH=VALUE"),
        ("sead=3", "--set sead:1:1: unknown key 'sead'; did you mean 'seed'?"),
        ("seed=x", "--set seed:1:1: a whole number is wanted, not 'x'"),
        ("seed=[1, 2", "--set seed:1:6: expected ',' or ']', but got the end of the text while parsing a flow "
         "sequence, which begins in line 1"),
        ("seed=!!python/object/apply:os.system [ls]", "--set seed:1:1: the tag '!!python/object/apply:os.system' is "
         "not allowed: a recipe is plain data"),
        ("mixture={tokens: 1M, tokns: 3}", "--set mixture:1:14: unknown key 'tokns'; did you mean 'tokens'?"),
        ("sources.web.wieght=1", "--set sources.web.wieght:1:1: unknown key 'wieght'; did you mean 'weight'?"),
        ("sources.docs.weight=1", "--set sources.docs.weight:1:1: 'read' is missing"),
        ("name.x=1", "--set name.x:1:1: name is 'small', which has no parts"),
        ("sources.web.filters.1=nfc", "--set sources.web.filters.1:1:1: '1' is not an item of a list of 1; its first "
         "item is 0"),
        ("sources.web.filters.²=nfc", "--set sources.web.filters.²:1:1: '²' is not an item of a list of 1; its first "
         "item is 0"),
        ("sources.web.filters.0=nfcc", "--set sources.web.filters.0:1:1: unknown filter 'nfcc'; did you mean 'nfc'?"),
    ],
)  # fmt: skip
def test_set_mistakes_are_located_at_the_option(assignment, message):
    assert errors(SMALL + "    filters: [nfc]\n", (assignment,)) == [message]


def test_what_set_replaces_takes_its_places_along():
    text = SMALL + "sequence:\n  length: 1\n"
    assert errors(text) == ["r.yaml:7:11: must be at least 2, not 1"]
    assert errors(text, ("sequence={length: 1}",)) == ["--set sequence:1:10: must be at least 2, not 1"]
    assert errors(text, ("sequence.length=8",)) == []


def test_set_on_what_is_no_mapping():
    assert errors("- a\n", ("seed=3",)) == ["r.yaml:1:1: a recipe is a mapping, not a list"]


# ---- files, names, round trips -------------------------------------------------------------------------------


def test_shipped_recipes_load_by_name_and_survive_a_round_trip():
    assert "quickstart" in shipped()
    for name in shipped():
        recipe = load(name)
        assert recipe.name == name
        assert values(read(dump(recipe), "again")) == values(recipe)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "there is no such file, nor a recipe of that name; did you mean 'quickstart'?"),
        (
            "zzz.yaml",
            f"there is no such file, nor a recipe of that name; Winnow ships: {', '.join(sorted(shipped()))}",
        ),
        ("no/such.yaml", "there is no such file, nor a recipe of that name"),
    ],
)
def test_unknown_recipes(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load(name)
    assert str(caught.value) == f"{name}:1:1: {message}"


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"name: x\nseed: \xff\n")
    with pytest.raises(RecipeError) as caught:
        load(str(path))
    assert str(caught.value) == f"{path}:2:7: the recipe is not UTF-8 text"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_text(SMALL)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RecipeError) as caught:
        load(str(path))
    assert str(caught.value) == f"{path}:1:1: cannot be read: Permission denied"


def test_errors_after_loading_are_located_too():
    recipe = read(SMALL, "r.yaml")
    assert str(recipe.located(("sources", "web", "read", "path"), "no")) == "r.yaml:5:32: no"
    assert str(recipe.located(("sources", "web", "heldout"), "no")) == "r.yaml:5:5: no"
    assert str(recipe.located(("mixture", "tokens"), "no")) == "r.yaml:1:1: no"


def test_nearest_lists_what_is_valid_when_nothing_is_near():
    assert nearest("xyz", ["b", "a"]) == "; valid here: a, b"
    assert nearest("xyz", []) == ""
    assert str(Problem("f", 1, 2, "m")) == "f:1:2: m"


words = st.text(min_size=1, max_size=20).filter(lambda s: "\x00" not in s and s.isprintable())
awkward = st.one_of(
    words, st.sampled_from(["yes", "1e5", "~", "a: b", "#", "- x", "'", "a\nb", "é\u2028", "{x", "0x1", " "])
)
shares = st.floats(0.001, 0.999)
filter_uses = st.one_of(
    st.sampled_from(["nfc", "gopher-quality", {"gopher-quality": None}]),
    st.fixed_dictionaries({"length": st.fixed_dictionaries({"min_words": st.integers(0, 10**12)})}),
    st.fixed_dictionaries(
        {"gopher-quality": st.fixed_dictionaries({"min_alpha_word_frac": st.none() | shares})}
    ),
)
sources = st.fixed_dictionaries(
    {"read": st.fixed_dictionaries(
        {"format": st.sampled_from(["jsonl", "parquet", "text", "code"]),
         "path": st.lists(awkward, min_size=1, max_size=2)},
        optional={"root": awkward, "key": awkward, "exclude": st.lists(awkward, max_size=2), "text": awkward})},
    optional={"filters": st.lists(filter_uses, max_size=4), "dedup": st.fixed_dictionaries({"exact": st.booleans()}),
              "heldout": st.fixed_dictionaries({"fraction": shares})},
)  # fmt: skip
recipes = st.fixed_dictionaries(
    {"name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
     "tokenizer": st.fixed_dictionaries({"name": awkward}, optional={"bos_token": awkward}),
     "sources": st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True), sources, min_size=1,
                                 max_size=3)},
    optional={"seed": st.integers(0, 2**63 - 1), "max_bad_rows": shares,
              "mixture": st.fixed_dictionaries({"tokens": st.integers(1, 10**15), "max_epochs": st.floats(1e-9, 1e9)}),
              "shards": st.fixed_dictionaries({"compression": st.sampled_from(["zstd", "zstd:19", None])})},
)  # fmt: skip


@given(recipes)
@settings(deadline=None)
def test_what_is_dumped_is_read_back(value):
    recipe = read(yaml.safe_dump(value, allow_unicode=True), "r")
    assert recipe.model_dump()["name"] == value["name"]
    again = read(dump(recipe), "again")
    assert values(again) == values(recipe)
    for name, source in recipe.sources.items():
        assert [f.settings for f in again.sources[name].filters] == [f.settings for f in source.filters]
        assert len(source.filters) == len(value["sources"][name].get("filters", []))


@given(st.text(max_size=60) | st.text(alphabet="[]{}:,-&*!|>'\"#%@ \n\ta1~", max_size=40))
@settings(deadline=None)
def test_any_text_is_a_recipe_or_a_located_error(text):
    for message in errors(SMALL + text) + errors(text):
        assert message.startswith("r.yaml:")


def test_an_error_of_python_cannot_hide_in_a_message():
    """pydantic's own sentences begin with its names; ours do not."""
    text = SMALL + "seed: []\nmax_bad_rows: {}\nshards: 3\nlimits: {split_bytes: {}}\ndropped_text: 1\n"
    assert errors(text) == [
        "r.yaml:6:7: a whole number is wanted, not a list",
        "r.yaml:7:15: a share such as 0.01 or 1% is wanted, not a mapping",
        "r.yaml:8:9: a mapping is wanted, not 3",
        "r.yaml:9:23: a size such as 64MB or 128MiB is wanted, not a mapping",
        "r.yaml:10:15: wanted is one of sample, all, none, not 1",
    ]


@pytest.mark.parametrize(("convert", "package"), [("html", "resiliparse"), ("wikitext", "mwparserfromhell")])
def test_a_missing_library_is_said_at_its_place(convert, package, tmp_path, monkeypatch):
    from winnow.pipelines import plan, plan_reading

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    text = f"""name: x
tokenizer: {{name: mistral-7b-v0.1}}
sources:
  web:
    read: {{format: jsonl, path: "{tmp_path}/a.jsonl", convert: {convert}}}
"""
    made = plan(read(text, "r.yaml"))
    there = plan_reading.importlib.util.find_spec
    monkeypatch.setattr(
        plan_reading.importlib.util, "find_spec", lambda name: None if name == package else there(name)
    )
    with pytest.raises(RecipeError, match=rf"^r.yaml:5:11: .*{package}.*pip install 'winnow\[web\]'"):
        plan_reading.check(made)


@pytest.mark.parametrize(
    "place",
    [
        "s3://AKIAX:wJalrX@bucket/a.jsonl",
        "https://host/a.jsonl?X-Amz-Signature=wJalrX",
        "s3://wJalrX@bucket/*.jsonl",
    ],
)
def test_a_key_in_a_location_is_refused_and_not_repeated(place):
    head = "name: k\ntokenizer: {name: mistral-7b-v0.1}\nsources:\n  a:\n"
    text = f"{head}    read: {{format: jsonl, path: '{place}'}}\n"
    for recipe, assigned in ((text, ()), (text.replace(place, "a.jsonl"), (f"sources.a.read.path={place}",))):
        with pytest.raises(RecipeError) as caught:
            read(recipe, "k.yaml", assigned)
        assert "a location with a key or a signature in it" in str(caught.value)
        assert "wJalrX" not in str(caught.value)
    assert read(text.replace(place, "abfs://raw@account.dfs.core.windows.net/a.jsonl"), "k.yaml")
