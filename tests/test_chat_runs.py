"""A run with conversations, seen from behind: do audit, statistics, trace, trainer and export agree with its shards?"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner
from winnow.pipelines.audit import audit_facts, reasons_named, sample_dropped
from winnow.pipelines.audit_document import document_story
from winnow.pipelines.audit_report import print_audit, print_sample, print_story
from winnow.pipelines.command import app
from winnow.pipelines.corpus import run
from winnow.pipelines.document_ends import written_inside
from winnow.pipelines.finished import FinishedRun, UnknownError, open_run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.report import print_report
from winnow.pipelines.tracing import Tracer
from winnow.pipelines.train_corpus import TrainingRun
from winnow.pipelines.train_settings import TrainInputError
from winnow.tokenize.chat_settings import Chat

RECIPE = """
name: seen
tokenizer: {{name: mistral-7b-v0.1, append: eos}}
sequence: {{length: 16}}
shards: {{columns: [loss_mask]}}
dropped_text: none
limits: {{split_bytes: 64KiB}}
sources:
  chat:
    read:
      format: jsonl
      path: "{root}/chat.jsonl"
      chat: {{format: {format}, column: data, kind: alternating{more}}}
    heldout: {{fraction: 0.3}}
  web: {{read: {{format: jsonl, path: "{root}/web.jsonl"}}}}
"""


def make(root: Path, out: str, format_: str, more: str = "") -> FinishedRun:
    recipe = RECIPE.format(root=root, format=format_, more=more)
    run(read(recipe, "r.yaml"), str(root / out), inline=True, progress=Progress(stream=None))
    return open_run(str(root / out))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 conversations of two exchanges; every fifth begins with a question of 60 words."""
    folder = tmp_path_factory.mktemp("seen")
    rows = [["why " * (60 if i % 5 == 0 else 3) + str(i), "so", "and then?", "so it is"] for i in range(50)]
    (folder / "chat.jsonl").write_text("".join(json.dumps({"data": row}) + "\n" for row in rows))
    (folder / "web.jsonl").write_text("".join(json.dumps({"text": f"{i} words"}) + "\n" for i in range(40)))
    return folder


@pytest.fixture(scope="module")
def made(root: Path) -> FinishedRun:
    return make(root, "run", "llama-inst", ", max_tokens: 30")


@pytest.fixture(scope="module")
def plain(root: Path) -> FinishedRun:
    """Its template writes no control token."""
    return make(root, "plain", "phi-dialogue")


def too_long(made: FinishedRun) -> set[str]:
    """The ids of conversations that the report says are too long."""
    rows = pq.read_table(Path(made.location) / "dropped" / "chat").to_pylist()
    return {r["id"].hex() for r in rows if (r["stage"], r["filter"]) == ("tokens", "max_tokens")}


def test_too_long_conversations_are_dropped_wherever_one_looks(
    made: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = too_long(made)
    assert len(gone) == 10
    chat, web = audit_facts(made.mixture)["sources"]
    assert (chat["rows"], chat["too_long_chats"], chat["kept"]) == (50, 10, 40)
    assert (web["too_long_chats"], web["kept"]) == (0, 40)
    streams = [made.mixture["sources"][0][split]["documents"] for split in ("train", "val")]
    assert sum(streams) == chat["kept"] + chat["too_long_chats"]
    print_audit(audit_facts(made.mixture))
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["max_tokens", "10", "20.00%"] in table
    assert ["kept", "40", "80.00%"] in table
    print_report(made.mixture)
    funnel = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["−", "max_tokens", "10", "20.0%"] in funnel


def test_a_sample_of_too_long_conversations(
    made: FinishedRun, plain: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = too_long(made)
    shown = sample_dropped(made, "max_tokens", 99)
    assert {d.place.document for d in shown} == gone
    assert all(d.excerpt.startswith("<s>[INST] why why") for d in shown)
    assert {d.place.document for d in sample_dropped(made, "max_tokens", 3, "chat")} < gone
    assert sample_dropped(made, "max_tokens", 3, "web") == []
    print_sample("max_tokens", shown[:1])
    assert "   max_tokens: not even its first exchange fits\n" in capsys.readouterr().out
    with pytest.raises(UnknownError):
        reasons_named(plain, "max_tokens")


def test_the_story_of_a_too_long_conversation(made: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    gone = too_long(made)
    for document in gone:
        story = document_story(made, document)
        assert (story.end, story.reason, story.trace) == ("dropped", "max_tokens", None)
        assert Tracer(made).document(document).split is None
    print_story(story)
    assert "dropped by max_tokens: not even its first exchange fits\n" in capsys.readouterr().out
    ids = [piece.document for sample in range(9) for piece in Tracer(made).sample("chat", "train", sample)]
    assert {document_story(made, document).end for document in ids} == {"kept"}


# ---- where documents end -------------------------------------------------------------------------------------


def chat_of(settings: str) -> Any:
    """A recipe, as far as what is asked of it."""
    sources = {
        "web": SimpleNamespace(read=SimpleNamespace(chat=None)),
        "chat": SimpleNamespace(read=SimpleNamespace(chat=Chat(**yaml.safe_load(f"{{{settings}}}")))),
    }
    return SimpleNamespace(sources=sources)


ONE = "turns: [{role: user, text: '{{ a }}'}, {role: assistant, text: '{{ b }}'}]"
REFUSING = (
    "template: \"{% if messages[2:] %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}\""
)


@pytest.mark.parametrize(
    ("settings", "eos_inside", "bos_inside"),
    [
        ("format: llama-inst, column: c", True, True),
        (f"format: llama-inst, {ONE}", False, False),
        ("format: vicuna, column: c, kind: pairs", True, False),
        ("format: vicuna, column: c, control_tokens: []", False, False),
        ("format: chatml, column: c", False, False),
        ("format: chatml, column: c, control_tokens: ['</s>', '<|im_end|>']", False, False),
        ("format: phi-qa, column: c", False, False),
        (f"{REFUSING}, column: c", True, False),
        (f"{REFUSING}, {ONE}", False, False),
    ],
)
def test_which_templates_write_the_token_inside(settings: str, eos_inside: bool, bos_inside: bool) -> None:
    recipe = chat_of(settings)
    vocabulary: Any = SimpleNamespace(controls={"<s>": 1, "</s>": 2, "<|im_end|>": 3})
    assert written_inside(recipe, vocabulary, 2) == ("chat" if eos_inside else None)
    assert written_inside(recipe, vocabulary, 1, begins=True) == ("chat" if bos_inside else None)
    assert written_inside(recipe, vocabulary, None) is None
    renamed: Any = SimpleNamespace(controls={"<|im_end|>": 2})
    is_chatml = "chatml" in settings
    assert written_inside(recipe, renamed, 2) == ("chat" if is_chatml else None)


def test_exchanges_are_not_taken_for_documents(made: FinishedRun, plain: FinishedRun) -> None:
    training = TrainingRun(made.location)
    with pytest.raises(TrainInputError, match="chat template of chat writes the EOS within conversations"):
        training.tokens.documents(np.zeros((1, 16), np.uint16))
    blocks = yaml.safe_load((Path(made.location) / "streams.yaml").read_text())
    assert all("eos_token_id" not in blocks[name]["dataset"] for name in ("train_loader", "eval_loader"))
    rows = np.array([[5, 2, 6, 2]], np.uint16)
    assert TrainingRun(plain.location).tokens.documents(rows).tolist() == [[0, 0, 1, 1]]
    blocks = yaml.safe_load((Path(plain.location) / "streams.yaml").read_text())
    assert blocks["train_loader"]["dataset"]["eos_token_id"] == 2


# ---- the mask behind the shards ------------------------------------------------------------------------------


def test_an_export_says_that_the_mask_stays_behind(made: FinishedRun, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app, ["export", made.location, "--format", "parquet", "--out", str(tmp_path / "o"), "--json"]
    )
    assert said.exit_code == 0
    assert "loss_mask) is not exported" in said.stderr
    json.loads(said.stdout)
