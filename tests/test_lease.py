"""Does one run at a time hold RUN, and does a run that died hold nobody up?"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from winnow.pipelines import lease
from winnow.pipelines.lease import Lease, LeaseError
from winnow.shards import storage

ELSEWHERE = {"host": "elsewhere", "place": "another boot pid:[1]"}


def holder(**changes: object) -> dict[str, object]:
    """A lease of this very process, renewed now."""
    now = time.time()
    stat = Path("/proc/self/stat")
    start = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.exists() else "alive"
    return {"token": "theirs", "host": platform.node(), "place": lease.place(), "pid": os.getpid(),
            "process_start": start, "since": now, "renewed": now} | changes  # fmt: skip


def plant(run, value: object) -> None:
    storage.put_bytes(str(run / "lease.json"), value if isinstance(value, bytes) else orjson.dumps(value))


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """A lease is watched for a fifth of a second."""
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.01)


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def takes(run, said: list[str] | None = None) -> bool:
    """Whether the directory can be taken; it is given back at once."""
    try:
        with Lease(str(run), [].append if said is None else said.append):
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
    said: list[str] = []
    assert not takes(tmp_path, said)
    assert not said, "nothing is watched"


def test_a_process_that_is_gone_is_followed_at_once(tmp_path, gone):
    plant(tmp_path, holder(pid=gone))
    said: list[str] = []
    assert takes(tmp_path, said)
    assert not said


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only /proc tells when a process started")
def test_a_recycled_pid_is_another_process(tmp_path):
    plant(tmp_path, holder(process_start="1"))
    assert takes(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only /proc tells when a process started")
def test_a_killed_process_that_nobody_has_buried_is_gone(tmp_path):
    """In a container without an init a killed driver stays a zombie."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    plant(tmp_path, holder(pid=process.pid, process_start=start))
    assert not takes(tmp_path)
    process.kill()
    while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    assert takes(tmp_path)
    process.communicate()


SKEWS = pytest.mark.parametrize(
    "skew", [-3e6, -660.0, 0.0, 3e6], ids=["far-behind", "behind", "equal", "ahead"]
)


@SKEWS
def test_elsewhere_a_lease_that_nobody_renews_is_taken_over(tmp_path, gone, skew):
    plant(tmp_path, holder(pid=gone, renewed=time.time() + skew, **ELSEWHERE))
    said: list[str] = []
    begun = time.monotonic()
    assert takes(tmp_path, said)
    assert time.monotonic() - begun >= lease.STALE_SECONDS
    watching, taking = said
    assert f"was held by process {gone} on elsewhere since" in watching
    assert taking == f"{tmp_path}: nobody renewed the lease; taking over"


@SKEWS
def test_elsewhere_a_lease_that_is_renewed_is_held(tmp_path, gone, skew, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 60.0)
    plant(tmp_path, holder(pid=gone, renewed=time.time() + skew, **ELSEWHERE))
    renewed = holder(pid=gone, renewed=time.time() + skew + 1, **ELSEWHERE)
    with (
        pytest.raises(LeaseError, match=rf"is held by process {gone} on elsewhere since .*; wait for it"),
        Lease(str(tmp_path), lambda _: plant(tmp_path, renewed)),
    ):
        pass
    assert orjson.loads((tmp_path / "lease.json").read_bytes())["renewed"] == renewed["renewed"]


def test_elsewhere_a_lease_that_is_given_back_meanwhile_is_free(tmp_path, gone, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 60.0)
    plant(tmp_path, holder(pid=gone, **ELSEWHERE))
    with Lease(str(tmp_path), lambda _: (tmp_path / "lease.json").unlink()) as held:
        assert orjson.loads((tmp_path / "lease.json").read_bytes())["token"] == held.token


def test_a_process_of_another_container_is_elsewhere(tmp_path):
    """Same host name, same pid and start: another pid namespace, so nothing is known of that process."""
    plant(tmp_path, holder(place="another boot pid:[1]"))
    said: list[str] = []
    assert takes(tmp_path, said)
    assert len(said) == 2


DAMAGED = [b"", b"{", b"[1]", {"token": "x"}, {**holder(), "since": "noon"}]


@pytest.mark.parametrize("value", DAMAGED, ids=["empty", "cut", "list", "no-fields", "no-number"])
def test_what_cannot_be_understood_is_watched_like_any_other(tmp_path, value, monkeypatch):
    plant(tmp_path, value)
    said: list[str] = []
    assert takes(tmp_path, said)
    assert "a run whose lease.json cannot be understood" in said[0]

    monkeypatch.setattr(lease, "STALE_SECONDS", 60.0)
    plant(tmp_path, value)
    renewed = holder(**ELSEWHERE)
    with (
        pytest.raises(LeaseError, match="is held by process"),
        Lease(str(tmp_path), lambda _: plant(tmp_path, renewed)),
    ):
        pass


def test_a_lease_that_cannot_be_read_is_not_an_absent_one(tmp_path, monkeypatch):
    def away(location: str) -> bytes:
        raise PermissionError(f"{location}: denied")

    monkeypatch.setattr(storage, "read_bytes", away)
    with pytest.raises(PermissionError), Lease(str(tmp_path)):
        pass


def test_of_many_who_come_at_once_one_gets_it(tmp_path, gone):
    plant(tmp_path, holder(pid=gone, **ELSEWHERE))
    started = threading.Barrier(8)
    over = threading.Barrier(8)

    def take(_: int) -> bool:
        held = Lease(str(tmp_path), [].append)
        started.wait()
        try:
            held.__enter__()
        except LeaseError:
            over.wait()
            return False
        over.wait()
        held.release()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


def test_in_an_object_store_the_later_of_two_takers_has_it(monkeypatch):
    run = f"memory://{uuid.uuid4().hex}"
    location = f"{run}/lease.json"

    def other(seconds: float) -> None:  # comes between the put and the second look
        if threading.current_thread() is threading.main_thread():
            storage.put_bytes(location, orjson.dumps(holder(token="theirs")))

    monkeypatch.setattr(lease.time, "sleep", other)
    with pytest.raises(LeaseError, match="taken by another run this moment"), Lease(run):
        pass
    found = lease.read(location)
    assert found is not None
    assert found["token"] == "theirs"


def test_it_is_given_back_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), Lease(str(tmp_path)):
        raise ZeroDivisionError
    assert takes(tmp_path)


def test_somebody_elses_lease_is_not_removed(tmp_path):
    """Ours went stale (a stopped machine), another run took over, and then we end."""
    with Lease(str(tmp_path)):
        plant(tmp_path, holder(token="theirs"))
    assert orjson.loads((tmp_path / "lease.json").read_bytes())["token"] == "theirs"


def test_a_run_that_was_replaced_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    lease.check()
    with Lease(str(tmp_path)) as held:
        lease.check()
        plant(tmp_path, holder(token="theirs"))
        held.renewer.join(timeout=60)
        with pytest.raises(LeaseError, match=f"{tmp_path} was taken over by another run"):
            lease.check()
    lease.check()
    assert orjson.loads((tmp_path / "lease.json").read_bytes())["token"] == "theirs", "it was not taken back"


def test_it_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with Lease(str(tmp_path)):
        first = orjson.loads((tmp_path / "lease.json").read_bytes())
        deadline = time.monotonic() + 60
        while (now := orjson.loads((tmp_path / "lease.json").read_bytes()))["renewed"] == first["renewed"]:
            assert time.monotonic() < deadline, "not renewed"
            time.sleep(0.01)
        assert now | {"renewed": 0} == first | {"renewed": 0}


class HttpError(Exception):
    """As gcsfs's: no OSError."""


@pytest.mark.parametrize("error", [OSError, HttpError])
def test_a_store_that_is_away_for_a_while_costs_nobody_the_lease(tmp_path, monkeypatch, error):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    put, failures = storage.put_bytes, []

    def flaky(location: str, data: bytes) -> None:
        if len(failures) < 3:
            failures.append(location)
            raise error("away")
        put(location, data)

    with Lease(str(tmp_path)) as held:
        first = (tmp_path / "lease.json").read_bytes()
        monkeypatch.setattr(storage, "put_bytes", flaky)
        deadline = time.monotonic() + 60
        while (tmp_path / "lease.json").read_bytes() == first or len(failures) < 3:
            assert time.monotonic() < deadline, "not renewed"
            time.sleep(0.01)
        assert held.renewer.is_alive()
        assert not held.lost


def test_an_interrupted_process_gives_back_what_it_holds(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with Lease(str(tmp_path / "a")), Lease(str(tmp_path / "b")):
        lease.release_held()
        assert not lease.holding()
        assert not list(tmp_path.glob("*/lease.json"))
