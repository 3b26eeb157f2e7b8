"""Which files does a source consist of?

A split (splits.py) is the unit of work, a *piece* the part of one file that belongs to one split. Ids are the same
however a file is cut: the first half of an id is xxh3-64(source ␀ path relative to the root), the second the row's
position in its file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import xxhash
from winnow.shards import storage

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}
NOT_READ = (".br", ".7z", ".rar", ".lzma", ".lz", ".Z", ".tar.lz4", ".tbz2", ".txz", ".tzst")
"""Suffixes of what would only be garbage if it were read as text."""
DANGLING = "dangling"
SHARDS = "shards://"
"""Begins the location of a data set's shard, which hub_dataset.py reads and checks itself."""
WILDCARD = re.compile(r"[*?\[]")


class InputError(ValueError):
    """The input is not what the recipe says; the message names the source and what to do."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a source, as it was when the run was planned."""

    path: str
    """Relative to the root, POSIX."""
    location: str
    size: int
    """Bytes as stored (compressed, where it is)."""
    fingerprint: str
    """ETag, or modification time in nanoseconds: what tells a changed file from the same one."""

    def id_half(self, source: str) -> int:
        """The first half of the ids of this file's documents."""
        return xxhash.xxh3_64_intdigest(f"{source}\0{self.path}".encode())

    @property
    def compression(self) -> str | None:
        return COMPRESSIONS.get(os.path.splitext(self.path)[1])


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a file that belongs to a split."""

    file: int
    """Rank of the file in the source's sorted listing."""
    location: str
    path: str
    id_half: int
    size: int
    start: int = 0
    """First byte (text formats) or first row group (Parquet)."""
    stop: int = -1
    """One past the last; -1 is the end of the file. A row belongs to the piece its first byte is in."""
    file_size: int | None = None
    fingerprint: str | None = None
    """The whole file's, as planned; without a fingerprint nothing is checked."""


@dataclass(frozen=True, slots=True)
class Split:
    index: int
    pieces: tuple[Piece, ...]

    @property
    def cost(self) -> int:
        """Bytes as stored, for estimates."""
        return sum(p.size for p in self.pieces)


def static_prefix(pattern: str) -> str:
    """The directory before the first wildcard of a pattern."""
    match = WILDCARD.search(pattern)
    head = pattern[: match.start()] if match else pattern
    return head.rsplit("/", 1)[0] if "/" in head else ""


def default_root(patterns: Sequence[str]) -> str:
    """The directory all patterns share before their first wildcard; local ones absolute.

    Raises InputError for URLs that share none.
    """
    prefixes = []
    for pattern in patterns:
        location = storage.absolute(pattern) if storage.is_local(pattern) else pattern
        prefixes.append(static_prefix(location).split("/"))
    shared = []
    for parts in zip(*prefixes, strict=False):
        if len(set(parts)) != 1:
            break
        shared.append(parts[0])
    if all(map(storage.is_local, patterns)):
        return "/".join(shared) or "/"
    least = 5 if shared[:1] == ["hf:"] else 3  # scheme:, nothing, bucket; datasets, organisation, name
    if len(shared) < least:
        raise InputError(f"{', '.join(patterns)} lie in different places; make them sources of their own")
    return "/".join(shared)


def list_source(
    source: str, root: str, patterns: Sequence[str], exclude: Sequence[str] = ()
) -> list[InputFile]:
    """The files that match any pattern and no exclusion, sorted by path, each once.

    `root` is a location; patterns are relative to it or absolute below it. `**` matches any number
    of directories; names that start with a dot are matched by patterns that say the dot. Raises InputError
    when nothing matches, for a file of a kind that is not read, and when two paths share an id half;
    OSError when a directory cannot be listed.
    """
    root = storage.absolute(root)
    inner = [relative_pattern(root, p) for p in patterns]
    wanted = [glob_regex(p) for p in inner]
    depth = None if any("**" in p for p in inner) else max(p.count("/") + 1 for p in inner)
    found: dict[str, InputFile] = {}
    dots = any("/." in "/" + p.removeprefix(static_prefix(p)).lstrip("/") for p in inner)
    for prefix in _starts(inner):
        local = storage.is_local(root)
        walk = _walk_local(root, prefix, depth, dots) if local else _walk_remote(root, prefix, depth)
        for path, location, size, mark in walk:
            if any(w.fullmatch(path) for w in wanted):
                if mark == DANGLING:
                    raise InputError(f"source {source!r}: {path} is a link to a file that is not there")
                found[path] = InputFile(path, location, size, mark)
    excluded = [glob_regex(relative_pattern(root, p)) for p in exclude]
    files = [found[p] for p in sorted(found) if not any(e.fullmatch(p) for e in excluded)]
    if not files:
        raise InputError(_no_match(source, root, patterns))
    for file in files:
        if file.path.endswith(NOT_READ):
            raise InputError(
                f"source {source!r}: {file.path}: files of this kind are not read; recompress as .zst"
            )
    halves: dict[int, str] = {}
    for file in files:
        other = halves.setdefault(file.id_half(source), file.path)
        if other != file.path:
            raise InputError(f"source {source!r}: {other!r} and {file.path!r} have the same id; rename one")
    return files


def relative_pattern(root: str, pattern: str) -> str:
    """A pattern as seen from the root. Raises InputError when it lies outside."""
    if storage.is_local(root) and not os.path.isabs(storage.local_path(pattern)):
        return pattern
    if not storage.is_local(root) and "://" not in pattern:
        return pattern
    location = storage.absolute(pattern)
    prefix = root.rstrip("/") + "/"
    if not location.startswith(prefix):
        raise InputError(f"path {pattern!r} is not below root {root!r}")
    return location[len(prefix) :]


def _starts(patterns: Sequence[str]) -> list[str]:
    """The directories to walk, none of them inside another: every pattern's part before its first wildcard."""
    starts: list[str] = []
    for prefix in sorted({static_prefix(p) for p in patterns}, key=len):
        if not any(s == "" or prefix == s or prefix.startswith(s + "/") for s in starts):
            starts.append(prefix)
    return starts


def _walk_local(root: str, prefix: str, depth: int | None, dots: bool) -> Iterator[tuple[str, str, int, str]]:
    """(path, location, bytes, fingerprint) of the files below root/prefix, at most `depth` names deep.

    Links are followed, but not into a directory they lie in; directories with a leading dot only if `dots`.
    """
    base = storage.local_path(root)
    top = os.path.join(base, prefix) if prefix else base
    pending = [(prefix, top, frozenset({os.path.realpath(top)}))]
    while pending:
        path, directory, above = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            name = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                deeper = depth is None or name.count("/") + 1 < depth
                if deeper and real not in above and (dots or not entry.name.startswith(".")):
                    pending.append((name, entry.path, above | {real}))
            elif entry.is_file():
                stat = entry.stat()
                yield name, entry.path, stat.st_size, f"mtime:{stat.st_mtime_ns}"
            elif entry.is_symlink():
                yield name, entry.path, 0, DANGLING


def _walk_remote(root: str, prefix: str, depth: int | None) -> Iterator[tuple[str, str, int, str]]:
    if root.startswith(storage.HUB):
        from winnow.shards import hub

        yield from hub.walk(root, prefix, depth)
        return
    from winnow.shards import object_store

    # A path of a source is seen from the root, and so is its depth.
    below = None if depth is None else depth - (prefix.count("/") + 1 if prefix else 0)
    for path, location, size, mark in object_store.walk(
        storage.join(root, prefix) if prefix else root, below
    ):
        yield f"{prefix}/{path}" if prefix else path, location, size, mark


def check_unchanged(piece: Piece) -> None:
    """Raises InputError when the file of a piece is not the one that was planned with."""
    if not piece.fingerprint or piece.location.startswith(SHARDS):
        return
    if storage.is_local(piece.location):
        stat = os.stat(storage.local_path(piece.location))
        size, mark = stat.st_size, f"mtime:{stat.st_mtime_ns}"
    elif piece.location.startswith(storage.HUB):
        from winnow.shards import hub

        facts_there = hub.facts(piece.location)
        size, mark = facts_there.size, facts_there.fingerprint
    else:
        from winnow.shards import object_store

        size, mark = object_store.identity(piece.location)
    if (size, mark) != (piece.file_size, piece.fingerprint):
        raise InputError(f"{piece.path}: changed since the run was planned; run again")


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression over POSIX paths: `*`, `?`, `[…]` within a name, `**` over directories.

    Raises InputError for a range that is none.
    """
    out, i = [], 0
    while i < len(pattern):
        closing = pattern.find("]", i + 2) if pattern[i] == "[" else -1
        # A name's first dot is only matched by a dot, as in a shell: no .git, no editor's leavings.
        visible = "(?!\\.)" if i == 0 or pattern[i - 1] == "/" else ""
        if pattern.startswith("**/", i):
            out.append("(?:(?!\\.)[^/]+/)*")
            i += 3
        elif pattern.startswith("**", i):
            out.append("(?:(?!\\.)[^/]+/)*" + visible + "[^/]*")
            i += 2
        elif pattern[i] in "*?":
            out.append(visible + ("[^/]*" if pattern[i] == "*" else "[^/]"))
            i += 1
        elif closing > 0:
            inside = pattern[i + 1 : closing].replace("\\", "\\\\")
            out.append(f"[^{inside[1:]}]" if inside[0] == "!" else f"[{inside}]")
            i = closing + 1
        else:
            out.append(re.escape(pattern[i]))
            i += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        raise InputError(f"{pattern!r} is no pattern: {error}") from error


def _no_match(source: str, root: str, patterns: Sequence[str]) -> str:
    wanted = ", ".join(repr(p) for p in patterns)
    try:
        names = _names(root)
    except (FileNotFoundError, NotADirectoryError):
        return f"source {source!r}: {wanted} matches no file; there is no directory {root}"
    if not names:
        return f"source {source!r}: {wanted} matches no file; {root} itself holds none"
    suffix, count = Counter("." + n.split(".", 1)[1] if "." in n else n for n in names).most_common(1)[0]
    verb = "file there ends" if count == 1 else "files there end"
    return f"source {source!r}: {wanted} matches no file below {root}; {count} {verb} in {suffix!r}"


def _names(root: str) -> list[str]:
    """Of the files that lie in a directory itself."""
    if not storage.is_local(root):
        return [path for path, *_ in _walk_remote(root, "", 1)]
    return [entry.name for entry in os.scandir(storage.local_path(root)) if entry.is_file()]
