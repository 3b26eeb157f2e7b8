"""Is the copy read that is meant, and is a table of copies that cannot be said where it is wrong?"""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants
from winnow.pipelines import plan_dedup
from winnow.pipelines.located import RecipeError
from winnow.pipelines.mirrors import Mirrors, read_mirrors
from winnow.pipelines.plan_report import plan_facts
from winnow.pipelines.planning import need_all, plan
from winnow.pipelines.publish import frozen
from winnow.pipelines.recipe import read

C4 = "hf://datasets/allenai/c4"
RECIPE = """
name: x
tokenizer: {name: mistral-7b-v0.1}
sources:
  s: {read: {format: jsonl, root: "hf://datasets/allenai/c4/en", path: "*.jsonl"}}
"""


def recipe(mirrors: str = "", text: str = RECIPE, **sets: str):
    said = [f"mirrors={mirrors}"] if mirrors else []
    return read(text, "r.yaml", said + [f"{key.replace('__', '.')}={value}" for key, value in sets.items()])


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "a few words"}\n')
    return folder


@pytest.mark.parametrize(
    ("location", "copy"),
    [
        ("hf://datasets/allenai/c4", "/c4"),
        ("hf://datasets/allenai/c4/en", "/c4/en"),
        ("hf://datasets/allenai/c4/multi/x", "s3://bucket/mc4/x"),
        ("hf://datasets/allenai/c4-more", "/hub/allenai/c4-more"),
        ("hf://datasets/a/b/", "/hub/a/b"),
        ("hf://models/a", None),
        ("s3://other/hf://datasets", None),
        ("/data/web/x", "/local/x"),
        ("/data/webs", None),
        ("/", None),
    ],
)
def test_the_longest_prefix_of_whole_names_counts(location: str, copy: str | None) -> None:
    table = {
        "hf://datasets": "/hub",
        C4: "/c4",
        f"{C4}/multi": "s3://bucket/mc4",
        "/data/web": "/local",
    }
    assert Mirrors(table).of(location) == copy


def test_ids_are_those_of_the_place_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "c4", "en/a.jsonl", "en/deep/b.jsonl", "de/c.jsonl")
    monkeypatch.chdir(tmp_path)
    for sets in (
        {},
        {"sources__s__read__root": f"{C4}@v1/en"},
        {"sources__s__read__root": "", "sources__s__read__path": f"{C4}@v1/en/*.jsonl"},
        {"sources__s__read__root": f"{C4}/en", "sources__s__read__path": f"{C4}/en/*.jsonl"},
    ):
        made = plan(recipe(f'{{"{C4}": c4}}', **sets))
        (source,) = made.sources
        (file,) = source.files
        assert (file.path, file.location) == ("a.jsonl", f"{tmp_path}/c4/en/a.jsonl")
        assert (source.named, source.root) == (f"{C4}/en", f"{tmp_path}/c4/en")
        # What the run keeps is the same, from any directory.
        monkeypatch.chdir("/")
        assert plan(read(frozen(made), "f.yaml")).sources[0].files == source.files
        monkeypatch.chdir(tmp_path)
    excluding = plan(
        recipe(
            f'{{"{C4}": c4}}',
            sources__s__read__path="'**/*.jsonl'",
            sources__s__read__exclude=f"'{C4}/en/deep/*'",
        )
    )
    assert [f.path for f in excluding.sources[0].files] == ["a.jsonl"]


def test_examples_of_classifiers_are_read_from_copies(tmp_path: Path) -> None:
    put(tmp_path / "c4", "en/a.jsonl")
    read_ = f"{{read: {{format: jsonl, path: '{C4}/en/*.jsonl'}}}}"
    text = RECIPE + f"classifiers: {{c: {{positive: {{p: {read_}}}, negative: {{n: {read_}}}}}}}\n"
    made = plan(recipe(f'{{"hf://datasets/allenai": "{tmp_path}"}}', text))
    for kind in ("positive", "negative"):
        (source,) = made.examples["c"][kind]
        assert [f.location for f in source.files] == [f"{tmp_path}/c4/en/a.jsonl"]


def test_benchmarks_are_read_from_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "c4", "en/a.jsonl", "test/b.jsonl")
    benchmark = f"{{path: '{C4}/test/*.jsonl', text: text}}"
    text = RECIPE + f"dedup: {{decontaminate: {{benchmarks: {{b: {benchmark}}}}}}}\n"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    made = plan(recipe(f'{{"hf://datasets/allenai": "{tmp_path}"}}', text))
    assert made.recipe.dedup.decontaminate.benchmarks["b"].path == (f"{tmp_path}/c4/test/*.jsonl",)
    plan_dedup.check(made)
    # Without the copy nobody can tell, and a run says so.
    made = plan(recipe(f'{{"{C4}/en": "{tmp_path}/c4/en"}}', text))
    assert "HF_HUB_OFFLINE is set" in made.unreached["b"]
    plan_dedup.check(made)
    assert [one["name"] for one in plan_facts(made)["unknown"]] == ["benchmark b"]
    with pytest.raises(
        RecipeError, match=r"r\.yaml:6:\d+: benchmark 'b': cannot be reached: HF_HUB_OFFLINE is set"
    ):
        need_all(made)


def test_a_file_of_mirrors_has_targets_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "copies/c4", "en/a.jsonl")
    (tmp_path / "m.yaml").write_text(f"{C4}/: copies/c4\ns3://bucket: gs://other/\n")
    mirrors = read_mirrors(recipe(str(tmp_path / "m.yaml")))
    assert mirrors.table == {C4: f"{tmp_path}/copies/c4", "s3://bucket": "gs://other"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^--set mirrors:1:1: .*m\.yaml: cannot be read: No such file"),
        (b"a: [", r"m\.yaml:1:5: "),
        (b"\xff", r"^--set mirrors:1:1: .*not UTF-8"),
        (b"- a", r"m\.yaml:1:1: prefixes with their mirrors are wanted, not a list"),
        (b"a: 1\nb: /\n", r"m\.yaml:1:4: a directory or URL is wanted, not 1"),
        (b"a: /\nb: /none/there\n", r"m\.yaml:2:4: there is no directory /none/there"),
        (b"hf://datasets/a/b@v1: /\n", r"m\.yaml:1:23: .*has no revisions"),
    ],
)
def test_broken_files(tmp_path: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / "m.yaml").write_bytes(text)
    with pytest.raises(RecipeError, match=message):
        plan(recipe(str(tmp_path / "m.yaml")))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"--set mirrors:1:\d+: there is no directory {tmp_path}/none"):
        plan(recipe(f'{{"{C4}": "{tmp_path}/none"}}'))
    with pytest.raises(RecipeError, match=r"r\.yaml:5:\d+: .*there is no directory .*/en"):
        plan(recipe(f'{{"{C4}": "{tmp_path}"}}'))
