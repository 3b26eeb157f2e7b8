"""What an input, a recipe or a run of somebody else's may not do, and who may speak to a Ray of our own."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from winnow.pipelines import command, open_run, publish, run, terminal, verifying
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import load, read
from winnow.pipelines.records import SchemaError
from winnow.pipelines.tracing import Tracer
from winnow.pipelines.tracing_report import said_of_piece
from winnow.pipelines.train_corpus import TrainingRun
from winnow.pipelines.train_settings import TrainInputError
from winnow.shards import feed, mds, plain_yaml, readers
from winnow.shards.inputs import Piece
from winnow.shards.readers import ReadSettings

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("pipelines", "filters", "tokenize", "shards")
SILENT = Progress(stream=None)
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e"
"""Sets a terminal's title, clears it, and turns the direction of writing round."""


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path):
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (self.place, "w"))


def test_the_pickle_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "pwned")))
    assert (tmp_path / "pwned").exists()


# ---- Ray ------------------------------------------------------------------------------------------------------

LISTENERS = """
import ipaddress, json, os, sys, time
from winnow.pipelines.cluster import Cluster
from winnow.pipelines.interrupt import descendants

def sockets(pid):
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]

def address(hexadecimal):
    words = [int(hexadecimal[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(hexadecimal), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return str(getattr(found, "ipv4_mapped", None) or found)

def listening():
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    yield fields[9], address(fields[1].split(":")[0])

def mine():
    found = {}
    for pid in [os.getpid(), *descendants(os.getpid())]:
        try:
            found |= dict.fromkeys(sockets(pid), pid)
        except OSError:
            pass  # it has ended
    return found

def told(token):
    import grpc
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
        return "answered"

cluster = Cluster(sys.argv[1], None, 1, 1 << 28, lambda: None)
import ray
until = time.monotonic() + 60
# Agents and workers begin to listen some time after the start.
found = []
while len(found) < 7 and time.monotonic() < until:
    time.sleep(0.5)
    own = mine()
    found = [address for socket, address in listening() if socket in own]
answers = [told(""), told("a guess"), told(os.environ["RAY_AUTH_TOKEN"])]
cluster.close()
print(json.dumps({"listening": found, "answers": answers}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="sockets are listed in /proc")
def test_a_ray_of_our_own_listens_to_this_machine_and_to_its_token_alone(tmp_path: Path) -> None:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS, str(tmp_path / "run")],
        capture_output=True, text=True, timeout=240, env=variables | {"RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["listening"]) >= 5, "the driver, the GCS, the raylet, its agents and a worker"
    assert set(found["listening"]) <= {"127.0.0.1", "::1"}
    assert found["answers"] == ["UNAUTHENTICATED", "UNAUTHENTICATED", "answered"]


# ---- recipes --------------------------------------------------------------------------------------------------

HOSTILE_RECIPES = {
    "laughs": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)),
    "many": "a: [" + "x," * 60_000 + "]",
    "keys": "".join(f"k{i}: 1\n" for i in range(60_000)),
    "deep": "{a: " * 3000,
    "dashes": "- " * 100_000,
    "number": "seed: 0b" + "1" * 1_000_000,
    "sexagesimal": "seed: 1" + ":1" * 500_000,
    "large": "# \n" * 3_000_000,
    "text": "name: " + "x" * 4_000_000,
    "twice": "name: a\nname: b\n",
    "merge-twice": "name: a\n<<: {name: b}\n<<: {name: c}\n",
    "python": "seed: !!python/object/apply:os.system [touch pwned]\n",
}
VALIDATE = """
import resource, sys, time
from winnow.pipelines import located
from winnow.pipelines.located import RecipeError
from winnow.pipelines.recipe import load
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
located.MOST_NODES = 20_000  # a fifth of the time
for name in sys.argv[1:]:
    before = time.process_time()
    try:
        load(name)
    except RecipeError as error:
        print(name, str(error).splitlines()[0])
    assert time.process_time() - before < 30, name
"""


def test_hostile_recipes_are_located_errors_in_bounded_memory(tmp_path: Path) -> None:
    for name, text in HOSTILE_RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    names = [f"{name}.yaml" for name in HOSTILE_RECIPES]
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE, *names], capture_output=True, text=True, cwd=tmp_path, timeout=240
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(said) == names
    assert all(message.startswith(f"{name}:") for name, message in said.items())
    too_large = ": the recipe is too large or nested too deeply"
    assert {name for name, message in said.items() if message.endswith(too_large)} == {
        "laughs.yaml", "merges.yaml", "many.yaml", "keys.yaml", "large.yaml"
    }  # fmt: skip
    assert said["twice.yaml"] == "twice.yaml:2:1: the key 'name' is there twice"
    assert said["merge-twice.yaml"] == "merge-twice.yaml:3:1: the key '<<' is there twice"
    assert said["sexagesimal.yaml"].endswith("cannot be read as YAML's int")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


REACH = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


def with_template(root: Path, setting: str) -> Path:
    (root / "a.jsonl").write_text(
        json.dumps({"text": "x", "said": [{"role": "user", "content": "x"}]}) + "\n"
    )
    path = root / "r.yaml"
    path.write_text(
        "name: t\ntokenizer: {name: mistral-7b-v0.1}\nsequence: {length: 4}\nmax_bad_rows: 1\nsources:\n"
        f'  s: {{read: {{format: jsonl, path: "{root}/a.jsonl", {setting}}}}}\n'
    )
    return path


def test_templates_of_a_recipe_reach_nothing_of_python(tmp_path: Path) -> None:
    path = with_template(tmp_path, f'chat: {{column: said, template: "{REACH}"}}')
    with pytest.raises(ValueError, match="access to attribute '__class__'") as caught:
        run(load(str(path)), str(tmp_path / "run"), until="documents", inline=True, progress=SILENT)
    assert str(caught.value).startswith(f"{path}:6:")
    path = with_template(tmp_path, f'template: "{REACH}"')
    made = run(load(str(path)), str(tmp_path / "run"), until="documents", inline=True, progress=SILENT)
    (record,) = made.sources["s"].documents.records
    assert record.counts["lost"] == {"template": 1}


# ---- archives -------------------------------------------------------------------------------------------------

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
WRITTEN: list[str] = []
WATCHING: list[bool] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not WATCHING:
        return
    if event == "open":
        _, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITES):
            WRITTEN.append(str(arguments[0]))
    elif event in (
        "os.mkdir",
        "os.symlink",
        "os.link",
        "os.rename",
        "os.remove",
        "os.chmod",
        "os.chown",
        "os.truncate",
    ):
        WRITTEN.append(f"{event} {arguments[0]}")


@pytest.fixture(scope="module")
def heard() -> None:
    """Whatever is written or changed on disk; Python forgets no audit hook, so this one is silent otherwise."""
    sys.addaudithook(_hear)


@contextmanager
def nothing_written() -> Iterator[None]:
    WRITTEN.clear()
    WATCHING.append(True)
    try:
        yield
    finally:
        WATCHING.clear()
    assert not WRITTEN


def texts_of(path: Path) -> list[str]:
    piece = Piece(0, str(path), path.name, 7, path.stat().st_size)
    found = readers.read([piece], ReadSettings("text"), readers.Seen())
    return [text for batch in found for text in batch.table.column("text").to_pylist()]


def test_archives_never_touch_the_disk(tmp_path: Path, heard: None) -> None:
    names = ["../up", "/absolute", "a/../../up", "plain", "C:\\up", "..", "a/./b"]
    special = {
        "sym": tarfile.SYMTYPE,
        "link": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "device": tarfile.BLKTYPE,
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, kind in special.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "elsewhere")
            archive.addfile(info)
        for name in [*names, "sym/through-a-link"]:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    (tmp_path / "a.tar.gz").write_bytes(packed.getvalue())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
        linked = zipfile.ZipInfo("sym")
        linked.external_attr = 0o120777 << 16
        archive.writestr(linked, str(tmp_path / "elsewhere"))
        # An archive in an archive is not opened, so that one that holds itself is only a member.
        archive.writestr("inner.zip", (tmp_path / "a.tar.gz").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with nothing_written():
        assert set(names) - {".."} <= set(texts_of(tmp_path / "a.tar.gz"))
        assert {"plain", "../up"} <= set(texts_of(tmp_path / "a.zip"))
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(AssertionError), nothing_written():
        (tmp_path / "heard").write_bytes(b"")


# ---- Parquet ----------------------------------------------------------------------------------------------------


def test_a_parquet_file_unpickles_nothing(tmp_path: Path) -> None:
    """pyarrow before 14.0.1 unpickled what `arrow.py_extension_type` carries (CVE-2023-47248)."""
    payload = pickle.dumps(Touch(tmp_path / "pwned"))

    class Pickled(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.string(), "arrow.py_extension_type")

        def __arrow_ext_serialize__(self) -> bytes:
            return payload

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, data: bytes) -> Pickled:
            raise AssertionError("it was never registered")

    column = pa.ExtensionArray.from_storage(Pickled(), pa.array(["a text of six words in all"] * 4))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column, "beside": column}), path)
    assert pq.read_schema(path).field("text").metadata[b"ARROW:extension:metadata"] == payload
    recipe = read(
        "name: p\ntokenizer: {name: mistral-7b-v0.1}\nsequence: {length: 4}\n"
        f'sources: {{s: {{read: {{format: parquet, path: "{path}"}}}}}}\n',
        "p.yaml",
    )
    made = run(recipe, str(tmp_path / "run"), inline=True, progress=SILENT)
    assert made.mixture is not None
    assert made.mixture["sources"][0]["kept_documents"] == 4
    assert not (tmp_path / "pwned").exists()


# ---- runs of somebody else's ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose documents have what a terminal obeys in their text, key and file's name."""
    root = tmp_path_factory.mktemp("made")
    with open(root / f"a{ESCAPES}.jsonl", "w") as file:
        for i in range(60):
            file.write(
                json.dumps({"text": f"document {i} {ESCAPES} says something", "url": f"{i}{ESCAPES}"}) + "\n"
            )
    recipe = read(
        "name: s\ntokenizer: {name: mistral-7b-v0.1}\nsequence: {length: 8}\n"
        f'sources: {{s: {{read: {{format: jsonl, path: "{root}/*.jsonl", key: url}}, heldout: {{fraction: 0.2}}}}}}\n',
        "s.yaml",
    )
    run(recipe, str(root / "RUN"), inline=True, progress=SILENT)
    return root / "RUN"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The same run, to be made hostile."""
    return Path(shutil.copytree(made, tmp_path / "RUN"))


def changed(copied: Path, **facts: Any) -> None:
    """The manifest with some of its facts changed."""
    place = copied / "manifest.json"
    place.write_bytes(orjson.dumps(orjson.loads(place.read_bytes()) | facts))


def winnow(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.interrupt, "watch", lambda: None)
        patch.setattr(command.os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as caught:
            command.main(list(map(str, arguments)))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", ".hidden", "a/b", "", f"a{ESCAPES}"])
@pytest.mark.parametrize("what", ["source", "stage", "directory", "published"])
def test_a_manifest_names_nothing_outside_its_run(copied: Path, what: str, name: str) -> None:
    manifest = orjson.loads((copied / "manifest.json").read_bytes())
    if what == "source":
        manifest["sources"][0]["name"] = name
    elif what == "stage":
        manifest["stages"][0]["directory"] = name
    elif what == "directory":
        manifest["streams"][0]["directory"] = name
    else:
        manifest["published"][name] = "0" * 64
    changed(copied, **manifest)
    with pytest.raises(SchemaError, match="is no name of anything in a run") as caught:
        open_run(str(copied))
    assert "\x1b" not in str(caught.value)


def test_merge_keys_of_a_run_are_not_expanded(copied: Path) -> None:
    (copied / "recipe.yaml").write_text(HOSTILE_RECIPES["merges"])
    with pytest.raises(SchemaError, match=r"recipe\.yaml is damaged"):
        publish.name_of(str(copied))
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load(HOSTILE_RECIPES["merges"])
    assert plain_yaml.load("a: &a {b: [1, x]}\nc: *a\n") == {"a": {"b": [1, "x"]}, "c": {"b": [1, "x"]}}
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load("!!python/name:os.system x")


@pytest.mark.parametrize(
    "content",
    ["[" * 20_000, "a: 2024-99-99", "a: " + "9" * 5000, "a: !!int x", "a: !!int ''", "a: !!bool x", "a: 0x_",
     "a: !!float x", "a: !!timestamp x", "{[1]: 2}", "a: \0"],
)  # fmt: skip
def test_values_that_are_none_are_errors_of_yaml(content: str) -> None:
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load(content)


@pytest.mark.parametrize("content", ["a: 2024-99-99", "- 1", "["])
def test_a_trainer_is_told_of_damaged_blocks(tmp_path: Path, content: str) -> None:
    place = tmp_path / "streams.yaml"
    place.write_text(content)
    with pytest.raises(TrainInputError, match=r"streams\.yaml is damaged"):
        TrainingRun._blocks.func(SimpleNamespace(streams_yaml=str(place)))  # type: ignore[arg-type]


def unpublished(directory: Path) -> Path:
    """A directory of a stage that nothing refers to."""
    made = directory / "documents.s-0123456789abcdef"
    made.mkdir()
    (made / "text").write_bytes(b"x" * 10)
    return made


def test_clean_deletes_no_more_than_stages_of_the_run(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    theirs = unpublished(elsewhere)
    stages = copied / "stages"
    own = unpublished(stages)
    (own / "link").symlink_to(theirs)
    link = stages / "filters.s-0123456789abcdef"
    link.symlink_to(theirs)
    (stages / "notes").mkdir()
    (stages / "notes" / "a").write_bytes(b"x")
    assert winnow("clean", copied, "--yes") == 0
    assert not own.exists()
    assert not link.is_symlink()
    assert (stages / "notes" / "a").exists()
    assert (theirs / "text").exists()
    # The whole of the stages is a link: what is listed there could be anybody's.
    stages.rename(tmp_path / "moved")
    stages.symlink_to(tmp_path / "moved")
    left = unpublished(tmp_path / "moved")
    assert winnow("clean", copied, "--yes") == 2
    assert "stages is a link: nothing is deleted through one" in capsys.readouterr().err
    assert left.exists()


# ---- shards -----------------------------------------------------------------------------------------------------


def shards_of(directory: Path, encoding: str, place: Path) -> bytes:
    """An index by MDSWriter of rows that are pickles, or JSON; the shards are in the directory."""
    streaming = feed.import_streaming()
    shutil.rmtree(directory)
    value = Touch(place) if encoding == "pkl" else {"a": 1}
    with streaming.MDSWriter(out=str(directory), columns={"tokens": encoding}) as writer:
        for _ in range(3):
            writer.write({"tokens": value})
    return (directory / "index.json").read_bytes()


@pytest.mark.parametrize("encoding", ["pkl", "json"])
def test_shards_that_run_code_are_read_by_nobody(copied: Path, tmp_path: Path, encoding: str) -> None:
    if importlib.util.find_spec("streaming") is None:
        pytest.skip("mosaicml-streaming is the reader: pip install 'winnow[train]'")
    from winnow.pipelines.train_corpus import TrainingRun
    from winnow.pipelines.train_settings import TrainError

    manifest = orjson.loads((copied / "manifest.json").read_bytes())
    (stream,) = [s for s in manifest["streams"] if s["split"] == "train"]
    directory, pwned = copied / "stages" / stream["directory"] / "train", tmp_path / "pwned"
    index = shards_of(directory, encoding, pwned)
    with pytest.raises(ValueError, match="column_encodings must be"):
        mds.read_index(index)
    # A record says the same of them as their index.
    for place in (copied / "stages" / stream["directory"] / "records").iterdir():
        record = orjson.loads(place.read_bytes())
        if record["identity"]["counts"].get("split") == "train":
            record["identity"]["counts"]["entry"] = orjson.loads(index)["shards"][0]
            place.write_bytes(orjson.dumps(record))
    problems = list(verifying.verify(open_run(str(copied))))
    assert sum("column_encodings must be" in problem for problem in problems) == 2, (
        "the index, and the records"
    )
    streams = yaml.safe_load((copied / "streams.yaml").read_text())
    for block in ("train_loader", "eval_loader"):
        for place in streams[block]["dataset"]["streams"].values():
            place["local"] = str(copied / "stages" / Path(place["local"]).name)
    opened = TrainingRun(str(copied))
    opened.__dict__["_blocks"] = streams
    with pytest.raises(TrainError, match="column_encodings must be"):
        opened.check_shards("train")
    (copied / "streams.yaml").write_text(yaml.safe_dump(streams))
    if encoding == "pkl":
        with pytest.raises(ValueError, match="unsafe type"):
            feed.open_dataset(copied / "streams.yaml")
    streams["train_loader"]["dataset"]["allow_unsafe_types"] = True
    (copied / "streams.yaml").write_text(yaml.safe_dump(streams))
    with pytest.raises(ValueError, match="allows shards that run code"):
        feed.open_dataset(copied / "streams.yaml")
    assert not pwned.exists()


# ---- terminals --------------------------------------------------------------------------------------------------


def test_a_terminal_obeys_nothing_of_a_document(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tracer = Tracer(open_run(str(made)))
    (piece, *_) = tracer.sample("s", "train", 3)
    assert all(character.isprintable() for character in said_of_piece(piece))
    arguments = ("trace", made, "--stream", "s", "--sample", 3, "--text")
    assert winnow(*arguments) == 0
    assert "\x1b" in capsys.readouterr().out, "a file gets the text as it is"
    for words in (arguments, ("audit", made, "--doc", piece.document, "--text")):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        assert winnow(*words) == 0
        shown = capsys.readouterr().out
        assert "\\x1b" in shown
        assert all(c.isprintable() or c == "\n" for c in shown)


def test_an_error_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert winnow("stats", tmp_path / f"none{ESCAPES}") == 2
    said = capsys.readouterr().err
    assert "\\x1b" in said
    assert all(c.isprintable() or c == "\n" for c in said)
    assert terminal.printable("a\tb\nc\x1b\u202e") == "a b\nc\\x1b\\u202e"
    assert terminal.one_line("a\tb\nc\x1b") == "a b c\\x1b"


# ---- the code itself ----------------------------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted name, constant keyword arguments) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            constants = {
                k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)
            }
            yield ast.unparse(node.func), constants


SAFE = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
RUNS_CODE = {
    "eval",
    "exec",
    "os.system",
    "yaml.unsafe_load",
    "yaml.full_load",
    "marshal.loads",
    "pickle.loads",
}


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_loads_what_could_be_code(room: str) -> None:
    for path in sorted((ROOT / room).glob("*.py")):
        for name, constants in calls(ast.parse(path.read_text())):
            if name in SAFE:
                key, wanted = SAFE[name]
                assert constants.get(key) is wanted, f"{path.name}: {name} without {key}={wanted}"
            assert name not in RUNS_CODE, f"{path.name}: {name}"
            assert name != "yaml.load" or path.name == "plain_yaml.py"
            # A child of the sandbox reads what its parent asks; nobody reads a child's pickles.
            assert name != "pickle.load" or path.name == "sandbox.py"
            assert not constants.get("trust_remote_code"), path.name
            assert not constants.get("shell"), path.name
            assert not name.endswith((".extractall", ".extract")), path.name
