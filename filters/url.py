"""Is a document from a place that a list names, or is its URL made of words that a list names?

The order is RefinedWeb's (Penedo et al. 2023, arXiv:2306.01116, appendix G.1) as datatrove 0.9.0 has it: domain,
host, URL, hard words, soft words, subwords; the first that hits is the reason. Lists are files of one entry a
line; blank lines and lines that begin with "#" are skipped. Entries and URLs are brought into one form first
(url_parts.py).

Where datatrove's URLFilter decides otherwise:

- a listed domain means itself and everything below it, whatever its length. datatrove looks up the registered
  domain, by the public suffix list, and the full host, so that `b.example.com` misses `a.b.example.com`;
- `hosts` is a list of its own, of exact hosts;
- words are compared in lower case. datatrove lowers those of the lists alone: `/PORN/` passes;
- words may have any letters, and an entry of two words (`some-thing`) is looked for as such. datatrove drops other
  letters than a to z: `порно` becomes an empty word, which is in nearly every URL, and `some-thing` becomes
  `something`, which as a whole word is not what the list says;
- URLs are compared without scheme, "www." and fragment: lists (UT1's `urls`) have them without a scheme, so that
  datatrove's comparison of whole strings never hits.

Memory: 8 bytes per domain, host and URL (a hash; of 4.6 million domains 37 MB), three times that while they are
read. A host that no list names is taken for one that is with a chance of 1 in 4e12 at that size. Words are kept
as they are. Letters: n documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from winnow.filters.model_files import ModelError, ModelFile
from winnow.filters.rules import Rule, Signal
from winnow.filters.url_parts import UrlParts, domains_of, normal_host, parts, words

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

LISTS = ("domains", "hosts", "urls", "hard_words", "soft_words", "subwords")
"""The kinds of lists, in the order in which a reason is looked for."""
_SOURCE = "RefinedWeb, arXiv:2306.01116, appendix G.1"


class URL(BaseModel):
    """Drops documents by their URL. Each list is a file, or several.

    Signals: ``url.<list>`` for each list given, how many of its entries are in the URL (at most 1 for all but the
    words); ``url.match``, the first entry found; ``url.missing``, 1 where there is no URL with a host. Rules are
    called ``url.missing``, ``url.domains`` and so on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "url"

    field: str | None = None
    """Where the URL is in `meta`, as for the filter `field`; None: it is the document's key."""
    domains: tuple[str, ...] = ()
    """Domains; each means every host below it, too."""
    hosts: tuple[str, ...] = ()
    """Hosts; each means itself alone, with or without "www."."""
    urls: tuple[str, ...] = ()
    """URLs, with or without a scheme."""
    hard_words: tuple[str, ...] = ()
    """Words of which one is enough."""
    soft_words: tuple[str, ...] = ()
    """Words of which several are needed."""
    subwords: tuple[str, ...] = ()
    """Letters and digits that are in the URL when all else is taken out of both, also inside a word."""
    max_soft_words: int = Field(1, ge=0)
    """How many different soft words a URL may have."""
    missing: Literal["drop", "keep"] = "drop"
    """What becomes of a document without a URL."""

    _files: tuple[tuple[str, ModelFile], ...] = PrivateAttr(())

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _one_path_is_a_list_of_one(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, str) else paths

    @model_validator(mode="after")
    def _has_a_list(self) -> Self:
        if not self.files:
            raise ValueError(f"url needs at least one of {', '.join(LISTS)}")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all lists, each once: what `with_files` wants."""
        return tuple(dict.fromkeys(path for kind in LISTS for path in getattr(self, kind)))

    def with_files(self, files: Mapping[str, ModelFile]) -> Self:
        """The same settings, knowing of each path in `files` where the file is and what it holds."""
        copy = self.model_copy()
        copy._files = tuple((path, files[path]) for path in self.files)
        return copy

    def measures(self) -> tuple[UrlMatches, ...]:
        """The one measure; without its files it can say its columns, and no more."""
        found = dict(self._files)
        lists = tuple(
            (kind, tuple(found.get(path) for path in getattr(self, kind)))
            for kind in LISTS
            if getattr(self, kind)
        )
        return (UrlMatches(self.field, lists),)

    def rules(self) -> tuple[Rule, ...]:
        """One for each list given, and before them that on what is missing, unless it is kept."""
        found = []
        for kind in ("missing", *LISTS):
            if kind == "missing" and self.missing == "drop":
                score = Signal(f"{self.name}.missing")
                found.append(Rule(name=score.name, score=score, maximum=0, source="chosen in the recipe"))
            elif kind != "missing" and getattr(self, kind):
                score = Signal(f"{self.name}.{kind}")
                most = self.max_soft_words if kind == "soft_words" else 0
                detail = f"{self.name}.match"
                found.append(Rule(name=score.name, score=score, maximum=most, detail=detail, source=_SOURCE))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class UrlMatches:
    """Looks URLs up in lists; see `URL` for its signals."""

    field: str | None
    lists: tuple[tuple[str, tuple[ModelFile | None, ...]], ...]
    """Kind -> files, in the order of `LISTS`."""

    @property
    def columns(self) -> Mapping[str, str]:
        counts = {f"url.{kind}": "uint32" for kind, _ in self.lists}
        return {"url.missing": "uint32"} | counts | {"url.match": "string"}

    def identity(self) -> Any:
        return [
            self.field,
            [[kind, sorted(f.sha256 for f in self._found(files))] for kind, files in self.lists],
        ]

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """Raises ModelError where a list cannot be read, or has changed; what stands in its place is no matter."""
        import numpy as np
        import pyarrow as pa

        found = [parts(url) if isinstance(url, str) else None for url in self._urls(documents)]
        there = [i for i, url in enumerate(found) if url is not None]
        urls = [url for url in found if url is not None]
        matches: list[str | None] = [None] * len(found)
        signals: dict[str, Any] = {}
        missing = np.ones(len(found), np.uint32)
        missing[there] = 0
        signals["url.missing"] = missing
        for kind, files in self.lists:
            counts = np.zeros(len(found), np.uint32)
            given = self._found(files)
            hits = _listed(kind, given, urls) if kind in _KEYS else _worded(kind, given, urls)
            for i, entries in zip(there, hits, strict=True):
                counts[i] = len(entries)
                if entries and matches[i] is None:
                    matches[i] = ", ".join(entries)
            signals[f"url.{kind}"] = counts
        return signals | {"url.match": pa.array(matches, pa.string())}

    def _urls(self, documents: pa.RecordBatch) -> Iterator[Any]:
        if self.field is None:
            return (key.as_py() for key in documents.column("key"))
        from winnow.filters.field import values

        return values(documents, self.field)

    def _found(self, files: tuple[ModelFile | None, ...]) -> tuple[ModelFile, ...]:
        found = tuple(file for file in files if file is not None)
        if len(found) < len(files):
            raise ModelError("the lists of the filter 'url' were not given to it")
        return found


def _entries(file: ModelFile) -> Iterator[str]:
    """The entries of a list. Raises ModelError for a file that has changed or is no UTF-8."""
    from winnow.filters.model_files import sha256_of

    if (found := sha256_of(file.path)) != file.sha256:
        raise ModelError(f"the list {file.path} has changed: sha256 {found}, expected {file.sha256}")
    try:
        with open(file.path, encoding="utf-8-sig") as lines:
            for line in lines:
                if (entry := line.strip()) and not entry.startswith("#"):
                    yield entry
    except UnicodeDecodeError as error:
        raise ModelError(f"the list {file.path} is no UTF-8: {error}") from error


def _host_key(entry: str) -> str | None:
    if host := normal_host(entry.lstrip(".")):  # ".example.com" is how some lists write a domain
        return host
    found = parts(entry if "//" in entry else f"//{entry}")
    return found.host if found else None


def _url_key(entry: str) -> str | None:
    found = parts(entry)
    return found.address if found else None


_KEYS = {"domains": _host_key, "hosts": _host_key, "urls": _url_key}
"""Lists that are looked up as hashes: what of an entry is hashed; None for one that names no host."""


@cache
def _hashes(kind: str, files: tuple[ModelFile, ...]) -> np.ndarray:
    """The hashes of a list's entries, uint64, sorted; read once per process."""
    import numpy as np
    import xxhash

    key = _KEYS[kind]
    hashes = (
        xxhash.xxh3_64_intdigest(name)
        for file in files
        for entry in _entries(file)
        if (name := key(entry)) is not None
    )
    return np.unique(np.fromiter(hashes, np.uint64))


def _listed(kind: str, files: tuple[ModelFile, ...], urls: list[UrlParts]) -> Iterator[list[str]]:
    """Of each URL what a list of domains, hosts or URLs names: at most one entry, the longest."""
    import numpy as np
    import xxhash

    names = {
        "domains": lambda url: domains_of(url.host),
        "hosts": lambda url: [url.host],
        "urls": lambda url: [url.address],
    }[kind]
    known = _hashes(kind, files)
    candidates = [names(url) for url in urls]
    digests = [xxhash.xxh3_64_intdigest(name) for some in candidates for name in some]
    wanted = np.array(digests, np.uint64)
    place = np.searchsorted(known, wanted)
    hit = np.zeros(len(wanted), bool)
    inside = place < len(known)
    hit[inside] = known[place[inside]] == wanted[inside]
    end = 0
    for some in candidates:
        start, end = end, end + len(some)
        yield [name for name, found in zip(some, hit[start:end], strict=True) if found][:1]


class _Words(NamedTuple):
    single: frozenset[str]
    several: tuple[str, ...]
    """Entries of more than one word, a space between and around."""


@cache
def _words(files: tuple[ModelFile, ...]) -> _Words:
    found = {tuple(words(entry.lower())) for file in files for entry in _entries(file)} - {()}
    single = frozenset(entry[0] for entry in found if len(entry) == 1)
    return _Words(single, tuple(sorted(f" {' '.join(entry)} " for entry in found if len(entry) > 1)))


@cache
def _subwords(files: tuple[ModelFile, ...]) -> tuple[str, ...]:
    found = {"".join(words(entry.lower())) for file in files for entry in _entries(file)}
    return tuple(sorted(found - {""}))


def _worded(kind: str, files: tuple[ModelFile, ...], urls: list[UrlParts]) -> Iterator[list[str]]:
    """Of each URL the words, or parts of words, that a list names: each once, sorted."""
    for url in urls:
        there = words(url.text)
        if kind == "subwords":
            squeezed = "".join(there)
            yield [word for word in _subwords(files) if word in squeezed]
        else:
            listed = _words(files)
            spaced = f" {' '.join(there)} "
            hits = listed.single & set(there) | {s.strip() for s in listed.several if s in spaced}
            yield sorted(hits)
