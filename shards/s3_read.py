"""How is an object on S3 read so that a part of it is never taken for the whole?

By ranges. The first answer says how long the object is and which version; what is missing of a range is asked for
again from the byte that was reached, with If-Match, so that all of it is one object's bytes or an error.
"""

from __future__ import annotations

from typing import Any

from winnow.shards.s3 import Facts, ShortAnswerError, call, etag_of, place
from winnow.shards.storage_errors import ChangedError, Patience, UnusableError

PART_READ = 1 << 20
"""Bytes taken from a connection at once."""


def read_into(location: str, start: int, target: memoryview, expected: Facts | None = None) -> int:
    """Fill `target` from byte `start` on; the bytes filled are fewer only where the object ends.

    expected : what the object has to be. Raises ChangedError when it is not, or not to the end.
    """
    got = _Got(location, start, target, expected)
    if len(target) and not got.ended:
        call(location, got.more, got.patience)
    return got.filled


def read_all(location: str) -> bytes:
    """The whole of an object, in one request where nothing goes wrong."""
    got = _Got(location, 0, None, None)
    call(location, got.more, got.patience)
    return bytes(got.target or b"")


class _Got:
    """What was read of an object so far."""

    def __init__(self, location: str, start: int, target: memoryview | None, facts: Facts | None):
        self.location, self.start, self.target, self.facts = location, start, target, facts
        self.filled = 0
        self.patience = Patience(location)

    @property
    def ended(self) -> bool:
        return self.facts is not None and self.start + self.filled >= self.facts.size

    def more(self, client: Any) -> None:
        """One request for all that is missing; whatever of it arrives is kept."""
        bucket, key = place(self.location)
        at = self.start + self.filled
        last = "" if self.target is None else self.start + len(self.target) - 1
        options = {"IfMatch": f'"{self.facts.etag}"'} if self.facts and self.facts.etag else {}
        try:
            answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={at}-{last}", **options)
        except client.exceptions.ClientError as error:
            if self.facts is None and error.response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
                return  # nothing lies there, which is no fault
            raise
        body = answer["Body"]
        try:
            size = self._check(answer, at)
            target = self.target = memoryview(bytearray(size)) if self.target is None else self.target
            stop = min(len(target), size - self.start)
            while self.filled < stop and (data := body.read(min(PART_READ, stop - self.filled))):
                target[self.filled : self.filled + len(data)] = data
                self.filled += len(data)
                self.patience.progress()
        finally:
            body.close()
        if self.filled < stop:
            raise ShortAnswerError

    def _check(self, answer: dict[str, Any], at: int) -> int:
        """Bytes of the object, which is the one that was expected, served from `at` on."""
        span = answer.get("ContentRange") or f"bytes 0-/{answer['ContentLength']}"
        first, _, size = span.removeprefix("bytes ").partition("/")
        if first.split("-")[0] != str(at) or not size.isdigit():
            raise UnusableError(f"{self.location}: the store does not serve parts of files")
        found = Facts(int(size), etag_of(answer))
        if self.facts is not None and found != self.facts:
            raise ChangedError(f"{self.location}: was changed while it was read; run again")
        self.facts = found
        return found.size
