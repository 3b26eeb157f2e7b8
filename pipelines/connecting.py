"""How does a run come to its Ray: a cluster that is there, or one of its own?

One of its own is seen by this machine alone: it listens on the loopback interface, and its token is made up for it.
A cluster is asked first whether anybody listens at its address and takes our token: Ray 2.60 waits without a word
where nobody does, and with a wrong token repeats for twenty seconds what only its own developers understand.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from winnow.pipelines.capacity import SHARE, ClusterError, machine_memory
from winnow.shards import scratch

OBJECT_STORE_BYTES = 100 << 20
"""Only specifications and records pass through it."""
CONNECT_SECONDS = 10.0
POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "FASTOKENS_BPE_THREADS",
)
ONE_THREAD = dict.fromkeys(POOLS, "1") | {"TOKENIZERS_PARALLELISM": "false"}
"""One thread for every pool inside a worker: Ray runs as many workers as there are cores."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's name for "not for other machines": without it Ray 2.60 turns 127.0.0.1 into the machine's address and listens
on every interface."""
WANTS_TOKEN = (
    "it asks for a token that this process does not have, or that is another one; set RAY_AUTH_MODE=token and the "
    "cluster's RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) on every node and where winnow runs (docs/cluster.md)"
)
TOKEN_SIGNS = ("InvalidAuthToken", "AuthenticationError", "authentication token")
_HOST_PORT = re.compile(r"\[?(?P<host>[^\[\]/]+)\]?:(?P<port>\d+)")


def before_import(address: str | None) -> None:
    """What Ray reads when it is imported; with an import before ours it is too late for the token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # Nothing is written into the home directory.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def connect(ray: Any, address: str | None, workers: int | None) -> None:
    """Join the cluster at `address`, or start a Ray here. Raises ClusterError."""
    here: dict[str, Any] = {}
    if address is None:
        here = {
            "num_cpus": workers or os.cpu_count() or 1,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_memory": int(SHARE * machine_memory()),
            "_node_ip_address": "127.0.0.1",
        }
    else:
        _check_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _environment(ONE_THREAD | ({} if address else LOOPBACK)), _on_loopback(ray, address is None):
            # "local" and not None, with which Ray joins whatever cluster this machine happens to run.
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **here)
    except Exception as error:
        raise ClusterError(_why_not(address, error)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray puts a SIGTERM handler of its own in place, which prints a native stack.
            for number, handler in handlers.items():
                signal.signal(number, handler)
    _keep_standard_output(ray)


def worker_environment() -> dict[str, str]:
    """What workers of a cluster that is not ours need: pools of one thread, and where scratch is."""
    found = dict(ONE_THREAD)
    if place := os.environ.get(scratch.VARIABLE):
        found[scratch.VARIABLE] = place
    return found


def _check_address(address: str) -> None:
    """Raises ClusterError where nobody listens, or somebody who does not take our token."""
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is the address for `ray job submit --address`; winnow itself connects to HOST:6379, the port "
            "that `ray start` names, and inside a job to nothing in particular"
        )
    named = _HOST_PORT.fullmatch(address)
    if named is None:
        return
    try:
        socket.create_connection((named["host"], int(named["port"])), CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"could not connect to Ray at {address}: nobody listens there ({error})"
        ) from error
    if _refuses_token(address):
        raise ClusterError(f"could not connect to Ray at {address}: {WANTS_TOKEN}")


def _refuses_token(address: str) -> bool:
    """Whether what Ray's own client would send is not what the cluster takes; False where this Ray cannot say."""
    try:
        import grpc
        from ray._private.authentication.authentication_token_setup import (
            maybe_enable_token_auth_if_token_available,
        )
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import gcs_service_pb2_grpc
        from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]

        maybe_enable_token_auth_if_token_available(False)
        with init_grpc_channel(address) as channel:
            ask = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            try:
                ask.CheckAlive(CheckAliveRequest(), timeout=CONNECT_SECONDS)
            except grpc.RpcError as error:
                return error.code() == grpc.StatusCode.UNAUTHENTICATED
    except Exception:  # private interfaces, which other versions of Ray need not have
        return False
    return False


def _why_not(address: str | None, error: Exception) -> str:
    """The line that says why there is no Ray."""
    what = f"could not connect to Ray at {address}" if address else "could not start Ray here"
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    said = " ".join(f"{type(each).__name__}: {each}" for each in chain)
    if any(sign in said for sign in TOKEN_SIGNS):
        return f"{what}: {WANTS_TOKEN}"
    lines = str(error).strip().splitlines()
    return f"{what}: {lines[0] if lines else type(error).__name__}"


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that Ray starts meanwhile."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _on_loopback(ray: Any, here: bool) -> Iterator[None]:
    """This process's own reading of `LOOPBACK`, which Ray took from the environment when it was imported."""
    constants: Any = getattr(getattr(ray, "_private", None), "ray_constants", None)
    if not here or not hasattr(constants, "ENABLE_RAY_CLUSTER"):
        yield
        return
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _keep_standard_output(ray: Any) -> None:
    """Let what nodes say of their end go to standard error, in a sentence: standard output is for results.

    Ray 2.60 prints it to standard output, whatever `log_to_driver` is, of a raylet with twenty lines of its log.
    """
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    printed = getattr(worker, "print_to_stdstream", None)
    if printed is None or getattr(printed, "of_winnow", False):
        return

    def in_a_sentence(data: dict[str, Any], ignore_prefix: bool) -> None:
        lines = [line.strip().split("\n", 1)[0].split(". ", 1)[0] for line in data.get("lines", ())]
        printed({**data, "lines": lines, "is_err": True}, ignore_prefix)

    in_a_sentence.of_winnow = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = in_a_sentence
