"""How is the Hugging Face hub asked, and what do its refusals mean?

A location is `hf://datasets/ORG/NAME[@REVISION]/path`. Busy servers (429 with its Retry-After, 5xx) and silence are
waited for and asked again; PATIENCE_S bounds the waiting without progress. What is not there or not for us is said
with the command that mends it.

The token is what `hf auth login` stored or HF_TOKEN holds; it goes to the hub's own host alone and into no file.
HF_ENDPOINT is the hub.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import requests
import urllib3
from winnow.shards.inputs import InputError

DATASETS = "hf://datasets"
COMMIT = re.compile(r"[0-9a-f]{40}")
LOCATION = re.compile(
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/@]+|[^/@]+))?(?:/(?P<path>.*))?",
    re.DOTALL,
)
CONNECT_S, ANSWER_S = 5.0, 60.0
"""Seconds that a connection, and then each piece of an answer, may take."""
PATIENCE_S, LONGEST_WAIT_S = 900.0, 300.0
"""Seconds that are waited without a byte of progress, and at once. The hub counts requests over five minutes
(huggingface.co/docs/hub/rate-limits)."""
SILENCE_S = 30.0
"""The same, of a hub that says nothing while a plan is made, when nothing is lost by giving up."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be others later."""
sleep = time.sleep


class HubError(InputError):
    """The hub has no such thing, or not for us; says what to do."""


class HubSilentError(OSError):
    """The hub does not answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a location names."""

    repository: str
    """`ORG/NAME`"""
    revision: str | None
    path: str

    @property
    def unpinned(self) -> str:
        """The location without a revision, which ids and listings go by."""
        return "/".join(filter(None, [DATASETS, self.repository, self.path]))

    def at(self, commit: str) -> str:
        """The location at a commit."""
        return "/".join(filter(None, [f"{DATASETS}/{self.repository}@{commit}", self.path]))


def place(location: str) -> Place:
    """Raises HubError for a location that is not in a data set's repository."""
    match = LOCATION.fullmatch(location.rstrip("/"))
    if match is None:
        raise HubError(
            f"{location}: a place on the hub is written {DATASETS}/ORG/NAME, with a path behind it"
        )
    revision = match["revision"]
    return Place(match["repository"], unquote(revision) if revision else None, match["path"] or "")


class _Sessions(threading.local):
    """A session a thread, with its connections."""

    def __init__(self) -> None:
        self.session = requests.Session()


_sessions = _Sessions()


def endpoint() -> str:
    """The hub's address."""
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def silence() -> str | None:
    """Why the hub cannot be asked, after a few seconds at most; None where it answers."""
    answered = threading.Event()

    def ask() -> None:
        try:
            requests.head(endpoint(), timeout=CONNECT_S, allow_redirects=False)
            answered.set()
        except requests.RequestException:
            pass
        finally:
            done.set()

    # A thread: a name with many addresses may take the time limit once for each of them.
    done = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    done.wait(2 * CONNECT_S)
    return None if answered.is_set() else f"{endpoint()} does not answer"


@dataclass(slots=True)
class Waiting:
    """The waits between the attempts at one thing."""

    what: str
    waited: float = 0.0
    attempts: int = 0

    def progress(self) -> None:
        self.waited, self.attempts = 0.0, 0

    def wait(self, reason: str, asked: float = 0.0, most: float = PATIENCE_S) -> None:
        """Raises HubSilentError when patience is at its end."""
        self.attempts += 1
        # Workers that were refused together come back one after the other.
        seconds = max(asked, min(2.0 ** (self.attempts - 1), 60.0)) * (1 + random.random() / 4)
        if asked > LONGEST_WAIT_S or self.waited + seconds > most:
            raise HubSilentError(
                f"{self.what}: the hub does not serve it ({reason}; tried {self.attempts} times, "
                f"waited {self.waited:.0f} s)"
            )
        self.waited += seconds
        sleep(seconds)


def asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a busy server asks to be left alone."""
    if (after := headers.get("Retry-After", "")).strip().isdigit():
        return float(after)
    match = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    return float(match[1]) if match else 0.0


def send(method: str, url: str, *, auth: bool = True, **options: Any) -> requests.Response:
    """One request; raises requests' and urllib3's errors."""
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(token=None if auth else False, library_name="winnow")
    headers |= {"Accept-Encoding": "identity"} | options.pop("headers", {})
    return _sessions.session.request(method, url, headers=headers, timeout=(CONNECT_S, ANSWER_S), **options)


def ask(
    method: str, url: str, where: Place, *, silence_s: float = PATIENCE_S, **options: Any
) -> requests.Response:
    """A request of the hub itself, tried until it answers; `silence_s` is for a hub that does not say that it is busy.

    Raises HubError, HubSilentError, FileNotFoundError.
    """
    waiting = Waiting(where.unpinned)
    while True:
        try:
            response = send(method, url, **options)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            waiting.wait(type(error).__name__, most=silence_s)
            continue
        if response.status_code not in PASSING:
            raise_refusal(response, where)
            return response
        response.close()
        waiting.wait(str(response.status_code), asked_wait(response.headers))


def raise_refusal(response: requests.Response, where: Place) -> None:
    """Raises what a status from 400 on means, with the command that mends it; nothing for a lower one."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    if status < 400:
        return
    response.close()
    name, what = where.repository, f"{DATASETS}/{where.repository}"
    if code == "GatedRepo":
        raise HubError(
            f"{what} is gated: accept its terms at {endpoint()}/datasets/{name} and run `hf auth login`"
        )
    if code == "RevisionNotFound":
        raise HubError(
            f"{what} has no revision {where.revision!r}; `hf repo tag list {name} --repo-type dataset` shows its tags"
        )
    if code == "EntryNotFound":
        raise FileNotFoundError(f"{what} has no {where.path or 'files'}")
    invalid = "Invalid credentials" in response.headers.get("X-Error-Message", "")
    if code == "RepoNotFound" or (status in (401, 404) and not invalid):
        raise HubError(
            f"{what} is not on the hub, or is private: look for it at {endpoint()}/datasets/{name}, "
            "and run `hf auth login` where it is private"
        )
    if status in (401, 403):
        raise HubError(f"{what}: the hub refuses our token (HTTP {status}); run `hf auth login`")
    raise HubError(f"{what}: the hub answers with HTTP {status}")
