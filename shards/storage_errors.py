"""What may go wrong with an object store, and how long is it waited for?

Passing trouble (a busy store, silence, a cut connection) is waited for with growing pauses until `PATIENCE_S` have
gone by without a byte of progress; a store that never answered this process is given up after `SILENCE_S`.
Everything else is an error at once. All of them are OSErrors; `permanent` is true where the same again would
fail the same way. No message carries a credential: `scrub` takes out what looks like one.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field

PATIENCE_S, SILENCE_S = 300.0, 10.0
"""Seconds of waiting without progress, and of waiting for a store that never answered this process."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 20.0
"""The pauses between two attempts grow from the one to the other, each a random part of it more than half."""
MOST_SAID = 200
"""Characters of a store's own message that are passed on."""
SIGNED = re.compile(
    r"[?&](?:x-amz-(?:signature|credential|security-token)|x-goog-signature|signature|sig)=", re.I
)
"""In the query of an address that is a key to what it names."""
URL = re.compile(r"(?<![a-z0-9+.-])([a-z0-9+.-]+)://(?=([^/\s]*))", re.I)
"""A scheme and what stands before the first slash; the URLs of a chain (`zip://a::s3://b/c`) one by one."""
BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Schemes that have a bucket where others have a host: no port, and a colon only in an ARN."""
SECRETS = (
    (re.compile(r"(//)[^/@\s]+@"), r"\1(credentials)@"),
    # Secret keys have slashes; they have a bound because a text may have many colons.
    (re.compile(r"(//)[^/\s:@]+:[^@\s]{1,256}@"), r"\1(credentials)@"),
    (re.compile(r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|AGPA|AROA)[A-Z0-9]{12,}\b"), "(key id)"),
    (
        re.compile(r"(?i)\b((?:x-(?:amz|goog)-)?(?:signature|credential|security-token|sig))=[^&\s\"'<,]+"),
        r"\1=(hidden)",
    ),
    (re.compile(r"(?i)\b(bearer|aws4-hmac-sha256)\s+[^\s,]+"), r"\1 (hidden)"),
)
sleep = time.sleep


class StorageError(OSError):
    """An object store does not serve what was asked of it."""

    permanent = False


class NoBucketError(StorageError):
    """There is no such bucket: neither its files nor their absence can be told."""

    permanent = True


class RefusedError(StorageError, PermissionError):
    """The store refuses us: no credentials, wrong or expired ones, or ones that may not do this."""

    permanent = True


class MissingError(StorageError, FileNotFoundError):
    """There is no such file."""

    permanent = True


class ChangedError(StorageError):
    """A file was another one before all of it was read."""

    permanent = True


class UnusableError(StorageError):
    """The store answers, and cannot be used like this."""

    permanent = True


def scrub(text: str, *known: str | None) -> str:
    """The text without what looks like a credential, and without the `known` ones."""
    for secret in known:
        if secret:
            text = text.replace(secret, "(hidden)")
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def carries_credentials(location: str) -> bool:
    """Tell whether a URL, or one in a chain or text, has a user's name or key before its host, or a signature in its
    query."""
    schemes = set()
    for scheme, host in URL.findall(location):
        schemes.add(scheme := scheme.lower())
        user = host.rpartition("@")[0]
        # The hub's hf://datasets@revision names a version, Azure's abfs://container@account a container.
        if user and scheme != "hf" and (":" in user or not scheme.startswith(("abfs", "wasb"))):
            return True
        if scheme in BUCKETS and has_key(host.rstrip(":")):
            return True
    return bool(schemes - {"hf"}) and SIGNED.search(location) is not None


def has_key(bucket: str) -> bool:
    """Tell whether what stands for a bucket begins with a key: `KEY:SECRET@…`, and a secret may have a slash, at which
    the bucket seems to end."""
    return "@" in bucket or (":" in bucket and not bucket.startswith("arn:"))


@dataclass(slots=True)
class Patience:
    """The waits between the attempts at one thing."""

    what: str
    """The location, for the message."""
    waited: float = 0.0
    attempts: int = 0
    since: float = field(default_factory=time.monotonic)

    def progress(self) -> None:
        self.waited, self.attempts, self.since = 0.0, 0, time.monotonic()

    def wait(self, reason: str, asked: float = 0.0, most: float | None = None) -> None:
        """Pause before the next attempt. Raises StorageError when `most` (PATIENCE_S) seconds were waited in vain.

        reason : what the last attempt came to.
        asked  : seconds that the store asks to be left alone.
        """
        most = PATIENCE_S if most is None else most
        self.attempts += 1
        pause = min(FIRST_WAIT_S * 2.0 ** (self.attempts - 1), LONGEST_WAIT_S)
        seconds = max(asked, pause * random.uniform(0.5, 1.0))
        # Attempts take time as well: those that end in silence a minute each.
        self.waited = max(self.waited, time.monotonic() - self.since)
        if self.waited + seconds > most:
            raise StorageError(
                f"{self.what}: the object store does not serve it ({reason}; tried {self.attempts} times, waited "
                f"{self.waited:.0f} s); what is done stays, the same command continues once the store answers"
            )
        self.waited += seconds
        sleep(seconds)
