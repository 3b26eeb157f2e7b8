"""`winnow compare`: what is set side by side, what does not fit together, and what is not done twice."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from winnow.pipelines.compare import compared, options, print_comparison
from winnow.pipelines.train_corpus import Tokens, check_same_tokens
from winnow.pipelines.train_settings import TrainInputError, TrainSettings

if importlib.util.find_spec("streaming") is None:
    pytest.skip("mosaicml-streaming is the reader: pip install 'winnow[train]'", allow_module_level=True)

TOKENS = Tokens("abc", 9, None, None, 0, "eos", None)


def result(web: float, books: float, **changed: Any) -> dict[str, Any]:
    return {
        "run": "there", "name": "corpus", "tokens": 1000, "epochs": 0.5, "passes": {"web": 1.5}, "parameters": 2000,
        "machine": "m", "tokens_per_second": 10.0, "heldout": {"web": web, "books": books},
        "heldout_bytes": {"web": 300, "books": 100}, "bits_per_byte": (3 * web + books) / 4,
    } | changed  # fmt: skip


def test_differences_are_taken_seed_by_seed() -> None:
    facts = compared(
        {
            "a": [result(1.0, 2.0), result(1.2, 2.0), result(1.4, 2.0)],
            "b": [result(0.9, 2.1), result(1.0, 2.1), result(1.4, 2.1, tokens_per_second=30.0)],
        }
    )
    web, books, everything = facts["sources"]
    assert [r["source"] for r in facts["sources"]] == ["web", "books", "all"]
    assert web["a"]["mean"] == pytest.approx(1.2)
    assert web["a"]["sd"] == pytest.approx(0.2)
    assert web["difference"]["values"] == pytest.approx([-0.1, -0.2, 0.0])
    assert web["difference"]["mean"] == pytest.approx(-0.1)
    assert web["difference"]["standard_error"] == pytest.approx(0.1 / 3**0.5)
    assert books["difference"]["standard_error"] == pytest.approx(0)
    assert everything["text_bytes"] == 400
    assert everything["a"]["values"][0] == pytest.approx(1.25)
    assert facts["runs"]["b"]["tokens_per_second"] == 10.0


def test_one_seed_has_no_spread(capsys: pytest.CaptureFixture[str]) -> None:
    facts = compared({"a": [result(1.0, 2.0)], "b": [result(1.5, 2.0)]})
    assert facts["sources"][0]["difference"]["standard_error"] is None
    print_comparison(facts | {"settings": asdict(TrainSettings()), "seeds": 1})
    shown = capsys.readouterr().out
    assert "+0.5000" in shown
    assert "1.0000 ±" not in shown
    assert "read more than once: web 1.5 times" in shown
    assert "1 seed" in shown


def test_a_comparison_is_shown_with_its_spread(capsys: pytest.CaptureFixture[str]) -> None:
    facts = compared({"a": [result(1.0, 2.0), result(1.2, 2.0)], "b": [result(0.9, 2.0), result(0.9, 2.0)]})
    print_comparison(facts | {"settings": asdict(TrainSettings(model="nano")), "seeds": 2})
    shown = capsys.readouterr().out
    assert "1.1000 ± 0.1414" in shown
    assert "-0.2000 ± 0.1000" in shown
    assert "nano (2.00K parameters), 2 seeds" in shown


def a_run(tokens: Tokens = TOKENS, length: int = 32, location: str = "here") -> Any:
    facts = {"tokenizer": {"name": f"tokenizer-{tokens.sha256}"}}
    return SimpleNamespace(
        tokens=tokens, length=length, length_of=lambda split: length, location=location, facts=facts
    )


def test_runs_that_do_not_fit_together() -> None:
    check_same_tokens(a_run(), a_run(), "train")
    with pytest.raises(
        TrainInputError, match=r"tokenizers differ: here has tokenizer-abc and there has tokenizer-def"
    ):
        check_same_tokens(
            a_run(), a_run(Tokens("def", 9, None, None, 0, "eos", None), location="there"), "train"
        )
    with pytest.raises(TrainInputError, match="append is eos in here, none in there"):
        check_same_tokens(
            a_run(), a_run(Tokens("abc", 9, None, None, 0, "none", None), location="there"), "val"
        )
    with pytest.raises(TrainInputError, match="32 tokens in here, 64 in there"):
        check_same_tokens(a_run(), a_run(length=64, location="there"), "val")


def test_settings_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `compare` hands to `winnow train` is understood there as the same settings."""
    from typer.testing import CliRunner
    from winnow.pipelines import train_loop
    from winnow.pipelines.command import app

    found: list[Any] = []

    def note(run: str, out: str, settings: TrainSettings, **others: Any) -> dict[str, Any]:
        found.append((run, out, settings, others["heldout"], others["device"]))
        return {}

    monkeypatch.setattr(train_loop, "train", note)
    settings = TrainSettings(
        model="mini", tokens=123_456, batch=7, seed=3, learning_rate=0.5, mask_documents=True, heldout_tokens=99,
        every=11,
    )  # fmt: skip
    for wanted in (settings, TrainSettings()):
        arguments = ["train", "R", "--out", "O", "--heldout", "H", "--device", "cpu", "--json"]
        done = CliRunner().invoke(app, [*arguments, *options(wanted)])
        assert done.exit_code == 0, done.output
        assert found.pop() == ("R", "O", wanted, "H", "cpu")
    done = CliRunner().invoke(app, ["train", "R", "--out", "O", "--tokens", "5X"])
    assert isinstance(done.exception, TrainInputError)
