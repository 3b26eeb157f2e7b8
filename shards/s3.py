"""How is S3 asked, and what do its refusals mean?

Through botocore, a request at a time: botocore's own retries are off (they, s3fs's and ours would multiply), so that
everything that is tried again is tried by `call`, as storage_errors.py says. An answer has `CONNECT_S` to begin and
`ANSWER_S` for each piece.

Tried again: 500, 502, 503 SlowDown, 504, 408, 429, a conflict of two writers, a body that arrived damaged (BadDigest),
silence, a connection that was cut, an answer that is no XML, a GET with fewer bytes than were asked for. Tried once
more, with credentials read anew from where they come from: ExpiredToken, InvalidToken, InvalidAccessKeyId, none.
An error at once: AccessDenied, SignatureDoesNotMatch, NoSuchBucket, NoSuchKey and everything else.

A HEAD has no body to say why it is refused: a listing of the same key is asked instead. Reading is s3_read.py, writing
s3_put.py.

Credentials, region and endpoint come from the usual places (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws, a role); what
fsspec's own settings say of s3 (FSSPEC_S3_ANON, FSSPEC_S3_ENDPOINT_URL, KEY, SECRET, TOKEN, PROFILE) goes before.
One client a process; it is shared by its threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from winnow.shards.storage_errors import (
    MOST_SAID,
    SILENCE_S,
    ChangedError,
    MissingError,
    NoBucketError,
    Patience,
    RefusedError,
    StorageError,
    UnusableError,
    has_key,
    scrub,
)

T = TypeVar("T")
SCHEMES = ("s3://", "s3a://")
CONNECT_S, ANSWER_S = 10.0, 60.0
CONNECTIONS = 32
PASSING = {408, 425, 429, 500, 502, 503, 504, 509}
"""Statuses that may be others later."""
PASSING_CODES = {
    "InternalError", "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded",
    "RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody",
    "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
}  # fmt: skip
RENEWED = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId",
    "RequestExpired",
}  # fmt: skip
"""Codes that other credentials may mend, which are asked for once."""
LOCAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
"""What no connection raises: botocore could not read a file, or start a program, that has the credentials."""
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an object."""

    size: int
    etag: str
    """Without quotes."""

    @property
    def fingerprint(self) -> str:
        return f"ETag:{self.etag}"


@dataclass(frozen=True, slots=True)
class Failure:
    """What an attempt came to."""

    reason: str
    error: StorageError | None = None
    """What it is for good; None: it may pass."""
    renew: bool = False
    """Whether other credentials may mend it."""
    asked: float = 0.0
    answered: bool = True


class ShortAnswerError(Exception):
    """An answer had fewer bytes than were asked for."""


class _Clients:
    """The client of this process; a forked child makes its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: tuple[int, Any] | None = None
        self.answered = False
        self.buckets: set[str] = set()
        """Those that were seen to be there."""

    def get(self) -> Any:
        with self.lock:
            if self.made is None or self.made[0] != os.getpid():
                self.made = os.getpid(), _new_client()
            return self.made[1]

    def renew(self, old: Any) -> None:
        """Forget a client, unless another thread already has."""
        with self.lock:
            if self.made is not None and self.made[1] is old:
                self.made = None


clients = _Clients()


def _new_client() -> Any:
    """Raises RefusedError for settings that name no credentials, UnusableError for others that are wrong."""
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from fsspec.config import conf
    except ImportError as error:
        raise UnusableError("s3:// needs botocore: pip install 'winnow[hub]'") from error
    ours = conf.get("s3", {})
    anonymous = str(ours.get("anon", "")).lower() in ("1", "true", "yes")
    message = ""
    try:
        session = botocore.session.Session(profile=ours.get("profile"))
        return session.create_client(
            "s3",
            endpoint_url=ours.get("endpoint_url"),
            aws_access_key_id=ours.get("key"),
            aws_secret_access_key=ours.get("secret"),
            aws_session_token=ours.get("token"),
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=CONNECT_S,
                read_timeout=ANSWER_S,
                max_pool_connections=CONNECTIONS,
                # Content-MD5 goes with every put, which stores that are not AWS know too.
                request_checksum_calculation="when_required",
                signature_version=UNSIGNED if anonymous else None,
            ),
        )
    except OSError as error:
        raise _unread("s3://", error) from None
    except (BotoCoreError, ValueError) as error:
        message = scrub(str(error))
    raise UnusableError(f"the settings of S3 cannot be used: {message}")


def _unread(location: str, error: OSError) -> RefusedError:
    named = f": {scrub(str(error.filename))}" if error.filename else ""
    return RefusedError(
        f"{location}: no credentials for S3 are found here ({type(error).__name__}{named}); see to what the settings "
        "of this node name (AWS_WEB_IDENTITY_TOKEN_FILE, credential_process and the like)"
    )


def place(location: str) -> tuple[str, str]:
    """(bucket, key) of a location. Raises UnusableError for one without a bucket."""
    bucket, _, key = location.split("://", 1)[1].partition("/")
    if not bucket or has_key(bucket):
        raise UnusableError("a place on S3 is written s3://BUCKET/KEY, and credentials are no part of it")
    return bucket, key


def call(location: str, ask: Callable[[Any], T], patience: Patience | None = None) -> T:
    """`ask(client)`, tried until it answers. Raises StorageError and its kinds."""
    bucket, _ = place(location)
    patience = patience or Patience(location)
    renewed = False
    while True:
        client = clients.get()
        try:
            answer = ask(client)
        except StorageError:
            raise
        except LOCAL as error:
            failure = Failure("no credentials", _unread(location, error), renew=True, answered=False)
        except (OSError, ShortAnswerError) as error:  # of the connection
            failure = Failure(type(error).__name__)
        except Exception as error:
            failure = understand(error, location, client)
        else:
            clients.answered = True
            clients.buckets.add(bucket)
            return answer
        # Raised out here: what botocore raises holds requests and answers, which are nobody's to print.
        renewed = settle(failure, patience, renewed, client)


def request(location: str, method: str, **options: Any) -> Any:
    """The answer of a method of botocore's client for an object, or for a listing with a Prefix. As `call`."""
    bucket, key = place(location)
    if "Prefix" not in options:
        options["Key"] = key
    return call(location, lambda client: getattr(client, method)(Bucket=bucket, **options))


def settle(failure: Failure, patience: Patience, renewed: bool, client: Any) -> bool:
    """Wait, or see to other credentials; whether that was done. Raises what is an error for good."""
    clients.answered = clients.answered or failure.answered
    if failure.error is None:
        patience.wait(failure.reason, failure.asked, None if clients.answered else SILENCE_S)
        return renewed
    if not failure.renew or renewed:
        raise failure.error
    clients.renew(client)
    return True


def understand(error: Exception, location: str, client: Any) -> Failure:
    """What an exception of botocore, or of the connection below it, means. Others are raised again."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, exceptions.ClientError):
        return _refusal(error, location, client)
    if isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
            exceptions.MetadataRetrievalError,
        ),
    ):
        text = (
            f"{location}: no credentials for S3 are found here ({type(error).__name__}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile or a role on every node (FSSPEC_S3_ANON=true for a public bucket)"
        )
        return Failure("no credentials", RefusedError(text), renew=True, answered=False)
    silent = isinstance(error, exceptions.ConnectionError)
    cut = (
        exceptions.HTTPClientError,
        ResponseParserError,
        exceptions.IncompleteReadError,
        HTTPError,
    )
    if silent or isinstance(error, cut):
        return Failure(_reason(error, client), answered=not silent)
    if isinstance(error, exceptions.BotoCoreError):
        return Failure("", UnusableError(f"{location}: {scrub(str(error), *_secrets(client))}"))
    raise error


def _reason(error: Exception, client: Any) -> str:
    host = urlsplit(client.meta.endpoint_url).netloc.rsplit("@", 1)[-1]
    return f"{type(error).__name__} at {host}"


def _secrets(client: Any) -> list[str | None]:
    # The signer is the one place where a client has them; without it the patterns of `scrub` are left.
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    return [getattr(credentials, name, None) for name in ("access_key", "secret_key", "token")]


def _refusal(error: Any, location: str, client: Any) -> Failure:
    """What an answer from 300 on means."""
    said, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    after = meta.get("HTTPHeaders", {}).get("retry-after", "")
    if code in PASSING_CODES or status in PASSING:
        return Failure(f"{status} {code}", asked=min(float(after), 60.0) if after.isdigit() else 0.0)
    bucket = place(location)[0]
    message = scrub(str(said.get("Message", "")), *_secrets(client))[:MOST_SAID]
    if code == "NoSuchBucket":
        text = (
            f"{location}: there is no bucket {bucket!r}; make it, or look at its name and at AWS_ENDPOINT_URL"
        )
        return Failure(code, NoBucketError(text))
    if code in ("NoSuchKey", "404", "NotFound"):
        return Failure(code, MissingError(f"{location}: there is no such file"))
    if code in EXPIRED:
        text = (
            f"{location}: the credentials are expired; give the nodes fresh ones; the same command continues"
        )
        return Failure(code, RefusedError(text), renew=True)
    if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
        return Failure(code, ChangedError(f"{location}: was changed while it was read; run again"))
    if status in (401, 403) or code in RENEWED:
        text = (
            f"{location}: the store refuses us ({code}: {message}); look at the nodes' credentials "
            "and at what they may do (docs/object_stores.md)"
        )
        return Failure(code, RefusedError(text), renew=code in RENEWED)
    return Failure(
        code, UnusableError(f"{location}: the store answers with HTTP {status} ({code}: {message})")
    )


def facts(location: str) -> Facts | None:
    """Size and ETag of an object; None where it is known that there is none.

    Raises NoBucketError, RefusedError: then nothing is known.
    """
    refusal: StorageError
    for _ in range(2):
        try:
            answer = request(location, "head_object")
            return Facts(int(answer["ContentLength"]), etag_of(answer))
        except MissingError as error:
            if place(location)[0] in clients.buckets:
                return None
            refusal = error
        except (RefusedError, UnusableError) as error:
            refusal = error
        # A listing says in words what a HEAD cannot: expired, no such bucket; it may get us other credentials, too.
        request(location, "list_objects_v2", Prefix=place(location)[1], MaxKeys=1)
        if isinstance(refusal, MissingError):
            return None
    raise refusal


def etag_of(answer: dict[str, Any]) -> str:
    """The ETag of an answer, without quotes."""
    return str(answer.get("ETag", "")).removeprefix("W/").strip('"')


def known(location: str) -> Facts:
    """As `facts`. Raises MissingError where there is no such object."""
    there = facts(location)
    if there is None:
        raise MissingError(f"{location}: there is no such file")
    return there


def listing(location: str, *, deep: bool = True) -> Iterator[tuple[str, Facts | None]]:
    """(key, facts) of all objects below a directory, sorted by key; without `deep` of those in it itself, and
    (key with a slash, None) for the directories in it. Each page is tried until it is there.
    """
    _, key = place(location)
    prefix = f"{key.rstrip('/')}/" if key else ""
    token: str | None = None
    while True:
        options = {} if deep else {"Delimiter": "/"}
        if token:
            options["ContinuationToken"] = token
        page = request(location, "list_objects_v2", Prefix=prefix, **options)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # a console's sign that there is a directory
                yield entry["Key"], Facts(int(entry["Size"]), etag_of(entry))
        for entry in page.get("CommonPrefixes", ()):
            yield entry["Prefix"], None
        if not page.get("IsTruncated"):
            return
        if (following := page.get("NextContinuationToken")) in (None, token):
            raise UnusableError(
                f"{location}: the store's list of files breaks off without saying where it goes on"
            )
        token = following


def remove(location: str) -> None:
    """Delete an object; nothing where there is none."""
    request(location, "delete_object")
