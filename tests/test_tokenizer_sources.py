"""Tokenizer files: does a name give the right bytes, and a SentencePiece model the right JSON?

Nothing here leaves the machine: the hub is its cache directory, a dead port, or a small server of our own.
"""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.tokenize.encoder import prepare
from winnow.tokenize.sentencepiece_json import tokenizer_json
from winnow.tokenize.source import NEOX_FINGERPRINT, TokenizerError, TokenizerSource, fingerprint, resolve

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
REAL_NEOX = SHARED / "tokenizers" / "gpt-neox-20b" / "tokenizer.json"

awkward = st.text(alphabet="   \u2581</s>ae\u0301é中=!0\n\t\x00\U0001f600r", max_size=60)


def train_sentencepiece(**changes: object) -> bytes:
    """A small SentencePiece model of Mistral's shape, unless ``changes`` say otherwise."""
    shape: dict[str, object] = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "vocab_size": 600,
        "minloglevel": 2,
    }
    lines = Path(os.__file__).with_name("argparse.py").read_text("utf-8").splitlines()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **(shape | changes)
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def byte_level() -> bytes:
    """A small byte-level tokenizer.json with a few merges."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text("utf-8")], trainer)
    return tokenizer.to_str().encode()


# ---- SentencePiece to JSON -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"split_digits": True}, {"vocab_size": 1200, "max_sentencepiece_length": 4}],
    ids=["mistral-shape", "digits", "short-pieces"],
)
def test_small_models_agree_with_sentencepiece(changes: dict[str, object]) -> None:
    model = train_sentencepiece(**changes)
    converted = tokenizer_json(model)
    assert converted == tokenizer_json(model), "equal input must give equal bytes"
    ours = tokenizers.Tokenizer.from_str(converted.decode())
    ours.encode_special_tokens = True
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @settings(deadline=None, max_examples=300)
    @given(awkward)
    def check(text: str) -> None:
        assert ours.encode(text, add_special_tokens=False).ids == processor.encode(text)

    check()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model_type": "unigram"}, "a SentencePiece unigram model cannot become a byte-pair tokenizer.json"),
        ({"model_type": "char"}, "a SentencePiece char model cannot become a byte-pair tokenizer.json"),
        ({"byte_fallback": False}, "(byte_fallback is off; it lacks some of the 256 byte pieces)"),
        ({"add_dummy_prefix": False}, "(add_dummy_prefix is off)"),
        ({"remove_extra_whitespaces": True}, "(remove_extra_whitespaces is on)"),
        ({"normalization_rule_name": "nmt_nfkc"}, "(the normaliser is not the identity)"),
        ({"treat_whitespace_as_suffix": True}, "(treat_whitespace_as_suffix is on)"),
        ({"user_defined_symbols": ["zork"]}, "(it has user-defined pieces)"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_models_of_another_shape_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer_json(train_sentencepiece(**setting))
    assert message in str(caught.value)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=60), st.integers(0, 5000)))
def test_broken_models_are_refused(broken: bytes | int) -> None:
    if isinstance(broken, int):
        broken = resolve("mistral-7b-v0.1").content[:broken]
    with pytest.raises(TokenizerError):
        tokenizer_json(broken)


def test_a_model_cut_short_is_told_apart() -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer_json(resolve("mistral-7b-v0.1").content[:-2])
    assert str(caught.value) == "not a SentencePiece model: its protocol buffer does not parse"


# ---- where they come from --------------------------------------------------------------------------------


def test_mistral_comes_from_the_package() -> None:
    source = resolve("mistral-7b-v0.1")
    assert (source.kind, len(source.content)) == ("sentencepiece", 493_443)
    assert source.sha256 == "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"


def test_a_directory_or_a_file_is_read(tmp_path: Path, byte_level: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(resolve("mistral-7b-v0.1").content)
    assert resolve(str(tmp_path)).kind == "sentencepiece"
    (tmp_path / "tokenizer.json").write_bytes(byte_level)
    source = resolve(str(tmp_path))
    assert (source.kind, source.content, source.origin) == (
        "json",
        byte_level,
        str(tmp_path / "tokenizer.json"),
    )
    assert resolve("mistral-7b-v0.1", str(tmp_path / "tokenizer.model")).kind == "sentencepiece"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mistral-7b",
            "unknown tokenizer 'mistral-7b'; did you mean 'mistral-7b-v0.1'? "
            "(known: mistral-7b-v0.1, gpt-neox-20b; or a path, or a hub id 'org/name')",
        ),
        ("./none/tokenizer.json", "no tokenizer at ./none/tokenizer.json: no such file or directory"),
        ("a/b/c", "no tokenizer at a/b/c: no such file or directory"),
        ("a b/c", "no tokenizer at a b/c: no such file or directory"),
    ],
)
def test_names_that_mean_nothing(name: str, message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        resolve(name)
    assert str(caught.value) == message


def test_a_name_promises_its_content(tmp_path: Path, byte_level: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(byte_level)
    with pytest.raises(TokenizerError) as caught:
        resolve("gpt-neox-20b", str(tmp_path))
    assert str(caught.value) == (
        f"{path} is not gpt-neox-20b: content {fingerprint(byte_level)}, expected {NEOX_FINGERPRINT}; "
        f"to use that file anyway, give its path as the tokenizer's name"
    )
    with pytest.raises(
        TokenizerError, match=r"is not mistral-7b-v0\.1: content [0-9a-f]{64}, expected dadfd56d"
    ):
        resolve("mistral-7b-v0.1", str(path))


def test_fingerprint_sees_content_not_form(byte_level: bytes) -> None:
    document = json.loads(byte_level)
    merges = document["model"]["merges"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in merges]
    prints = []
    for variant in (merges, pairs, [" ".join(pair) for pair in pairs], [*pairs[1:], pairs[0]]):
        document["model"]["merges"] = variant
        document["pre_tokenizer"].pop("use_regex", None)
        prints.append(fingerprint(json.dumps(document, indent=1, sort_keys=True).encode()))
    assert prints[:3] == [fingerprint(byte_level)] * 3
    assert prints[3] != prints[0], "the order of merges decides ids"


@pytest.mark.skipif(
    not REAL_NEOX.exists(), reason="the shared folder with GPT-NeoX's tokenizer.json is not here"
)
def test_the_real_neox_file_has_the_known_content() -> None:
    source = resolve("gpt-neox-20b", str(REAL_NEOX.parent))
    assert (source.kind, source.origin) == ("json", str(REAL_NEOX))
    assert fingerprint(source.content) == NEOX_FINGERPRINT


@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"model": {"vocab": 3}}', b"[1]", b"\xff", b'{"model": {"vocab": {}}, "added_tokens": []}'],
)
def test_a_file_that_is_no_tokenizer(content: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"test\.json is not a tokenizer\.json"):
        prepare(TokenizerSource("test", "json", content, "", "test.json"))


HUB = """
import sys
from winnow.tokenize.source import TokenizerError, resolve
try:
    print(resolve(sys.argv[1]).origin)
except TokenizerError as error:
    print(error)
print("imported:", *sorted({"mistral_common", "huggingface_hub", "numpy"} & set(sys.modules)))
"""


def ask_hub(name: str, **environment: str) -> list[str]:
    """What resolve answers in a process of its own: huggingface_hub reads its settings when imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    done = subprocess.run(
        [sys.executable, "-c", HUB, name],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


def test_the_hubs_cache_is_enough(tmp_path: Path, byte_level: bytes) -> None:
    repository = tmp_path / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text("ab" * 20)
    (snapshot / "tokenizer.json").write_bytes(byte_level)
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert ask_hub("acme/tiny@v1", **offline)[0] == f"acme/tiny@{'ab' * 20} tokenizer.json"
    assert ask_hub("acme/tiny", **offline)[0] == (
        "tokenizer acme/tiny is not in the hub's cache and HF_HUB_OFFLINE is set; where there is a network, "
        "run: hf download acme/tiny tokenizer.json, or give the path of a tokenizer.json or tokenizer.model"
    )


def test_a_dead_hub_is_told_soon(tmp_path: Path) -> None:
    found = ask_hub("gpt-neox-20b", HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert found[0] == (
        "tokenizer EleutherAI/gpt-neox-20b is not in the hub's cache and the hub does not answer in "
        "5 s; where there is a network, run: hf download EleutherAI/gpt-neox-20b tokenizer.json, or give the "
        "path of a tokenizer.json"
    )


def test_a_light_module_stays_light() -> None:
    assert ask_hub("mistral-7b-v0.1")[1] == "imported:"


class SmallHub(http.server.BaseHTTPRequestHandler):
    """A hub with one repository, acme/spm, that has a tokenizer.model and no tokenizer.json."""

    def do_GET(self) -> None:
        body = resolve("mistral-7b-v0.1").content
        known = self.path.startswith("/acme/spm/")
        found = known and self.path.endswith("/tokenizer.model")
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", '"0123"')
            self.send_header("X-Repo-Commit", "cd" * 20)
        else:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("Content-Length", str(len(body) if found else 0))
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing: pytest's output is for results."""


def test_a_download_takes_the_file_that_is_there(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SmallHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        try:
            assert ask_hub("acme/spm", **where)[0] == f"acme/spm@{'cd' * 20} tokenizer.model"
            assert ask_hub("acme/none@v2", **where)[0].startswith(
                "tokenizer acme/none is not on the hub at revision 'v2', or is private (run `hf auth login`)"
            )
        finally:
            server.shutdown()
