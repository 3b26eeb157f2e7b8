"""Where a tokenizer comes from: which bytes does a name in a recipe stand for?

Four places are asked, none of them guessed: the file packaged with mistral-common (Mistral-7B-v0.1's
SentencePiece model), a path, the Hugging Face hub's cache, and last the hub itself. The two named
tokenizers are checked by content, because the same name with other bytes means other token ids and a
corpus that cannot be mixed with anybody else's.

Terms: a *SentencePiece* file is the protocol-buffer model that Mistral and Llama 2 publish
(``tokenizer.model``); a *JSON* file is the Hugging Face ``tokenizers`` serialization
(``tokenizer.json``). Imports nothing heavy: the recipe checker may ask for the known names.
"""

import difflib
import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MISTRAL = "mistral-7b-v0.1"
NEOX = "gpt-neox-20b"
KNOWN = (MISTRAL, NEOX)

MISTRAL_SHA256 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"
"""Of the file itself: ``tokenizer.model`` of Mistral-7B-v0.1 and Mixtral-8x7B-v0.1, 32,000 entries."""
NEOX_REPOSITORY = "EleutherAI/gpt-neox-20b"
NEOX_FINGERPRINT = "ad3a2fa83c8e569c211efbf53cefb7c0cf935375410767da3e2841bc2926a6fa"
"""`fingerprint` of EleutherAI's 20B_tokenizer.json (GPT-NeoX-20B, Pythia, MPT-7B). The bytes differ from
copy to copy (indentation, merges as strings or pairs), the content does not."""

FILE_NAMES = ("tokenizer.json", "tokenizer.model")
"""What a directory or a hub repository is searched for, in this order: the JSON is what transformers loads,
and a ``tokenizer.model`` beside it is not always SentencePiece (Llama 3 has another format there)."""

CONNECT_S = 5.0
"""Seconds to wait for the hub's first answer. Without a probe huggingface_hub retries a dead network for
23 s (measured, 0.36.2)."""


class TokenizerError(ValueError):
    """A tokenizer cannot be had, is not what its name says, or cannot be used; says what to do."""


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """The bytes of a tokenizer file and where they were found."""

    name: str
    """As the recipe spells it."""
    kind: Literal["sentencepiece", "json"]
    content: bytes
    sha256: str
    """Of ``content``, hexadecimal."""
    origin: str
    """For people: a path, or a hub repository with its commit."""


def resolve(name: str, where: str | None = None) -> TokenizerSource:
    """Find the tokenizer that ``name`` means and check that it is that one.

    Parameters
    ----------
    name
        ``mistral-7b-v0.1`` or ``gpt-neox-20b``, a path (file, or directory holding ``tokenizer.json`` or
        ``tokenizer.model``), or a hub id ``org/name``, with ``@revision`` where it must not move.
    where
        A path to read instead of looking. The content checks of the two named tokenizers still apply.

    The hub's local cache is asked before the network, so an unpinned id keeps the revision that this
    machine already has. ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_ENDPOINT`` mean what they always mean.

    Raises
    ------
    TokenizerError
        Nothing there, unreadable, offline, or other content than the name promises.
    """
    if where is not None:
        source = _from_path(name, Path(where).expanduser())
    elif name == MISTRAL:
        source = _from_mistral_common(name)
    elif name == NEOX:
        source = _from_hub(name, NEOX_REPOSITORY, "main", ("tokenizer.json",))
    elif (path := Path(name).expanduser()).exists():
        source = _from_path(name, path)
    else:
        source = _from_hub(name, *_hub_id(name), FILE_NAMES)
    _check_named(source)
    return source


def fingerprint(content: bytes) -> str:
    """SHA-256 of what decides the ids in a ``tokenizer.json``, whatever tool wrote it.

    Covered: vocabulary, merges (as ``"a b"`` or ``["a", "b"]``), added tokens with their flags, normaliser
    and pre-tokenizer. Left out: the decoder, the post-processor, truncation, padding, key order and white
    space. Raises TokenizerError where ``content`` is not such a file.
    """
    try:
        tokenizer = json.loads(content)
        model = tokenizer["model"]
        merges = [m.split(" ", 1) if isinstance(m, str) else list(m) for m in model["merges"]]
        canonical = {
            "vocab": model["vocab"],
            "merges": merges,
            "added_tokens": sorted(tokenizer["added_tokens"], key=lambda token: token["id"]),
            "normalizer": tokenizer["normalizer"],
            "pre_tokenizer": _with_defaults(tokenizer["pre_tokenizer"]),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TokenizerError("not a byte-pair tokenizer.json") from None
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _with_defaults(pre_tokenizer: Any) -> Any:
    """Files written before tokenizers 0.11 lack ``use_regex``; ``trim_offsets`` never changes an id."""
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "ByteLevel":
        rest = {key: value for key, value in pre_tokenizer.items() if key != "trim_offsets"}
        return {"use_regex": True, **rest}
    return pre_tokenizer


def _check_named(source: TokenizerSource) -> None:
    """A known name must have the known content; any other name is taken as it is."""
    if source.name == MISTRAL:
        expected, found = MISTRAL_SHA256, source.sha256
    elif source.name == NEOX:
        expected = NEOX_FINGERPRINT
        found = fingerprint(source.content) if source.kind == "json" else f"a {source.kind} file"
    else:
        return
    if found != expected:
        raise TokenizerError(
            f"{source.origin} is not {source.name}: content {found}, expected {expected}; "
            f"to use that file anyway, give its path as the tokenizer's name"
        )


def _source(name: str, content: bytes, origin: str) -> TokenizerSource:
    if not content:
        raise TokenizerError(f"{origin} is empty")
    # A JSON file opens with a brace; a SentencePiece model opens with 0x0A, the tag of its first piece,
    # which JSON could only have as white space.
    kind: Literal["sentencepiece", "json"] = "json" if content.lstrip()[:1] == b"{" else "sentencepiece"
    return TokenizerSource(name, kind, content, hashlib.sha256(content).hexdigest(), origin)


def _from_path(name: str, path: Path) -> TokenizerSource:
    if path.is_dir():
        files = [path / file_name for file_name in FILE_NAMES if (path / file_name).is_file()]
        if not files:
            raise TokenizerError(f"{path} holds no {' or '.join(FILE_NAMES)}")
        path = files[0]
    try:
        return _source(name, path.read_bytes(), str(path))
    except OSError as error:
        raise TokenizerError(f"cannot read the tokenizer {path}: {error.strerror}") from None


def _from_mistral_common(name: str) -> TokenizerSource:
    # find_spec, not import: importing the package costs seconds, and only its data file is wanted.
    spec = importlib.util.find_spec("mistral_common")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "tokenizer.model.v1"
        if path.is_file():
            return _from_path(name, path)
    raise TokenizerError(
        f"{name} is read from the mistral-common package, which is not installed or has no "
        f"data/tokenizer.model.v1; run: pip install 'mistral-common>=1.5,<2', or give the path of a "
        f"tokenizer.model"
    )


def _hub_id(name: str) -> tuple[str, str]:
    """``org/name@revision`` as (repository, revision); anything else is a mistake worth explaining."""
    repository, _, revision = name.partition("@")
    looks_like_path = name.startswith((".", "/", "~")) or name.endswith((".json", ".model"))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and not looks_like_path:
        return repository, revision or "main"
    if looks_like_path or "/" in repository:
        raise TokenizerError(f"no tokenizer at {name}: no such file or directory")
    near = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise TokenizerError(
        f"unknown tokenizer {name!r}{hint} (known: {', '.join(KNOWN)}; or a path, or a hub id 'org/name')"
    )


def _from_hub(name: str, repository: str, revision: str, file_names: tuple[str, ...]) -> TokenizerSource:
    from huggingface_hub import constants, try_to_load_from_cache

    for file_name in file_names:
        cached = try_to_load_from_cache(repository, file_name, revision=revision)
        if isinstance(cached, str):
            return _from_snapshot(name, repository, Path(cached))
    if constants.HF_HUB_OFFLINE:
        raise _unavailable(
            repository, revision, file_names, "is not in the hub's cache and HF_HUB_OFFLINE is set"
        )
    return _from_snapshot(name, repository, _download(repository, revision, file_names))


def _download(repository: str, revision: str, file_names: tuple[str, ...]) -> Path:
    """Fetch the first of the files that the repository has; fail soon where there is no hub."""
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import get_session

    try:
        get_session().head(hf_hub_url(repository, file_names[0], revision=revision), timeout=CONNECT_S)
    except OSError:  # requests' own errors are OSErrors
        raise _unavailable(
            repository,
            revision,
            file_names,
            f"is not in the hub's cache and the hub does not answer in {CONNECT_S:g} s",
        ) from None
    for file_name in file_names:
        try:
            return Path(hf_hub_download(repository, file_name, revision=revision, etag_timeout=CONNECT_S))
        except GatedRepoError:
            reason = "is gated; accept its terms on the hub and run `hf auth login`"
            raise _unavailable(repository, revision, file_names, reason) from None
        except (RepositoryNotFoundError, RevisionNotFoundError):
            reason = f"is not on the hub at revision {revision!r}, or is private (run `hf auth login`)"
            raise _unavailable(repository, revision, file_names, reason) from None
        except LocalEntryNotFoundError:  # before its parent class: the network failed, not the name
            reason = "is not in the hub's cache and cannot be downloaded"
            raise _unavailable(repository, revision, file_names, reason) from None
        except EntryNotFoundError:
            continue
        except OSError as error:
            reason = f"cannot be downloaded ({type(error).__name__})"
            raise _unavailable(repository, revision, file_names, reason) from None
    raise _unavailable(repository, revision, file_names, f"holds no {' or '.join(file_names)}")


def _from_snapshot(name: str, repository: str, path: Path) -> TokenizerSource:
    """Read a file of the hub's cache, whose directory is named after the commit."""
    source = _from_path(name, path)
    return _source(name, source.content, f"{repository}@{path.parent.name} {path.name}")


def _unavailable(repository: str, revision: str, file_names: tuple[str, ...], reason: str) -> TokenizerError:
    at = "" if revision == "main" else f" --revision {revision}"
    return TokenizerError(
        f"tokenizer {repository} {reason}; where there is a network, run: "
        f"hf download {repository} {file_names[0]}{at}, or give the path of a {' or '.join(file_names)}"
    )
