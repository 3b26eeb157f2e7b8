"""Are URLs that mean the same taken for the same, and does each list hit what it says and nothing else?"""

import hashlib
import json
import pickle

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.catalogue import Ruling
from winnow.filters.model_files import ModelError, ModelFile, find
from winnow.filters.rules import decide
from winnow.filters.url import LISTS, URL
from winnow.filters.url_parts import domains_of, normal_host, parts, words


@pytest.mark.parametrize(
    ("url", "host"),
    [
        pytest.param("HTTP://Example.COM/", "example.com", id="case"),
        pytest.param("https://www.example.com", "example.com", id="www"),
        pytest.param("https://www.com", "www.com", id="www-is-all-there-is"),
        pytest.param("https://www2.example.com", "www2.example.com", id="not-www"),
        pytest.param("http://example.com.", "example.com", id="dot-at-the-end"),
        pytest.param("http://example.com:8080/", "example.com", id="port"),
        pytest.param("http://example.com:/", "example.com", id="empty-port"),
        pytest.param("http://me:p@ss@example.com/@x", "example.com", id="user"),
        pytest.param("http://good.org@bad.com", "bad.com", id="a-user-that-looks-like-a-host"),
        pytest.param("http://bad.com?@good.org", "bad.com", id="a-query-that-looks-like-a-host"),
        pytest.param("http://bad.com\\@good.org", "bad.com", id="a-backslash-ends-it-as-in-browsers"),
        pytest.param("http://ex%61mple.com", "example.com", id="escapes"),
        pytest.param("http://MÜNCHEN.de", "xn--mnchen-3ya.de", id="IDN"),
        pytest.param("http://xn--mnchen-3ya.DE", "xn--mnchen-3ya.de", id="punycode"),
        pytest.param("http://faß.de", "xn--fa-hia.de", id="eszett-is-a-letter-of-its-own"),
        pytest.param("http://例え。jp", "xn--r8jz45g.jp", id="an-ideographic-full-stop-parts-labels"),
        pytest.param("http://127.0.0.1:80/", "127.0.0.1", id="IPv4"),
        pytest.param("http://0x7f.1", "127.0.0.1", id="IPv4-in-hex"),
        pytest.param("http://2130706433/", "127.0.0.1", id="IPv4-as-a-number"),
        pytest.param("http://[2001:DB8:0::1]:80/", "[2001:db8::1]", id="IPv6"),
        pytest.param("//example.com/x", "example.com", id="no-scheme-but-slashes"),
        pytest.param("example.com/x", "example.com", id="no-scheme"),
        pytest.param("example.com:80", "example.com", id="no-scheme-but-a-port"),
        pytest.param("  http://example.com\n", "example.com", id="space-around"),
        pytest.param("http://exa\nmple.com", "example.com", id="a-newline-inside-as-in-browsers"),
        pytest.param("http://localhost/x", "localhost", id="one-label"),
        pytest.param("http://a_b.example.com", "a_b.example.com", id="underscore"),
        *[
            pytest.param(url, None, id=f"no-host-{i}")
            for i, url in enumerate(
                ["", " ", "http://", "http:///x", "doc-17", "urn:uuid:1", "http://a..b", "http://a b.com",
                 "http://[::g]", "http://1.2.3.4.5", "http://" + "a" * 254, "http://é" + "é" * 999, "#x", "/x"]
            )
        ],
    ],
)  # fmt: skip
def test_the_host_of_a_url(url, host):
    found = parts(url)
    assert (found and found.host) == host


@pytest.mark.parametrize(
    "urls",
    [
        pytest.param(["http://a.com", "https://www.a.com/", "a.com", "HTTP://A.COM:80/#x", "https://a.com:443"],
                     id="scheme-www-port-fragment"),
        pytest.param(["http://a.com/%7eb", "http://a.com/~b", "http://a.com/%7E%62"], id="escapes-not-needed"),
        pytest.param(["http://a.com/%c3%a9", "http://a.com/%C3%A9", "http://a.com/é"], id="escapes-needed"),
        pytest.param(["http://a.com/b/./c/../d", "http://a.com/b/d", "http://a.com\\b\\d"], id="segments"),
        pytest.param(["http://a.com/..", "http://a.com/", "http://a.com/../../"], id="above-the-top"),
        pytest.param(["http://a.com/b?q=1#x", "http://a.com/b?q=1"], id="query"),
        pytest.param(["http://a.com/b c", "http://a.com/b%20c"], id="space"),
    ],
)  # fmt: skip
def test_urls_that_name_the_same_page(urls):
    assert len({parts(url).address for url in urls}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("http://a.com/b", "http://a.com/b/"), ("http://a.com/b", "http://a.com/B"), ("http://a.com/?q", "http://a.com/"),
     ("http://a.com:8080", "http://a.com"), ("http://a.com/%2f", "http://a.com//"), ("a.com:443", "http://a.com:81"),
     ("http://a.com:443/", "https://a.com:443/")],
)  # fmt: skip
def test_urls_that_do_not(one, other):
    assert parts(one).address != parts(other).address


@given(st.text(max_size=40) | st.text(alphabet="htp:/.@#?%[]\\wa1é。", max_size=20))
@example("http://a.com/%25%32%35")
@example("http://a.com/%%34%31")
def test_any_text_has_a_form_that_stays_or_none(text):
    found = parts(text)
    if found is not None:
        assert found.text == found.text.lower()
        if not found.host.startswith("www."):  # one of several was taken off, and another would be
            again = parts(f"x://{found.address}")
            assert (again.host, again.address) == (found.host, found.address)
            assert normal_host(found.host) == found.host


def test_a_host_is_below_its_domains():
    assert domains_of("a.b.co.uk") == ["a.b.co.uk", "b.co.uk", "co.uk", "uk"]
    assert domains_of("1.2.3.4") == ["1.2.3.4"]
    assert domains_of("[::1]") == ["[::1]"]


def test_words_are_what_a_reader_sees():
    def seen(url):
        return words(parts(url).text)

    assert seen("https://me:pw@www.Free-Games.com/Top_10/%C3%89t%C3%A9.html?id=7#Zap") == [
        "free", "games", "com", "top", "10", "été", "html", "id", "7", "zap",
    ]  # fmt: skip
    assert seen("http://xn--mnchen-3ya.de/") == ["münchen", "de"]


@pytest.mark.parametrize(
    "url",
    ["http://a.com/" + "a" * 10**6, "%41" * 300_000, "http://" + "a." * 500_000, "@" * 10**6,
     "http://a.com/" + "../" * 300_000, "http://" + "é" * 300_000],
    ids=["path", "escapes", "labels", "users", "segments", "letters"],
)  # fmt: skip
def test_a_long_url_takes_no_longer_than_its_length(url):
    parts(url)


# The filter.


def of(folder, **lists):
    """A filter with each list given as text."""
    paths = {}
    for kind in LISTS:
        if kind in lists:
            paths[kind] = str(folder / f"{kind}.txt")
            (folder / f"{kind}.txt").write_bytes(lists.pop(kind).encode())
    filter_ = URL(**paths, **lists)
    return filter_.with_files({path: find(path) for path in filter_.files})


def documents(urls, metas=None):
    ids = pa.array([i.to_bytes(16) for i in range(len(urls))], pa.binary(16))
    metas = [orjson.dumps(m).decode() for m in metas or [{}] * len(urls)]
    return pa.record_batch(
        {"id": ids, "key": pa.array(urls, pa.string()), "meta": pa.array(metas, pa.string())}
    )


def measured(filter_, urls, metas=None):
    (measure,) = filter_.measures()
    found = measure.measure(documents(urls, metas))
    assert list(found) == list(measure.columns)
    return found


def reasons(filter_, urls, metas=None):
    """Of each document (what it is dropped for, what is said of it); None where it is kept."""
    found = measured(filter_, urls, metas)
    signals = {name: np.asarray(v) for name, v in found.items() if name != "url.match"}
    rules = filter_.rules()
    first = decide(rules, signals, len(urls)).first
    said = found["url.match"].to_pylist()
    return [
        None if i < 0 else (rules[i].name, text if rules[i].detail else None)
        for i, text in zip(first, said, strict=True)
    ]


def test_a_domain_is_all_that_is_below_it(tmp_path):
    filter_ = of(
        tmp_path, domains="# bad ones\n\nBAD.com\n  b.example.org  \r\nwww.worse.net\n.dotted.io\nmünchen.de"
    )
    urls = [
        "http://bad.com/x", "http://a.b.bad.com", "http://notbad.com", "http://bad.com.au", "http://example.org",
        "http://c.b.example.org:81", "https://worse.net", "http://x.dotted.io", "http://xn--mnchen-3ya.de",
        "http://good.org/?u=http://bad.com",
    ]  # fmt: skip
    said = [reason and reason[1] for reason in reasons(filter_, urls)]
    assert said == [
        "bad.com", "bad.com", None, None, None, "b.example.org", "worse.net", "dotted.io", "xn--mnchen-3ya.de", None,
    ]  # fmt: skip


def test_the_longest_domain_that_is_listed_is_what_is_said(tmp_path):
    filter_ = of(tmp_path, domains="bad.com\nb.bad.com")
    found = measured(filter_, ["http://a.b.bad.com/"])
    assert (found["url.domains"].tolist(), found["url.match"].to_pylist()) == ([1], ["b.bad.com"])


def test_a_byte_order_mark_does_not_hide_a_comment(tmp_path):
    filter_ = of(tmp_path, hard_words="\ufeff# free\nchat")
    assert [r is not None for r in reasons(filter_, ["http://a.com/free", "http://a.com/chat"])] == [
        False,
        True,
    ]


def test_a_host_is_itself_alone(tmp_path):
    filter_ = of(tmp_path, hosts="bad.com\n10.0.0.1\nhttp://as-url.com/\n[::1]")
    urls = [
        "http://www.bad.com/",
        "http://a.bad.com/",
        "http://0xa.1",
        "http://as-url.com/x",
        "http://[0:0::1]/",
    ]
    assert [reason is not None for reason in reasons(filter_, urls)] == [True, False, True, True, True]


def test_a_url_is_one_page(tmp_path):
    filter_ = of(tmp_path, urls="bad.com/page\nhttps://www.other.com/%7ea")
    urls = ["https://www.bad.com/page#top", "http://bad.com/page/", "http://other.com/~a", "http://bad.com/"]
    assert [reason and reason[1] for reason in reasons(filter_, urls)] == [
        "bad.com/page", None, "other.com/~a", None,
    ]  # fmt: skip


def test_hard_words_are_whole_words_in_any_case(tmp_path):
    """datatrove 0.9.0 lets `/PORN/` pass, and drops everything for an entry without Latin letters."""
    filter_ = of(tmp_path, hard_words="porn\nпорно\nsome-thing\n---")
    urls = [
        "http://a.com/PORN/", "http://porn.a.com", "http://a.com/porno", "http://a.com/%70orn", "http://a.com/ПОРНО",
        "http://a.com/some_thing", "http://a.com/something", "http://a.com/some/other/thing", "http://a.com/",
    ]  # fmt: skip
    assert [reason and reason[1] for reason in reasons(filter_, urls)] == [
        "porn", "porn", None, "porn", "порно", "some thing", None, None, None,
    ]  # fmt: skip


def test_soft_words_count_each_once(tmp_path):
    filter_ = of(tmp_path, soft_words="free\nchat\nlive cam")
    urls = [
        "http://free.com/free-FREE",
        "http://free.com/chat",
        "http://a.com/live-cam-chat",
        "http://a.com/live",
    ]
    assert reasons(filter_, urls) == [
        None,
        ("url.soft_words", "chat, free"),
        ("url.soft_words", "chat, live cam"),
        None,
    ]
    assert measured(filter_, urls)["url.soft_words"].tolist() == [1, 2, 2, 0]
    strict = of(tmp_path, soft_words="free", max_soft_words=0)
    assert reasons(strict, urls)[0] == ("url.soft_words", "free")


def test_subwords_are_found_across_what_is_no_letter(tmp_path):
    filter_ = of(tmp_path, subwords="Bad-Word\n..\n")
    urls = ["http://a.com/xBAD_word9", "http://ba.dword.com", "http://a.com/bad/other/word", "http://a.com"]
    assert [reason is not None for reason in reasons(filter_, urls)] == [True, True, False, False]


def test_the_first_list_in_refinedwebs_order_is_the_reason(tmp_path):
    everything = of(
        tmp_path, subwords="bad", soft_words="bad\npage", hard_words="bad", urls="bad.com/page", hosts="bad.com",
        domains="bad.com",
    )  # fmt: skip
    names = [rule.name.removeprefix("url.") for rule in everything.rules()]
    assert names == ["missing", "domains", "hosts", "urls", "hard_words", "soft_words", "subwords"]
    assert reasons(everything, ["http://bad.com/page"]) == [("url.domains", "bad.com")]
    fewer = of(tmp_path, subwords="bad", soft_words="bad\npage", urls="bad.com/page")
    assert reasons(fewer, ["http://bad.com/page"]) == [("url.urls", "bad.com/page")]
    found = measured(everything, ["http://bad.com/page", "http://good.com"])
    assert [found[f"url.{kind}"].tolist() for kind in LISTS] == [[1, 0]] * 4 + [[2, 0], [1, 0]]


def test_a_document_without_a_url(tmp_path):
    filter_ = of(tmp_path, domains="bad.com")
    assert reasons(filter_, [None, "doc-1", "http://a.com"]) == [("url.missing", None)] * 2 + [None]
    assert reasons(of(tmp_path, domains="bad.com", missing="keep"), [None, "doc-1"]) == [None, None]


def test_the_url_can_be_in_meta(tmp_path):
    filter_ = of(tmp_path, domains="bad.com", field="warc.url")
    metas = [{"warc": {"url": "http://bad.com"}}, {"warc": {"url": 3}}, {"warc": {"url": "http://a.com"}}]
    assert reasons(filter_, ["http://bad.com"] * 3, metas) == [
        ("url.domains", "bad.com"),
        ("url.missing", None),
        None,
    ]


names = st.lists(st.sampled_from(["a", "b", "com", "x-1"]), min_size=2, max_size=4).map(".".join)


@given(st.lists(names, max_size=8), st.lists(names, min_size=1, max_size=8))
def test_lookups_agree_with_comparing_strings(tmp_path_factory, listed, hosts):
    folder = tmp_path_factory.mktemp("lists")
    text = "\n".join([*listed, "some.where"])
    filter_ = of(folder, domains=text, hosts=text)
    found = measured(filter_, [f"http://{host}/" for host in hosts])
    below = [any(f".{host}".endswith(f".{name}") for name in listed) for host in hosts]
    assert found["url.domains"].astype(bool).tolist() == below
    assert found["url.hosts"].astype(bool).tolist() == [host in listed for host in hosts]


def test_several_files_are_one_list_and_an_empty_one_hits_nothing(tmp_path):
    for name, text in (("a.txt", "\ufeffbad.com\n"), ("b.txt", "worse.com"), ("none.txt", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    both = URL(domains=[str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    urls = ["http://bad.com", "http://worse.com", "http://a.com"]
    assert len(both.files) == 2
    both = both.with_files({path: find(path) for path in both.files})
    assert [r is not None for r in reasons(both, urls)] == [True, True, False]
    none = URL(domains=str(tmp_path / "none.txt"), subwords=str(tmp_path / "none.txt"))
    assert len(none.files) == 1
    assert reasons(none.with_files({path: find(path) for path in none.files}), urls) == [None] * 3


def test_lists_that_changed_or_are_no_text_are_refused(tmp_path):
    filter_ = of(tmp_path, domains="one.com")
    (tmp_path / "domains.txt").write_text("two.com")
    with pytest.raises(ModelError, match=r"the list .*domains\.txt has changed: sha256"):
        measured(filter_, ["http://a.com"])
    (tmp_path / "domains.txt").write_bytes(b"caf\xe9.com")
    filter_ = URL(domains=str(tmp_path / "domains.txt"))
    with pytest.raises(ModelError, match="is no UTF-8"):
        measured(filter_.with_files({p: find(p) for p in filter_.files}), ["http://a.com"])


def test_identity_is_what_lists_hold_and_not_where_they_are(tmp_path):
    def identity(folder, **lists):
        (tmp_path / folder).mkdir(exist_ok=True)
        (measure,) = of(tmp_path / folder, **lists).measures()
        return json.dumps(measure.identity())

    same = identity("a", domains="x.com", max_soft_words=3)
    assert same == identity("b", domains="x.com")
    assert hashlib.sha256(b"x.com").hexdigest() in same
    assert len({same, identity("a", domains="y.com"), identity("a", hosts="x.com"),
                identity("a", domains="x.com", field="u")}) == 4  # fmt: skip
    (measure,) = URL(domains="somewhere.txt").measures()
    assert list(measure.columns) == ["url.missing", "url.domains", "url.match"]
    with pytest.raises(ModelError, match="were not given"):
        measure.identity()


def test_settings_and_measures_travel(tmp_path):
    filter_ = of(tmp_path, domains="x.com", hard_words="y")
    assert pickle.loads(pickle.dumps(filter_)) == filter_ != URL(**filter_.model_dump())
    assert pickle.loads(pickle.dumps(filter_.measures())) == filter_.measures()
    assert isinstance(filter_, Ruling)
    moved = filter_.with_files({path: ModelFile("elsewhere", "0") for path in filter_.files})
    assert moved.measures() != filter_.measures()


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="url needs at least one of domains, hosts"):
        URL()
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        URL(domains="x", max_soft_words=-1)
