"""Does a document that hangs, eats memory or kills its process cost that document alone?"""

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from winnow.shards import conversion, sandbox
from winnow.shards.rows import Row

ODD = """
import ctypes, os, signal, time
from pathlib import Path
from winnow.shards import conversion
from winnow.shards.convert_settings import Conversion

class Odd(Conversion):
    missing: bool = False

def convert(settings, data, row):
    text = data.decode() if isinstance(data, bytes) else data
    if settings.missing:
        raise ImportError("No module named 'odd'; install winnow[odd]")
    word, _, rest = text.partition(" ")
    if word == "upper":
        return conversion.Converted(rest.upper(), {"title": rest, "seen": sorted(row)})
    if word == "pid":
        return conversion.Converted(str(os.getpid()))
    if word == "spin":
        while True:
            pass
    if word == "sleep":
        time.sleep(3600)
    if word == "fault":
        ctypes.string_at(0)
    if word == "once":  # of a stray kill
        if not Path(rest).exists():
            Path(rest).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return conversion.Converted("lived")
    if word == "eat":
        return conversion.Converted(str(len(bytes(int(rest)))))
    if word == "print":
        print(rest)
        os.write(1, b"more")
        return conversion.Converted("printed")
    if word == "type":
        return conversion.Converted(type(data).__name__)
    if word == "half":
        return conversion.Converted("\\ud800")
    if word == "grow":
        return conversion.Converted("a" * int(rest))
    if word == "library":
        raise ImportError("No module named 'late'")
    if word == "bug":
        raise KeyError("bug")
    raise conversion.Unconvertible("odd")

conversion.convert = convert
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the child finds the odd conversion, as the worker does."""
    found = tmp_path_factory.mktemp("odd")
    (found / "odd_conversion.py").write_text(ODD)
    return found


@pytest.fixture(scope="module")
def odd(folder):
    """Settings of a conversion that does what a document says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(conversion, "convert", conversion.convert)
        yield importlib.import_module("odd_conversion").Odd
        del sys.modules["odd_conversion"]
        sandbox._state.end()


def rows_of(*texts, **columns):
    return [Row(i, {"text": text, **columns}, len(text or "")) for i, text in enumerate(texts)]


def converted(settings, *texts):
    """The text of each row, or its reason in brackets."""
    rows = rows_of(*texts)
    sandbox.convert_all(settings, rows, "text")
    assert all((row.columns is None) == bool(row.reason) for row in rows)
    return [f"[{row.reason}]" if row.columns is None else row.columns["text"] for row in rows]


def test_order_and_columns(odd):
    rows = rows_of(b"upper a", "upper \u00e9\U0001f600", b"no", url="u")
    rows.insert(1, Row(9, None, 3, "json", b"{"))
    sandbox.convert_all(odd(), rows, "text")
    assert [row.columns for row in rows] == [
        {"text": "A", "url": "u", "title": "a", "seen": ["text", "url"]},
        None,
        {"text": "\u00c9\U0001f600", "url": "u", "title": "\u00e9\U0001f600", "seen": ["text", "url"]},
        None,
    ]
    assert [(row.reason, row.raw) for row in rows] == [("", b""), ("json", b"{"), ("", b""), ("odd", b"no")]


def test_a_column_inside_another(odd):
    inner = {"html": "upper a", "n": 1}
    rows = [Row(0, {"page": inner, "id": 7}, 1), Row(1, {"page": {}}, 1), Row(2, {"page": {"html": 1.5}}, 1)]
    sandbox.convert_all(odd(), rows, "page.html")
    assert rows[0].columns == {
        "page": {"html": "A", "n": 1}, "id": 7, "title": "a", "seen": ["id", "page"]
    }  # fmt: skip
    assert inner == {"html": "upper a", "n": 1}
    assert [row.reason for row in rows[1:]] == ["missing-column", "wrong-type"]


def test_bytes_and_strings_come_as_they_are(odd):
    assert converted(odd(), b"type", "type", bytearray(b"type")) == ["bytes", "str", "bytes"]
    assert converted(odd(), "half", "\ud800") == ["\ud800", "[odd]"]


def test_sizes(odd):
    settings = odd(max_bytes=1024)
    rest = 1024 - len("upper ")
    assert converted(settings, "upper " + "a" * rest, "upper a" + "a" * rest) == ["A" * rest, "[too-large]"]
    assert converted(settings, "upper " + "\u00e9" * rest) == ["[too-large]"]
    most = sandbox._most(settings)
    assert converted(settings, f"grow {most}", f"grow {most + 1}") == ["a" * most, "[too-large]"]


def test_what_ends_a_child_costs_its_document_alone(odd):
    """Time of CPU, time of sleep, a fault, memory; none of it depends on what else is in the chunk."""
    settings = odd(max_seconds=0.04, max_bytes=1024)
    most = sandbox.AS_BASE + sandbox.AS_PER_BYTE * 1024
    documents = ["upper a", "spin", "sleep", "fault", "upper b", f"eat {2 * most}", f"eat {most // 2}"]
    expected = ["A", "[too-slow]", "[too-slow]", "[crashed]", "B", "[crashed]", str(most // 2)]
    assert converted(settings, *documents) == expected


def test_what_a_library_does_wrong(odd, capfd):
    assert converted(odd(), "upper a", "bug", "print x", "bug", "upper b") == [
        "A", "[crashed]", "printed", "[crashed]", "B"
    ]  # fmt: skip
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("KeyError: 'bug'") == 1


def test_a_stray_kill_loses_nothing(odd, tmp_path):
    (first,) = converted(odd(), "pid")
    assert converted(odd(), "upper a", f"once {tmp_path / 'a'}", "upper b") == ["A", "lived", "B"]
    (second,) = converted(odd(), "pid")
    assert first != second
    os.kill(int(second), signal.SIGKILL)
    assert converted(odd(), "upper a") == ["A"]


def test_one_child_is_kept_for_all_chunks(odd):
    first, second = converted(odd(), "pid", "pid")
    assert [first, second] == converted(odd(), "pid", "pid")
    assert int(first) != os.getpid()
    assert converted(odd(max_seconds=7), "pid") != [first]


@pytest.mark.parametrize("settings", [{"missing": True}, {}])
def test_a_missing_library_stops_the_task(odd, settings):
    rows = rows_of("upper a", "library", "upper b")
    with pytest.raises(ImportError, match="install winnow.odd" if settings else "late"):
        sandbox.convert_all(odd(**settings), rows, "text")
    assert converted(odd(), "upper a") == ["A"]


def test_an_interrupt_leaves_no_answers_behind(odd, monkeypatch):
    lose = sandbox._lose

    def interrupt(row, reason, data):
        lose(row, reason, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_lose", interrupt)
        with pytest.raises(KeyboardInterrupt):
            converted(odd(), "no", "upper a", "upper b")
    assert converted(odd(), "upper c") == ["C"]


def test_a_child_dies_with_its_worker(folder):
    """Even while it is at work, and where a fork of the worker holds the pipe open."""
    code = f"""
        import os, sys, time, threading
        sys.path.insert(0, {str(folder)!r})
        import odd_conversion
        from winnow.shards import sandbox
        from winnow.shards.rows import Row
        row = Row(0, {{"text": "pid"}}, 3)
        sandbox.convert_all(odd_conversion.Odd(), [row], "text")
        fork = os.fork()
        if fork == 0:
            time.sleep(60)
        print(row.columns["text"], fork, flush=True)
        sandbox.convert_all(odd_conversion.Odd(), [Row(0, {{"text": "sleep"}}, 3)], "text")
    """
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    child, fork = map(int, worker.stdout.readline().split())
    worker.kill()
    worker.wait()
    worker.stdout.close()
    try:
        for _ in range(1000):
            if not is_alive(child):
                return
            time.sleep(0.01)
        pytest.fail("the child lives on")
    finally:
        os.kill(fork, signal.SIGKILL)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_forked_worker_gets_a_child_of_its_own(odd):
    (mine,) = converted(odd(), "pid")
    reading, writing = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.write(writing, converted(odd(), "pid")[0].encode())
        sandbox._state.end()
        os._exit(0)
    os.waitpid(fork, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert theirs.isdigit()
    assert theirs != mine
    assert converted(odd(), "pid") == [mine]


@pytest.mark.parametrize("kills", [2, 3])
def test_a_kill_while_a_child_starts_is_nobodys_fault(odd, monkeypatch, kills):
    start, left = subprocess.Popen, [None] * kills

    def killed(*args, **more):
        process = start(*args, **more)
        if left:
            left.pop()
            process.kill()
        return process

    monkeypatch.setattr(sandbox.subprocess, "Popen", killed)
    if kills < sandbox.STARTS:
        assert converted(odd(max_seconds=9 + kills), "upper a") == ["A"]
    else:
        with pytest.raises(ChildProcessError, match="exit status -9"):
            converted(odd(max_seconds=9 + kills), "upper a")


def test_what_cannot_start_is_no_documents_fault(odd, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ChildProcessError, match="did not start"):
        converted(odd(max_seconds=8), "upper a")
