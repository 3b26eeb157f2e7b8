"""Encoders' files: is the right model found, is what it would do to vectors known, and is what is missing said?

Nothing here leaves the machine: the hub is its cache directory, a dead port, or a small server of our own.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from winnow.filters import encoder_files
from winnow.filters.encoder_files import EncoderError, find

COMMIT = "ab" * 20

BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
}


def modules(*kinds: str) -> list[dict[str, str]]:
    """sentence-transformers' modules.json."""
    paths = {"Pooling": "1_Pooling", "Transformer": ""}
    return [
        {"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, f"9_{kind}")}
        for kind in kinds
    ]


PLAIN = {"config.json": BERT, "model.safetensors": b"weights", "tokenizer.json": {"normalizer": None}}
SENTENCES = PLAIN | {
    "modules.json": modules("Transformer", "Pooling", "Normalize"),
    "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
}


def write(folder: Path, files: dict) -> str:
    """Files of bytes, or of what JSON says; None is no file."""
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
    return str(folder)


def test_minilm_is_read(minilm):
    found = find(minilm)
    assert found.folder == minilm
    assert (found.pooling, found.max_tokens, found.dimensions) == ("mean", 256, 384)
    assert "1_Pooling/config.json" in found.names
    assert "model.safetensors" in found.names
    assert "vocab.txt" not in found.names  # tokenizer.json has it
    assert found.flops(1, 218) == pytest.approx(23.2e6, rel=0.01)


def test_a_folder_may_be_named_from_home(monkeypatch, tmp_path):
    write(tmp_path / "models" / "enc", PLAIN)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/models/enc").folder == str(tmp_path / "models" / "enc")
    monkeypatch.chdir(tmp_path / "models")
    assert find("enc").folder == str(tmp_path / "models" / "enc")


@pytest.mark.parametrize(
    ("config", "dimensions", "megaflops"),
    [
        # The first two are those of the table in docs: 2 x weights + attention at 218 tokens.
        (BERT | {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536},
         384, 46.5),
        (BERT | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
         768, 178),
        ({"model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
          "ffn_dim": 3072, "word_embed_proj_dim": 512}, 512, 178),
        ({"model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}, 768, 89),
        ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None}, 768, 178),
        ({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "intermediate_size": 128},
         64, (2 * 2 * (64 * 64 * 3 + 3 * 64 * 128) + 4 * 2 * 64 * 218) / 1e6),
    ],
)  # fmt: skip
def test_what_a_token_costs(tmp_path, config, dimensions, megaflops):
    found = find(write(tmp_path, PLAIN | {"config.json": config}))
    assert found.dimensions == dimensions
    assert found.flops(1000, 218) / 1000 == pytest.approx(megaflops * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 512),
        ({"tokenizer_config.json": {"model_max_length": 300}}, 300),
        ({"tokenizer_config.json": {"model_max_length": 10**30}}, 512),
        ({"sentence_bert_config.json": {"max_seq_length": 128}}, 128),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, 512),
        ({"config.json": BERT | {"model_type": "roberta", "max_position_embeddings": 514}}, 512),
        ({"config.json": BERT | {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}}, 512),
        ({"config.json": BERT | {"max_position_embeddings": -1}, "tokenizer_config.json": {"model_max_length": 9}}, 9),
    ],
)  # fmt: skip
def test_how_much_of_a_text_is_read(tmp_path, changes, most):
    assert find(write(tmp_path, PLAIN | changes)).max_tokens == most


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"word_embedding_dimension": 64}, "mean"),
    ],
)
def test_pooling_is_what_its_file_says(tmp_path, config, pooling):
    assert find(write(tmp_path, SENTENCES | {"1_Pooling/config.json": config})).pooling == pooling


def test_a_plain_model_says_no_pooling(tmp_path):
    assert find(write(tmp_path, PLAIN)).pooling is None


PROMPTS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config.json": None}, "has no config.json"),
        ({"config.json": b"{"}, "cannot read"),
        ({"config.json": []}, "not a JSON object"),
        ({"config.json": BERT | {"is_encoder_decoder": True}}, "with a decoder"),
        ({"config.json": {"model_type": "odd"}}, "says no num_hidden_layers"),
        ({"model.safetensors": None}, "has no weights"),
        ({"tokenizer.json": None}, "has no tokenizer"),
        ({"model.safetensors": None, "model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors"}}},
         "lacks model-1.safetensors"),
        ({"1_Pooling/config.json": None}, "lacks 1_Pooling/config.json"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "pools by max_tokens"),
        ({"1_Pooling/config.json": {"pooling_mode": ["mean", "cls"]}}, "pools by mean and cls"),
        ({"modules.json": modules("Transformer", "Pooling", "Dense")}, r"\(Dense\)"),
        ({"modules.json": modules("Transformer")}, "names no pooling"),
        ({"modules.json": {"type": "Pooling"}}, "not a list of modules"),
        ({"modules.json": [{"type": "x.Transformer", "path": "0_Transformer"}]}, "0_Transformer as the model"),
        ({PROMPTS: {"prompts": {"all": "text: "}, "default_prompt_name": "all"}}, "'text: ' before every text"),
        ({PROMPTS: {"prompts": {"query": "q: ", "passage": "p: "}}}, "'p: ' before every text"),
        ({"sentence_bert_config.json": {"do_lower_case": True}}, "lower case"),
        ({"tokenizer_config.json": {"truncation_side": "left"}}, "reads the end of a text"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_as_it_is_meant_is_refused(tmp_path, changes, message):
    with pytest.raises(EncoderError, match=message):
        find(write(tmp_path, SENTENCES | changes))


def test_what_changes_no_vector_is_not_refused(tmp_path):
    lowers = {"normalizer": {"type": "BertNormalizer", "lowercase": True}}
    changes = {
        PROMPTS: {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": None},
        "sentence_bert_config.json": {"do_lower_case": True},
        "tokenizer.json": lowers,
    }
    assert find(write(tmp_path, SENTENCES | changes)).pooling == "cls"


def test_weights_are_the_safe_ones_if_there_are(tmp_path):
    index = {
        "weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin", "c": "pytorch_model-1.bin"}
    }
    spread = {"pytorch_model-1.bin": b"1", "pytorch_model-2.bin": b"2", "pytorch_model.bin.index.json": index}
    write(tmp_path, PLAIN | spread | {"model.safetensors": None})
    assert {"pytorch_model-1.bin", "pytorch_model-2.bin"} <= set(find(str(tmp_path)).names)
    write(tmp_path, {"pytorch_model.bin": b"1"})
    assert "pytorch_model-1.bin" not in find(str(tmp_path)).names
    write(tmp_path, {"model.safetensors": b"1"})
    assert [name for name in find(str(tmp_path)).names if "model" in name] == ["model.safetensors"]


def test_identity_is_what_decides_vectors_and_not_where_it_is(tmp_path):
    first = find(write(tmp_path / "a", SENTENCES))
    again = find(write(tmp_path / "b", SENTENCES | {"README.md": b"words", "onnx/model.onnx": b"other"}))
    assert (first.sha256, first.names) == (again.sha256, again.names)
    seen = {first.sha256}
    for number, name in enumerate(first.names):
        folder = tmp_path / str(number)
        write(folder, SENTENCES)
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        seen.add(find(str(folder)).sha256)
    assert len(seen) == len(first.names) + 1


def test_older_tokenizers_count_where_there_is_no_json(tmp_path):
    files = PLAIN | {"tokenizer.json": None, "vocab.json": {"a": 0}, "merges.txt": b"#"}
    names = find(write(tmp_path, files)).names
    assert {"vocab.json", "merges.txt"} <= set(names)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "~/none"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(EncoderError, match="no such directory"):
        find(name)


def test_a_directory_has_no_revision(tmp_path):
    with pytest.raises(EncoderError, match="belongs to a hub id"):
        find(write(tmp_path, PLAIN), "main")


# The hub


def cache(place: Path, repository: str, files: dict) -> Path:
    """A repository in a cache of the hub."""
    folder = place / f"models--{repository.replace('/', '--')}"
    write(folder / "snapshots" / COMMIT, files)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return folder / "snapshots" / COMMIT


@pytest.fixture
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("files", [SENTENCES, PLAIN | {".gitattributes": b""}])
def test_the_hubs_cache_is_enough(offline, files):
    folder = cache(offline, "acme/enc", files)
    assert find("acme/enc").folder == str(folder)
    assert find("acme/enc", COMMIT).sha256 == find(str(folder)).sha256
    with pytest.raises(EncoderError, match=r"hf download acme/enc --revision v2,.*--set embeddings"):
        find("acme/enc", "v2")


@pytest.mark.parametrize("files", [PLAIN, SENTENCES | {"1_Pooling/config.json": None}])
def test_a_cache_that_may_lack_files_is_not_taken(offline, files):
    """transformers fetches config.json and weights alone: whether the model has a pooling of its own is not known."""
    cache(offline, "acme/enc", files)
    with pytest.raises(EncoderError, match=r"is not whole in .* run: hf download acme/enc,"):
        find("acme/enc")


def test_an_encoder_that_is_nowhere(offline):
    with pytest.raises(
        EncoderError, match="is not in this machine's cache of the hub, and HF_HUB_OFFLINE is set"
    ):
        find("acme/enc")
    with pytest.raises(EncoderError, match="no id of the hub"):
        find("a--b/c..d")


class SmallHub(http.server.BaseHTTPRequestHandler):
    """A hub with one encoder, acme/enc, in several forms, and one that is gated."""

    FILES = SENTENCES | {
        "pytorch_model.bin": b"not wanted",
        "onnx/model.onnx": b"not wanted",
        "vocab.txt": b"not wanted",
        ".gitattributes": b"",
    }

    def do_GET(self) -> None:
        if self.path.startswith(("/api/models/acme/enc", f"/api/models/acme/enc/revision/{COMMIT}")):
            siblings = [{"rfilename": name} for name in self.FILES]
            self.answer(200, json.dumps({"id": "acme/enc", "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith("/api/models/acme/gated"):
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif (name := self.path.removeprefix(f"/acme/enc/resolve/{COMMIT}/")) in self.FILES:
            content = self.FILES[name]
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.answer(200, body, {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing: pytest's output is for results."""


ASK = """
import sys
from winnow.filters.encoder_files import EncoderError, find
for name in sys.argv[1:]:
    try:
        found = find(name)
        print(found.folder, found.pooling)
    except EncoderError as error:
        print(error)
"""


def ask(place: Path, endpoint: str, *names: str) -> list[str]:
    """What `find` says in a process that has its own hub."""
    where = {"HF_HOME": str(place), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        capture_output=True,
        text=True,
        env=os.environ | where,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_download_takes_what_is_wanted_and_is_found_again(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SmallHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            found, none, gated = ask(tmp_path, endpoint, "acme/enc", "acme/none", "acme/gated")
        finally:
            server.shutdown()
    folder = tmp_path / "hub" / "models--acme--enc" / "snapshots" / COMMIT
    assert found == f"{folder} cls"
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert fetched == set(SENTENCES) | {".gitattributes"}
    assert none.startswith("encoder acme/none is not on the hub, or is private")
    assert gated.startswith(
        "encoder acme/gated is gated: accept its terms on the hub and run `hf auth login`"
    )
    found, dead = ask(tmp_path, "http://127.0.0.1:9", "acme/enc", "acme/none")
    assert found == f"{folder} cls"
    assert "cannot be fetched (" in dead


@pytest.mark.parametrize(
    ("names", "wanted", "not_wanted"),
    [
        ({"model.safetensors.index.json", "model-00001-of-00002.safetensors", "tokenizer.json"},
         {"model.safetensors.index.json", "model-*.safetensors", "tokenizer.json"}, {"vocab.json"}),
        ({"pytorch_model.bin.index.json"}, {"pytorch_model-*.bin", "vocab.json", "merges.txt"}, {"tokenizer.json"}),
    ],
)  # fmt: skip
def test_what_is_fetched_of_a_repository(names, wanted, not_wanted):
    found = set(encoder_files._wanted(names))
    assert wanted <= found
    assert not not_wanted & found


def test_a_repository_without_weights_is_said():
    with pytest.raises(EncoderError, match="has no weights"):
        encoder_files._wanted({"config.json"})


def test_a_light_module_stays_light():
    code = (
        "import sys, winnow.filters.encoder_files; "
        "print({'numpy', 'torch', 'huggingface_hub', 'pydantic', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
