"""What does a program make of an object store that fails now and then?

    python benchmarks/flaky_s3.py --port-file F [--bucket B] [--seed N] [--rate 0.05] [--kinds 500,503,slow,truncated]

An S3 server (moto) on this machine, behind a proxy that spoils a share of the requests. The address stands in
the port file once it answers, and on the first line printed; AWS_ENDPOINT_URL is to be that. Kinds of faults:

    500        InternalError; the request is not passed on         503   SlowDown, the same
    slow       the answer comes after `slow_s` seconds
    truncated  the connection is cut in the middle of the answer's body
    short      206 with half of the bytes asked for, and a Content-Length that agrees; of a PUT's body half arrives
    reset      the connection is reset before the request is passed on
    lost       the request is served, then the connection is reset: a PUT that is done and does not look it

A kind that a request cannot have (no body to cut) becomes a reset. As S3 does, and moto does not, a body that is not
what its Content-MD5 says is refused with BadDigest. `/_faults` answers with the faults so far by kind; a POST of JSON
there sets any of `rate`, `kinds`, `slow_s`, `seed`, and `refuse`: access key ids with the S3 error code that their
requests get (`{"AKIAOLD": "ExpiredToken"}`). `/_requests` answers with the requests so far by method.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import http.client
import json
import logging
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

KINDS = ("500", "503", "slow", "truncated", "short", "reset", "lost")
STATUS = {
    "ExpiredToken": 400,
    "InvalidToken": 400,
    "NoSuchBucket": 404,
    "InternalError": 500,
    "SlowDown": 503,
}
"""HTTP statuses of S3's error codes; 403 is that of the others."""
HOP_BY_HOP = {"connection", "keep-alive", "expect", "transfer-encoding", "te", "trailer", "upgrade"}


class Faults:
    """Which requests go wrong, and how many did."""

    def __init__(self, seed: int, rate: float, kinds: tuple[str, ...], slow_s: float):
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.refuse: dict[str, str] = {}
        self.set({"seed": seed, "rate": rate, "kinds": list(kinds), "slow_s": slow_s})

    def set(self, wanted: dict[str, Any]) -> None:
        """Raises ValueError for a kind or a setting there is not."""
        if unknown := (wanted.keys() - {"seed", "rate", "kinds", "slow_s", "refuse"}):
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        if unknown := set(wanted.get("kinds", ())) - set(KINDS):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
        with self.lock:
            if "seed" in wanted:
                self.draws = random.Random(wanted["seed"])
            for name in wanted.keys() - {"seed"}:
                setattr(self, name, wanted[name])

    def draw(self) -> str | None:
        """What is to happen to the next request."""
        with self.lock:
            if not self.kinds or self.draws.random() >= self.rate:
                return None
            return self.draws.choice(list(self.kinds))

    def count(self, kind: str) -> None:
        with self.lock:
            self.counts[kind] += 1

    rate: float
    kinds: list[str]
    slow_s: float


class Proxy(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    faults: ClassVar[Faults]
    store: ClassVar[tuple[str, int]]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed for each request."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_GET(self) -> None:
        if self.path == "/_faults":
            self._json(self.faults.counts)
        elif self.path == "/_requests":
            self._json(self.faults.requests)
        else:
            self._pass_on()

    def do_POST(self) -> None:
        if self.path != "/_faults":
            self._pass_on()
            return
        try:
            self.faults.set(json.loads(self._body()))
            self._json(self.faults.counts)
        except ValueError as error:
            self._answer(400, {}, str(error).encode())

    def do_PUT(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _pass_on(self) -> None:
        faults = self.faults
        with faults.lock:
            faults.requests[self.command] += 1
        body = self._body()
        key = re.search(r"Credential=([^/,]+)", self.headers.get("Authorization", ""))
        if key and (code := faults.refuse.get(key[1])):
            self._error(code)
            return
        kind = faults.draw()
        if kind in ("500", "503"):
            faults.count(kind)
            self._error("InternalError" if kind == "500" else "SlowDown")
            return
        if kind == "slow":
            faults.count(kind)
            time.sleep(faults.slow_s)
        if kind == "reset":
            self._reset(kind)
            return
        if kind == "short" and self.command == "PUT" and len(body) > 1:
            faults.count(kind)
            body, kind = body[: len(body) // 2], None
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        if self.headers.get("Content-MD5", digest) != digest:
            self._error("BadDigest")
            return
        status, headers, answer = self._ask_store(body)
        if kind == "lost":
            self._reset(kind)
        elif kind == "truncated" and len(answer) > 1:
            faults.count(kind)
            self._answer(status, headers, answer, sent=len(answer) // 2)
            self.close_connection = True
        elif kind == "short" and status == 206 and len(answer) > 1:
            faults.count(kind)
            self._answer(status, headers, answer[: len(answer) // 2])
        elif kind in ("truncated", "short"):
            self._reset("reset")
        else:
            self._answer(status, headers, answer)

    def _ask_store(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.store)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None) -> None:
        """Answer with `body`, of which only the first `sent` bytes are sent."""
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers.items():
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def _json(self, value: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _error(self, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{code}, as asked for</Message></Error>"
        body = b"" if self.command == "HEAD" else text.encode()
        self._answer(STATUS.get(code, 403), {"Content-Type": "application/xml"}, body)

    def _reset(self, kind: str) -> None:
        self.faults.count(kind)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # A socket is closed, and so reset, when the files made of it are closed as well.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise ConnectionResetError


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):  # it was reset
            super().shutdown_request(request)


def main() -> None:
    from moto.server import ThreadedMotoServer

    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--port-file", required=True)
    arguments.add_argument("--bucket", action="append", default=[], help="made before the first request")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--rate", type=float, default=0.05)
    arguments.add_argument("--kinds", default=",".join(KINDS))
    arguments.add_argument("--slow-s", type=float, default=0.5)
    asked = arguments.parse_args()

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    Proxy.store = moto.get_host_and_port()
    try:
        Proxy.faults = Faults(
            asked.seed, asked.rate, tuple(filter(None, asked.kinds.split(","))), asked.slow_s
        )
    except ValueError as error:
        arguments.error(str(error))
    for bucket in asked.bucket:
        connection = http.client.HTTPConnection(*Proxy.store)
        connection.request("PUT", f"/{bucket}")
        if connection.getresponse().status != 200:
            arguments.error(f"{bucket} is no name for a bucket")
        connection.close()
    server = Server(("127.0.0.1", 0), Proxy)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with open(f"{asked.port_file}.part", "w") as file:
        file.write(address)
    os.replace(f"{asked.port_file}.part", asked.port_file)
    print(address, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
