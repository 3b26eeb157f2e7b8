"""Does one run at a time hold RUN, and does a run that died hold nobody up?"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from winnow.pipelines import lease
from winnow.pipelines.lease import Lease, LeaseError


def holder(**changes: object) -> dict[str, object]:
    """A lease of this very process, renewed now."""
    now = time.time()
    stat = Path("/proc/self/stat")
    start = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.exists() else "alive"
    return {"token": "theirs", "host": platform.node(), "pid": os.getpid(), "process_start": start, "since": now,
            "renewed": now} | changes  # fmt: skip


def plant(run, value: object) -> None:
    (run / "lease.json").write_bytes(value if isinstance(value, bytes) else orjson.dumps(value))


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def takes(run) -> bool:
    """Whether the directory can be taken; it is given back at once."""
    try:
        with Lease(str(run)):
            assert orjson.loads((run / "lease.json").read_bytes())["pid"] == os.getpid()
    except LeaseError:
        return False
    assert not (run / "lease.json").exists()
    return True


def test_a_live_process_keeps_it(tmp_path):
    with Lease(str(tmp_path)) as first:
        assert lease.holding()
        with pytest.raises(LeaseError) as caught, Lease(str(tmp_path)):
            pass
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(first.since))
        assert str(caught.value) == (
            f"{tmp_path} is held by process {os.getpid()} on {platform.node()} since {since}; wait for it or stop it"
        )
        assert orjson.loads((tmp_path / "lease.json").read_bytes())["token"] == first.token
    assert not lease.holding()
    assert takes(tmp_path)


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["fresh", "not-renewed"])
def test_on_this_host_the_process_decides_not_the_clock(tmp_path, seconds):
    plant(tmp_path, holder(renewed=time.time() - seconds))
    assert not takes(tmp_path)


def test_a_process_that_is_gone_is_followed(tmp_path, gone):
    plant(tmp_path, holder(pid=gone))
    assert takes(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only /proc tells when a process started")
def test_a_recycled_pid_is_another_process(tmp_path):
    plant(tmp_path, holder(process_start="1"))
    assert takes(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [(0.0, False), (lease.STALE_SECONDS - 5, False), (lease.STALE_SECONDS + 1, True)],
    ids=["fresh", "nearly-stale", "stale"],
)
def test_on_another_host_the_clock_decides(tmp_path, gone, seconds, taken):
    plant(tmp_path, holder(host="elsewhere", pid=gone, renewed=time.time() - seconds))
    assert takes(tmp_path) == taken


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[1]", {"token": "x"}], ids=["empty", "cut", "list", "no-fields"]
)
def test_what_cannot_be_understood_is_no_lease(tmp_path, value):
    plant(tmp_path, value)
    assert takes(tmp_path)


def test_it_is_given_back_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), Lease(str(tmp_path)):
        raise ZeroDivisionError
    assert takes(tmp_path)


def test_somebody_elses_lease_is_not_removed(tmp_path):
    """Ours went stale (a stopped machine), another run took over, and then we end."""
    with Lease(str(tmp_path)):
        plant(tmp_path, holder(token="theirs"))
    assert orjson.loads((tmp_path / "lease.json").read_bytes())["token"] == "theirs"


def test_it_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with Lease(str(tmp_path)):
        first = orjson.loads((tmp_path / "lease.json").read_bytes())
        deadline = time.monotonic() + 10
        while (now := orjson.loads((tmp_path / "lease.json").read_bytes()))["renewed"] == first["renewed"]:
            assert time.monotonic() < deadline, "not renewed"
            time.sleep(0.01)
        assert now | {"renewed": 0} == first | {"renewed": 0}


def test_an_interrupted_process_gives_back_what_it_holds(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with Lease(str(tmp_path / "a")), Lease(str(tmp_path / "b")):
        lease.release_held()
        assert not lease.holding()
        assert not list(tmp_path.glob("*/lease.json"))
