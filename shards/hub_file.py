"""How is a file on the Hugging Face hub read, whatever the network does?

By ranges over HTTP (ranged_file.py). After a busy answer, silence or a cut connection it goes on at the
byte that was reached; a body that is too short is never taken for the end of the file, and bytes of another version
are never taken for this one's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests
import urllib3
from winnow.shards import hub
from winnow.shards.hub_requests import (
    PASSING,
    HubError,
    Waiting,
    asked_wait,
    endpoint,
    place,
    raise_refusal,
    send,
)
from winnow.shards.inputs import InputError
from winnow.shards.ranged_file import RangedFile

MOST_SKIPPED = 64 << 20
"""Bytes that are read past, of a server that sends the whole of a file where a part was asked for."""


class HubFile(RangedFile):
    """A file on the hub; `read` gives all the bytes that are asked for but at the end."""

    def __init__(self, location: str):
        self.location = location
        self.where = place(location)
        self.facts = hub.facts(location)
        super().__init__(self.facts.size)
        self.stored: str | None = None
        """Where the hub sends readers of this file; such addresses hold for a while."""
        self.stored_etag: str | None = None

    def fetch(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, however often the connection is cut."""
        data = bytearray()
        waiting = Waiting(self.location)
        while start + len(data) < stop:
            before, reason, asked = len(data), "the connection was cut", 0.0
            try:
                with self._get(start + len(data), stop) as response:
                    if response.status_code in PASSING:
                        reason, asked = str(response.status_code), asked_wait(response.headers)
                    elif response.status_code in (401, 403, 404, 410) and not _is_hub(response.url):
                        reason = f"{response.status_code} of its store"
                    else:
                        skipped = self._check(response, start + len(data))
                        # Not decoded: a .gz that its store calls gzip-encoded is wanted as it is.
                        for part in response.raw.stream(1 << 20, decode_content=False):
                            data += part[skipped : skipped + stop - start - len(data)]
                            skipped = max(0, skipped - len(part))
                            if start + len(data) >= stop:
                                break
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = type(error).__name__
            if start + len(data) >= stop:
                break
            self.stored = None
            if len(data) > before:
                waiting.progress()
            waiting.wait(reason, asked)
        return bytes(data)

    def _get(self, start: int, stop: int) -> requests.Response:
        return send(
            "GET",
            self.stored or hub.url_of(self.where),
            auth=self.stored is None,
            headers={"Range": f"bytes={start}-{stop - 1}"},
            stream=True,
        )

    def _check(self, response: requests.Response, start: int) -> int:
        """Bytes of the answer that lie before `start`. Raises InputError for bytes of another file or place."""
        if self.stored is None:
            raise_refusal(response, self.where)
        elif response.status_code >= 400:
            raise HubError(f"{self.location}: its store answers with HTTP {response.status_code}")
        ours = [r.headers for r in (*response.history, response) if _is_hub(r.url)]
        said = [_version(h) for h in ours if "X-Linked-ETag" in h] or [_version(h) for h in ours[-1:]]
        etag = response.headers.get("ETag")
        if said[:1] not in ([], [None], [self.facts.etag]) or (self.stored and etag != self.stored_etag):
            raise self._changed()
        first, size = _span(response)
        if size is None or not 0 <= start - first <= MOST_SKIPPED:
            raise HubError(f"{self.location}: the server does not serve parts of files")
        if size != self.facts.size:
            raise self._changed()
        if response.history and not _is_hub(response.url):
            self.stored, self.stored_etag = response.url, etag
        return start - first

    def _changed(self) -> InputError:
        return InputError(f"{self.where.path}: changed since the run was planned; run again")


def _version(headers: Mapping[str, str]) -> str | None:
    try:
        return hub.etag_of(headers)
    except KeyError:
        return None


def _is_hub(url: str) -> bool:
    return urlsplit(url).netloc == urlsplit(endpoint()).netloc


def _span(response: requests.Response) -> tuple[int, int | None]:
    """(first byte of an answer, bytes of the whole file); a server may send all of a file that a part was asked of."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (int(match[1]), int(match[2])) if match else (0, None)
