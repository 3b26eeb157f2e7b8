"""Where is what a recipe names: which copy of it, at which commit, and can it be asked at all?

A source's *name* is its root as the recipe has it, without a revision; ids are relative to it. Its *root* is where it
is read: the name itself, the mirror's directory, or the repository on the hub at a commit. A branch or tag is resolved
once in a run, which keeps the commit (RUN/revisions.json).

The hub is asked whether it is there once for all sources, so that a plan without a network takes seconds.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass, field
from functools import cached_property

from winnow.pipelines.mirrors import Mirrors
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.source_settings import Read
from winnow.shards import storage
from winnow.shards.inputs import InputError, default_root, relative_pattern

MAIN = "main"
UNREACHED = ("ConnectionError", "ConnectError", "ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError",
             "EndpointConnectionError", "ClientConnectorError", "ServerTimeoutError", "NameResolutionError",
             "gaierror", "HubSilentError", "NoCredentialsError")  # fmt: skip
"""What the clients of hub, S3, GCS and HTTP call an error of the network, not all of them OSErrors, and what S3's says
before it has tried the network."""


@dataclass(frozen=True, slots=True)
class Place:
    """A source's files before they are listed."""

    name: str
    root: str
    patterns: list[str]
    exclude: list[str]
    """Relative to the root, where they lie below it."""
    commit: str | None = None


class NotReachedError(ConnectionError):
    """Nobody can tell what is there; the message says why."""


@dataclass
class Places:
    """What a plan knows of places."""

    mirrors: Mirrors
    commits: dict[str, str] = field(default_factory=dict)
    """By repository and revision: those of an earlier run of the directory, and those that were resolved."""

    def find(self, read: Read, earlier: str | None = None) -> Place:
        """Where a source is.

        earlier : the name that it had in an earlier run of the directory, kept where the recipe has no root.

        Raises InputError, and NotReachedError for a repository that cannot be asked.
        """
        if read.format == "dataset":
            return self._data_set(read)
        patterns, exclude = [expand(p) for p in read.path], [expand(p) for p in read.exclude]
        if read.root:
            name, _ = _unpinned(expand(read.root))
            revision = _revision([expand(read.root), *patterns, *exclude])
        else:
            revision = _revision([*patterns, *exclude])
            patterns = [_unpinned(storage.absolute(p))[0] for p in patterns]
            name = _name(patterns, earlier)
        name = storage.absolute(name)
        root, commit = self._root(name, read.revision, revision)
        if root != name:
            patterns = [relative_pattern(name, _unpinned(p)[0]) for p in patterns]
            exclude = [relative_pattern(name, _unpinned(p)[0]) for p in exclude]
        return Place(name, root, patterns, exclude, commit)

    def find_path(self, path: str) -> str:
        """Where a path is read that belongs to no source, wildcards and all. Raises as `find`."""
        if storage.is_local(path):
            return storage.absolute(expand(path))
        name, revision = _unpinned(path)
        return self._root(name, None, revision)[0]

    def _data_set(self, read: Read) -> Place:
        if len(read.path) != 1:
            raise InputError("a `dataset` is one id, ORG/NAME; another is a source of its own")
        (path,) = read.path
        base = storage.absolute(expand(read.root)) if read.root else "hf://datasets"
        named, revision = _unpinned(storage.join(base, path) if "@" not in path else f"{base}/{path}")
        root, commit = self._root(named, read.revision, revision)
        return Place(named, root, [], [], commit)

    def _root(self, name: str, asked: str | None, revision: str | None) -> tuple[str, str | None]:
        """Where a name is read, and at which commit; revisions as `revision` and as the path say them."""
        if None not in (asked, revision) and asked != revision:
            raise InputError(f"the revision is {revision!r} in the path and {asked!r} in `revision`")
        if (copy := self.mirrors.of(name)) is not None:
            return copy, None
        if not name.startswith(storage.HUB):
            return name, None
        from winnow.shards import hub, hub_requests

        place = hub_requests.place(name)
        if self._silence is not None:
            raise NotReachedError(self._silence)
        wanted = revision or asked or MAIN
        key = f"{hub_requests.DATASETS}/{place.repository}@{wanted}"
        if key not in self.commits:
            self.commits[key] = hub.commit_of(place.repository, wanted)
        return place.at(self.commits[key]), self.commits[key]

    @cached_property
    def _silence(self) -> str | None:
        from winnow.shards import hub_requests

        return None if hub_requests.offline() else hub_requests.silence()


def expand(text: str) -> str:
    """Put the running Python's directories in place of `{stdlib}` and `{site-packages}`."""
    return text.replace("{stdlib}", sysconfig.get_path("stdlib")).replace(
        "{site-packages}", sysconfig.get_path("purelib")
    )


def with_benchmarks(recipe: Recipe, places: Places) -> tuple[Recipe, dict[str, str]]:
    """The recipe with benchmarks' files where they are read, and why not by name of those that cannot be reached.

    Raises RecipeError.
    """
    changed, unreached = {}, {}
    for step, settings in recipe.dedup:
        found = {}
        for name, benchmark in getattr(settings, "benchmarks", {}).items():
            try:
                path = tuple(map(places.find_path, benchmark.path))
            except InputError as error:
                raise recipe.located(("dedup", step, "benchmarks", name, "path"), str(error)) from error
            except Exception as error:  # some clients' network errors are of no common class
                if not is_network_error(error):
                    raise
                unreached[name], path = str(error), benchmark.path
            found[name] = benchmark.model_copy(update={"path": path})
        if found:
            changed[step] = settings.model_copy(update={"benchmarks": found})
    dedup = recipe.dedup.model_copy(update=changed)
    return (recipe.model_copy(update={"dedup": dedup}) if changed else recipe), unreached


def _unpinned(location: str) -> tuple[str, str | None]:
    """A location without the revision that it names, and that."""
    if not location.startswith(storage.HUB) or "@" not in location:
        return location, None
    from winnow.shards import hub_requests

    place = hub_requests.place(location)
    return place.unpinned, place.revision


def _revision(locations: list[str]) -> str | None:
    """The one revision that any of a source's locations names; it is of all of them."""
    revisions = {revision for _, revision in map(_unpinned, locations)} - {None}
    if len(revisions) > 1:
        raise InputError(
            f"several revisions: {', '.join(map(repr, sorted(filter(None, revisions))))}; "
            "make them sources of their own"
        )
    return next(iter(revisions), None)


def _name(patterns: list[str], earlier: str | None) -> str:
    """The earlier name while the patterns are below it, else what they share."""
    if earlier is not None:
        try:
            for pattern in patterns:
                relative_pattern(earlier, storage.absolute(pattern))
        except InputError:
            pass
        else:
            return earlier
    return default_root(patterns)


def is_network_error(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is that nobody answers."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in UNREACHED:
            return True
        if isinstance(error, storage.StorageError) and not error.permanent:
            return True
        error = error.__cause__ or error.__context__
    return False
