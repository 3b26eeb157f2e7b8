"""Does a plan know where a source is, what it asks for, and what its texts depend on?

Nothing here asks the hub: its commits are those of an earlier run.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from winnow.pipelines import filtering
from winnow.pipelines.mirrors import Mirrors
from winnow.pipelines.places import Place, Places
from winnow.pipelines.planning import EXPANSION, plan
from winnow.pipelines.recipe import Recipe, read
from winnow.pipelines.source_settings import Read
from winnow.shards.inputs import InputError

NAME = "hf://datasets/org/name"
COMMITS = {
    f"{NAME}@{revision}": letter * 40 for revision, letter in (("main", "a"), ("v1", "b"), ("v2", "c"))
}


def place(**read_: object) -> Place:
    places = Places(Mirrors({}), dict(COMMITS))
    places.__dict__["_silence"] = None
    return places.find(Read.model_validate({"format": "jsonl", **read_}))


@pytest.mark.parametrize(
    ("root", "path", "more", "letter"),
    [
        (None, f"{NAME}@v1/a.jsonl", {}, "b"),
        (NAME, "a.jsonl", {}, "a"),
        (f"{NAME}@v1", "a.jsonl", {}, "b"),
        (NAME, f"{NAME}@v1/a.jsonl", {}, "b"),
        (f"{NAME}@v1", f"{NAME}/a.jsonl", {}, "b"),
        (f"{NAME}@v1", f"{NAME}@v1/a.jsonl", {"revision": "v1"}, "b"),
        (NAME, "a.jsonl", {"exclude": [f"{NAME}@v2/b.jsonl"]}, "c"),
    ],
)
def test_a_revision_counts_wherever_it_is_named(root, path, more, letter):
    found = place(root=root, path=path, **more)
    assert (found.commit, found.root) == (letter * 40, f"{NAME}@{letter * 40}")
    if root is not None:
        assert found.patterns == ["a.jsonl"]


@pytest.mark.parametrize(
    ("root", "paths", "more"),
    [
        (f"{NAME}@v1", [f"{NAME}@v2/a.jsonl"], {}),
        (NAME, [f"{NAME}@v1/a.jsonl", f"{NAME}@v2/b.jsonl"], {}),
        (None, [f"{NAME}@v1/a.jsonl", f"{NAME}@v2/b.jsonl"], {}),
        (f"{NAME}@v1", ["*.jsonl"], {"exclude": [f"{NAME}@v2/b.jsonl"]}),
        (NAME, [f"{NAME}@v1/a.jsonl"], {"revision": "v2"}),
    ],
)
def test_two_revisions_are_two_sources(root, paths, more):
    with pytest.raises(InputError, match=r"several revisions: 'v1', 'v2'|'v1' in the path and 'v2' in"):
        place(root=root, path=paths, **more)


def recipe(tmp_path: Path, path: str, reading: str, more: str = "") -> Recipe:
    if not (tmp_path / path).exists():
        (tmp_path / path).write_bytes(b"0" * 1000)
    source = f"{{format: {reading}, root: '{tmp_path}', path: {path}}}"
    return read(
        f"name: x\ntokenizer: {{name: mistral-7b-v0.1}}\n{more}\nsources: {{s: {{read: {source}}}}}\n",
        "r.yaml",
    )


@pytest.mark.parametrize(
    ("path", "reading", "expected"),
    [
        ("a.jsonl", "jsonl", 1000),
        ("a.jsonl.lz4", "jsonl", 2000),
        ("a.jsonl.bz2", "jsonl", 4300),
        ("a.tar.xz", "text", 4600),
        ("a.tgz", "text", 3500),
        ("a.zip", "code", 3100),
        ("a.warc.gz", "warc", 245),
        ("a.jsonl.zst", "jsonl, convert: html", 280),
        ("a.jsonl", "jsonl, convert: notebook", 1000),
        ("a.xml.bz2", "mediawiki", 1935),
        ("a.warc.wet.gz", "wet", 3500),
    ],
)
def test_estimates_go_by_codec_and_conversion(tmp_path, path, reading, expected):
    assert plan(recipe(tmp_path, path, reading)).sources[0].text_estimate == pytest.approx(expected)
    assert path.endswith((*EXPANSION, ".jsonl"))


def asked(made: Recipe) -> list[int]:
    source = plan(made).sources[0]
    request = filtering.documents_request("run", made, source, (), {})
    return [task.memory for task in request.tasks]


def test_the_converting_child_is_in_what_a_task_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(filtering.listings, "put_listing", lambda *_: None)
    large = "limits: {max_document_bytes: 500MB}"
    gib, documents = 1 << 30, 4 * 500_000_000
    assert asked(recipe(tmp_path, "a.jsonl", "jsonl")) == [gib]
    assert asked(recipe(tmp_path, "a.jsonl", "jsonl, convert: html")) == [gib]
    assert asked(recipe(tmp_path, "a.jsonl", "jsonl", large)) == [documents]
    child = (64 << 20) + 16 * (64 << 20)
    converted = recipe(tmp_path, "a.jsonl", "jsonl, convert: {html: {max_bytes: 67108864}}", large)
    assert asked(converted) == [documents + child]
    assert plan(converted).task_memory == documents + child


@pytest.mark.parametrize(
    ("path", "reading", "packages"),
    [
        ("a.jsonl", "jsonl", []),
        ("a.jsonl", "jsonl, convert: notebook", []),
        ("a.warc", "warc", ["resiliparse"]),
        ("a.warc", "warc, convert: {html: {extractor: trafilatura}}", ["resiliparse", "trafilatura", "lxml"]),
        ("a.xml", "mediawiki", ["mwparserfromhell"]),
        ("a.jsonl", "jsonl, template: '{{text}}'", ["jinja2"]),
    ],
)
def test_documents_depend_on_the_libraries_that_make_them(tmp_path, monkeypatch, path, reading, packages):
    made = recipe(tmp_path, path, reading)
    (source,) = plan(made).sources
    stage = filtering.documents_stage(made, source, ())
    assert stage.settings.get("packages", []) == [[name, metadata.version(name)] for name in packages]

    def newer(package: str) -> str:
        if package == "lxml":
            raise metadata.PackageNotFoundError
        return "99"

    monkeypatch.setattr(filtering.metadata, "version", newer)
    changed = filtering.documents_stage(made, source, ())
    assert (changed.directory == stage.directory) == (not packages)
    assert changed.settings.get("packages", []) == [
        [name, None if name == "lxml" else "99"] for name in packages
    ]


def test_documents_depend_on_all_that_makes_texts_of_rows(tmp_path: Path) -> None:
    """A changed setting reads anew; the length of conversations is the tokenizer's business."""

    def directory(reading: str) -> str:
        made = recipe(tmp_path, "a.jsonl", reading)
        (source,) = plan(made).sources
        return filtering.documents_stage(made, source, ()).directory

    chat = "jsonl, chat: {format: chatml, column: messages"
    readings = [
        "jsonl",
        "jsonl, parse: meta",
        "jsonl, key: url",
        "jsonl, text: content",
        "jsonl, convert: html",
        "jsonl, convert: {html: {max_seconds: 5}}",
        "jsonl, convert: {html: {extractor: trafilatura}}",
        "jsonl, convert: notebook",
        "jsonl, convert: {notebook: {outputs: keep}}",
        "jsonl, template: '{{ a }}'",
        "jsonl, template: '{{ b }}'",
        chat + "}",
        chat + ", system: drop}",
        chat + ", control_tokens: []}",
        chat.replace("chatml", "vicuna") + "}",
        "text",
        "text, members: '*.md'",
    ]
    found = [directory(reading) for reading in readings]
    assert len(set(found)) == len(found)
    assert directory(chat + ", max_tokens: 9}") == directory(chat + "}")
