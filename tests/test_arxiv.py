"""Is every paper of one of arXiv's archives its document, and does no archive harm or stall its reader?"""

import gzip
import io
import random
import tarfile
import tracemalloc

import pytest
from winnow.shards import arxiv, decompress, readers
from winnow.shards.convert_settings import Latex
from winnow.shards.inputs import InputError, Piece
from winnow.shards.readers import ReadSettings

SETTINGS = ReadSettings("arxiv")


def tar(*files, format_=tarfile.GNU_FORMAT):
    """A tar of (name, bytes) or of members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                archive.addfile(file)
                continue
            member = tarfile.TarInfo(file[0])
            member.size, member.mtime = len(file[1]), 1_662_000_000
            archive.addfile(member, io.BytesIO(file[1]))
    return out.getvalue()


def paper(*files):
    return gzip.compress(tar(*files))


def link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def directory(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def rows(tmp_path, data, name="arXiv_src_2208_001.tar", **more):
    path = tmp_path / name
    path.write_bytes(data)
    return list(arxiv.rows(Piece(0, str(path), name, 1, len(data)), ReadSettings("arxiv", **more)))


def test_papers(tmp_path):
    data = tar(
        directory("2208"),
        ("2208/2208.13940.gz", paper(("z.tex", b"first"), ("fig.png", b"\0\1"), ("a/B.TEX", b"sec\0ond"))),
        ("2208/2208.13941.gz", gzip.compress(b"\\section{One} file" * 100)),
        ("2208/math0304123.gz", gzip.compress(b"short")),
    )
    many, one, old = rows(tmp_path, data)
    assert many.columns == {
        "text": b"first\0second",
        "arxiv_id": "2208.13940",
        "yymm": "2208",
        "url": "https://arxiv.org/abs/2208.13940",
        "timestamp": "2022-09-01T02:40:00+00:00",
    }
    assert one.columns["text"] == b"\\section{One} file" * 100
    assert (old.columns["arxiv_id"], old.columns["text"]) == ("math/0304123", b"short")
    assert [data[r.position :].split(b"\0", 1)[0] for r in (many, one, old)] == [
        b"2208/2208.13940.gz", b"2208/2208.13941.gz", b"2208/math0304123.gz",
    ]  # fmt: skip


NOISE = random.Random(1).randbytes(2500).hex().encode()


@pytest.mark.parametrize(
    ("member", "data", "reason"),
    [
        pytest.param("2208.1.pdf", b"%PDF", "mime", id="pdf"),
        pytest.param("2208.1.gz", gzip.compress(b"%!PS-Adobe"), "mime", id="postscript"),
        pytest.param("2208.1.gz", gzip.compress(b"a\0b"), "mime", id="no-text"),
        pytest.param("2208.1.gz", paper(("a.png", b"x")), "mime", id="no-tex"),
        pytest.param("2208.1.gz", paper(link("a.tex", "/etc/passwd")), "mime", id="link"),
        pytest.param("2208.1.gz", b"not gzip", "corrupt", id="no-gzip"),
        pytest.param("2208.1.gz", gzip.compress(NOISE)[:-900], "corrupt", id="cut-gzip"),
        pytest.param("2208.1.gz", gzip.compress(NOISE)[:-8] + bytes(8), "corrupt", id="wrong-sum"),
        pytest.param("2208.1.gz", gzip.compress(tar(("a.tex", NOISE))[:2000]), "corrupt", id="cut-tar"),
        pytest.param(
            "2208.1.gz",
            gzip.compress(tar(("a.tex", b"x"))[:1024] + b"junk" * 128),
            "corrupt",
            id="broken-tar",
        ),
        pytest.param("2208.1.gz", paper(*[("a.tex", b"")] * 101), "too-large", id="many-files"),
        pytest.param("2208.1.gz", gzip.compress(b"x" * 10_001), "too-large", id="large-file"),
        pytest.param(
            "2208.1.gz",
            paper(("a.tex", b"x" * 6000), ("b.tex", b"x" * 6000)),
            "too-large",
            id="large-together",
        ),
    ],
)
def test_what_is_no_document(tmp_path, monkeypatch, member, data, reason):
    monkeypatch.setattr(arxiv, "MEMBERS", 100)
    archive = tar((f"2208/{member}", data), ("2208/2208.2.gz", gzip.compress(b"x" * 10_000)))
    lost, kept = rows(tmp_path, archive, max_document_bytes=10_000)
    assert (lost.reason, lost.columns, lost.position) == (reason, None, 0)
    assert kept.columns["arxiv_id"] == "2208.2"


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["d" * 90 + "/" + "e" * 90 + "/2208.1.gz", "é" * 30 + "/2208.1.gz"])
def test_long_names(tmp_path, format_, name):
    (row,) = rows(tmp_path, tar((name, gzip.compress(b"x")), format_=format_))
    assert (row.columns["arxiv_id"], row.columns["yymm"]) == ("2208.1", name.split("/")[-2])


def test_a_limit_of_a_few_bytes(tmp_path):
    large, _ = rows(
        tmp_path,
        tar(("1.gz", gzip.compress(b"x" * 600)), ("2.gz", gzip.compress(b"x"))),
        max_document_bytes=9,
    )
    assert large.reason == "too-large"


@pytest.mark.parametrize("stop", [1024 + 100, 1536 + 1, 1536 + 2000])
def test_a_cut_archive(tmp_path, stop):
    """In the second member's header, and in its data: that paper is not counted as a bad one."""
    data = tar(("2208/2208.1.gz", gzip.compress(b"x")), ("2208/2208.2.gz", paper(("a.tex", NOISE))))
    read = arxiv.rows(_written(tmp_path / "a.tar", data[:stop]), SETTINGS)
    assert next(read).columns["arxiv_id"] == "2208.1"
    with pytest.raises(decompress.TruncatedError):
        next(read)


def test_what_is_no_archive(tmp_path):
    with pytest.raises(InputError, match="corrupt"):
        list(readers.read([_written(tmp_path / "a.tar", b"<html>" * 100)], SETTINGS, readers.Seen()))
    with pytest.raises(decompress.TruncatedError):
        rows(tmp_path, b"")


def _written(path, data):
    path.write_bytes(data)
    return Piece(0, str(path), path.name, 1, len(data))


def test_bombs_are_bounded(tmp_path, monkeypatch):
    """A name of 30 MB, one that is said to have 2^60 bytes, and 60 MB of a figure in 60 kB."""
    monkeypatch.setattr(arxiv, "UNPACKED", 50 << 20)
    name = tarfile.TarInfo("x")
    name.type, name.size = b"x", 30 << 20
    digits = name.tobuf(tarfile.GNU_FORMAT) + b"1" * name.size
    endless = tarfile.TarInfo("x")
    endless.type, endless.size = b"L", 1 << 60
    data = tar(
        ("2208/2208.1.gz", gzip.compress(digits + tar(("a.tex", b"long name")))),
        ("2208/2208.2.gz", gzip.compress(endless.tobuf(tarfile.GNU_FORMAT))),
        ("2208/2208.3.gz", paper(("fig.eps", bytes(60 << 20)))),
    )
    tracemalloc.start()
    named, said, large = rows(tmp_path, data, max_document_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (named.columns["text"], said.reason, large.reason) == (b"long name", "corrupt", "too-large")
    assert peak < 8 << 20


def test_archive_to_documents(tmp_path):
    """Through the reader and the converting process."""
    files = (
        ("main.tex", b"\\def\\R{\\mathbb R} \\begin{document} \\section{One} in $\\R$ % no\n\\input{b}"),
        ("b.tex", "\\section{Two} caf\u00e9 \\bibliography{x}".encode("latin-1")),
    )
    data = tar(("2208/2208.1.gz", paper(*files)), ("2208/2208.2.gz", gzip.compress(b"a letter")))
    piece = _written(tmp_path / "a.tar", data)
    whole = ReadSettings("arxiv", key="arxiv_id", convert=Latex.model_validate({}))
    (batch,) = readers.read([piece], whole, readers.Seen())
    (document,) = batch.table.to_pylist()
    assert document["text"] == "\\section{One} in $\\mathbb R$ \n\\input{b}\n\\section{Two} café"
    assert document["key"] == "2208.1"
    assert [lost.reason for lost in batch.lost] == ["no-section"]
