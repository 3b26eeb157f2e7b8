"""Where is an encoder, which of its files decide its vectors, and what does it cost to run?

An encoder is a folder of the Hugging Face kind: config.json, weights (safetensors before PyTorch's), a tokenizer, and
sentence-transformers' own files where there are any (modules.json, 1_Pooling/config.json, sentence_bert_config.json).
It is named by its path, or by its id on the hub; then it is looked for in this machine's cache of the hub, and fetched
into there once. What sentence-transformers would do to vectors and Winnow does not (dense layers, prompts, other
poolings) is refused, so that no model gives other vectors here than there. Nothing is unpickled here, no code of a
model is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Pooling = Literal["mean", "cls", "last"]

CONNECT_S = 5.0
"""Seconds to wait for the hub's first answer."""
SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", PYTORCH, f"{PYTORCH}.index.json")
"""The first that is there is read; an index names the files that weights are spread over."""
TOKENIZER = "tokenizer.json"
TOKENIZER_PARTS = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""What transformers makes a tokenizer.json of."""
MODULES, SENTENCES, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
"""sentence-transformers' own files; the first names the folder of the pooling's."""
_SETTINGS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    MODULES,
    SENTENCES,
    PROMPTS,
)
_WHOLE = ".gitattributes"
"""Every repository of the hub has it, and only who fetches all that is wanted of one fetches it: a folder of the cache
without it may lack files that the repository has."""
# The mean divided by the root of the length points where the mean points.
_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""The prompts that sentence-transformers' `encode_document` puts before a text, the first there is."""
_PADDED_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}
"""Models whose first positions belong to padding: the table has rows that no token uses."""
_GATED = {"modernbert", "nomic_bert"}
"""Models with a gate beside those that have RMSNorm, like Llama."""
_CHUNK_BYTES = 1 << 20


class EncoderError(ValueError):
    """An encoder is not there, is not one that can be used as it is meant, or has no room; the text says what to do."""


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """An encoder in a folder of this machine."""

    folder: str
    """Absolute."""
    names: tuple[str, ...]
    """The files in it that decide vectors, sorted, with "/" between folders."""
    sha256: str
    """Of their names and bytes, hexadecimal: the encoder's identity, wherever it is."""
    pooling: Pooling | None
    """What the model's sentence-transformers files say; None: there are none."""
    max_tokens: int
    """The most that the model reads of a text, control tokens among them."""
    dimensions: int
    """Of a vector."""
    parameters: int
    """Weights that each token is multiplied with, embeddings not among them."""
    layers: int
    width: int
    """Of the layers: what attention compares."""

    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations of so many tokens in documents of `length` tokens: two for each weight used, and
        4 x layers x width x length for a token's attention."""
        return tokens * (2.0 * self.parameters + 4.0 * self.layers * self.width * length)


def find(model: str, revision: str | None = None) -> EncoderFiles:
    """The encoder that a path or a hub id means.

    Without `revision` a hub id means the commit that `main` is in this machine's cache; with nothing cached, that which
    it is on the hub today.

    Raises
    ------
    EncoderError
        There is none, files are missing, it cannot be fetched, or it does something to vectors that Winnow does not;
        the text says what to do.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise EncoderError(f"{model} is a directory: a revision ({revision}) belongs to a hub id")
        return read(path.absolute())
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise EncoderError(
            f"no encoder at {model}: no such directory; give one with config.json, or a hub id"
        )
    return read(_from_hub(model, revision))


def read(folder: Path) -> EncoderFiles:
    """The encoder in a folder. Raises EncoderError."""
    names = _names(folder)
    config = _json(folder, "config.json")
    if config.get("is_encoder_decoder"):
        raise EncoderError(f"{folder} is an encoder with a decoder; only models with one stack are run")
    tokenizer = _json(folder, "tokenizer_config.json")
    if tokenizer.get("truncation_side", "right") != "right":
        raise EncoderError(f"{folder} reads the end of a text; only its beginning can be read here")
    sentences = _json(folder, SENTENCES)
    if sentences.get("do_lower_case") and not _lowers(folder):
        raise EncoderError(
            f"{folder}/{SENTENCES} wants text in lower case, which its tokenizer.json does not do"
        )
    _check_prompts(folder)
    layers, width = _number(config, "num_hidden_layers", "n_layers", "n_layer"), _width(config)
    return EncoderFiles(
        folder=str(folder),
        names=names,
        sha256=_sha256(folder, names),
        pooling=_pooling(folder),
        max_tokens=_max_tokens(config, tokenizer, sentences),
        dimensions=config.get("word_embed_proj_dim") or width,
        parameters=layers * _layer_weights(config, width),
        layers=layers,
        width=width,
    )


def _names(folder: Path) -> tuple[str, ...]:
    """The files that decide vectors. Raises EncoderError where one is missing."""
    if not (folder / "config.json").is_file():
        raise EncoderError(f"{folder} has no config.json: it is no encoder's directory")
    weights = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise EncoderError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}")
    tokenizers = [TOKENIZER] if (folder / TOKENIZER).is_file() else TOKENIZER_PARTS
    tokenizer = [name for name in tokenizers if (folder / name).is_file()]
    if not tokenizer:
        raise EncoderError(f"{folder} has no tokenizer: none of {', '.join((TOKENIZER, *TOKENIZER_PARTS))}")
    found = {weights, *tokenizer, *(name for name in _SETTINGS if (folder / name).is_file())}
    if weights.endswith(".index.json"):
        found |= _shards(_json(folder, weights))
    if MODULES in found:
        found.add(_pooling_file(_parsed(folder, MODULES), folder))
    if missing := sorted(name for name in found if not (folder / name).is_file()):
        raise EncoderError(f"{folder} is incomplete: it lacks {', '.join(missing)}")
    return tuple(sorted(found))


def _shards(index: dict[str, Any]) -> set[str]:
    """The files that an index of weights names."""
    return set(index.get("weight_map", {}).values())


def _json(folder: Path, name: str) -> dict[str, Any]:
    """An object of a file; empty where there is no file."""
    found = _parsed(folder, name)
    if not isinstance(found, dict):
        raise EncoderError(f"{folder / name} is not a JSON object")
    return found


def _parsed(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot read {folder / name}: {error}") from None


def _sha256(folder: Path, names: tuple[str, ...]) -> str:
    whole = hashlib.sha256()
    for name in names:
        with open(folder / name, "rb") as file:
            content = hashlib.file_digest(file, "sha256")
        whole.update(f"{name}\0{content.hexdigest()}\n".encode())
    return whole.hexdigest()


def _pooling_file(modules: Any, folder: Path) -> str:
    """Where modules.json says that the pooling's settings are.

    Raises EncoderError where it names other modules than are run here.
    """
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise EncoderError(f"{folder / MODULES} is not a list of modules")
    paths = {str(module.get("type")).rsplit(".", 1)[-1]: module.get("path", "") for module in modules}
    if unknown := sorted(set(paths) - {"Transformer", "Pooling", "Normalize"}):
        raise EncoderError(
            f"{folder} does more to vectors than pooling and making them of length 1 ({', '.join(unknown)}); "
            f"Winnow does not run that"
        )
    if paths.get("Transformer"):
        inner = folder / paths["Transformer"]
        raise EncoderError(
            f"{folder} keeps its transformer in a folder: give {inner} as the model, and `pooling`"
        )
    if "Pooling" not in paths:
        raise EncoderError(f"{folder / MODULES} names no pooling")
    return f"{paths['Pooling']}/config.json"


def _pooling(folder: Path) -> Pooling | None:
    """What the pooling's settings say; sentence-transformers wrote a flag for each mode before it wrote a name."""
    if not (folder / MODULES).is_file():
        return None
    config = _json(folder, _pooling_file(_parsed(folder, MODULES), folder))
    prefix = "pooling_mode_"
    flags = [key.removeprefix(prefix) for key, value in config.items() if key.startswith(prefix) and value]
    said = config.get("pooling_mode", flags or "mean")
    modes = [said] if isinstance(said, str) else said
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise EncoderError(f"{folder} pools by {' and '.join(modes)}; only mean, cls and last token are run")
    return _POOLINGS[modes[0]]


def _check_prompts(folder: Path) -> None:
    config = _json(folder, PROMPTS)
    prompts = config.get("prompts") or {}
    names = [config.get("default_prompt_name"), *_DOCUMENT_PROMPTS]
    if name := next((name for name in names if name and prompts.get(name)), None):
        raise EncoderError(
            f"{folder} puts {prompts[name]!r} before every text (prompt {name!r} of {PROMPTS}): Winnow does not do "
            f"that; to use it without, copy the folder and take the prompt out"
        )


def _lowers(folder: Path) -> bool:
    path = folder / TOKENIZER
    normalizer = _json(folder, TOKENIZER).get("normalizer") if path.is_file() else None
    text = json.dumps(normalizer)
    return '"Lowercase"' in text or '"lowercase": true' in text


def _max_tokens(config: dict[str, Any], tokenizer: dict[str, Any], sentences: dict[str, Any]) -> int:
    """The least of what the files say; transformers writes 1e30 for a tokenizer without a limit, XLNet -1."""
    positions = config.get("max_position_embeddings") or config.get("n_positions") or 0
    if config.get("model_type") in _PADDED_POSITIONS:
        positions -= config.get("pad_token_id", 1) + 1
    said = [positions, tokenizer.get("model_max_length"), sentences.get("max_seq_length")]
    limits = [int(limit) for limit in said if limit is not None and limit > 0]
    return min(limits, default=512)


def _number(config: dict[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(found := config.get(name), int):
            return found
    raise EncoderError(f"config.json of a {config.get('model_type')} model says no {names[0]}")


def _width(config: dict[str, Any]) -> int:
    return _number(config, "hidden_size", "dim", "n_embd", "d_model")


def _layer_weights(config: dict[str, Any], width: int) -> int:
    """Weights of a layer's matrices: four of attention, two of the part behind it, three where that has a gate."""
    heads = _number(config, "num_attention_heads", "n_heads", "n_head")
    of_head = config.get("head_dim") or width // heads
    shared = config.get("num_key_value_heads") or heads
    names = ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner")
    inner = next((config[name] for name in names if config.get(name)), 4 * width)
    gated = "rms_norm_eps" in config or config.get("model_type") in _GATED
    return 2 * width * of_head * (heads + shared) + (3 if gated else 2) * width * inner


def _from_hub(repository: str, revision: str | None) -> Path:
    """The folder in the hub's cache, fetched where it is not whole."""
    from huggingface_hub import constants

    folder = _cached(repository, revision)
    if folder is not None and _whole(folder):
        return folder
    if constants.HF_HUB_OFFLINE:
        reason = (
            "is not in this machine's cache of the hub" if folder is None else f"is not whole in {folder}"
        )
        raise _unavailable(repository, revision, f"{reason}, and HF_HUB_OFFLINE is set")
    return _download(repository, revision or (folder.name if folder is not None else None))


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise EncoderError(f"no encoder {repository}: no such directory, and no id of the hub") from None


def _whole(folder: Path) -> bool:
    """Whether a folder of the cache has all that its repository has of what is wanted."""
    try:
        names = _names(folder)
    except EncoderError:
        return False
    return MODULES in names or (folder / _WHOLE).is_file()


def _download(repository: str, revision: str | None) -> Path:
    """Fetch what is wanted of a repository and no more; fail soon where there is no hub."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        there = HfApi().model_info(repository, revision=revision, timeout=CONNECT_S)
        names = {file.rfilename for file in there.siblings or ()}
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_wanted(names)))
    except GatedRepoError:
        reason = "is gated: accept its terms on the hub and run `hf auth login`"
    except RepositoryNotFoundError:
        reason = "is not on the hub, or is private (`hf auth login`)"
    except RevisionNotFoundError:
        reason = f"has no revision {revision!r} on the hub"
    except OSError as error:  # requests' own errors are OSErrors, the hub's too
        reason = f"is not in this machine's cache of the hub and cannot be fetched ({type(error).__name__})"
    raise _unavailable(repository, revision, reason)


def _wanted(names: set[str]) -> list[str]:
    """Of a repository's files those to fetch: one kind of weights, one tokenizer, and the settings."""
    weights = next((name for name in WEIGHTS if name in names), None)
    if weights is None:
        raise EncoderError(f"the repository has no weights: none of {', '.join(WEIGHTS)}")
    spread = (
        f"{weights.removesuffix('.index.json').replace('.', '-*.', 1)}"
        if weights.endswith(".json")
        else weights
    )
    tokenizers = {TOKENIZER} if TOKENIZER in names else set(TOKENIZER_PARTS)
    return sorted({weights, spread, "*_Pooling/config.json", _WHOLE, *tokenizers, *_SETTINGS})


def _unavailable(repository: str, revision: str | None, reason: str) -> EncoderError:
    at = f" --revision {revision}" if revision else ""
    return EncoderError(
        f"encoder {repository} {reason}; where there is a network, run: hf download {repository}{at}, "
        f"or give a directory that has its files: --set embeddings.default.model=PATH"
    )
