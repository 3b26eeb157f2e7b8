"""Which documents has an earlier run kept, for new ones to be compared with?

A published run stands for what its sources' filters and dedup left. Its texts are not read: its stages hold the
hashes, keys and signatures that dedup goes by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from winnow.pipelines.finished import FinishedRun, NotFinishedError, UnknownError, open_run
from winnow.pipelines.ledger import completed
from winnow.pipelines.records import SchemaError
from winnow.pipelines.split_rows import splits_of
from winnow.pipelines.standing import Standing
from winnow.shards import storage
from winnow.shards.inputs import InputError


@dataclass(frozen=True, slots=True)
class Earlier:
    """A source of an earlier run."""

    run: str
    """Location of the run."""
    name: str
    """What it is called where duplicates are counted by source: `<last part of the run's location>/<source>`."""
    source: str
    standings: tuple[Standing, ...]
    """Its splits behind all its steps."""

    @property
    def identity(self) -> list[str]:
        """What its documents that stayed depend on, and its name: directories of its filters and steps."""
        first = self.standings[0]
        return [self.name] + [place.rstrip("/").rsplit("/", 1)[-1] for place in (first.filters, *first.steps)]


def earlier_sources(locations: Sequence[str], out: str | None = None) -> list[Earlier]:
    """The sources of published runs, for a run that is made in `out`.

    Raises InputError where there is no run, what it kept is not there any more, two have the same name, or it is `out`.
    """
    found: list[Earlier] = []
    for location in map(storage.absolute, locations):
        if location == out:
            raise InputError(f"against {location}: that is the run itself")
        if any(shown_name(e.run) == shown_name(location) for e in found):
            raise InputError(
                f"against {location}: another earlier run is called {shown_name(location)!r}, too"
            )
        try:
            run = open_run(location)
            found += [_earlier(run, name) for name in run.places]
        except (NotFinishedError, SchemaError, UnknownError, OSError, ValueError) as error:
            raise InputError(f"against {location}: {error}") from error
    return found


def shown_name(location: str) -> str:
    """What a run is called: the last part of its location."""
    return location.rstrip("/").rsplit("/", 1)[-1]


def _earlier(run: FinishedRun, source: str) -> Earlier:
    documents, filters = run.stage(source, "documents"), run.stage(source, "filters")
    steps = tuple(storage.join(run.location, "stages", d) for d in run.places[source]["dedup"])
    ranks = tuple(sorted(run.file_ranks(source).items()))
    read, kept = completed(documents), completed(filters)
    splits = splits_of(run, source)
    if not all(k in records for k in splits for records in (read, kept)):
        raise NotFinishedError(f"{documents} or {filters} is not whole; `winnow run` makes it again")
    standings = [
        Standing(
            source=source,
            rank=0,
            split=split,
            rows=read[split].counts["documents"],
            documents=documents,
            filters=filters,
            steps=steps,
            files=ranks,
            documents_left=kept[split].counts["kept"],
            bytes_left=kept[split].counts["kept_bytes"],
        )
        for split in splits
    ]
    return Earlier(run.location, f"{shown_name(run.location)}/{source}", source, tuple(standings))


def with_stage(
    earlier: Sequence[Earlier], kind: str, version: int, settings: Mapping[str, Any], wanted: str
) -> list[tuple[Earlier, str]]:
    """The sources of earlier runs that have a stage `<kind>.<source>` made in the same way, each with its location.

    Sources without one were not looked at in that way when their run was made, and are left out. Raises InputError for
    a run of which no source has one: `wanted` says what it would be.
    """
    found = []
    for run in dict.fromkeys(e.run for e in earlier):
        mine = [e for e in earlier if e.run == run]
        places = [(e, _stage(e, f"{kind}.{e.source}", version, settings)) for e in mine]
        there = [(e, place) for e, place in places if place is not None]
        if not there:
            raise InputError(
                f"against {run}: it has no {wanted} made with the same settings and the same version of Winnow; only "
                "what an earlier run computed is compared, for its texts are not read again"
            )
        found += there
    return found


def _stage(earlier: Earlier, name: str, version: int, settings: Mapping[str, Any]) -> str | None:
    run = open_run(earlier.run)
    for stage in run.manifest["stages"]:
        place = storage.join(run.location, "stages", stage["directory"])
        if stage["name"] == name and storage.exists(storage.join(place, "stage.json")):
            there = orjson.loads(storage.read_bytes(storage.join(place, "stage.json")))
            if there["version"] == version and there["settings"] == settings:
                return place
    return None
