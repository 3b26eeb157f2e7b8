"""Are the right files found, and are documents the same however their files are cut into splits?"""

import json
import os
import uuid
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import decompress, inputs, readers, storage
from winnow.shards.inputs import InputError
from winnow.shards.splits import cut


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return str(root)


def paths_of(root, *patterns, exclude=()):
    return [f.path for f in inputs.list_source("s", root, patterns, exclude)]


def documents(splits, read):
    """(split, id, text) of every document, and (split, id, reason) of every lost row, in reading order."""
    kept, lost = [], []
    for split in splits:
        for batch in readers.read(split.pieces, read, readers.Seen()):
            table = batch.table
            kept += zip(
                [split.index] * len(table),
                *(table.column(c).to_pylist() for c in ("id", "text")),
                strict=True,
            )
            lost += [(split.index, row.id, row.reason) for row in batch.lost]
    return kept, lost


# ---- listing --------------------------------------------------------------------------------------------------


def test_order_is_by_path_and_not_by_creation(tmp_path):
    names = ["b.jsonl", "a.jsonl", "a/z.jsonl", "a-.jsonl", "B.jsonl", "a/b/c.jsonl", "10.jsonl", "9.jsonl"]
    first = tree(tmp_path / "1", *names)
    second = tree(tmp_path / "2", *reversed(names))
    assert paths_of(first, "**/*.jsonl") == sorted(names)
    assert paths_of(second, "**/*.jsonl") == sorted(names)


def test_facts_of_a_file(tmp_path):
    root = tree(tmp_path, "d/a.jsonl.gz")
    os.utime(tmp_path / "d/a.jsonl.gz", ns=(0, 1_700_000_000_123_456_789))
    (file,) = inputs.list_source("web", root, ["d/*"])
    assert (file.path, file.location, file.size) == ("d/a.jsonl.gz", f"{root}/d/a.jsonl.gz", 12)
    assert file.compression == "gzip"
    assert "1700000000123456789" in file.fingerprint
    assert file.id_half("web") == xxhash.xxh3_64("web\0d/a.jsonl.gz").intdigest()
    assert file.id_half("wiki") != file.id_half("web")


FILES = ["a.txt", "b.txt", "d/a.txt", "d/e/a.txt", "d/e/b.md", "x y.txt", "a[1].txt", "d.txt/a"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt", "a[1].txt", "b.txt", "x y.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("*/a.txt", ["d/a.txt"]),
        ("**/a.txt", ["a.txt", "d/a.txt", "d/e/a.txt"]),
        ("d/**", ["d/a.txt", "d/e/a.txt", "d/e/b.md"]),
        ("d/**/*.txt", ["d/a.txt", "d/e/a.txt"]),
        ("d/*/*.md", ["d/e/b.md"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("d/a.txt", ["d/a.txt"]),
    ],
)
def test_patterns(tmp_path, pattern, expected):
    assert paths_of(tree(tmp_path, *FILES), pattern) == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "*", "?", "a*", "*b"]), min_size=1, max_size=3))
def test_patterns_without_double_stars_agree_with_pathlib(tmp_path_factory, parts):
    root = tmp_path_factory.getbasetemp() / "pathlib"
    names = ["a", "b", "ab", "ba"]
    if not root.exists():
        tree(root, *(f"{x}.d/{y}.d/{z}" for x in names for y in names for z in names))
    pattern = "/".join([p + ".d" for p in parts[:-1]] + parts[-1:])
    expected = sorted(p.relative_to(root).as_posix() for p in root.glob(pattern) if p.is_file())
    if expected:
        assert paths_of(str(root), pattern) == expected
    else:
        with pytest.raises(InputError):
            paths_of(str(root), pattern)


def test_a_file_that_several_patterns_match_comes_once(tmp_path):
    root = tree(tmp_path, "d/a.txt", "d/b.txt", "c.txt")
    assert paths_of(root, "d/*.txt", "**/a.txt", f"{root}/d/a.txt", "c.txt") == [
        "c.txt",
        "d/a.txt",
        "d/b.txt",
    ]


def test_exclude(tmp_path):
    root = tree(tmp_path, *FILES)
    assert paths_of(root, "**/*.txt", exclude=["d/**", "a[[]1].txt", "b.txt"]) == ["a.txt", "x y.txt"]
    assert paths_of(root, "**/*.txt", exclude=[f"{root}/**/a.txt", "?.txt"]) == ["a[1].txt", "x y.txt"]


def test_links_are_followed_once_and_never_in_circles(tmp_path):
    tree(tmp_path / "else", "a.txt")
    root = tree(tmp_path / "root", "d/b.txt")
    (tmp_path / "root/d/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/linked").symlink_to(tmp_path / "else")
    assert paths_of(root, "**/*.txt") == ["d/b.txt", "linked/a.txt"]


@pytest.mark.parametrize(
    ("files", "patterns", "message"),
    [
        pytest.param(
            ["a.jsonl.gz", "b.jsonl.gz", "notes.txt"],
            ["*.jsonl"],
            "source 'web': '*.jsonl' matches no file below {root}; 2 files there end in '.jsonl.gz'",
            id="other-suffix",
        ),
        pytest.param(
            ["a.parquet"],
            ["x/*.jsonl", "*.json"],
            "source 'web': 'x/*.jsonl', '*.json' matches no file below {root}; 1 file there ends in '.parquet'",
            id="one-file-two-patterns",
        ),
        pytest.param(
            ["d/a.jsonl"],
            ["*.jsonl"],
            "source 'web': '*.jsonl' matches no file; {root} itself holds none",
            id="one-level-too-high",
        ),
        pytest.param(
            [],
            ["*.jsonl"],
            "source 'web': '*.jsonl' matches no file; there is no directory {root}",
            id="no-root",
        ),
    ],
)
def test_no_match_message_whole(tmp_path, files, patterns, message):
    root = tree(tmp_path / "root", *files)
    with pytest.raises(InputError) as caught:
        inputs.list_source("web", root, patterns)
    assert str(caught.value) == message.format(root=root)


def test_all_excluded_is_no_match(tmp_path):
    with pytest.raises(InputError, match=r"^source 's': '\*\.txt' matches no file"):
        paths_of(tree(tmp_path, "a.txt"), "*.txt", exclude=["a.*"])


def test_pattern_outside_the_root(tmp_path):
    with pytest.raises(InputError, match=r"is not below root"):
        paths_of(tree(tmp_path, "a.txt"), "/elsewhere/*.txt")


@pytest.mark.parametrize(
    ("patterns", "root"),
    [
        (["/data/web/*.jsonl"], "/data/web"),
        (["/data/web/2024-*/x/*.jsonl"], "/data/web"),
        (["/data/web/a.jsonl"], "/data/web"),
        (["/data/web/en/*.gz", "/data/web/de/*.gz"], "/data/web"),
        (["/data/web1/*", "/data/web2/*"], "/data"),
        (["/data/web/**/*.gz", "/data/web/x.gz"], "/data/web"),
        (["/a/*", "/b/*"], "/"),
        (["s3://bucket/c4/en/*.gz"], "s3://bucket/c4/en"),
        (["s3://bucket/c4/[ab]/*.gz", "s3://bucket/c4/c/*.gz"], "s3://bucket/c4"),
    ],
)
def test_default_root(patterns, root):
    assert inputs.default_root(patterns) == root


def test_default_root_of_relative_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inputs.default_root(["raw/*.jsonl"]) == str(tmp_path / "raw")


def test_object_stores_list_and_read_as_a_disk_does(tmp_path):
    bucket = f"memory://{uuid.uuid4().hex}"
    names = ["a.jsonl", "d/b.jsonl", "d/e/c.jsonl", "d/e/c.md"]
    local = tree(tmp_path, *names)
    for name in names:
        storage.put_bytes(f"{bucket}/{name}", json.dumps({"text": name}).encode())
    for patterns in (["**/*.jsonl"], ["*.jsonl"], ["d/**"], ["d/*/*.jsonl", "d/b.jsonl"], ["d/b.jsonl"]):
        assert paths_of(bucket, *patterns) == paths_of(local, *patterns)
    assert paths_of(bucket, f"{bucket}/d/*.jsonl", exclude=["d/e/*"]) == ["d/b.jsonl"]
    files = inputs.list_source("s", bucket, ["**/*.jsonl"])
    kept, lost = documents(cut("s", files, "jsonl", 1 << 20), readers.ReadSettings("jsonl"))
    assert [text for _, _, text in kept] == ["a.jsonl", "d/b.jsonl", "d/e/c.jsonl"]
    assert not lost
    with pytest.raises(InputError, match=r"2 files there end in '\.jsonl'|1 file there ends in '\.jsonl'"):
        paths_of(bucket, "*.parquet")


# ---- cutting --------------------------------------------------------------------------------------------------


def test_tiny_files_are_grouped(tmp_path):
    names = [f"{i:05d}.txt" for i in range(10_000)]
    files = [inputs.InputFile(n, f"/{n}", 10, "") for n in names]
    splits = cut("s", files, "text", 1 << 20)
    assert [len(s.pieces) for s in splits] == [4096, 4096, 1808]
    assert [p.path for s in splits for p in s.pieces] == names
    splits = cut("s", files, "text", 1000)
    assert {len(s.pieces) for s in splits} == {100}
    assert {s.cost for s in splits} == {1000}


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=30),
    st.integers(1, 400),
    st.sampled_from([("jsonl", ""), ("jsonl", ".gz"), ("text", "")]),
)
def test_every_byte_is_in_one_split(sizes, split_bytes, kind):
    format_, suffix = kind
    files = [inputs.InputFile(f"{i:03d}{suffix}", "", n, "") for i, n in enumerate(sizes)]
    splits = cut("s", files, format_, split_bytes)
    assert [s.index for s in splits] == list(range(len(splits)))
    assert all(s.pieces for s in splits)
    pieces = [p for s in splits for p in s.pieces]
    assert [p.file for p in pieces] == sorted(p.file for p in pieces)
    for i, (file, size) in enumerate(zip(files, sizes, strict=True)):
        mine = [p for p in pieces if p.file == i]
        assert [p.start for p in mine] == [0, *(p.stop for p in mine[:-1])]
        assert mine[-1].stop == -1
        assert sum(p.size for p in mine) == size
        assert len({p.id_half for p in mine} | {file.id_half("s")}) == 1
        if format_ != "jsonl" or suffix:
            assert len(mine) == 1
    for split in splits:
        uncut = (format_ != "jsonl" or suffix) and sum(p.size > 0 for p in split.pieces) == 1
        assert split.cost <= split_bytes or uncut


# Rows of each length around a range's, blank lines, both line ends, white space; a row that is no JSON.
ROWS = st.one_of(
    st.text(alphabet='ab é😀"\\\n', max_size=12).map(lambda t: json.dumps({"text": t}).encode()),
    st.integers(0, 200).map(lambda n: b'{"text":"' + b"x" * n + b'"}'),
    st.sampled_from([b"", b" ", b"\t", b"\r", b"{", b'{"text":1}', b"\xff"]),
)
CONTENT = st.lists(st.tuples(ROWS, st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"])), max_size=12).flatmap(
    lambda rows: st.sampled_from([0, 1]).map(
        lambda cut: b"".join(a + b for a, b in rows)[: -1 if cut and rows else None]
    )
)


def lines_read_aloud(content):
    """(offset, line) of every line that is not blank."""
    offset, out = 0, []
    for line in content.split(b"\n"):
        if line.strip(b" \t\r\n\v\f"):
            out.append((offset, line))
        offset += len(line) + 1
    return out


@settings(deadline=None, max_examples=300)
@given(CONTENT, st.integers(1, 260), st.integers(1, 64), st.sampled_from([40, 1000]))
def test_jsonl_documents_do_not_depend_on_the_cut(tmp_path_factory, content, split_bytes, block, longest):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(content)
    file = inputs.InputFile("cut.jsonl", str(path), len(content), "")
    splits = cut("s", [file], "jsonl", split_bytes)
    with mock.patch.object(decompress, "BLOCK", block):
        kept, lost = documents(splits, readers.ReadSettings("jsonl", max_document_bytes=longest))

    half = xxhash.xxh3_64(b"s\0cut.jsonl").digest()
    expected, malformed, owner = [], [], {}
    for offset, line in lines_read_aloud(content):
        id_ = half + offset.to_bytes(8, "big")
        (owner[id_],) = (
            s.index for s in splits for p in s.pieces if p.start <= offset and (offset < p.stop or p.stop < 0)
        )
        try:
            text = json.loads(line)["text"]
            ok = isinstance(text, str) and 0 < len(text.encode()) <= longest and len(line) <= 4 * longest
        except ValueError:
            ok = False
        if ok:
            expected.append((id_, text))
        else:
            malformed.append(id_)
    assert [(i, t) for _, i, t in kept] == expected
    assert [i for _, i, _ in lost] == malformed
    # A row belongs to the split its first byte is in.
    assert all(owner[i] == split for split, i, _ in kept + lost)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 600), st.integers(0, 400))
def test_parquet_documents_do_not_depend_on_the_cut(tmp_path_factory, groups, split_bytes, width):
    path = tmp_path_factory.getbasetemp() / "cut.parquet"
    texts = []
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for rows in groups:
            group = [f"{len(texts) + i}" + "x" * width for i in range(rows)]
            writer.write_table(pa.table({"text": pa.array(group, pa.string())}), row_group_size=max(rows, 1))
            texts += group
    file = inputs.InputFile("cut.parquet", str(path), path.stat().st_size, "")
    splits = cut("s", [file], "parquet", split_bytes)
    kept, lost = documents(splits, readers.ReadSettings("parquet"))
    half = xxhash.xxh3_64(b"s\0cut.parquet").digest()
    assert [(i, t) for _, i, t in kept] == [(half + n.to_bytes(8, "big"), t) for n, t in enumerate(texts)]
    assert not lost
    if len(texts) and max(groups) * width > split_bytes and sum(map(bool, groups)) > 1:
        assert len(splits) > 1, "a file of several row groups larger than a split was not cut"


def test_order_of_ids_is_order_in_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"a"}\n' * 500)
    files = inputs.list_source("s", str(tmp_path), ["*.jsonl"])
    kept, _ = documents(cut("s", files, "jsonl", 100), readers.ReadSettings("jsonl"))
    ids = [i for _, i, _ in kept]
    assert len(set(ids)) == 500
    assert ids == sorted(ids)


def test_unreadable_parquet_is_an_input_error_when_planning(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 100)
    files = inputs.list_source("web", str(tmp_path), ["*"])
    with pytest.raises(InputError, match=r"^source 'web': a\.parquet: not a readable Parquet file"):
        cut("web", files, "parquet", 10)


def test_a_dangling_link_that_matches_is_no_silent_loss(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "other.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(inputs.InputError) as caught:
        inputs.list_source("s", str(tmp_path), ["*.jsonl"])
    assert str(caught.value) == "source 's': b.jsonl is a link to a file that is not there"
    assert [f.path for f in inputs.list_source("s", str(tmp_path), ["a*"])] == ["a.jsonl"]
