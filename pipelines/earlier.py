"""Which documents has an earlier run kept, for new ones to be compared with?

A published run stands for what its sources' filters and dedup left. Its texts are not read: its stages hold the
hashes, keys and signatures that dedup goes by.
"""

from __future__ import annotations

from dataclasses import dataclass

from winnow.pipelines.finished import FinishedRun, NotFinishedError, UnknownError, open_run
from winnow.pipelines.records import completed
from winnow.pipelines.standing import Standing
from winnow.shards import storage
from winnow.shards.inputs import InputError


@dataclass(frozen=True, slots=True)
class Earlier:
    """A source of an earlier run."""

    run: str
    """Location of the run."""
    name: str
    """What it is called where duplicates are counted by source: `<run>/<source>`."""
    source: str
    standings: tuple[Standing, ...]
    """Its splits behind all its steps."""

    @property
    def identity(self) -> list[str]:
        """What its documents that stayed depend on: directories of its filters and steps."""
        first = self.standings[0]
        return [place.rstrip("/").rsplit("/", 1)[-1] for place in (first.filters, *first.steps)]


def earlier_sources(location: str) -> list[Earlier]:
    """The sources of a published run. Raises InputError where there is none, or what it kept is not there any more."""
    try:
        run = open_run(location)
        return [_earlier(run, name) for name in run.places if run.places[name]]
    except (NotFinishedError, UnknownError, OSError, ValueError) as error:
        raise InputError(f"against {location}: {error}") from error


def _earlier(run: FinishedRun, source: str) -> Earlier:
    documents, filters = run.stage(source, "documents"), run.stage(source, "filters")
    steps = tuple(storage.join(run.location, "stages", d) for d in run.places[source]["dedup"])
    ranks = tuple(sorted(run.file_ranks(source).items()))
    read, kept = completed(documents), completed(filters)
    facts = next(s for s in run.mixture["sources"] if s["name"] == source)
    if not all(len(records) == facts["splits"] for records in (read, kept)):
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
        for split in range(facts["splits"])
    ]
    return Earlier(run.location, f"{run.manifest['name']}/{source}", source, tuple(standings))


def stage_of(earlier: Earlier, name: str, identity: dict, wanted: str) -> str:
    """Location of a stage of the earlier run that has this name and these settings.

    Raises InputError where there is none: `wanted` says what it is for.
    """
    import orjson

    run = open_run(earlier.run)
    for stage in run.manifest["stages"]:
        place = storage.join(run.location, "stages", stage["directory"])
        if stage["name"] == name and storage.exists(storage.join(place, "stage.json")):
            there = orjson.loads(storage.read_bytes(storage.join(place, "stage.json")))
            if there["settings"] == identity:
                return place
    raise InputError(
        f"against {earlier.run}: source {earlier.source!r} has no {wanted} made with the same settings; only what an "
        "earlier run computed is compared, for its texts are not read again"
    )
