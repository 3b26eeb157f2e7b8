"""What is in a data set's repository on the Hugging Face hub, and at which commit?

A run pins the revision: `commit_of` turns a branch or tag into the commit it is at, and the locations that `walk` gives
carry that commit, so their bytes cannot change while a run is continued. What identifies a file is its ETag: the
SHA-256 of one in large file storage, else git's id of the blob.

With HF_HUB_OFFLINE the hub's cache (HF_HOME, filled by `hf download`) is all there is; without it, too, a file that
the cache has at that commit is read there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
from winnow.shards.hub_requests import (
    COMMIT,
    DATASETS,
    SILENCE_S,
    HubError,
    HubSilentError,
    Place,
    ask,
    endpoint,
    offline,
    place,
)

MOST_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file."""

    size: int
    etag: str

    @property
    def fingerprint(self) -> str:
        return f"etag:{self.etag}"


def _cache(repository: str) -> Path:
    """The directory of a repository in the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"


def _snapshot(repository: str, commit: str) -> Path:
    return _cache(repository) / "snapshots" / commit


def commit_of(repository: str, revision: str) -> str:
    """The commit that a branch, a tag or an abbreviated commit is at now.

    Raises HubError for a repository or revision that is not there, HubSilentError where nobody can tell.
    """
    if COMMIT.fullmatch(revision):
        return revision
    if offline():
        ref = _cache(repository) / "refs" / revision
        if ref.is_file():
            return ref.read_text().strip()
        raise HubSilentError(f"HF_HUB_OFFLINE is set, and {DATASETS}/{repository} is not in the hub's cache")
    url = f"{endpoint()}/api/datasets/{repository}/revision/{quote(revision, safe='')}"
    where = Place(repository, revision, "")
    answer = _json(ask("GET", url, where, silence_s=SILENCE_S, params={"expand": "sha"}), where)
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise HubError(f"{DATASETS}/{repository}: the hub names no commit for {revision!r}")
    return commit


def _json(response: requests.Response, where: Place) -> Any:
    try:
        return response.json()
    except requests.RequestException as error:
        raise HubError(f"{where.unpinned}: the answer of {endpoint()} is not the hub's") from error


def walk(root: str, prefix: str, depth: int | None) -> Iterator[tuple[str, str, int, str]]:
    """(path below the root, location, bytes, fingerprint) of the files below root/prefix.

    depth : names that a path below the root has at most; None for any number.
    """
    where = place(root)
    commit = commit_of(where.repository, where.revision or "main")
    top = "/".join(filter(None, [where.path, prefix]))
    below = len(where.path) + 1 if where.path else 0
    deep = depth is None or depth > (prefix.count("/") + 2 if prefix else 1)
    for path, facts in _files(Place(where.repository, commit, top), deep):
        location = Place(where.repository, None, path).at(commit)
        if depth is None or path[below:].count("/") < depth:
            yield path[below:], location, facts.size, facts.fingerprint


def _files(where: Place, deep: bool) -> Iterator[tuple[str, Facts]]:
    """(path in the repository, facts) of the files in a directory, and with `deep` of all below it."""
    assert where.revision is not None
    if offline():
        yield from _cached_files(where)
        return
    url: str | None = f"{endpoint()}/api/datasets/{where.repository}/tree/{quote(where.revision, safe='')}"
    if where.path:
        url = f"{url}/{quote(where.path)}"
    options: dict[str, Any] = {"params": {"recursive": "true"}} if deep else {}
    while url:
        try:
            response = ask("GET", url, where, silence_s=SILENCE_S, **options)
        except FileNotFoundError:
            return
        entries = _json(response, where)
        for entry in entries if isinstance(entries, list) else ():
            if entry.get("type") == "file":
                large = entry.get("lfs") or {}
                yield entry["path"], Facts(int(entry["size"]), large.get("oid") or entry["oid"])
        url = response.links.get("next", {}).get("url")
        options = {}
        if url and urlsplit(url).netloc != urlsplit(endpoint()).netloc:
            raise HubError(
                f"{where.unpinned}: the list goes on at {urlsplit(url).netloc}, which is not the hub"
            )


def _cached_files(where: Place) -> Iterator[tuple[str, Facts]]:
    snapshot = _snapshot(where.repository, str(where.revision))
    if not snapshot.is_dir():
        raise HubSilentError(
            f"HF_HUB_OFFLINE is set, and {DATASETS}/{where.repository} is not in the hub's cache at {where.revision}"
        )
    for directory, _, names in os.walk(snapshot / where.path):
        for name in names:
            path = (Path(directory) / name).relative_to(snapshot).as_posix()
            if (facts := _cached_facts(snapshot / path)) is not None:
                yield path, facts


def _cached_facts(path: Path) -> Facts | None:
    """Of a file of the cache, a link to a blob that is named by its ETag."""
    return Facts(path.stat().st_size, os.path.basename(os.path.realpath(path))) if path.is_file() else None


def _cached(where: Place) -> Path | None:
    """The file of the hub's cache that a location means, where it is there."""
    if where.revision is None:
        return None
    path = _snapshot(where.repository, where.revision) / where.path
    return path if path.is_file() else None


@lru_cache(
    maxsize=1 << 12
)  # what a commit holds does not change; a split of small files asks three times for each
def facts(location: str) -> Facts:
    """Size and ETag of a file. Raises FileNotFoundError, HubError, HubSilentError."""
    where = place(location)
    if (path := _cached(where)) is not None and (known := _cached_facts(path)) is not None:
        return known
    if offline():
        raise HubSilentError(f"HF_HUB_OFFLINE is set, and {location} is not in the hub's cache")
    url = url_of(where)
    for _ in range(MOST_REDIRECTS):
        response = ask("HEAD", url, where, allow_redirects=False)
        there = response.headers.get("Location")
        # A repository of another name is on the hub's own host; where large files are stored is not asked.
        if there is None or "X-Linked-Size" in response.headers or urlsplit(there).netloc:
            break
        url = urljoin(url, there)
    try:
        size = int(response.headers.get("X-Linked-Size") or response.headers["Content-Length"])
        return Facts(size, etag_of(response.headers))
    except (KeyError, ValueError) as error:
        raise HubError(f"{location}: the hub does not say how long it is, or which version") from error


def url_of(where: Place) -> str:
    """Where the hub answers for a file, at its revision or at `main`."""
    revision = quote(where.revision or "main", safe="")
    return f"{endpoint()}/datasets/{where.repository}/resolve/{revision}/{quote(where.path)}"


def etag_of(headers: Mapping[str, str]) -> str:
    """What identifies a file's content, which the hub says apart for large files. Raises KeyError."""
    return plain_etag(headers.get("X-Linked-ETag") or headers["ETag"])


def plain_etag(etag: str) -> str:
    """An ETag without quotes; a weak one (a proxy compressed the answer) names the same content."""
    return etag.removeprefix("W/").strip('"')


def open_file(location: str) -> Any:
    """A file for reading and seeking. Raises as `facts` does."""
    from winnow.shards.hub_file import HubFile

    path = _cached(place(location))
    return open(path, "rb") if path is not None else HubFile(location)
