"""Is of a source exactly so much read as is asked for, and the same part by everyone?"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import corpus as corpus_module
from winnow.pipelines import sampling
from winnow.pipelines.audit import sample_dropped
from winnow.pipelines.audit_document import document_story
from winnow.pipelines.audit_pairs import cluster_of, sample_pairs
from winnow.pipelines.cluster import Inline
from winnow.pipelines.corpus import run
from winnow.pipelines.finished import UnknownError, open_run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.planning import plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Heldout, Source, read
from winnow.pipelines.sampling import MARGIN, expected, hashed_order
from winnow.pipelines.split_rows import splits_of
from winnow.shards.inputs import InputError, InputFile, Piece, Split
from winnow.shards.splits import cut

SILENT = Progress(stream=None)
WORDS = (
    "the",
    "of",
    "house",
    "river",
    "stone",
    "makes",
    "between",
    "under",
    "light",
    "water",
    "tree",
    "people",
)
FILES, DOCUMENTS = 16, 6


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def text(source: str, file: int, row: int) -> str:
    """A document that no other is like."""
    return f"{source} {file} {row} " + " ".join(random.Random(f"{source}{file}-{row}").choices(WORDS, k=18))


def rows_of(source: str, file: int) -> list[dict]:
    return [{"text": text(source, file, i), "score": (7 * file + i) % 11} for i in range(DOCUMENTS)]


def write(folder: Path, file: int, rows: list[dict]) -> None:
    """A file of 513 to 1,024 bytes: a split of its own where splits are of 1 KiB."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert 512 < len(lines) <= 1024, len(lines)
    (folder / f"{file:02}.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of which no document is like another."""
    folder = tmp_path_factory.mktemp("sampling")
    for source in ("web", "books"):
        for file in range(FILES):
            write(folder / source, file, rows_of(source, file))
    return folder


def recipe(root: Path, how: str, more: str = "", sources: tuple[str, ...] = ("web",), way: str = ""):
    """`how` much is read of the first source; the others are read whole."""
    parts = [
        f"  {name}: {{read: {{format: jsonl, path: '{root}/{name}/*.jsonl'{way}}}"
        f"{', ' + how if k == 0 and how else ''}}}\n"
        for k, name in enumerate(sources)
    ]
    return read(
        "name: part\ntokenizer: {name: mistral-7b-v0.1}\nsequence: {length: 16}\n"
        f"limits: {{split_bytes: 1KiB}}\nsources:\n{''.join(parts)}{more}",
        "part.yaml",
    )


made_before: list[Path] = []
"""The tokenizer's stage of an earlier run: it is the same in all."""


def make(root: Path, out: Path, how: str, more: str = "", sources: tuple[str, ...] = ("web",), **options):
    for stage in made_before if not out.exists() or not any(out.iterdir()) else ():
        shutil.copytree(stage, out / "stages" / stage.name)
    made = run(recipe(root, how, more, sources), str(out), inline=True, progress=SILENT, **options)
    made_before[:] = [Path(made.tokenizer.location)]
    return made


def chosen(made, source: str = "web") -> list[int]:
    return [split.index for split in made.sources[source].plan.splits]


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """All of the source, to its tokens."""
    return make(root, tmp_path_factory.mktemp("whole"), "", until="tokens")


# ---- the order, and prefixes of it ------------------------------------------------------------------------------


def some_splits(sizes: list[int]) -> list[Split]:
    return [Split(i, (Piece(i, "", "", 1000 + i, size),)) for i, size in enumerate(sizes)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=30),
    st.integers(1, 1000),
    st.integers(0, 2**63 - 1),
)
def test_a_sample_is_the_shortest_prefix_with_its_share_of_the_bytes(sizes, thousandths, seed):
    share = Decimal(thousandths) / 1000
    choice = expected(Source.model_construct(sample=float(share)), some_splits(sizes), seed, 0.0)
    order = [split.index for split in hashed_order(some_splits(sizes), seed)]
    assert sorted(order) == list(range(len(sizes)))
    read = [split.index for split in choice.splits[: choice.n]]
    assert read == order[: len(read)]
    assert [split.index for split in choice.chosen] == sorted(read)
    held, wanted = [sum(sizes[i] for i in order[:n]) for n in range(len(sizes) + 1)], share * sum(sizes)
    assert held[choice.n] >= wanted
    assert choice.n == 1 or held[choice.n - 1] < wanted
    assert (choice.bytes, choice.of_bytes) == (held[choice.n], sum(sizes))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.integers(1, 10**4),
    st.lists(st.floats(0, 3), max_size=40),
)
def test_rounds_grow_by_a_split_or_more_and_at_most_fourfold(sizes, wanted, rates):
    source = Source.model_construct(tokens=wanted, heldout=Heldout(fraction=0.25))
    most = expected(source, some_splits(sizes), 1, float(sum(sizes)))
    assert most.train_share == 0.75
    assert most.whole or most.bytes * 0.75 >= MARGIN * wanted
    choice = most.upto(0)
    assert choice.n == 1
    for rate in rates:
        if choice.whole:
            break
        tokens = choice.bytes * rate
        grown = choice.grown(tokens, counted=True)
        assert choice.n < grown.n <= len(sizes)
        assert grown.rounds == choice.rounds + 1
        if grown.n > choice.n + 1:  # a split less would have been too few
            less = grown.ends[grown.n - 2]
            assert less < 4 * choice.bytes
            assert less * rate < MARGIN * wanted
        choice = grown


def test_the_order_goes_by_the_seed_and_by_no_number_of_a_split():
    names = [f"{i:02}.jsonl" for i in range(30)]
    files = [InputFile(name, name, 900, "m") for name in names]

    def order(files: list[InputFile], seed: int = 17, source: str = "s") -> list[str]:
        return [s.pieces[0].path for s in hashed_order(cut(source, files, "jsonl", 1000), seed)]

    before = order(files)
    assert before != names
    assert order(files, seed=18) != before
    assert order(files, source="t") != before
    more = sorted(
        [*files, *(InputFile(f"{i:02}a.jsonl", "", 900, "m") for i in (0, 7, 29))], key=lambda f: f.path
    )
    assert [name for name in order(more) if "a" not in name] == before
    ranges = [
        (s.pieces[0].start, s.index)
        for s in hashed_order(cut("s", [InputFile("x", "x", 30_000, "")], "jsonl", 1000), 1)
    ]
    assert [start for start, _ in ranges] != sorted(start for start, _ in ranges)


# ---- a share of a source ----------------------------------------------------------------------------------------


def test_a_share_is_read_and_enlarged_without_reading_a_split_again(root, tmp_path, whole):
    small = make(root, tmp_path, "sample: 0.2")
    facts = sampling.sampled_facts(small.sources["web"])
    assert facts == {
        "splits": len(chosen(small)),
        "of_splits": FILES,
        "bytes": sum(s.cost for s in small.sources["web"].plan.splits),
        "of_bytes": small.sources["web"].plan.stored_bytes,
        "rounds": 1,
        "wanted_tokens": None,
        "met": True,
    }
    assert 0.2 <= facts["bytes"] / facts["of_bytes"] < 0.2 + 1.5 / FILES
    tokens = {r.index: r.counts["tokens"] for r in whole.sources["web"].tokens.records}
    assert small.mixture["sources"][0]["tokens"] == sum(tokens[i] for i in chosen(small))
    assert small.redone["documents.web"] == len(chosen(small))
    # A row of a split that is not read any more has no say.
    larger = make(root, tmp_path, "sample: 0.5")
    assert set(chosen(small)) < set(chosen(larger))
    assert larger.redone["documents.web"] == len(chosen(larger)) - len(chosen(small))
    assert larger.sources["web"].filters.stage.directory != small.sources["web"].filters.stage.directory
    assert larger.mixture["sources"][0]["tokens"] == sum(tokens[i] for i in chosen(larger))
    again = make(root, tmp_path, "sample: 0.2")
    assert sum(again.redone.values()) == 0
    assert again.mixture == small.mixture
    everything = make(root, tmp_path, "sample: 1", until="tokens")
    stages = [
        (s.filters.stage.directory, s.tokens.stage.directory)
        for s in (everything.sources["web"], whole.sources["web"])
    ]
    assert stages[0] == stages[1], "all splits are the source as if nothing had been chosen"


def test_bad_rows_of_splits_that_are_not_read_stop_nothing(root, tmp_path):
    order = [s.index for s in hashed_order(plan(recipe(root, "")).sources[0].splits, 17)]
    for file in range(FILES):
        write(
            tmp_path / "web", file, [{"nothing": "x" * 90}] * 6 if file == order[-1] else rows_of("web", file)
        )
    out = tmp_path / "run"
    before = make(tmp_path, out, "sample: 0.9", until="filters")
    assert order[-1] not in chosen(before)
    with pytest.raises(InputError, match=f"split {order[-1]} "):
        make(tmp_path, out, "sample: 1", until="filters")
    assert (
        out / "stages" / before.sources["web"].documents.stage.directory / "records" / f"{order[-1]:08d}.json"
    ).exists()
    assert chosen(make(tmp_path, out, "sample: 0.9", until="filters")) == chosen(before)


def test_a_fraction_is_of_the_documents_that_are_read(root, tmp_path):
    how = "sample: {}, filters: [{{field: {{path: score, keep_fraction: 0.4}}}}]"
    for share in (0.3, 0.6):
        made = make(root, tmp_path, how.format(share), until="filters")
        scores = sorted((r["score"] for i in chosen(made) for r in rows_of("web", i)), reverse=True)
        kept = sum(r.counts["kept"] for r in made.sources["web"].filters.records)
        assert kept == math.ceil(round(0.4 * len(scores), 6)) < 0.4 * FILES * DOCUMENTS


# ---- so many tokens ---------------------------------------------------------------------------------------------


def train_tokens(made) -> int:
    return made.mixture["sources"][0]["train"]["tokens"]


def test_tokens_are_met_with_the_margin_and_a_split_at_most(root, tmp_path, whole, monkeypatch):
    by_split = {r.index: r.counts["tokens"] for r in whole.sources["web"].tokens.records}
    wanted = sum(by_split.values()) // 2
    made = make(root, tmp_path / "one", f"tokens: {wanted}")
    facts = sampling.sampled_facts(made.sources["web"])
    assert facts["met"]
    assert facts["rounds"] > 1
    assert sampling.sampled_warnings(made.sources["web"]) == []
    # The pilot's tokens per byte are a little off.
    assert wanted <= train_tokens(made) <= 1.02 * (MARGIN * wanted + max(by_split.values()))
    assert train_tokens(made) == sum(by_split[i] for i in chosen(made))
    order = [s.index for s in made.sources["web"].choice.splits]
    assert sorted(order[: len(chosen(made))]) == chosen(made)
    assert made.redone["documents.web"] < FILES

    class Backwards(Inline):
        def map(self, jobs):
            return super().map(list(jobs)[::-1])

    with monkeypatch.context() as patched:
        patched.setattr(corpus_module, "Inline", Backwards)
        other = make(root, tmp_path / "two", f"tokens: {wanted}")
    assert chosen(other) == chosen(made)
    assert other.mixture == made.mixture
    again = make(root, tmp_path / "one", f"tokens: {wanted}")
    assert sum(again.redone.values()) == 0
    assert again.mixture == made.mixture


def test_tokens_of_conversations_are_estimated_by_what_of_them_fits(root, tmp_path):
    """All give a third of their text; the pilot says so, and no later round is needed."""
    for file in range(FILES):
        folder = tmp_path / "chat"
        talk = [{"role": role, "content": "so it is"} for _ in range(4) for role in ("user", "assistant")]
        write(folder, file, [{"messages": talk}, {"messages": talk[2:]}])
    said: list[str] = []

    class Said(Progress):
        def say(self, line):
            said.append(line)

    way = ", chat: {format: llama-inst, column: messages, max_tokens: 40}"
    asked = recipe(tmp_path, "tokens: 600", sources=("chat",), way=way)
    made = run(asked, str(tmp_path / "run"), inline=True, progress=Said(stream=None))
    assert 600 <= train_tokens(made) < 900
    assert not [line for line in said if " tokens; reading " in line]


def test_a_run_that_died_chooses_the_same_splits(root, tmp_path, monkeypatch):
    how, more = "tokens: 1600, heldout: {fraction: 0.2}, dedup: {exact: true}", ""
    straight = make(root, tmp_path / "straight", how, more)
    assert train_tokens(straight) >= 1600, "held-out tokens are no training tokens"

    class Dies(Inline):
        left = 0

        def map(self, jobs):
            for answer in super().map(jobs):
                yield answer
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt

    done = 0
    for tasks in (3, 11, 17, 5):
        monkeypatch.setattr(Dies, "left", tasks)
        with monkeypatch.context() as patched:
            patched.setattr(corpus_module, "Inline", Dies)
            with pytest.raises(KeyboardInterrupt):
                make(root, tmp_path / "died", how, more)
        done += tasks
    made = make(root, tmp_path / "died", how, more)
    assert chosen(made) == chosen(straight)
    assert made.mixture == straight.mixture
    # The tokenizer's stage was copied from the first run, which may have had to make it.
    assert sum(made.redone.values()) == sum(straight.redone.values()) - straight.redone["tokenizer"] - done


def test_too_few_tokens_read_all_and_are_said(root, tmp_path, whole):
    made = make(root, tmp_path, "tokens: 1M")
    source = made.sources["web"]
    facts = sampling.sampled_facts(source)
    assert facts["splits"] == FILES == made.redone["documents.web"]
    assert not facts["met"]
    (warning,) = sampling.sampled_warnings(source)
    assert f"{train_tokens(made):,} training tokens" in warning
    assert "1,000,000 are wanted" in warning
    assert source.tokens.stage.directory == whole.sources["web"].tokens.stage.directory


def test_filters_that_leave_nothing_of_the_pilot_read_on(root, tmp_path):
    made = make(root, tmp_path, "tokens: 300, filters: [{length: {min_words: 1000}}]", until="tokens")
    assert chosen(made) == list(range(FILES))


def web(file: int) -> list[str]:
    """Four documents that every file has, and two of its own."""
    return [text("web", 0 if i < 4 else file, i) for i in range(DOCUMENTS)]


def books(file: int) -> list[str]:
    """One of the documents that one file of `web` has alone, and five of its own."""
    return [text("web" if i > 4 else "books", file, i) for i in range(DOCUMENTS)]


def copies(root: Path) -> None:
    for file in range(FILES):
        write(root / "web", file, [{"text": t} for t in web(file)])
        write(root / "books", file, [{"text": t} for t in books(file)])


def test_what_dedup_takes_is_read_more(tmp_path):
    copies(tmp_path)
    said: list[str] = []
    progress = Progress(stream=None)
    progress.say = said.append
    wanted = 400
    made = run(
        recipe(tmp_path, f"tokens: {wanted}, dedup: {{exact: true}}"),
        str(tmp_path / "run"),
        inline=True,
        progress=progress,
    )
    assert any(f"of {wanted:,} tokens; reading" in line for line in said)
    texts = {t for i in chosen(made) for t in web(i)}
    assert made.mixture["sources"][0]["train"]["documents"] == len(texts)
    assert train_tokens(made) >= wanted
    assert len(chosen(made)) < FILES
    assert made.redone["documents.web"] == len(chosen(made)), "each split once"
    out, how = tmp_path / "run", f"tokens: {wanted}, dedup: {{exact: true}}"
    again = make(tmp_path, out, how)
    assert sum(again.redone.values()) == 0
    assert chosen(again) == chosen(made)
    unreferenced = open_run(str(out)).unreferenced()
    assert any("tokens.web" in place for place in unreferenced), (
        "of the pilot, and of rounds that were not enough"
    )
    for place in unreferenced:
        shutil.rmtree(out / place)
    mixed = make(tmp_path, out, how + ", weight: 1", "mixture: {tokens: 800}\n")
    assert sum(mixed.redone.values()) == 0, "rounds that were gone through are over"
    assert sampling.sampled_facts(mixed.sources["web"]) == sampling.sampled_facts(made.sources["web"])
    other = make(tmp_path, out, f"tokens: {wanted}, dedup: {{exact: {{by: normalised}}}}", until="tokens")
    assert other.redone["filters.web"] > 0
    assert chosen(other) == chosen(made)


def test_the_part_and_a_whole_source_are_one_group_of_dedup(tmp_path):
    """Also what can be asked of such a run, and what a later run compares with."""
    copies(tmp_path)
    more = "dedup: {exact: {across: [web, books]}, minhash: {across: [web, books]}}\n"
    made = make(tmp_path, tmp_path / "run", "sample: 0.4", more, ("web", "books"))
    read_texts = Counter(t for i in chosen(made) for t in web(i))
    of_books = [t for i in range(FILES) for t in books(i)]
    facts = {s["name"]: s for s in made.mixture["sources"]}
    assert facts["web"]["duplicates"] == sum(n - 1 for n in read_texts.values())
    assert facts["books"]["duplicates"] == sum(t in read_texts for t in of_books) > 0
    assert facts["books"]["splits"] == FILES > facts["web"]["splits"] == len(chosen(made))
    again = make(tmp_path, tmp_path / "run", "sample: 0.4", more, ("web", "books"))
    assert sum(again.redone.values()) == 0
    assert {d.stage.name for d in again.lasting} == {d.stage.name for d in made.lasting}

    opened = open_run(str(tmp_path / "run"))
    assert list(splits_of(opened, "web")) == chosen(made)
    assert list(splits_of(opened, "books")) == list(range(FILES))
    dropped = facts["web"]["duplicates"] + facts["books"]["duplicates"]
    assert len(sample_dropped(opened, "exact", 1000)) == len(sample_pairs(opened, 1000)) == dropped
    for pair in sample_pairs(opened, 5):
        assert [same for same, _, _ in pair.blocks] == [True], "both texts are found"
        assert pair.dropped in [m.place for m in cluster_of(opened, pair.survivor.document)]
    halves = {split.index: split.pieces[0].id_half for split in plan(recipe(tmp_path, "")).sources[0].splits}
    for index, half in halves.items():
        document = f"{half:016x}{0:016x}"
        if index in chosen(made):
            assert document_story(opened, document).end in ("kept", "duplicate")
        else:
            with pytest.raises(UnknownError, match="a part of the source that was not read"):
                document_story(opened, document)

    against = f"dedup: {{exact: {{against: ['{tmp_path}/run']}}}}"
    for file in range(FILES):
        write(tmp_path / "new", file, [{"text": t} for t in web(file)])
    later = make(tmp_path, tmp_path / "later", against, sources=("new",))
    fresh = {t for i in range(FILES) for t in web(i)} - {*read_texts, *of_books}
    assert later.mixture["sources"][0]["kept_documents"] == len(fresh)


# ---- recipe and plan --------------------------------------------------------------------------------------------


def test_a_share_and_tokens_at_once_are_a_mistake(root):
    with pytest.raises(RecipeError, match=r"part.yaml:6:\d+: source 'web' has a `sample` and `tokens`"):
        recipe(root, "sample: 0.5, tokens: 100")


def test_the_plan_is_of_the_part(root):
    def planned(how: str):
        return plan(recipe(root, how))

    everything, share = planned("").sources[0], planned("sample: 0.25").sources[0]
    assert everything.expected is None
    assert sampling.sampling_facts(planned("")) == {}
    part = sampling.sampling_facts(planned("sample: 0.25"))["web"]
    assert part["splits"] == share.expected.n < len(share.splits) == part["of_splits"]
    assert share.text_estimate == pytest.approx(everything.text_estimate * part["bytes"] / part["of_bytes"])
    assert share.stored_bytes == everything.stored_bytes
    assert planned("sample: 0.25").disk_estimate(1e5) < 0.4 * planned("").disk_estimate(4e5)
    wanted = int(everything.token_estimate / 4)
    part = sampling.sampling_facts(planned(f"tokens: {wanted}, heldout: {{fraction: 0.5}}"))["web"]
    assert 0.5 * MARGIN <= part["bytes"] / part["of_bytes"] < 0.5 * MARGIN + 1.5 / FILES
    (line,) = sampling.sampling_lines({"web": part})
    assert f"~ {part['splits']} of 16 splits" in line
    assert planned("tokens: 1T").sources[0].token_estimate == everything.token_estimate


def test_the_plan_proposes_tokens_where_little_is_drawn(root):
    planned = plan(recipe(root, "", sources=("web", "books")))
    there, other = (source.token_estimate for source in planned.sources)
    assert sampling.proposals(planned, {"web": there, "books": 0.5 * other}) == []
    (proposed,) = sampling.proposals(planned, {"web": 0.2 * there, "books": 3 * there})
    assert proposed["source"] == "web"
    assert 0.2 * there <= proposed["tokens"] <= 0.22 * there
    assert proposed["epochs_estimate"] == pytest.approx(0.2)
    assert proposed["bytes_estimate"] + proposed["spared_bytes_estimate"] == planned.sources[0].stored_bytes
    asked = recipe(root, f"tokens: {proposed['tokens']}")
    assert sampling.sampling_facts(plan(asked))["web"]["bytes"] == proposed["bytes_estimate"]
    (line,) = sampling.sampling_lines({}, [proposed | {"tokens": 340_000_000_000}])
    assert "`tokens: 340B`" in line
    assert sampling.proposals(plan(recipe(root, "sample: 0.9")), {"web": 10.0}) == []
