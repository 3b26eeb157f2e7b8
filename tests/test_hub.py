"""Are files of the hub listed, pinned and read whole, whatever the network does, and is the token told to nobody else?

A small server of our own answers like the hub: API, pages of lists, large files at another host name, refusals.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from winnow.pipelines import open_run, publish, run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.planning import plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import SchemaError
from winnow.shards import hub, hub_dataset, hub_requests, inputs, ranged_file, storage
from winnow.shards import splits as splitting
from winnow.shards.inputs import InputError

TOKEN = "hf_notforfiles"
FIRST, SECOND = "a" * 40, "b" * 40
NAME = "org/corpus"
ROOT = f"hf://datasets/{NAME}"
Files = dict[str, bytes]


def etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Hub:
    """What the server has, what goes wrong, and what it was asked."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=lambda: {"main": FIRST})
    refusal: tuple[int, str] | None = None
    """Status and error code of whatever is asked for in a file."""
    faults: list[Callable[[Answer, bytes], bool]] = field(default_factory=list)
    """Each answers one request for bytes; False: as it should be answered."""
    page: int = 2
    """Files of a page of a list."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(host, method and path, authorization)"""
    sent: int = 0
    url: str = ""

    @property
    def asked_paths(self) -> list[str]:
        return [what.split(" ", 1)[1] for _, what, _ in self.asked]


class Answer(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """Sizes of some files: `datasets` asks so."""
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.note()
        revision = unquote(urlsplit(self.path).path).removeprefix(f"/api/datasets/{NAME}/paths-info/")
        files = self.hub.commits[self.commit(revision)]
        self.send_json([self.entry(path, files[path]) for path in said["paths"] if path in files])

    def note(self) -> None:
        self.hub.asked.append(
            (self.headers["Host"], f"{self.command} {self.path}", self.headers["Authorization"])
        )

    def do_GET(self) -> None:
        self.note()
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/store/"):
            self.send_file(path.removeprefix("/store/"))
        elif f"/{NAME}/" not in path + "/":
            self.refuse(401 if "api" in path else 404, "RepoNotFound") if path != "/" else self.send_json({})
        elif path.startswith("/api/datasets/"):
            self.api(path.removeprefix(f"/api/datasets/{NAME}").strip("/"))
        else:
            revision, _, file = path.removeprefix(f"/datasets/{NAME}/resolve/").partition("/")
            self.resolve(revision, file)

    def commit(self, revision: str) -> str:
        return self.hub.refs.get(revision, revision)

    def api(self, what: str) -> None:
        kind, _, rest = what.partition("/")
        revision, _, top = rest.partition("/") if kind == "tree" else (rest or "main", "", "")
        files = self.hub.commits.get(self.commit(revision))
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        if kind != "tree":
            siblings = [{"rfilename": path} for path in files]
            return self.send_json(
                {"id": NAME, "sha": self.commit(revision), "siblings": siblings, "tags": []}
            )
        query = parse_qs(urlsplit(self.path).query)
        start = f"{top}/" if top else ""
        below = [path for path in sorted(files) if path.startswith(start)]
        if not below:
            return self.refuse(404, "EntryNotFound")
        deep = query.get("recursive", ["false"])[0].lower() == "true"
        found = [self.entry(p, files[p]) for p in below if deep or "/" not in p[len(start) :]]
        folders = {p[: p.index("/", len(start))] for p in below if "/" in p[len(start) :]}
        found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in sorted(folders)]
        at = int(query.get("cursor", ["0"])[0])
        headers = {}
        if at + self.hub.page < len(found):
            more = f"cursor={at + self.hub.page}&recursive={str(deep).lower()}"
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{more}>; rel="next"'
        return self.send_json(found[at : at + self.hub.page], headers)

    @staticmethod
    def entry(path: str, data: bytes) -> dict:
        """Every other file is one of large file storage."""
        if is_large(path):
            lfs = {"oid": etag(data), "size": len(data), "pointerSize": 134}
            return {"type": "file", "oid": "0" * 40, "size": len(data), "path": path, "lfs": lfs}
        return {"type": "file", "oid": etag(data)[:40], "size": len(data), "path": path}

    def resolve(self, revision: str, path: str) -> None:
        if self.hub.refusal:
            return self.refuse(*self.hub.refusal)
        files = self.hub.commits.get(self.commit(revision))
        if files is None or path not in files:
            return self.refuse(404, "RevisionNotFound" if files is None else "EntryNotFound")
        headers = {"X-Repo-Commit": self.commit(revision)}
        data = files[path]
        if not is_large(path):
            return self.send_bytes(data, headers | {"ETag": f'"{etag(data)[:40]}"'})
        headers |= {"X-Linked-ETag": f'"{etag(data)}"', "X-Linked-Size": str(len(data))}
        store = self.hub.url.replace("127.0.0.1", "localhost")
        headers["Location"] = f"{store}/store/{self.commit(revision)}/{path}?signature=once"
        return self.send_bytes(b"", headers, 302)

    def send_file(self, path: str) -> None:
        commit, _, name = path.partition("/")
        data = self.hub.commits[commit][name]
        self.send_bytes(data, {"ETag": f'"store-{etag(data)[:8]}"'})

    def send_bytes(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        whole = data
        if status == 200 and (asked := self.headers["Range"]):
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            if first >= len(data):
                return self.refuse(416, "")
            data = data[first : last + 1]
            headers |= {"Content-Range": f"bytes {first}-{first + len(data) - 1}/{len(whole)}"}
            status = 206
            if self.command == "GET" and self.hub.faults and self.hub.faults.pop(0)(self, data):
                return None
        self.start(status, headers | {"Content-Length": str(len(data))})
        if self.command == "GET":
            self.hub.sent += len(data)
            self.wfile.write(data)
        return None

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.start(
            200, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        )
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.start(status, {"X-Error-Code": code, "X-Error-Message": "no", "Content-Length": "0"})


def is_large(path: str) -> bool:
    return path.endswith((".parquet", ".gz", ".bin"))


# ---- what goes wrong, one request each -----------------------------------------------------------------------


def busy(answer: Answer, data: bytes) -> bool:
    answer.start(429, {"Retry-After": "7", "Content-Length": "0"})
    return True


def down(answer: Answer, data: bytes) -> bool:
    answer.start(503, {"Content-Length": "0"})
    return True


def cut(answer: Answer, data: bytes) -> bool:
    """Half of what was promised, and the end of the connection."""
    first = int(answer.headers["Range"].removeprefix("bytes=").split("-")[0])
    whole = first + len(data)
    answer.start(
        206,
        {"Content-Length": str(len(data)), "Content-Range": f"bytes {first}-{whole - 1}/{whole_of(answer)}"},
    )
    answer.wfile.write(data[: len(data) // 2])
    answer.close_connection = True
    return True


def short(answer: Answer, data: bytes) -> bool:
    """Half of what was asked for, in an answer that is whole by itself."""
    first = int(answer.headers["Range"].removeprefix("bytes=").split("-")[0])
    half = data[: max(1, len(data) // 2)]
    span = f"bytes {first}-{first + len(half) - 1}/{whole_of(answer)}"
    answer.start(206, {"Content-Length": str(len(half)), "Content-Range": span})
    answer.wfile.write(half)
    return True


def expired(answer: Answer, data: bytes) -> bool:
    answer.start(403, {"Content-Length": "0"})
    return True


def whole(answer: Answer, data: bytes) -> bool:
    """All of the file, as servers do that know no ranges."""
    name = unquote(urlsplit(answer.path).path).rsplit("/", 1)[1]
    all_of_it = answer.hub.commits[FIRST][name]
    answer.start(200, {"Content-Length": str(len(all_of_it))} | {"ETag": etag_of(answer, all_of_it)})
    answer.wfile.write(all_of_it)
    return True


def etag_of(answer: Answer, data: bytes) -> str:
    in_store = answer.path.startswith("/store/")
    return f'"store-{etag(data)[:8]}"' if in_store else f'"{etag(data)[:40]}"'


def fine(answer: Answer, data: bytes) -> bool:
    return False


def whole_of(answer: Answer) -> int:
    path = unquote(urlsplit(answer.path).path)
    name = path.rsplit("/", 1)[1]
    return next(len(d) for files in answer.hub.commits.values() for p, d in files.items() if p.endswith(name))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    made = Hub()
    handler = type("AnswerOf", (Answer,), {"hub": made})
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving.daemon_threads = True
    made.url = f"http://127.0.0.1:{serving.server_address[1]}"
    threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forget()
    yield made
    serving.shutdown()
    serving.server_close()
    forget()


def forget() -> None:
    """Another server has other files."""
    hub.facts.cache_clear()
    hub_dataset._kept_stream.cache_clear()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited."""
    made: list[float] = []
    monkeypatch.setattr(hub_requests, "sleep", made.append)
    return made


# ---- listing -------------------------------------------------------------------------------------------------


FILES = {
    "README.md": b"read me",
    "en/a.jsonl": b"1\n",
    "en/b.jsonl.gz": b"22\n",
    "en/deep/c.jsonl": b"333\n",
    "en/deep/d.jsonl": b"4444\n",
    "fr/e.jsonl": b"",
}


@pytest.mark.parametrize(
    ("root", "pattern", "found"),
    [
        (f"{ROOT}@{FIRST}/en", "*.jsonl*", ["a.jsonl", "b.jsonl.gz"]),
        (f"{ROOT}@{FIRST}/en", "**/*.jsonl", ["a.jsonl", "deep/c.jsonl", "deep/d.jsonl"]),
        (f"{ROOT}@{FIRST}", "*/*.jsonl", ["en/a.jsonl", "fr/e.jsonl"]),
        (f"{ROOT}@{FIRST}", "en/deep/*", ["en/deep/c.jsonl", "en/deep/d.jsonl"]),
        (f"{ROOT}@{FIRST}", "*", ["README.md"]),
    ],
)
def test_lists_like_a_directory(server: Hub, root: str, pattern: str, found: list[str]) -> None:
    server.commits[FIRST] = FILES
    files = inputs.list_source("s", root, [pattern])
    assert [f.path for f in files] == found
    for file in files:
        inside = file.location.removeprefix(f"{ROOT}@{FIRST}/")
        assert file.size == len(FILES[inside])
        assert file.fingerprint in {f"etag:{etag(FILES[inside])}", f"etag:{etag(FILES[inside])[:40]}"}
        assert hub.facts(file.location).fingerprint == file.fingerprint  # as readers look it up
        assert storage.open_input(file.location).read() == FILES[inside]


def test_nothing_there(server: Hub) -> None:
    server.commits[FIRST] = FILES
    with pytest.raises(InputError, match=r"'\*\.txt' matches no file below .*/en; 1 file there ends in"):
        inputs.list_source("s", f"{ROOT}@{FIRST}/en", ["*.txt"])
    with pytest.raises(InputError, match="matches no file"):
        inputs.list_source("s", f"{ROOT}@{FIRST}/none", ["*.txt"])


def test_a_list_that_goes_on_elsewhere_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.commits[FIRST] = FILES
    server.url = server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(InputError, match="which is not the hub"):
        inputs.list_source("s", f"{ROOT}@{FIRST}", ["**/*"])


# ---- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.bin", "data.txt"])
@pytest.mark.parametrize(
    ("faults", "waited"),
    [
        ([], []),
        ([busy], [7.0]),
        ([down, down, busy], [1.0, 2.0, 7.0]),
        ([cut], [1.0]),
        ([short, cut, short], [1.0, 1.0, 1.0]),
        ([fine, expired, fine], [1.0]),
        ([fine, whole, fine], []),
    ],
    ids=lambda value: "-".join(getattr(v, "__name__", "") for v in value) or "none",
)
def test_read_whole_whatever_happens(
    server: Hub, waits: list[float], name: str, faults: list, waited: list[float], monkeypatch
) -> None:
    if expired in faults and name == "data.txt":
        faults = [fine, down, fine]  # it has no store with addresses that expire
    monkeypatch.setattr(ranged_file, "FIRST_READ", 40_000)
    monkeypatch.setattr(ranged_file, "READ_AHEAD", 90_000)
    data = random.Random(1).randbytes(300_000)
    server.commits[FIRST] = {name: data}
    server.faults += faults
    with storage.open_input(f"{ROOT}@{FIRST}/{name}") as file:
        parts = []
        while part := file.read(17_000):
            parts.append(part)
    assert {len(p) for p in parts[:-1]} == {17_000}  # never short but at the end
    assert b"".join(parts) == data
    assert not server.faults
    assert [round(w / least, 2) for w, least in zip(waits, waited, strict=True)] == pytest.approx(
        [1.1] * len(waited), abs=0.16
    )


def test_a_resumed_read_asks_for_the_rest_alone(server: Hub, waits: list[float]) -> None:
    data = random.Random(2).randbytes(200_000)
    server.commits[FIRST] = {"data.bin": data}
    server.faults += [cut]
    assert storage.open_input(f"{ROOT}@{FIRST}/data.bin").read() == data
    assert server.sent == 100_000


def test_reads_at_any_place_agree_with_the_bytes(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged_file, "FIRST_READ", 100)
    monkeypatch.setattr(ranged_file, "READ_AHEAD", 700)
    data = random.Random(3).randbytes(5_000)
    server.commits[FIRST] = {"data.bin": data}
    chance = random.Random(4)
    with storage.open_input(f"{ROOT}@{FIRST}/data.bin") as file:
        here = io.BytesIO(data)
        for _ in range(60):
            offset, whence = chance.choice(
                [(chance.randrange(6_000), 0), (-chance.randrange(5_000), 2), (3, 1)]
            )
            assert file.seek(offset, whence) == here.seek(offset, whence)
            for size in (chance.randrange(1_500), chance.randrange(50)):
                assert file.read(size) == here.read(size)
            assert file.tell() == here.tell()
        file.seek(0)
        target = bytearray(4_990)
        assert file.readinto(target) == 4_990
        assert bytes(target) == data[:4_990]
        assert file.readall() == data[4_990:]


def test_a_row_group_is_not_the_whole_file(server: Hub) -> None:
    texts = [random.Random(i).randbytes(30_000).hex() for i in range(200)]
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"text": texts}), buffer, row_group_size=4, compression="none", use_dictionary=False
    )
    server.commits[FIRST] = {"big.parquet": buffer.getvalue()}
    with storage.open_input(f"{ROOT}@{FIRST}/big.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(20).column("text").to_pylist() == texts[80:84]
    assert server.sent < len(buffer.getvalue()) / 3


def test_patience_ends(server: Hub, waits: list[float]) -> None:
    server.commits[FIRST] = {"data.txt": b"abc" * 100}
    server.faults += [down] * 100
    with pytest.raises(
        hub_requests.HubSilentError, match=r"data\.txt: the hub does not serve it \(503; tried \d+ times"
    ):
        storage.open_input(f"{ROOT}@{FIRST}/data.txt").read()
    assert sum(waits) <= hub_requests.PATIENCE_S
    server.faults[:] = [
        lambda answer, data: answer.start(429, {"Retry-After": "5000", "Content-Length": "0"}) or True
    ]
    with pytest.raises(hub_requests.HubSilentError, match="429; tried 1 times"):
        storage.open_input(f"{ROOT}@{FIRST}/data.txt").read()


def test_another_file_in_its_place_is_an_error(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged_file, "FIRST_READ", 10)
    monkeypatch.setattr(ranged_file, "READ_AHEAD", 10)
    for name in ("data.txt", "data.bin"):
        server.commits[FIRST] = {name: b"old" * 100}
        (file,) = inputs.list_source("s", f"{ROOT}@{FIRST}", [name])
        (split,) = splitting.cut("s", [file], "jsonl", 10**6)
        for other in (b"new" * 100, b"old" * 101):
            forget()
            opened = storage.open_input(file.location)
            assert opened.read(5) == b"oldol"
            server.commits[FIRST] = {name: other}
            with pytest.raises(InputError, match=f"{name}: changed since the run was planned"):
                opened.read(250)
            forget()
            with pytest.raises(InputError, match=f"{name}: changed since the run was planned"):
                inputs.check_unchanged(split.pieces[0])
            server.commits[FIRST] = {name: b"old" * 100}


def test_the_token_stays_with_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged_file, "FIRST_READ", 10)
    monkeypatch.setattr(ranged_file, "READ_AHEAD", 10)
    server.commits[FIRST] = {"data.bin": b"abc" * 100}
    with storage.open_input(f"{ROOT}@{FIRST}/data.bin") as file:
        assert b"".join(file.read(20) for _ in range(15)) == b"abc" * 100
    # To the hub once for what it is, once for where it is.
    assert sum(path.startswith("/datasets") for path in server.asked_paths) == 2
    hosts = {(host.split(":")[0], authorization) for host, _, authorization in server.asked}
    assert hosts == {("127.0.0.1", f"Bearer {TOKEN}"), ("localhost", None)}


# ---- runs ----------------------------------------------------------------------------------------------------


def recipe(root: str, *sets: str, more: str = ""):
    text = f"""
name: hub
seed: 3
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 64}}
sources:
  lines: {{read: {{format: jsonl, root: "{root}", path: "en/*.jsonl.gz"}}, weight: 0.4}}
  table: {{read: {{format: parquet, path: "{root}/table/*.parquet", key: url}}, weight: 0.6}}
mixture: {{tokens: 30K}}
{more}
"""
    return read(text, "hub.yaml", sets)


def corpus(seed: int = 0) -> Files:
    chance = random.Random(seed)
    words = [chance.randbytes(3).hex() for _ in range(500)]
    texts = [" ".join(chance.choices(words, k=chance.randint(5, 60))) for _ in range(240)]
    lines = [json.dumps({"text": t, "n": i}).encode() + b"\n" for i, t in enumerate(texts[:120])]
    table = pa.table({"text": texts[120:], "url": [f"u{i}" for i in range(120)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=30)
    return {
        "en/a.jsonl.gz": gzip.compress(b"".join(lines[:70]), mtime=0),
        "en/b.jsonl.gz": gzip.compress(b"".join(lines[70:]), mtime=0),
        "table/0.parquet": buffer.getvalue(),
    }


def put(folder: Path, files: Files) -> str:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def make(recipe, out: Path, until: str | None = None):
    return run(recipe, str(out), inline=True, until=until, progress=Progress(stream=None))


def published(out: Path) -> dict[str, bytes]:
    """Every published shard, index and provenance file."""
    opened = open_run(str(out))
    found = {}
    for source in opened.places:
        stage = Path(opened.stage(source, "shards"))
        for path in sorted(stage.rglob("*")):
            if path.is_file() and "records" not in path.parts and path.name != "stage.json":
                found[f"{source}/{path.relative_to(stage)}"] = path.read_bytes()
    return found


def test_a_run_from_the_hub_is_the_run_from_its_copy(
    server: Hub, waits: list[float], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    server.commits[FIRST] = corpus()
    server.faults += [busy, cut, down, short, cut]
    run(recipe(ROOT, "limits.split_bytes=2KB"), str(tmp_path / "hub"), inline=True)
    assert not server.faults
    first = published(tmp_path / "hub")
    assert any(name.endswith(".mds") for name in first)
    assert any(authorization for *_, authorization in server.asked)
    for path in (tmp_path / "hub").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err

    seen = len(server.asked)
    put(tmp_path / "copies" / NAME, corpus())
    table = tmp_path / "copies.yaml"
    table.write_text("hf://datasets: copies\n")  # seen from where the file is
    make(recipe(ROOT, f"mirrors={table}"), tmp_path / "copy")
    assert published(tmp_path / "copy") == first
    assert len(server.asked) == seen


def test_a_run_keeps_its_commit(server: Hub, tmp_path: Path) -> None:
    server.commits |= {FIRST: corpus(), SECOND: corpus(1)}
    out = tmp_path / "run"
    made = make(recipe(ROOT), out, "documents")
    server.refs |= {"main": SECOND, "v2": SECOND}
    forget()
    again = make(recipe(ROOT), out, "documents")
    assert not sum(again.redone.values())
    assert [s.files for s in again.plan.sources] == [s.files for s in made.plan.sources]
    assert [s.commit for s in again.plan.sources] == [FIRST, FIRST]
    frozen = read((out / "recipe.yaml").read_text(), "r.yaml")
    assert {s.read.revision for s in frozen.sources.values()} == {FIRST}
    assert frozen.sources["table"].read.root == f"{ROOT}/table"
    assert [s.files for s in plan(frozen).sources] == [s.files for s in made.plan.sources]
    pinned = recipe(f"{ROOT}@v2", "sources.table.read.path=hf://datasets/org/corpus@v2/table/*.parquet")
    kept = read(publish.frozen(plan(pinned)), "r.yaml").sources
    assert [s.read.revision for s in kept.values()] == [SECOND, SECOND]
    assert kept["table"].read.path == [f"{ROOT}/table/*.parquet"]
    # Another revision in the recipe is another commit, and a directory of its own has that of today.
    moved = plan(recipe(ROOT, "sources.lines.read.revision=v2"), commits=publish.commits_of(str(out)))
    assert [s.commit for s in moved.sources] == [SECOND, FIRST]
    assert [s.commit for s in plan(recipe(ROOT)).sources] == [SECOND, SECOND]


def test_damaged_commits_are_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"schema": 999, "commits": {}}'):
        (tmp_path / "revisions.json").write_text(text)
        with pytest.raises(SchemaError, match=r"revisions\.json"):
            publish.commits_of(str(tmp_path))


def test_ids_do_not_depend_on_the_revision(server: Hub) -> None:
    server.commits[FIRST] = corpus()
    server.refs["v1"] = FIRST
    plans = [plan(recipe(root)) for root in (ROOT, f"{ROOT}@v1", f"{ROOT}@{FIRST}")]
    halves = [[f.id_half(s.name) for s in p.sources for f in s.files] for p in plans]
    assert halves[0] == halves[1] == halves[2]
    with pytest.raises(
        RecipeError, match=r"hub\.yaml:7:.*the revision is 'v1' in the path and 'v2' in `revision`"
    ):
        plan(recipe(f"{ROOT}@v1", "sources.lines.read.revision=v2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refusal": (403, "GatedRepo")}, r"is gated: accept its terms at http.*/datasets/org/corpus and run"),
        ({"refusal": (401, "GatedRepo")}, "is gated"),
        ({"root": "hf://datasets/org/none"},
         "hf://datasets/org/none is not on the hub, or is private.*run `hf auth login`"),
        ({"root": f"{ROOT}@v9"}, "has no revision 'v9'; `hf repo tag list org/corpus --repo-type dataset`"),
        ({"root": f"{ROOT}@{'c' * 40}"}, "has no revision"),
    ],
)  # fmt: skip
def test_refusals_name_the_command(server: Hub, change: dict, message: str) -> None:
    server.commits[FIRST] = corpus()
    server.refusal = change.get("refusal")
    with pytest.raises(RecipeError, match=message) as caught:
        plan(recipe(change.get("root", ROOT)))
    assert str(caught.value).startswith("hub.yaml:7:")
    assert len(str(caught.value).splitlines()) == 1


# ---- without a network ---------------------------------------------------------------------------------------


def test_the_cache_stands_in_offline(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.commits[FIRST] = corpus()
    online = plan(recipe(ROOT))
    cache = tmp_path / "hub-cache" / "datasets--org--corpus"
    put(cache, {"refs/main": FIRST.encode()})
    for name, data in corpus().items():
        blob = put(cache, {f"blobs/{etag(data)}": data}) + f"/blobs/{etag(data)}"
        link = cache / "snapshots" / FIRST / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget()
    seen = len(server.asked)
    offline = plan(recipe(ROOT))
    assert [s.files for s in offline.sources] == [s.files for s in online.sources]
    for source in offline.sources:
        for file in source.files:
            assert storage.open_input(file.location).read() in corpus().values()
            assert hub.facts(file.location).fingerprint == file.fingerprint
    assert len(server.asked) == seen
    unknown = plan(recipe("hf://datasets/org/none")).sources[0].unknown
    assert "HF_HUB_OFFLINE is set, and hf://datasets/org/none is not in the hub's cache" in unknown


# ---- through the library `datasets` --------------------------------------------------------------------------


ROWS_OF = """
import json, sys
from winnow.shards import hub_dataset, readers, splits
found = []
for place in sys.argv[1:]:
    files = hub_dataset.list_shards("s", place, None, None)
    settings = readers.ReadSettings("dataset")
    rows = []
    for split in splits.cut("s", files, "dataset", 1):
        for batch in readers.read(split.pieces, settings, readers.Seen()):
            rows += zip(map(bytes.hex, batch.table["id"].to_pylist()), batch.table["text"].to_pylist())
    found.append([[(f.path, f.size) for f in files], [f.fingerprint for f in files], rows])
print(json.dumps(found))
"""


def test_a_data_set_from_the_hub_is_that_of_its_copy(server: Hub, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    texts = {f"data/{k}.jsonl": [f"{k} {i}" for i in range(3 + k)] for k in range(3)}
    files = {
        name: b"".join(json.dumps({"text": t}).encode() + b"\n" for t in said) for name, said in texts.items()
    }
    server.commits[FIRST] = files
    copy = put(tmp_path / "copy", files)
    away = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    # The library takes the hub's address when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", ROWS_OF, f"{ROOT}@{FIRST}", copy],
        env=os.environ | away,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    (listed, marks, rows), (listed_copy, _, rows_copy) = json.loads(done.stdout.splitlines()[-1])
    assert listed == [[f"default/train/{k:05d}-of-00003", len(d)] for k, d in enumerate(files.values())]
    assert listed_copy == listed
    assert marks == [f"commit:{FIRST} etag:{etag(d)[:40]}" for d in files.values()]
    assert [text for _, text in rows] == [t for said in texts.values() for t in said]
    assert rows_copy == rows
    assert TOKEN not in done.stdout + done.stderr
