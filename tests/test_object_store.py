"""Does an object store that fails now and then give and take the same bytes, and one that refuses say why?

A server that speaks S3 (moto) behind a proxy that spoils requests: benchmarks/flaky_s3.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines import open_run, run
from winnow.pipelines.engine import RunError
from winnow.pipelines.located import Document, RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.recipe_credentials import refuse_credentials
from winnow.pipelines.verifying import verify
from winnow.shards import inputs, object_store, ranged_file, s3, s3_put, storage, storage_errors
from winnow.shards.storage_errors import (
    ChangedError,
    MissingError,
    NoBucketError,
    RefusedError,
    StorageError,
    UnusableError,
)

ROOT = Path(__file__).resolve().parents[1]
STDLIB = Path(sysconfig.get_path("stdlib"))
KINDS = ("500", "503", "slow", "truncated", "short", "reset", "lost")
KEY, SECRET, TOKEN = "AKIAODDKEYOFWINNOW12", "s3cr3t/Of+A=very.odd-kind", "tok3n//of==an+odd&kind"
OTHER_KEY = "AKIANEWKEYOFWINNOW34"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "s3://corpora"


class Server:
    """The flaky server, and what it is to spoil."""

    def __init__(self, address: str):
        self.address = address

    def set(self, **wanted: object) -> None:
        body = json.dumps({"rate": 0.0, "kinds": KINDS, "slow_s": 0.01, "refuse": {}} | wanted).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/_faults", body)).close()

    def get(self, what: str) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.address}/_{what}") as answer:
            return json.load(answer)

    @property
    def requests(self) -> int:
        return sum(self.get("requests").values())


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    place = tmp_path_factory.mktemp("s3") / "address"
    command = [
        sys.executable,
        ROOT / "benchmarks" / "flaky_s3.py",
        "--port-file",
        place,
        "--bucket",
        "corpora",
    ]
    with subprocess.Popen([*command, "--rate", "0"], stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 120
            while not place.exists():
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
            yield Server(place.read_text())
        finally:
            process.terminate()


@pytest.fixture
def server(started, monkeypatch):
    """The server, that spoils nothing yet, and a client that waits for nothing."""
    started.set()
    for name in list(os.environ):
        if name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
    for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": started.address}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "clients", s3._Clients())
    monkeypatch.setattr(storage_errors, "sleep", lambda _: None)
    yield started
    started.set()


@pytest.fixture
def place(server, request):
    """A directory of the test's own."""
    return f"{BUCKET}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_whatever_fails(server, place, monkeypatch, kind):
    monkeypatch.setattr(ranged_file, "FIRST_READ", 300)
    monkeypatch.setattr(ranged_file, "READ_AHEAD", 700)
    data = noise(5000)
    server.set(rate=0.5, kinds=[kind], seed=3)
    storage.put_bytes(f"{place}/a b/ü?#%.bin", data)
    storage.put_bytes(f"{place}/.hidden/x", b"x")
    storage.put_bytes(f"{place}/empty", b"")
    storage.copy(f"{place}/a b/ü?#%.bin", f"{place}/copy")
    assert storage.list_files(place) == {"a b/ü?#%.bin": 5000, "copy": 5000, "empty": 0}
    assert storage.read_bytes(f"{place}/copy") == data
    assert storage.read_bytes(f"{place}/empty") == b""
    assert storage.read_range(f"{place}/a b/ü?#%.bin", 4000, 1000) == data[4000:]
    assert (storage.size(f"{place}/copy"), storage.exists(f"{place}/copy")) == (5000, True)
    assert not storage.exists(f"{place}/nothing")
    with storage.open_input(f"{place}/copy") as file:
        assert file.read(10) == data[:10]
        assert file.seek(-100, os.SEEK_END) == 4900
        assert file.read() == data[-100:]
        file.seek(7)
        assert io.BufferedReader(file).read() == data[7:]
    storage.remove(place)
    assert storage.list_files(place) == {}
    assert server.get("faults")[kind] > 0


def test_a_short_answer_is_the_end_for_fsspec_and_not_for_us(server, place):
    data = noise(200_000)
    storage.put_bytes(f"{place}/a", data)
    server.set(rate=1.0, kinds=["short"])
    plain = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    key = f"{place}/a".removeprefix("s3://")
    assert len(plain.cat_file(key, start=0, end=200_000)) < 200_000
    server.set(rate=0.6, kinds=["short"], seed=1)
    assert storage.read_range(f"{place}/a", 0, 200_000) == data
    with storage.open_input(f"{place}/a") as file:
        assert file.read() == data


@pytest.mark.parametrize(("start", "length"), [(0, 11), (8, 3), (10, 1), (20, 5)])
def test_a_range_beyond_the_end_is_an_error(server, place, start, length):
    storage.put_bytes(f"{place}/a.bin", b"0123456789")
    wanted = rf"a\.bin: {length} bytes wanted at {start}, {max(10 - start, 0)} there$"
    with pytest.raises(OSError, match=wanted):
        storage.read_range(f"{place}/a.bin", start, length)


def test_arrow_reads_through_it(server, place, tmp_path):
    table = pa.table({"text": [f"row {i}" for i in range(5000)]})
    with storage.commit(f"{place}/a.parquet") as path:
        pq.write_table(table, path, row_group_size=500)
    server.set(rate=0.2, seed=2)
    with storage.open_input(f"{place}/a.parquet") as file:
        assert pq.read_table(file) == table


def test_a_stalled_answer_is_asked_for_again(server, place, monkeypatch):
    storage.put_bytes(f"{place}/a", b"data")
    monkeypatch.setattr(s3, "ANSWER_S", 0.3)
    monkeypatch.setattr(s3, "clients", s3._Clients())
    server.set(rate=0.5, kinds=["slow"], slow_s=30.0, seed=4)
    before = server.get("faults").get("slow", 0)
    for _ in range(3):
        assert storage.read_bytes(f"{place}/a") == b"data"
    assert server.get("faults")["slow"] > before


def test_a_file_that_changes_while_it_is_read_is_an_error(server, place, monkeypatch):
    monkeypatch.setattr(ranged_file, "FIRST_READ", 100)
    storage.put_bytes(f"{place}/a", noise(1000))
    with storage.open_input(f"{place}/a") as file:
        file.read(100)
        storage.put_bytes(f"{place}/a", noise(1000, seed=1))
        with pytest.raises(ChangedError, match=rf"{place}/a: was changed while it was read; run again$"):
            file.read(100)


def test_a_file_that_goes_away_while_it_is_read_is_an_error(server, place, monkeypatch):
    monkeypatch.setattr(ranged_file, "FIRST_READ", 100)
    storage.put_bytes(f"{place}/a", noise(1000))
    with storage.open_input(f"{place}/a") as file:
        storage.remove(f"{place}/a")
        with pytest.raises(FileNotFoundError):
            file.read(100)


# ---- writing --------------------------------------------------------------------------------------------------


def test_a_large_file_goes_in_parts(server, place, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_put, "ONE_PUT", 1 << 20)
    monkeypatch.setattr(s3_put, "PART", 5 << 20)
    data = noise((11 << 20) + 17)
    server.set(rate=0.3, seed=5)
    with storage.commit(f"{place}/large") as path:
        Path(path).write_bytes(data)
    server.set()
    assert storage.read_bytes(f"{place}/large") == data
    assert s3.known(f"{place}/large").etag.endswith("-3")
    assert uploads() == []


def uploads() -> list[str]:
    return [u["Key"] for u in s3.clients.get().list_multipart_uploads(Bucket="corpora").get("Uploads", ())]


def lose_first_answer(monkeypatch, method: str, then: Exception | None = None) -> None:
    """The store does what it is asked the first time, and nobody hears of it; later it raises `then`."""
    client, lost = s3.clients.get(), []
    real = getattr(client, method)

    def served(**options):
        if lost and then is not None:
            raise then
        answer = real(**options)
        if not lost:
            lost.append(answer)
            raise ConnectionResetError
        return answer

    monkeypatch.setattr(client, method, served)


def test_a_large_file_whose_last_answer_is_lost_is_there(server, place, monkeypatch):
    monkeypatch.setattr(s3_put, "ONE_PUT", 100)
    gone = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
    lose_first_answer(monkeypatch, "complete_multipart_upload", ClientError(gone, "CompleteMultipartUpload"))
    storage.put_bytes(f"{place}/large", noise(1000))
    assert storage.read_bytes(f"{place}/large") == noise(1000)


def test_parts_of_an_upload_that_fails_are_deleted(server, place, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_put, "ONE_PUT", 1 << 20)
    monkeypatch.setattr(s3_put, "PART", 5 << 20)
    request = s3.request

    def refused(location, method, **options):
        if method == "upload_part" and options["PartNumber"] == 2:
            raise RefusedError("no more")
        return request(location, method, **options)

    monkeypatch.setattr(s3, "request", refused)
    with pytest.raises(RefusedError), storage.commit(f"{place}/large") as path:
        Path(path).write_bytes(noise(6 << 20))
    assert not storage.exists(f"{place}/large")
    assert uploads() == []


def test_an_object_of_another_size_than_was_put_is_an_error(server, place, monkeypatch):
    real = s3.facts
    monkeypatch.setattr(s3, "facts", lambda location: s3.Facts(3, real(location).etag))
    with pytest.raises(StorageError, match="the store took 4 bytes and holds 3 bytes"):
        storage.put_bytes(f"{place}/a", b"data")


# ---- listing --------------------------------------------------------------------------------------------------


def test_a_listing_of_many_pages_is_whole(server, place):
    names = {f"d{i % 3}/{i:03d}": 1 for i in range(40)} | {"top": 1}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.put_bytes(f"{place}/{n}", b"x"), names))
    storage.put_bytes(f"{place}-beside/a", b"x")
    s3.request(f"{place}/d0/", "put_object", Body=b"")  # a console's folder
    small = lambda params, **_: params.setdefault("MaxKeys", 7)  # noqa: E731
    s3.clients.get().meta.events.register("before-parameter-build.s3.ListObjectsV2", small)
    server.set(rate=0.4, seed=7)
    assert storage.list_files(place) == names
    assert {path for path, *_ in object_store.walk(place, 1)} == {"top"}
    assert {path for path, *_ in object_store.walk(place, 2)} == names.keys()
    found = inputs.list_source("s", place, ["d1/*"])
    assert [f.path for f in found] == sorted(n for n in names if n.startswith("d1/"))
    assert {f.location for f in found} == {f"{place}/{f.path}" for f in found}
    piece = inputs.Piece(
        0, found[0].location, found[0].path, 0, 1, file_size=1, fingerprint=found[0].fingerprint
    )
    inputs.check_unchanged(piece)
    storage.put_bytes(found[0].location, b"y")
    with pytest.raises(inputs.InputError, match="changed since the run was planned"):
        inputs.check_unchanged(piece)


def test_what_is_not_there_lists_as_empty(server, place):
    assert storage.list_files(f"{place}/nowhere") == {}
    with pytest.raises(inputs.InputError, match="matches no file"):
        inputs.list_source("s", place, ["*.jsonl"])


# ---- refusals -------------------------------------------------------------------------------------------------

READS = {
    "size": storage.size,
    "exists": storage.exists,
    "read_bytes": storage.read_bytes,
    "read_range": lambda location: storage.read_range(location, 0, 1),
    "open_input": storage.open_input,
    "list_files": storage.list_files,
    "remove": storage.remove,
    "put_bytes": lambda location: storage.put_bytes(location, b"x"),
    "copy": lambda location: storage.copy(location, f"{location}.copy"),
}
each_operation = pytest.mark.parametrize("operation", READS)


@each_operation
def test_a_bucket_that_is_not_there_is_no_empty_one(server, operation):
    with pytest.raises(
        NoBucketError, match=r"s3://nowhere/a\S*: there is no bucket 'nowhere'; make it"
    ) as caught:
        READS[operation]("s3://nowhere/a")
    assert caught.value.permanent
    assert not isinstance(caught.value, FileNotFoundError)


@each_operation
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "ExpiredToken",
            "the credentials are expired; give the nodes fresh ones; the same command continues$",
        ),
        ("AccessDenied", r"the store refuses us \(AccessDenied: .*look at the nodes' credentials"),
    ],
)
def test_a_refusal_is_an_error_at_once(server, place, operation, code, said):
    server.set(refuse={KEY: code})
    before = server.requests
    with pytest.raises(PermissionError, match=said) as caught:
        READS[operation](f"{place}/a")
    assert caught.value.permanent
    assert isinstance(caught.value, StorageError)
    assert server.requests - before <= 4
    assert_nothing_of_a_credential(str(caught.value))


@pytest.mark.parametrize("operation", ["exists", "read_bytes", "list_files"])
def test_fresh_credentials_are_taken_up(server, place, operation, monkeypatch):
    storage.put_bytes(f"{place}/a", b"x")
    server.set(refuse={KEY: "ExpiredToken"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OTHER_KEY)
    assert READS[operation](f"{place}/a") in (True, b"x", {})


def test_no_credentials_are_an_error_with_what_to_do(server, place, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RefusedError, match=r"no credentials for S3 are found here .*set AWS_ACCESS_KEY_ID"):
        storage.exists(f"{place}/a")


PROFILE = "[profile absent]\ncredential_process = /nowhere/program --key s3cr3t\n"
IDENTITY = {
    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
}


@pytest.mark.parametrize("kind", ["process", "identity"])
def test_credentials_whose_file_is_missing_are_none(server, place, monkeypatch, tmp_path, kind):
    """Not a file that is missing on the store, nor a connection to wait for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(PROFILE)
    settings = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "absent"}
    for name, value in (settings if kind == "process" else IDENTITY).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage_errors, "sleep", lambda _: pytest.fail("waited"))
    for ask in (storage.exists, storage.read_bytes):
        with pytest.raises(
            RefusedError, match=r"no credentials for S3 are found here \(FileNotFoundError"
        ) as caught:
            ask(f"{place}/a")
        assert not isinstance(caught.value, FileNotFoundError)
        assert caught.value.permanent
        assert "s3cr3t" not in str(caught.value)


def test_a_missing_file_is_missing(server, place):
    for operation in ("size", "read_bytes", "read_range", "open_input", "copy"):
        with pytest.raises(FileNotFoundError, match="there is no such file") as caught:
            READS[operation](f"{place}/nothing")
        assert isinstance(caught.value, MissingError)
        assert caught.value.permanent
    assert storage.exists(f"{place}/nothing") is False


@each_operation
def test_a_store_that_stays_busy_is_given_up(server, place, operation, monkeypatch):
    """And `exists` does not say no."""
    monkeypatch.setattr(storage_errors, "PATIENCE_S", 2.0)
    server.set(rate=1.0, kinds=["503"])
    with pytest.raises(
        StorageError, match=r"does not serve it \(503 \w+; tried \d+ times, waited \d+ s\)"
    ) as caught:
        READS[operation](f"{place}/a")
    assert not caught.value.permanent
    assert not isinstance(caught.value, (FileNotFoundError, PermissionError))


def test_a_store_that_never_answered_is_given_up_sooner(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:hidden-word@127.0.0.1:9")
    monkeypatch.setattr(s3, "SILENCE_S", 1.0)
    with pytest.raises(
        StorageError, match=r"EndpointConnectionError at 127\.0\.0\.1:9; tried \d+ times"
    ) as caught:
        storage.exists(f"{BUCKET}/a")
    assert "hidden-word" not in str(caught.value)


def test_settings_that_are_none_are_said(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(
        UnusableError, match="the settings of S3 cannot be used: Invalid endpoint: no address"
    ):
        storage.exists(f"{BUCKET}/a")


def test_fsspecs_settings_count(server, place, monkeypatch):
    from fsspec.config import conf

    s3.request(f"{place}/a", "put_object", Body=b"x", ACL="public-read")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setitem(conf, "s3", {"anon": "true", "endpoint_url": server.address})
    monkeypatch.setattr(s3, "clients", s3._Clients())
    assert storage.read_bytes(f"{place}/a") == b"x"


def test_a_forked_process_has_a_client_of_its_own(server):
    first = s3.clients.get()
    assert s3.clients.get() is first
    child = os.fork()
    if child == 0:
        os._exit(0 if s3.clients.get() is not first else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    "kind", [StorageError, NoBucketError, RefusedError, MissingError, ChangedError, UnusableError]
)
def test_errors_travel_between_processes(kind):
    there = pickle.loads(pickle.dumps(kind("s3://b/a: no")))
    assert (type(there), str(there), there.permanent) == (kind, "s3://b/a: no", kind is not StorageError)


# ---- credentials ----------------------------------------------------------------------------------------------


def assert_nothing_of_a_credential(text: str) -> None:
    for secret in (KEY, SECRET, TOKEN, OTHER_KEY, "Signature"):
        assert secret not in text


@pytest.mark.parametrize(
    "location",
    [
        "s3://AKIAODDKEYOFWINNOW12:s3cr3t@corpora/a",
        "s3://AKIAODDKEYOFWINNOW12@corpora/a",
        "s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/s3cr3t/bPxRfiCYEXAMPLEKEY@corpora/a",
        "S3A://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/s3cr3t@corpora/a",
        "gs://GOOG1EXAMPLE:s3cr3t/b@corpora/a",
        "simplecache::s3://AKIAODDKEYOFWINNOW12:s3cr3t/b@corpora/a",
        "zip://a.jsonl::s3://AKIAODDKEYOFWINNOW12:s3cr3t/b@corpora/a.zip",
        "https://user:s3cr3t@host/a.jsonl",
        "https://host/a.jsonl?X-Amz-Algorithm=A&X-Amz-Credential=AKIAODDKEYOFWINNOW12&X-Amz-Signature=s3cr3t",
        "https://host/a.jsonl?sv=1&sig=s3cr3t",
        "https://host/a.jsonl?Expires=1&Signature=s3cr3t",
    ],
)
def test_a_location_with_credentials_is_refused(location):
    for refused in (storage.absolute, storage.check_location):
        with pytest.raises(
            inputs.InputError, match=r"://(corpora|host)/a\S*: a location with a key or a sig"
        ) as caught:
            refused(location)
        assert "AKIA" not in str(caught.value)
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "s3://b/a@b",
        "https://host/a?design=1",
        "https://host:8080/a:b@c",
        "hf://datasets/o/n@main/a",
        "hf://datasets@main/a",
        "/a@b/c:d",
        "gs://b/a:b@c",
        "abfs://container@account.dfs.core.windows.net/a",
        "zip://a.jsonl::s3://b/a@b.zip",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint:name/a",
        "a/" * 100_000 + "://",
    ],
)
def test_a_location_without_is_not(location):
    storage.check_location(location)


@pytest.mark.parametrize("bucket", ["AKIAODDKEYOFWINNOW12:s3cr3t", "AKIAODDKEYOFWINNOW12:s3cr3t@corpora"])
def test_a_key_for_a_bucket_is_not_repeated(bucket):
    for ask in (s3.place, storage.check_location):
        with pytest.raises((UnusableError, inputs.InputError)) as caught:
            ask(f"s3://{bucket}/a")
        assert "s3cr3t" not in str(caught.value)
        assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (" s3://KEY:s3cr3t@corpora/a", True),
        ("s3://KEY:s3cr3t/b@corpora/my file.jsonl", True),
        ("s3://corpora/my file.jsonl?sig=s3cr3t", True),
        ("simplecache::s3://KEY:s3cr3t@corpora/a", True),
        ("read s3://KEY:s3cr3t@corpora/a", True),
        ("Look at https://example.com or write to us@example.com", False),
        ("what lies on s3://corpora: all of it", False),
        ("https?://\\S+@", False),
    ],
)
def test_what_a_recipe_says_is_searched_for_keys(value, refused):
    if refused:
        with pytest.raises(RecipeError, match="a location with a key or a signature in it") as caught:
            refuse_credentials(Document("x.yaml", {"a": [value]}))
        assert "s3cr3t" not in str(caught.value)
    else:
        refuse_credentials(Document("x.yaml", {"a": [value]}))


@given(st.text(), st.sampled_from([KEY, SECRET, TOKEN]), st.text())
def test_scrubbed_text_has_no_credential(before, secret, after):
    assert secret not in storage_errors.scrub(before + secret + after, KEY, SECRET, TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "key ASIAABCDEFGHIJKLMNOP is bad",
        "https://h/p?X-Amz-Signature=abcdef0123&x=1",
        "http://user:hush@host/x",
        "no s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/hush/bPxRfiCYEXAMPLEKEY@bucket/in",
        "no simplecache::s3://key:a/hush/b@bucket/in",
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAABCDEFGHIJKLMNOP/x, Signature=abcdef0123",
        "Bearer abcdef0123",
    ],
)
def test_what_looks_like_a_credential_is_scrubbed(text):
    scrubbed = storage_errors.scrub(text)
    for secret in ("ABCDEFGHIJKLMNOP", "abcdef0123", "hush", "IOSFODNN7", "EXAMPLEKEY"):
        assert secret not in scrubbed


# ---- other stores ---------------------------------------------------------------------------------------------


class Stingy(fsspec.get_filesystem_class("memory")):
    """A store whose answers are short, cut off or silent in turn, on every path."""

    protocol = "stingy"
    asked = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("stingy://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        Stingy.asked += 1
        if Stingy.asked % 4 == 0:
            raise ConnectionResetError
        data = super().cat_file(path, start, end, **kwargs)
        return data[: (len(data) + 1) // 2] if Stingy.asked % 4 != 1 else b""


def test_short_answers_of_other_stores_are_no_ends(monkeypatch):
    monkeypatch.setattr(storage_errors, "sleep", lambda _: None)
    monkeypatch.setattr(ranged_file, "FIRST_READ", 300)
    fsspec.register_implementation("stingy", Stingy, clobber=True)
    data = noise(10_000)
    Stingy().pipe_file("/d/a", data)
    assert storage.read_bytes("stingy://d/a") == data
    assert storage.read_range("stingy://d/a", 5000, 5000) == data[5000:]
    with storage.open_input("stingy://d/a") as file:
        file.seek(9000)
        assert file.read(500) == data[9000:9500]
        assert file.read() == data[9500:]


class HttpError(Exception):
    """As gcsfs's, aiohttp's, azure's: no OSError."""


class Foreign(Stingy):
    """A store whose library has errors of its own."""

    protocol = "foreign"
    error: Exception = HttpError("403 for https://host/a?X-Goog-Signature=0123abcd, Bearer hush")

    def _fail(self, *args, **kwargs):
        raise self.error

    info = find = cat_file = put_file = pipe_file = rm = _fail  # type: ignore[assignment]


def test_errors_of_a_stores_library_come_out_as_ours(monkeypatch, tmp_path):
    fsspec.register_implementation("foreign", Foreign, clobber=True)
    place = "foreign://d/a"
    (tmp_path / "a").write_bytes(b"x")
    asks = [
        lambda: storage.read_bytes(place),
        lambda: storage.exists(place),
        lambda: storage.list_files(place),
        lambda: storage.put_bytes(place, b"x"),
        lambda: storage.remove(place),
        lambda: object_store.FsspecFile(place, 3).fetch(0, 3),
    ]
    for ask in asks:
        with pytest.raises(StorageError, match=r"^foreign://d.* \(HttpError: 403 for") as caught:
            ask()
        assert not caught.value.permanent
        assert "0123abcd" not in str(caught.value)
        assert "hush" not in str(caught.value)
        assert caught.value.__suppress_context__, "a traceback shows no more than the message"
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    for error in (PermissionError("no"), FileNotFoundError("none"), ImportError("gcsfs")):
        monkeypatch.setattr(Foreign, "error", error)
        with pytest.raises(type(error), match=f"^{error}$"):
            storage.read_bytes(place)
    monkeypatch.setattr(Foreign, "error", NotImplementedError())
    with pytest.raises(UnusableError):
        storage.put_bytes(place, b"x")


# ---- whole runs -----------------------------------------------------------------------------------------------

RECIPE = """
name: elsewhere
tokenizer: {name: mistral-7b-v0.1, pad_token: <unk>}
sequence: {length: 128}
sources:
  left: {read: {format: jsonl, path: "PLACE/left/*.jsonl.gz"}}
  right: {read: {format: parquet, path: "PLACE/right.parquet"}}
dedup: {exact: {across: [left, right]}}
mixture: {epochs: 1, output: mixed}
limits: {split_bytes: 30KB}
shards: {size_limit: 16KB}
"""
SILENT = Progress(stream=None)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two sources on this disk."""
    folder = tmp_path_factory.mktemp("texts")
    pages = [p.read_text(encoding="utf-8", errors="replace")[:6000] for p in sorted(STDLIB.glob("[a-d]*.py"))]
    pages = [page for page in pages if page][:8]
    (folder / "left").mkdir()
    for i in range(2):
        rows = "".join(json.dumps({"text": page}) + "\n" for page in pages[i::2])
        (folder / "left" / f"{i}.jsonl.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
    pq.write_table(
        pa.table({"text": [*pages[5:], "and one more\n" * 9]}), folder / "right.parquet", row_group_size=2
    )
    return folder


@pytest.fixture(scope="module")
def on_disk(texts):
    """What a run on this disk publishes."""
    out = str(texts / "run")
    run(read(RECIPE.replace("PLACE", str(texts)), "r.yaml"), out, inline=True, progress=SILENT)
    return published(out)


def published(out: str) -> dict[str, str]:
    """Hashes of the shards and of where each sample comes from; and the mixture's facts."""
    found = {}
    for stream in json.loads(storage.read_bytes(storage.join(out, "manifest.json")))["streams"]:
        stage = storage.join(out, "stages", stage_of(stream["directory"]))
        for name in storage.list_files(stage):
            if name.endswith((".mds", ".parquet", "index.json")):
                data = storage.read_bytes(storage.join(stage, name))
                found[f"{stream['name']}/{name}"] = hashlib.sha256(data).hexdigest()
    return found


def stage_of(directory: str) -> str:
    return directory.split("/", 1)[0]


def everything_of(location: str) -> bytes:
    return b"".join(storage.read_bytes(f"{location}/{name}") for name in storage.list_files(location))


def recipe_of(place: str, texts: Path) -> str:
    for path in texts.rglob("*"):
        if path.suffix in (".gz", ".parquet") and "run" not in path.relative_to(texts).parts:
            storage.put_bytes(f"{place}/in/{path.relative_to(texts).as_posix()}", path.read_bytes())
    return RECIPE.replace("PLACE", f"{place}/in")


def test_a_run_on_a_flaky_store_is_a_run_on_a_disk(server, place, texts, on_disk):
    recipe = recipe_of(place, texts)
    server.set(rate=0.08, seed=8)
    run(read(recipe, "r.yaml"), f"{place}/run", inline=True, progress=SILENT)
    assert list(verify(open_run(f"{place}/run"))) == []
    server.set()
    assert published(f"{place}/run") == on_disk
    assert len(on_disk) > 3
    written = everything_of(f"{place}/run")
    for secret in (KEY, SECRET, TOKEN):
        assert secret.encode() not in written


class Expire(Progress):
    """Lets the credentials expire when some tasks are done."""

    def __init__(self, server: Server, after: int):
        super().__init__(stream=None)
        self.server, self.left = server, after

    def advance(self, *args, **kwargs):
        super().advance(*args, **kwargs)
        self.left -= 1
        if self.left == 0:
            self.server.set(refuse={KEY: "ExpiredToken"})


def records_of(location: str) -> dict[str, object]:
    """When each task's record was written."""
    names = [n for n in storage.list_files(location) if "/records/" in n]
    return {n: s3.request(f"{location}/{n}", "head_object")["LastModified"] for n in names}


def test_a_run_whose_credentials_expire_goes_on_with_others(server, place, texts, on_disk, monkeypatch):
    recipe, out = read(recipe_of(place, texts), "r.yaml"), f"{place}/run"
    said = "the credentials are expired; give the nodes fresh ones; the same command continues"
    with pytest.raises((RunError, inputs.InputError), match=said):
        run(recipe, out, inline=True, progress=Expire(server, 6))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OTHER_KEY)
    monkeypatch.setattr(s3, "clients", s3._Clients())
    before = records_of(out)
    assert len(before) >= 6
    storage.remove(f"{out}/lease.json")  # of this process, which lives on here and could not give it back
    time.sleep(1.1)  # S3 tells time in seconds
    run(recipe, out, inline=True, progress=SILENT)
    assert published(out) == on_disk
    after = records_of(out)
    assert {n: after[n] for n in before} == before
    assert len(after) > len(before)


def test_the_command_runs_on_a_flaky_store_with_ray(server, place, texts, on_disk, tmp_path):
    """And leaves no credential in what it prints, in RUN or in what Ray logs."""
    (tmp_path / "r.yaml").write_text(recipe_of(place, texts))
    server.set(rate=0.08, seed=9)
    ray_files = tempfile.mkdtemp(prefix="w", dir="/tmp")  # a socket's path is short
    try:
        command = [sys.executable, "-m", "winnow.pipelines.command", "run", str(tmp_path / "r.yaml"),
                   "--out", f"{place}/run", "--workers", "2"]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env=os.environ | {"RAY_TMPDIR": ray_files}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        logs = [p for p in Path(ray_files).rglob("*") if p.is_file() and "logs" in p.parts]
        assert len(logs) > 5
        written = [p.read_bytes() for p in logs]
    finally:
        shutil.rmtree(ray_files, ignore_errors=True)
    server.set()
    assert published(f"{place}/run") == on_disk
    written += [everything_of(f"{place}/run"), done.stdout.encode(), done.stderr.encode()]
    for secret in (KEY, SECRET, TOKEN):
        assert not any(secret.encode() in data for data in written)


def test_a_run_into_no_bucket_is_an_error_before_any_work(server, texts):
    recipe = read(RECIPE.replace("PLACE", str(texts)), "r.yaml")
    with pytest.raises(OSError, match=r"s3://nowhere/run/\S+: there is no bucket 'nowhere'; make it"):
        run(recipe, "s3://nowhere/run", inline=True, progress=SILENT)
