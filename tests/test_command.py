"""Does the command line keep its promises: exit codes, messages, what it prints where, and how it ends?

Everything runs in a process of its own, as a user's does. One small run, made without Ray of the standard
library's sources, serves all that look at a finished run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import yaml
from winnow.pipelines import load, open_run, run
from winnow.pipelines.corpus import STAGES
from winnow.pipelines.interrupt import descendants
from winnow.pipelines.lease import Lease
from winnow.pipelines.progress import Progress
from winnow.pipelines.tracing import Tracer
from winnow.pipelines.verifying import verify

STDLIB = Path(sysconfig.get_path("stdlib"))
WINNOW = [sys.executable, "-m", "winnow.pipelines.command"]
SILENT = Progress(stream=None)
HEAVY = ("numpy", "pyarrow", "numba", "ray", "torch", "transformers", "tokenizers", "fsspec")
LENGTH = 64
RECIPE = """\
name: small
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 64}}
sources:
  code:
    read: {{format: code, path: "{root}/code/*.py"}}
    filters: [{{length: {{min_chars: 900}}}}]
    heldout: {{fraction: 0.2}}
    weight: 0.7
  docs:
    read: {{format: jsonl, path: "{root}/docs.jsonl", key: url}}
    filters: [gopher-quality]
    weight: 0.3
dedup: {{exact: {{across: [code, docs]}}}}
mixture: {{tokens: 1M}}
shards: {{size_limit: 32KB}}
limits: {{split_bytes: 60KB}}
"""


def winnow(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WINNOW, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300,
                          env=os.environ | variables)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    (root / "code").mkdir()
    for path in sorted(STDLIB.glob("[a-d]*.py"))[:24]:
        shutil.copy(path, root / "code")
    with open(root / "docs.jsonl", "w") as file:
        for path in sorted(STDLIB.glob("[e-m]*.py"))[:40]:
            text = path.read_text(encoding="utf-8", errors="replace")[:20_000]
            file.write(json.dumps({"text": text, "url": path.name}) + "\n")
    path = root / "small.yaml"
    path.write_text(RECIPE.format(root=root))
    return path


@pytest.fixture(scope="module")
def made(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    out = tmp_path_factory.mktemp("made") / "RUN"
    run(load(str(recipe)), str(out), inline=True, progress=SILENT)
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A finished run to damage."""
    return Path(shutil.copytree(made, tmp_path / "RUN"))


@pytest.fixture
def no_ray(tmp_path: Path) -> str:
    """For PYTHONPATH: a Ray that says so when it is imported."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "ray.py").write_text("raise SystemExit('Ray was imported')\n")
    return str(tmp_path / "without")


# ---- light commands ------------------------------------------------------------------------------------------

PROBE = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))
sys.argv[0] = "winnow"
from winnow.pipelines.command import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "variables", "printed"),
    [
        (["--help"], {}, "Usage: winnow [OPTIONS] COMMAND [ARGS]..."),
        (["run", "--help"], {}, "--until"),
        (["validate", "quickstart"], {}, "quickstart: 2 sources, no errors\n"),
        (["validate", "quickstart", "--json"], {}, '"name": "quickstart"'),
        ([], {"_WINNOW_COMPLETE": "complete_bash", "COMP_WORDS": "winnow validate qui", "COMP_CWORD": "2",
              "_TYPER_COMPLETE_ARGS": "winnow validate qui"}, "quickstart"),
        ([], {"_WINNOW_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "winnow sta"}, "stats"),
    ],
    ids=["help", "help-of-run", "validate", "validate-json", "complete-recipe", "complete-command"],
)  # fmt: skip
def test_light_commands_load_nothing_heavy(arguments, variables, printed):
    """They answer in well under half a second for it; this is the guard that does not depend on the machine."""
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True,
                          env=os.environ | variables)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
    assert done.stderr == "loaded:\n"


def test_the_probe_sees_what_is_loaded(made):
    done = subprocess.run([sys.executable, "-c", PROBE, "verify", made], capture_output=True, text=True)
    assert "numpy pyarrow" in done.stderr


# ---- the command line itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate"], "Missing argument 'RECIPE'; see winnow validate --help"),
        (["run", "quickstart"], "Missing option '--out'; see winnow run --help"),
        (["--nope"], "No such option: --nope; see winnow --help"),
        (["nosuch"], "No such command 'nosuch'; see winnow --help"),
        (["run", "quickstart", "--out", "R", "--until", "foo"], "Invalid value for --until: 'foo' is no stage; there "
         "are documents, filters, dedup, tokens, stream, shards; see winnow run --help"),
        (["trace", "R"], "Invalid value: give --stream and --sample, or --doc; see winnow trace --help"),
        (["trace", "R", "--sample", "3"], "Invalid value: give --stream and --sample, or --doc; see winnow trace "
         "--help"),
        (["validate", "quickstrat"], "quickstrat:1:1: there is no such file, nor a recipe of that name; did you mean "
         "'quickstart'?"),
        (["validate", "quickstart", "--set", "sead=3"], "--set sead:1:1: unknown key 'sead'; did you mean 'seed'?"),
    ],
)  # fmt: skip
def test_mistakes_in_the_command_exit_with_2(arguments, message, tmp_path):
    program = f"import sys; sys.argv = ['winnow', *{arguments!r}]; from winnow.pipelines.command import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message + "\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--workers", "x"]])
def test_workers_are_at_least_one(arguments, tmp_path):
    done = winnow("run", "quickstart", "--out", tmp_path / "R", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Invalid value for '--workers': ")
    assert done.stderr.count("\n") == 1


def test_without_arguments_it_shows_the_help():
    done = winnow()
    assert "Usage: " in done.stdout + done.stderr
    assert done.returncode in (0, 2)  # 2 since click 8.2


def test_all_mistakes_of_a_recipe_are_shown_at_once(tmp_path):
    (tmp_path / "r.yaml").write_text("name: x\nsead: 3\ntokenizer: {name: m}\nsources: []\n")
    done = winnow("validate", "r.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "r.yaml:2:1: unknown key 'sead'; did you mean 'seed'?\nr.yaml:4:10: a mapping is wanted, not a list\n"
    )


def test_validate_prints_what_the_recipe_says(recipe):
    said = json.loads(winnow("validate", recipe, "--json", "--set", "seed=5").stdout)
    assert said["seed"] == 5
    assert said["mixture"]["tokens"] == 10**6
    assert [list(f) for f in said["sources"]["docs"]["filters"]] == [["gopher-quality"]]


def test_a_single_thing_is_not_called_things(recipe, tmp_path):
    text = recipe.read_text().replace("weight: 0.7", "weight: 1")
    (tmp_path / "one.yaml").write_text(text[: text.index("  docs:")] + "mixture: {tokens: 5}\n")
    assert winnow("validate", tmp_path / "one.yaml").stdout == "small: 1 source, no errors\n"


# ---- plan ----------------------------------------------------------------------------------------------------


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with a word."""
    (line,) = [ln for ln in text.splitlines() if ln.split() and ln.split()[0] == first]
    return re.split(r"\s{2,}", line.strip())


def test_plan_shows_what_would_be_read(recipe, no_ray):
    done = winnow("plan", recipe, PYTHONPATH=no_ray, COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert cells(done.stdout, "source") == [
        "source", "files", "stored", "splits", "~ text", "~ tokens", "~ held out", "proportion", "effective tokens",
        "~ epochs", "~ unique factor",
    ]  # fmt: skip
    facts = json.loads(winnow("plan", recipe, "--json").stdout)
    sizes = [p.stat().st_size for p in (recipe.parent / "code").iterdir()]
    code, docs = facts["sources"]
    assert (code["files"], code["stored_bytes"], code["root"]) == (
        24,
        sum(sizes),
        str(recipe.parent / "code"),
    )
    assert (docs["files"], docs["stored_bytes"]) == (1, (recipe.parent / "docs.jsonl").stat().st_size)
    assert docs["splits"] == -(-docs["stored_bytes"] // 60_000)
    assert cells(done.stdout, "code")[1:4:2] == ["24", str(code["splits"])]
    assert cells(done.stdout, "code")[7:9] == ["70.00%", "700.00K"]
    assert [(step["step"], step["group"]) for step in facts["dedup"]] == [("exact", ["code", "docs"])]
    assert "exact dedup: code, then docs" in done.stdout


@pytest.mark.parametrize("command", [["plan"], ["run", "--out", "R"]], ids=["plan", "run"])
def test_a_source_that_matches_nothing_stops_before_ray(recipe, no_ray, tmp_path, command):
    text = recipe.read_text().replace("/code/*.py", "/code/*.pyx")
    (tmp_path / "r.yaml").write_text(text)
    done = winnow(*command[:1], "r.yaml", *command[1:], cwd=tmp_path, PYTHONPATH=no_ray)
    line, column = 6, text.splitlines()[5].index('"') + 1
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"r.yaml:{line}:{column}: source 'code': '{recipe.parent}/code/*.pyx' matches no file below "
        f"{recipe.parent}/code; 24 files there end in '.py'"
    )
    assert not (tmp_path / "R").exists()


# ---- run -----------------------------------------------------------------------------------------------------


def test_a_run_of_another_name_is_refused(recipe, copied, no_ray):
    done = winnow("run", recipe, "--out", copied, "--set", "name=other", PYTHONPATH=no_ray)
    message = f"--set name:1:1: {copied} holds the run 'small', not 'other'; choose another --out\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_a_held_directory_is_refused(recipe, copied, no_ray):
    with Lease(str(copied)):
        done = winnow("run", recipe, "--out", copied, PYTHONPATH=no_ray)
    assert done.returncode == 2
    assert f"{copied} is held by process {os.getpid()} on " in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("until", STAGES)
def test_a_run_stops_after_a_stage(recipe, tmp_path, until):
    corpus = run(load(str(recipe)), str(tmp_path / "R"), until=until, inline=True, progress=SILENT)
    assert corpus.mixture is None
    kinds = {p.name.split(".")[0] for p in (tmp_path / "R" / "stages").iterdir()}
    made_by = {"documents": "documents", "filters": "filters", "dedup": "exact", "tokens": "tokens", "stream": "stream",
               "shards": "shards"}  # fmt: skip
    at = STAGES.index(until)
    assert {made_by[s] for s in STAGES[: at + 1]} <= kinds
    assert not {made_by[s] for s in STAGES[at + 1 :]} & kinds
    assert not (tmp_path / "R" / "manifest.json").exists()
    assert not (tmp_path / "R" / "lease.json").exists()


# ---- looking at a finished run -------------------------------------------------------------------------------


def test_stats_prints_whole_columns_where_there_is_no_terminal(made):
    done = winnow("stats", made, COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert cells(done.stdout, "total")[0] == "total"
    header, *_ = [ln for ln in done.stdout.splitlines() if "tokens in source" in ln]
    assert re.split(r"\s{2,}", header.strip())[:5] == [
        "source", "tokens in source", "proportion", "effective tokens", "epochs"
    ]  # fmt: skip
    assert "− gopher-quality.min_alpha_word_frac" in done.stdout or "− gopher-quality." in done.stdout
    assert "…" not in done.stdout
    facts = json.loads(winnow("stats", made, "--json").stdout)
    assert facts == json.loads((made / "mixture.json").read_text())
    for source in facts["sources"]:
        # The source's first row of the second table: what was read.
        (row,) = [ln for ln in done.stdout.splitlines() if ln.split()[:2] == [source["name"], "read"]]
        assert f" {source['rows']:,} " in row


def test_stats_reads_well_on_a_narrow_terminal(made):
    """Where rich believes in a terminal of 80 columns, numbers are whole."""
    done = winnow("stats", made, COLUMNS="80", FORCE_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    (row,) = [
        ln for ln in plain.splitlines() if ln.split()[:1] == ["docs"] and "%" in ln and "read" not in ln
    ]
    assert "30.00%" in row.split()
    assert "300.00K" in row.split()


def test_trace_finds_the_documents_of_a_sample_and_back(made):
    facts = json.loads((made / "mixture.json").read_text())
    rows = facts["sources"][0]["train"]["rows"]
    crossed = 0
    for sample in (0, rows // 2, rows - 1):
        pieces = json.loads(winnow("trace", made, "--stream", "code", "--sample", sample, "--json").stdout)
        assert sum(p["tokens"] for p in pieces) == LENGTH
        crossed += len(pieces) > 1
        for piece in pieces:
            back = json.loads(winnow("trace", made, "--doc", piece["document"], "--json").stdout)
            assert sample in back["samples"]
            assert (back["source"], back["path"], back["split"]) == ("code", piece["path"], "train")
    said = winnow("trace", made, "--stream", "code", "--sample", 0, "--text").stdout
    assert said.split()[0] == "0"
    assert len(said.splitlines()) > 1


def test_the_text_of_a_sample_is_shown_only_when_asked_for(made):
    opened = open_run(str(made))
    text = opened.decode(Tracer(opened).tokens("docs", "train", 1))
    arguments = ("trace", made, "--stream", "docs", "--sample", 1)
    assert winnow(*arguments, "--text").stdout.endswith(f"{text}\n")
    assert text.strip()[:20] not in winnow(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "cod", "--sample", 0], "there is no stream 'cod'; the run has code, docs"),
        (
            ["--stream", "code", "--split", "test", "--sample", 0],
            "there is no split 'test'; there are train, val",
        ),
        (["--doc", "abc"], "'abc' is no document id: 32 hexadecimal digits"),
        (["--doc", "0" * 32], f"document {'0' * 32} is from no file of this run"),
    ],
)
def test_what_a_run_does_not_have(made, arguments, message):
    done = winnow("trace", made, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message + "\n")


def test_a_sample_beyond_the_stream(made):
    rows = json.loads((made / "mixture.json").read_text())["sources"][0]["train"]["rows"]
    done = winnow("trace", made, "--stream", "code", "--sample", rows)
    message = f"code train has {rows:,} samples, 0 to {rows - 1:,}; there is no {rows}\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize("command", ["stats", "trace", "verify", "clean"])
def test_a_run_that_has_not_finished(tmp_path, command):
    more = ["--doc", "0" * 32] if command == "trace" else []
    done = winnow(command, tmp_path, *more)
    message = f"{tmp_path} has no manifest.json: the run has not finished (or it is no run); "
    message += "`winnow run` continues it\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_schema(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    done = winnow("stats", copied)
    assert done.returncode == 2
    assert done.stderr == f"{copied}/manifest.json: schema 99, this Winnow reads {manifest['schema']}\n"


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at-the-end", "at-once"])
@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["table", "json"])
def test_a_reader_that_has_seen_enough_is_no_error(made, unbuffered, json_):
    """`winnow stats RUN | head -1`."""
    process = subprocess.Popen(
        [*WINNOW, "stats", made, *json_], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


# ---- verify --------------------------------------------------------------------------------------------------


def shard(run_: Path) -> Path:
    """A shard in the middle of its stream."""
    found = sorted((run_ / "stages").glob("shards.code-*/train/shard.*.mds"))
    assert len(found) > 2
    return found[1]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    stored = bytearray(path.read_bytes())
    stored[-3] ^= 1
    path.write_bytes(stored)


def test_verify_finds_nothing_in_a_whole_run(made):
    done = winnow("verify", made)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the shards are whole\n", "")
    assert json.loads(winnow("verify", made, "--json").stdout) == []


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "flipped", "missing"])
def test_verify_finds_a_damaged_shard(copied, damage):
    path = shard(copied)
    damage(path)
    done = winnow("verify", copied)
    assert (done.returncode, done.stderr) == (1, "")
    *problems, summary = done.stdout.splitlines()
    assert problems
    assert all(p.startswith(f"code/train: train/{path.name}: ") for p in problems)
    assert summary.startswith("1 problem; " if len(problems) == 1 else f"{len(problems)} problems; ")
    again = winnow("verify", copied, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (1, problems)


def test_verify_finds_lost_provenance_and_a_lost_index(copied):
    (stage,) = (copied / "stages").glob("shards.code-*")
    lost = sorted(p for p in stage.rglob("*.parquet") if "train" in p.as_posix())[0]
    lost.unlink()
    (index,) = (copied / "stages").glob("shards.docs-*/train/index.json")
    index.write_text("{")
    done = winnow("verify", copied)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(ln.startswith("code/train: provenance/train-00000000.parquet: cannot be read") for ln in lines)
    assert any(ln.startswith("docs/train: index.json: ") for ln in lines)


# ---- clean ---------------------------------------------------------------------------------------------------


def stages(run_: Path) -> set[str]:
    return {f"stages/{p.name}" for p in (run_ / "stages").iterdir()}


def referenced(run_: Path) -> set[str]:
    return {f"stages/{s['directory']}" for s in json.loads((run_ / "manifest.json").read_text())["stages"]}


def test_clean_deletes_what_nobody_refers_to_and_nothing_else(recipe, copied):
    before = referenced(copied)
    run(
        load(str(recipe), ["sources.code.filters.0.length.min_chars=2000"]),
        str(copied),
        inline=True,
        progress=SILENT,
    )
    kept = referenced(copied)
    old = stages(copied) - kept
    assert old & before, "the changed recipe left nothing behind"
    assert before & kept, "the changed recipe redid everything"

    listed = winnow("clean", copied)
    assert listed.returncode == 0
    assert {line.split()[-1] for line in listed.stdout.splitlines()[:-1]} == old
    assert listed.stdout.splitlines()[-1].endswith(f" in {len(old)} directories; to delete them: --yes")
    assert stages(copied) == kept | old, "listing deleted something"
    said = json.loads(winnow("clean", copied, "--json").stdout)
    assert (set(said["directories"]), said["deleted"]) == (old, False)

    deleted = winnow("clean", copied, "--yes")
    assert deleted.stdout.splitlines()[-1].endswith(f" in {len(old)} directories; deleted")
    assert stages(copied) == kept
    assert winnow("verify", copied).returncode == 0
    assert winnow("clean", copied).stdout == "0 B in 0 directories\n"
    assert not (copied / "lease.json").exists()


def test_clean_leaves_a_held_run_alone(copied):
    there = stages(copied)
    assert there - referenced(copied)
    with Lease(str(copied)):
        done = winnow("clean", copied, "--yes")
    assert done.returncode == 2
    assert f"is held by process {os.getpid()}" in done.stderr
    assert stages(copied) == there


# ---- with Ray ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_from_the_command_line(recipe, made, tmp_path):
    """Stopped after a stage, continued, and asked again: the same shards as without Ray."""
    out = tmp_path / "R"
    first = winnow("run", recipe, "--out", out, "--until", "filters", "--workers", 1)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"stopped after filters; the same command without --until continues {out}\n"
    second = winnow("run", recipe, "--out", out, "--json")
    assert second.returncode == 0, second.stderr
    assert "filters of 2 sources: " in second.stderr
    assert "all recorded before" in second.stderr
    assert json.loads(second.stdout) == json.loads((made / "mixture.json").read_text())
    # The stages' names hold the hash of settings and inputs, and these are the same files.
    assert referenced(out) == referenced(made)
    assert yaml.safe_load((out / "streams.yaml").read_text())["train_loader"]


def alive(pids: list[int]) -> list[str]:
    """Names of the processes that are still there and no zombies."""
    found = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        name, rest = stat.split("(", 1)[1].rsplit(")", 1)
        if rest.split()[0] != "Z":
            found.append(name)
    return found


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only /proc tells which processes are left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_everything_within_two_seconds(recipe, made, tmp_path, number):
    out = tmp_path / "R"
    process = subprocess.Popen(
        [*WINNOW, "run", str(recipe), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("documents of 2 sources"):
            break
    below = descendants(process.pid)
    names = alive(below)
    assert "raylet" in names, f"Ray is not there: {names}"
    process.send_signal(number)
    sent = time.monotonic()
    _, said = process.communicate(timeout=60)
    took = time.monotonic() - sent
    assert process.returncode == 130, said
    assert said.endswith("interrupted; the same command continues\n")
    assert took < 2
    while (left := alive(below)) and time.monotonic() - sent < 5:
        time.sleep(0.1)
    assert not left
    assert not (out / "lease.json").exists()

    corpus = run(load(str(recipe)), str(out), inline=True, progress=SILENT)
    assert corpus.mixture == json.loads((made / "mixture.json").read_text())
    assert list(verify(open_run(str(out)))) == []


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_is_heard_in_code_that_never_returns_to_python(number):
    """The main thread holds a handler of somebody else's and is blocked in a system call that is begun anew."""
    program = (
        "import os, signal, sys; from winnow.pipelines import interrupt; interrupt.watch()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"  # as ray.init does
        "read, write = os.pipe(); said = False\n"
        "while True:\n"
        # Inside, so that whatever the signal's handler raises is caught, however soon it comes.
        "    try:\n        said = said or print('ready', flush=True) or True\n        os.read(read, 1)\n"
        "    except SystemExit:\n        pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    sent = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")
    assert time.monotonic() - sent < 2
