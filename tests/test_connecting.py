"""What does a run say when there is no Ray to work on, and what does it leave as it was?"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from winnow.pipelines import connecting
from winnow.pipelines.capacity import ClusterError
from winnow.pipelines.connecting import connect, worker_environment
from winnow.shards import scratch


class Ray:
    """Takes what it is started with, and may raise."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.started: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.on_loopback = False
        self._private = SimpleNamespace(
            ray_constants=SimpleNamespace(ENABLE_RAY_CLUSTER=True),
            worker=SimpleNamespace(print_to_stdstream=self._print),
        )
        self.printed: list[tuple[dict[str, Any], bool]] = []

    def _print(self, data: dict[str, Any], ignore_prefix: bool) -> None:
        self.printed.append((data, ignore_prefix))

    def init(self, **options: Any) -> None:
        self.started, self.environment = options, dict(os.environ)
        constants = getattr(self._private, "ray_constants", None)
        self.on_loopback = constants is not None and not constants.ENABLE_RAY_CLUSTER
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.error:
            raise self.error


@pytest.fixture
def listener():
    """An address at which somebody takes connections, and never answers."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_ray_of_our_own_is_on_loopback_with_pools_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    ray = Ray()
    connect(ray, None, 3)
    assert ray.started["address"] == "local"
    assert ray.started["num_cpus"] == 3
    assert ray.started["_node_ip_address"] == "127.0.0.1"
    assert 0 < ray.started["_memory"] < connecting.machine_memory()
    assert ray.started["include_dashboard"] is False
    assert ray.on_loopback
    for name, value in (connecting.ONE_THREAD | connecting.LOOPBACK).items():
        assert ray.environment[name] == value
    assert dict(os.environ) == before
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER is True
    assert signal.getsignal(signal.SIGTERM) is handler, "Ray's own prints a native stack"


def test_a_cluster_is_joined_as_it_is(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_refuses_token", lambda address: False)
    ray = Ray()
    connect(ray, listener, 3)
    assert ray.started["address"] == listener
    assert "num_cpus" not in ray.started
    assert "_memory" not in ray.started
    assert not ray.on_loopback
    assert ray.environment.get(*connecting.LOOPBACK) is None


def test_where_nobody_listens_ray_is_not_waited_for(listener: str) -> None:
    free = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    ray = Ray()
    with pytest.raises(ClusterError, match=f"could not connect to Ray at {address}: nobody listens there"):
        connect(ray, address, None)
    with pytest.raises(ClusterError, match="is the address for `ray job submit --address`"):
        connect(ray, "http://127.0.0.1:8265", None)
    assert not ray.started
    connect(ray, "auto", None)
    assert ray.started["address"] == "auto"


def test_another_token_is_said_before_ray_says_it(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_refuses_token", lambda address: True)
    ray = Ray()
    with pytest.raises(ClusterError) as caught:
        connect(ray, listener, None)
    assert str(caught.value).startswith(f"could not connect to Ray at {listener}: it asks for a token")
    assert "RAY_AUTH_MODE=token" in str(caught.value)
    assert not ray.started


def test_what_ray_raises_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    refused = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    refused.__cause__ = RuntimeError("... RPC error: InvalidAuthToken: Authentication token is missing ...")
    for error in (
        refused,
        RuntimeError("Token authentication is enabled but no authentication token was found. Ensure that"),
    ):
        with pytest.raises(ClusterError) as caught:
            connect(Ray(error), "auto", None)
        assert str(caught.value) == f"could not connect to Ray at auto: {connecting.WANTS_TOKEN}"
    with pytest.raises(ClusterError) as caught:
        connect(Ray(ValueError("\nno room\nat all")), None, None)
    assert str(caught.value) == "could not start Ray here: no room"
    with pytest.raises(ClusterError, match="could not start Ray here: KeyError"):
        connect(Ray(KeyError()), None, None)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_what_nodes_say_goes_to_standard_error_in_a_sentence() -> None:
    ray = Ray()
    for _ in range(2):  # a second run in this process does not wrap it again
        connect(ray, None, 1)
    data = {
        "lines": ["Raylet is terminated. Possible reasons:\n twenty lines"],
        "pid": "raylet",
        "is_err": False,
    }
    ray._private.worker.print_to_stdstream(data, ignore_prefix=False)
    assert ray.printed == [
        ({"lines": ["Raylet is terminated"], "pid": "raylet", "is_err": True}, False),
    ]


def test_a_ray_without_these_private_places_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    ray._private = SimpleNamespace()
    connect(ray, None, 1)
    assert ray.started


def test_workers_of_a_cluster_are_told_of_threads_and_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(scratch.VARIABLE, raising=False)
    assert worker_environment() == connecting.ONE_THREAD
    monkeypatch.setenv(scratch.VARIABLE, "/scratch")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert worker_environment() == connecting.ONE_THREAD | {scratch.VARIABLE: "/scratch"}


def test_a_token_is_made_up_for_a_ray_of_our_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    connecting.before_import("10.0.0.1:6379")
    assert "RAY_AUTH_TOKEN" not in os.environ
    connecting.before_import(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    connecting.before_import(None)
    assert "RAY_AUTH_TOKEN" not in os.environ
