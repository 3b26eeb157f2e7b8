"""Is every number of the mixture's table the right one, whole, and harmless wherever it is shown?"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from winnow.pipelines import command, mixture_by_field, mixture_report, plan_report, report
from winnow.pipelines.json_output import json_text
from winnow.pipelines.mixture_by_field import BY_HEADER, by_grid, by_rows
from winnow.pipelines.mixture_report import (
    CSV_HEADER,
    csv_rows,
    in_units,
    mixture_grid,
    mixture_grids,
    trees,
)
from winnow.pipelines.planning import plan
from winnow.pipelines.recipe import read
from winnow.pipelines.terminal import one_line

MPT_7B = {  # tokens in source and effective tokens (10^9), epochs as printed: huggingface.co/mosaicml/mpt-7b
    "mC4 3.1.0 English": (417.99, 330, 0.14),
    "C4 English SemDedup 80%": (100.42, 299, 2.98),
    "RedPajama CommonCrawl": (878.45, 100, 0.11),
    "The Stack, selected": (463.78, 100, 0.22),
    "RedPajama Wikipedia": (4.87, 40, 8.21),
    "The Stack, Markdown": (107.07, 35, 0.33),
    "S2ORC": (48.85, 33, 0.68),
    "RedPajama Books": (26.02, 30, 1.15),
    "RedPajama arXiv": (28.10, 19, 0.68),
    "RedPajama StackExchange": (20.54, 14, 0.68),
}


def split(tokens: int, **more) -> dict:
    rows = tokens // 2048
    return {
        "documents": tokens // 1000, "tokens": tokens, "text_bytes": 4 * tokens, "rows": rows, "shards": rows // 100,
        "sample_tokens": 2048 * rows, "padding_tokens": 0, "cut_documents": 0,
    } | more  # fmt: skip


def source(name: str, tokens: int, proportion: float, effective: float, **more) -> dict:
    """What mixture.json has of a source of which nothing is held out and a fifth of the bytes was removed."""
    train = split(tokens)
    in_rows = max(2048 * train["rows"], 1)
    unique = effective if effective <= in_rows else 0.9 * effective
    return {
        "name": name, "weight": proportion, "wanted": proportion, "proportion": proportion,
        "effective_tokens": effective, "epochs": effective / in_rows, "unique_factor": unique / effective,
        "effective_unique_tokens": unique, "rows_drawn": round(effective) // 2048, "rows": 2 * train["documents"],
        "text_bytes": 5 * tokens, "kept_bytes": 4 * tokens, "kept_documents": train["documents"],
        "tokens": tokens, "train": train, "val": split(0), "sampled": None, "printed": None, "groups": {},
        "excluded": {"documents": 0, "rows": 0, "tokens": 0},
        "realised": {"rows": round(effective) // 2048, "tokens": effective, "proportion": proportion,
                     "epochs": effective / in_rows},
    } | more  # fmt: skip


def mixture_facts(sources: list[dict], **more) -> dict:
    return {
        "name": "test", "sequence_length": 2048, "epoch_rows": 488_281, "warnings": [], "printed": [],
        "packings": [{"name": "", "length": 2048, "share": 1.0, "epoch_rows": 488_281}], "sources": sources,
        "budget_tokens": sum(s["effective_tokens"] for s in sources),
    } | more  # fmt: skip


@pytest.fixture
def mpt() -> dict:
    sources = [
        source(name, round(tokens * 1e9), drawn / 1000, drawn * 1e9, printed={"epochs": epochs, "tokens": tokens * 1e9})
        for name, (tokens, drawn, epochs) in MPT_7B.items()
    ]  # fmt: skip
    finding = {"what": "epochs of mC4 3.1.0 English", "printed": 0.14, "recomputed": 330 / 417.99,
               "where": "sources", "message": "mC4 3.1.0 English: 0.14 epochs are printed"}  # fmt: skip
    return mixture_facts(sources, printed=[finding])


def shown(grid: report.Grid) -> dict[str, dict[str, str]]:
    """The rows by their first cell: cells by heading."""
    headings = [column.heading for column in grid.columns]
    return {row[0]: dict(zip(headings, row, strict=True)) for section in grid.sections for row in section}


def printed(grid: report.Grid, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    report.print_grid(grid, console)
    return console.export_text().splitlines()


def test_the_table_of_mpt_7b(mpt):
    rows = shown(mixture_grid(mpt))
    for name, (tokens, drawn, epochs) in MPT_7B.items():
        row = rows[name]
        assert row["tokens in source"] == f"{tokens:.2f}B"
        assert row["proportion"] == f"{drawn / 10:.2f}%"
        assert row["effective tokens"] == f"{drawn:.2f}B"
        assert row["removed before"] == "20.0%"
        assert row["tokens/byte"] == "0.250"
        if name not in ("mC4 3.1.0 English", "RedPajama Wikipedia"):
            assert abs(float(row["epochs"]) - epochs) < 0.0051
    assert rows["mC4 3.1.0 English"]["epochs"] == "≠ 0.79"
    assert rows["RedPajama Wikipedia"]["epochs"] == "! 8.21"
    assert rows["RedPajama Wikipedia"]["unique factor"] == "0.900"
    total = rows["total"]
    assert (total["tokens in source"], total["proportion"], total["effective tokens"], total["epochs"]) == (
        "2.10T", "100.00%", "1.00T", "0.48"
    )  # fmt: skip
    (beside,) = mixture_grids(mpt)[1:]
    assert shown(beside)["mC4 3.1.0 English"]["epochs"] == "0.14 ≠ 0.79"
    assert shown(beside)["S2ORC"]["epochs"] == "0.68"
    assert list(beside.notes) == ["≠ mC4 3.1.0 English: 0.14 epochs are printed"]


def test_what_there_is_nothing_of_has_no_column(mpt):
    headings = [column.heading for column in mixture_grid(mpt).columns]
    assert headings == [
        "source", "tokens in source", "proportion", "effective tokens", "epochs", "unique factor", "documents", "text",
        "tokens/byte", "removed before", "samples", "samples drawn", "shards",
    ]  # fmt: skip
    facts = mixture_facts([source("a", 10**7, 1.0, 10**7)])
    assert len(mixture_grids(facts)) == 1, "nothing was published"


def test_the_page_has_every_column():
    page = (Path(__file__).resolve().parents[1] / "docs" / "mixture.md").read_text()
    shown_columns = [c.column.heading for c in (*mixture_report.COLUMNS, *plan_report.COLUMNS)]
    shown_columns += [c.heading for c in mixture_by_field.BY_COLUMNS if c.heading.startswith("~")]
    assert {heading for heading in shown_columns if heading not in page} == set()
    families = ("heldout_", "realised_", "printed_")
    wanted = {name for name in CSV_HEADER if not name.startswith(families)}
    assert {name for name in wanted if f"`{name}`" not in page} == set()
    assert all(f"`{family}*`" in page for family in families)
    assert all(f"`{mark}`" in page for mark in mixture_report.LEGEND)


def test_marks_and_notes():
    often = source("often", 10**7, 0.5, 4.5e7, wanted=0.6)
    far = source("far", 10**6, 0.25, 2.25e7, wanted=0.25)
    rest = source("rest", 10**8, 0.25, 2.25e7, wanted=0.15)
    rest["sampled"] = {"splits": 3, "of_splits": 40, "bytes": 10**6, "of_bytes": 2 * 10**7}
    facts = mixture_facts([often, far, rest], warnings=["rest has \x1b[31mfew tokens"])
    grid = mixture_grid(facts)
    rows = shown(grid)
    assert rows["often"]["epochs"] == "! 4.50"
    assert rows["far"]["epochs"].startswith("!! 22.5")
    assert rows["often"]["proportion"] == "^ 50.00%"
    assert [rows[n]["wanted"] for n in ("often", "far", "rest", "total")] == ["60.00%", "", "15.00%", ""]
    assert rows["rest"]["proportion"] == "25.00%"
    said = "\n".join(printed(grid, 200))
    assert "488,281 samples of 2,048 tokens in an epoch" in said
    assert "rest: 3 of 40 splits were read, 1.0 MB of 20.0 MB" in said
    assert "! more than 4 epochs" in said
    assert "!! more than 16 epochs" in said
    assert "^ held at max_epochs" in said
    assert "≠" not in said
    assert "warning: rest has \\x1b[31mfew tokens" in said
    # A source that is read exactly four times is not marked.
    four = source("four", 2048 * 5000, 1.0, 4.0 * 2048 * 5000)
    assert shown(mixture_grid(mixture_facts([four])))["four"]["epochs"] == "4.00"


def test_what_was_realised_is_shown_where_it_looks_different():
    a, b = source("a", 10**8, 0.3, 3e7), source("b", 10**8, 0.7, 7e7)
    a["realised"] |= {"proportion": 0.30001, "tokens": 3.0001e7}
    b["realised"] |= {"proportion": 0.69999, "tokens": 6.9999e7}
    assert not [c for c in mixture_grid(mixture_facts([a, b])).columns if "realised" in c.heading]
    a["realised"] |= {"proportion": 0.31, "tokens": 3.6e7}
    b["realised"] |= {"proportion": 0.69}
    rows = shown(mixture_grid(mixture_facts([a, b])))
    assert [rows[n]["realised proportion"] for n in ("a", "b", "total")] == ["31.00%", "69.00%", ""]
    assert [rows[n]["realised epochs"] for n in ("a", "b", "total")] == ["0.36", "", "0.53"]


def test_held_out_text_has_rows_of_its_own():
    a = source("a", 10**6, 0.5, 10**6, val=split(5_000))
    b = source("b", 10**6, 0.5, 10**6)
    rows = shown(mixture_grid(mixture_facts([a, b])))
    assert list(rows) == ["a", "b", "a (held out)", "total"]
    held = rows["a (held out)"]
    assert (held["tokens in source"], held["samples"], held["documents"]) == ("5.00K", "2", "5")
    assert not held["proportion"] + held["epochs"] + held["removed before"]
    assert rows["total"]["tokens in source"] == "2.00M"
    b["val"] = split(7_000)
    rows = shown(mixture_grid(mixture_facts([a, b])))
    assert rows["all held out"]["tokens in source"] == "12.00K"


def test_padding_cuts_and_documents_taken_out():
    padded = split(900_000, padding_tokens=100_000, sample_tokens=900_000, cut_documents=9, documents=90)
    a = source("a", 10**6, 1.0, 10**6, train=padded, excluded={"documents": 3, "rows": 2, "tokens": 9})
    row = shown(mixture_grid(mixture_facts([a])))["a"]
    assert (row["padding"], row["cut documents"], row["taken out"]) == ("10.00%", "10.00%", "3")
    # A document on the border of two phases of a curriculum is cut, and packed, in both.
    padded |= {"cut_documents": 91, "packed_documents": 91}
    row = shown(mixture_grid(mixture_facts([a, source("b", 10**6, 1.0, 10**6)])))
    assert (row["a"]["cut documents"], row["total"]["cut documents"]) == ("100.00%", "8.34%")


def test_packings_are_told_apart():
    packings = [
        {"name": "2k", "length": 2048, "share": 0.95, "epoch_rows": 1000},
        {"name": "8k", "length": 8192, "share": None, "epoch_rows": 13},
    ]
    notes = mixture_grid(mixture_facts([source("a", 10**6, 1.0, 10**6)], packings=packings)).notes
    assert (
        notes[0] == "2k: 1,000 samples of 2,048 tokens in an epoch of the trainer, 95.00% of the run's tokens"
    )
    assert notes[1] == "8k: 13 samples of 8,192 tokens in an epoch of the trainer"


def test_what_a_model_must_hold_and_where_a_mixed_stream_lies():
    tokenizer = {"max_id": 50_276, "model_vocab": None, "padded_vocab": 50_304}
    mixed = [{"packing": "", "shards": 30, "rows": 488_281}]
    facts = mixture_facts([source("a", 10**6, 1.0, 10**6)], tokenizer=tokenizer, mixed=mixed)
    facts["packings"][0]["share"] = None
    assert mixture_grid(facts).notes[:2] == [
        "488,281 samples of 2,048 tokens in an epoch of the trainer, mixed in 30 shards",
        "token ids are 0 to 50,276: an embedding takes 50,277 rows or more, 50,304 in whole 128s",
    ]
    facts["tokenizer"] = tokenizer | {"model_vocab": 50_432}
    assert mixture_grid(facts).notes[1].endswith("50,277 rows or more; the model has 50,432")


# ---- groups --------------------------------------------------------------------------------------------------

GROUPS = [{"name": "prose", "of": ["b", "old"]}, {"name": "old", "of": ["d", "a"]}]


def test_a_group_follows_its_members():
    assert trees(["a", "b", "c", "d"], GROUPS) == [
        [("b", ("b",)), ("d", ("d",)), ("a", ("a",)), ("old", ("d", "a")), ("prose", ("b", "d", "a"))],
        [("c", ("c",))],
    ]
    assert trees(["a"], []) == [[("a", ("a",))]]


def test_groups_are_summed():
    sources = [
        source(n, 10**7, p, p * 3e7) for n, p in zip("abcd", (1 / 3, 1 / 6, 1 / 4, 1 / 4), strict=True)
    ]
    rows = shown(mixture_grid(mixture_facts(sources, mixture_groups=GROUPS)))
    assert list(rows) == ["b", "d", "a", "old (group)", "prose (group)", "c", "total"]
    assert rows["old (group)"]["tokens in source"] == "20.00M"
    assert rows["old (group)"]["epochs"] == f"{(7 / 12) * 3e7 / 2e7:.2f}"
    assert float(rows["old (group)"]["proportion"][:-1]) == pytest.approx(
        float(rows["a"]["proportion"][:-1]) + float(rows["d"]["proportion"][:-1])
    ), "as shown, members sum to their group"
    assert rows["total"]["proportion"] == "100.00%"


# ---- shares --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=40))
def test_shares_as_shown_sum_to_one(weights):
    shares = [w / math.fsum(weights) for w in weights]
    units = in_units(shares)
    assert sum(units) == 10_000
    assert all(abs(n - share * 10_000) < 1 + 1e-5 for n, share in zip(units, shares, strict=True))
    # As near as any: no unit could move from one share to another and come nearer.
    over = [n - share * 10_000 for n, share in zip(units, shares, strict=True)]
    assert max(over) - min(over) <= 1 + 1e-5


def test_shares_that_need_no_rounding_stay():
    assert in_units([0.33, 0.299, 0.1, 0.271]) == [3300, 2990, 1000, 2710]
    assert in_units([None, 0.5]) == [None, 5000]
    assert in_units([]) == []


# ---- terminals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [200, 120, 100, 80, 72, 60, 50])
def test_a_narrow_terminal_shows_fewer_columns_and_no_broken_cell(mpt, width):
    grid = mixture_grid(mpt)
    lines = printed(grid, width)
    assert max(map(cell_len, lines)) <= width
    table, left_out = report.fitted(grid, width)
    kept = [i for i, column in enumerate(grid.columns) if column.heading not in left_out]
    assert len(kept) + len(left_out) == len(grid.columns)
    assert {"source", "proportion", "epochs"} <= {grid.columns[i].heading for i in kept}
    for row in (row for section in grid.sections for row in section):
        (line,) = [line for line in lines if line.split("  ")[0].strip() == row[0]]
        assert re.split(r" {3,}", line.strip()) == [row[i] for i in kept if row[i]]
    assert bool(left_out) == any(line.startswith("no room for: ") for line in lines)
    if left_out:
        wider = [i for i, c in enumerate(grid.columns) if i in kept or c.heading == min(
            left_out, key=lambda h: next(c.rank for c in grid.columns if c.heading == h))]  # fmt: skip
        assert report._width(report._cell_widths(grid, wider)) > width, "no column is left out that has room"
    if width >= 80:
        assert {"tokens in source", "effective tokens"} <= {grid.columns[i].heading for i in kept}
    assert table.row_count == 11


@pytest.mark.parametrize("width", [40, 34])
def test_names_are_cut_before_numbers(mpt, width):
    lines = printed(mixture_grid(mpt), width)
    assert max(map(cell_len, lines)) <= width
    (row,) = [line.split() for line in lines if "29.90%" in line]
    assert row[-1] == "2.98"
    assert any("…" in line for line in lines)
    assert [column.heading for column in mixture_grids(mpt)[1].columns] == [
        "source",
        "tokens in source",
        "epochs",
    ]


def test_wide_characters_take_two_columns():
    grid = mixture_grid(mixture_facts([source("日本語のウェブ", 10**7, 1.0, 10**7)]))
    for width in range(40, 140, 7):
        assert max(map(cell_len, printed(grid, width))) <= width


HOSTILE = ["=1+1", "+a", "-2", "@sum", "'x", "a|b", "[red]x[/red]", "<img src=x>", "\x1b[2J", "a\nb", "\u202eevil",
           "c4_en", "\x9b31m", "`x` *y* _z_", 'quo"te, comma', "\t=2", "$x$ & ~y~", "\\", "\ud800"]  # fmt: skip


def test_no_name_reaches_the_terminal_as_a_command():
    for name in HOSTILE:
        lines = printed(mixture_grid(mixture_facts([source(name, 10**7, 1.0, 10**7)])), 160)
        assert all(c.isprintable() for line in lines for c in line)
        assert any(line.strip().startswith(one_line(name).strip()) for line in lines), "nothing is a style"
    assert one_line("a\nb\tc\x1b[2J\u202e") == "a b c\\x1b[2J\\u202e"


# ---- Markdown, CSV, JSON -------------------------------------------------------------------------------------


def markdown_cells(line: str) -> list[str]:
    """The cells of a row of a GitHub table, their escapes undone."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", c) for c in re.split(r"(?<!\\)(?:\\\\)* \| ", line[2:-2])]


def test_markdown_is_a_table_of_plain_text(mpt):
    lines = report.markdown(mixture_grid(mpt)).splitlines()
    assert lines[:2] == ["**Mixture of test**", ""]
    assert markdown_cells(lines[2])[:5] == [
        "source",
        "tokens in source",
        "proportion",
        "effective tokens",
        "epochs",
    ]
    assert set(lines[3].strip("|").replace(" ", "").split("|")) == {"---", "---:"}
    assert markdown_cells(lines[4])[:5] == ["mC4 3.1.0 English", "417.99B", "33.00%", "330.00B", "≠ 0.79"]
    assert lines[-1].startswith("- ")
    for name in set(HOSTILE) - {"\\"}:
        text = report.markdown(mixture_grid(mixture_facts([source(name, 10**7, 1.0, 10**7)])))
        row = text.splitlines()[4]
        assert markdown_cells(row)[0] == one_line(name)
        assert not re.search(r"(?<!\\)[<>*`\[\]]", row)
    assert "| c4_en |" in report.markdown(mixture_grid(mixture_facts([source("c4_en", 10**7, 1.0, 10**7)])))
    assert "\\_z\\_" in report.markdown(mixture_grid(mixture_facts([source("_z_", 10**7, 1.0, 10**7)])))


def test_csv_is_read_back_by_any_reader(mpt):
    text = report.csv_text(CSV_HEADER, csv_rows(mpt))
    assert text.count("\r\n") == 11
    assert text.splitlines()[0] == ",".join(CSV_HEADER)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for row, facts in zip(rows, mpt["sources"], strict=True):
        assert row["source"] == facts["name"]
        for key in ("proportion", "effective_tokens", "epochs", "unique_factor", "effective_unique_tokens"):
            assert float(row[key]) == facts[key], "not a digit is lost"
        assert (int(row["tokens"]), int(row["samples"])) == (facts["train"]["tokens"], facts["train"]["rows"])
        assert float(row["removed_before"]) == pytest.approx(0.2)
        assert float(row["printed_epochs"]) == facts["printed"]["epochs"]
        assert row["printed_proportion"] == row["sampled_bytes"] == ""
        assert int(row["heldout_tokens"]) == int(row["excluded_documents"]) == 0
    assert {key for row in csv_rows(mpt) for key in row} == set(CSV_HEADER)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_a_formula(name):
    text = report.csv_text(["source", "n"], [{"source": name, "n": -1.5}])
    (cells,) = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert cells[1] == "-1.5", "numbers are never touched"
    assert cells[0][0] not in "=+-@\t\r"
    assert cells[0].removeprefix("'") == one_line(name)
    assert (cells[0] != one_line(name)) == (name[0] in "=+-@'")


def test_json_holds_no_control_and_loses_nothing():
    facts = {"values": [*HOSTILE[:-1], "\x7f\x85", "é日🙂"]}
    text = json_text(facts)
    assert json.loads(text) == facts
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "é日🙂" in text


# ---- by a field ----------------------------------------------------------------------------------------------


def by_facts() -> dict:
    def counted(value: str, tokens: int, **more) -> dict:
        return {"value": value, "documents": 2, "text_bytes": 4 * tokens, "tokens": tokens} | more

    code = source("code", 600, 0.6, 1200.0)
    code["groups"] = {
        "lang": [counted("python", 300), counted("=c\x1b", 200), counted("(other)", 100, values=7)]
    }
    web = source("web", 400, 0.4, 800.0)
    web["groups"] = {"lang": [counted("(none)", 400)]}
    return mixture_facts([code, web])


def test_a_table_by_a_field():
    facts = by_facts()
    assert mixture_by_field.fields_of(facts) == ["lang"]
    rows = list(by_rows(facts, "lang"))
    assert [(r["source"], r["value"], r["share"]) for r in rows] == [
        ("code", "python", 0.5), ("code", "=c\x1b", 1 / 3), ("code", "(other)", 1 / 6), ("web", "(none)", 1.0)
    ]  # fmt: skip
    assert math.fsum(r["expected_proportion"] for r in rows) == pytest.approx(1)
    assert rows[0]["expected_effective_tokens"] == 600
    cells = [row for section in by_grid(facts, "lang").sections for row in section]
    assert [row[:5] for row in cells] == [
        ["code", "python", "300", "50.00%", "30.00%"],
        ["", "=c\\x1b", "200", "33.33%", "20.00%"],
        ["", "(other): 7 values", "100", "16.67%", "10.00%"],
        ["web", "(none)", "400", "100.00%", "40.00%"],
    ]
    text = report.csv_text(BY_HEADER, rows)
    read_back = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [r["value"] for r in read_back] == ["python", "'=c\\x1b", "(other)", "(none)"]
    assert [r["values"] for r in read_back] == ["", "", "7", ""]


def test_a_field_of_many_values_is_cut_where_people_read_it():
    values = [{"value": f"{'v' * 60}{i}", "documents": 1, "text_bytes": 9, "tokens": 3} for i in range(100)]
    facts = mixture_facts([source("code", 300, 1.0, 300.0, groups={"repo": values})])
    (section,) = by_grid(facts, "repo").sections
    assert len(section) == mixture_by_field.SHOWN_VALUES + 1
    assert section[0][1] == "v" * 40 + "…"
    assert section[-1][1:4] == ["… 60 more in --format csv", "180", "60.00%"]
    assert len(list(by_rows(facts, "repo"))) == 100


# ---- commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def winnow(monkeypatch, capsys):
    """Runs `winnow stats` on the facts of a table by a field; returns what it prints."""
    from winnow.pipelines import finished

    monkeypatch.setattr(finished, "open_run", lambda run: SimpleNamespace(mixture=by_facts()))

    def call(*arguments: str) -> str:
        command.app(list(arguments), standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_stats_has_formats(winnow):
    assert json.loads(winnow("stats", "RUN", "--format", "json")) == by_facts()
    assert winnow("stats", "RUN", "--json") == winnow("stats", "RUN", "--format", "json")
    assert winnow("stats", "RUN", "--format", "csv").startswith("source,weight,")
    assert winnow("stats", "RUN", "--format", "markdown").startswith("**Mixture of test**\n\n| source |")
    assert winnow("stats", "RUN", "--by", "lang", "--format", "csv").startswith("field,source,value,")
    assert len(json.loads(winnow("stats", "RUN", "--by", "lang", "--json"))) == 4
    assert "Mixture of test by lang" in winnow("stats", "RUN", "--by", "lang")
    assert "**Mixture of test by lang**" in winnow("stats", "RUN", "--by", "lang", "--format", "markdown")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "stars"], "'stars' is no field of mixture.group_by; there are lang"),
        (["--format", "xml"], "'xml' is no format; there are table, json, csv, markdown"),
        (["--format", "csv", "--json"], "--json and --format csv are two formats"),
    ],
)
def test_what_stats_cannot_show(winnow, arguments, message):
    with pytest.raises(command.CommandLineError) as caught:
        winnow("stats", "RUN", *arguments)
    assert message in caught.value.format_message()


# ---- the plan ------------------------------------------------------------------------------------------------

RECIPE = """
name: planned
tokenizer: {{name: mistral-7b-v0.1}}
sources:
  code: {{read: {{format: jsonl, path: "{root}/code.jsonl"}}, heldout: {{fraction: 0.25}}, weight: 0.75}}
  web: {{read: {{format: jsonl, path: "{root}/web.jsonl"}}, weight: 0.25}}
"""


def test_scores_have_a_table(mpt):
    first = {"documents": 1_200_000, "deciles": [0.0012, *(k / 10 for k in range(1, 10)), 0.99987]}
    never = {"documents": 0, "deciles": []}
    mpt["sources"][1]["quality_scores"] = {"edu": first, "code": never}
    grid = mixture_grids(mpt)[-1]
    (row,) = (row for section in grid.sections for row in section)
    headings = [column.heading for column in grid.columns]
    assert (grid.title, headings[:4], headings[-1]) == (
        "Scores",
        ["source", "classifier", "documents", "0%"],
        "100%",
    )
    name = mpt["sources"][1]["name"]
    assert row == [name, "edu", "1.20M", "0.0012", *(f"0.{k}" for k in range(1, 10)), "0.9999"]
    _, left_out = report.fitted(grid, 60)
    assert {"20%", "80%"} <= set(left_out)
    assert "50%" not in left_out


@pytest.fixture
def planned(tmp_path):
    """Makes the plan's facts of a recipe over 43 kB of code and 430 kB of web: 10,000 and 100,000 tokens."""

    def make(more: str, **changes: str) -> dict:
        (tmp_path / "code.jsonl").write_bytes(b"x" * 43_000)
        (tmp_path / "web.jsonl").write_bytes(b"x" * 430_000)
        sets = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
        return plan_report.plan_facts(plan(read(RECIPE.format(root=tmp_path) + more, "r.yaml", sets)))

    return make


def test_a_plan_marks_estimates(planned):
    (grid,) = plan_report.plan_grids(planned("mixture: {tokens: 20K}"))
    rows = shown(grid)
    assert list(rows) == ["code", "web", "total"]
    code = rows["code"]
    assert (code["~ tokens"], code["~ held out"], code["proportion"]) == ("7.50K", "2.50K", "75.00%")
    assert (code["effective tokens"], code["~ epochs"], code["~ unique factor"]) == (
        "15.00K",
        "2.00",
        "0.984",
    )
    assert rows["web"]["~ held out"] == ""
    assert rows["total"]["effective tokens"] == "20.00K"
    (grid,) = plan_report.plan_grids(planned("mixture: {weights: natural}", sources__code__weight="null",
                                             sources__web__weight="null"))  # fmt: skip
    rows = shown(grid)
    assert rows["code"]["proportion"] == f"~ {7.5 / 107.5:.2%}"
    assert rows["code"]["effective tokens"] == "~ 7.50K"
    assert (rows["total"]["proportion"], rows["total"]["effective tokens"]) == ("100.00%", "~ 107.50K")


def test_a_plan_says_where_estimates_fall_short(planned):
    facts = planned("mixture: {tokens: 20K, max_epochs: 1}")
    assert facts["warnings"][0].startswith("by estimate, ")
    assert "more than 1 epochs: code" in facts["warnings"][0]
    assert shown(plan_report.plan_grids(facts)[0])["code"]["~ epochs"] == "2.00"
    facts = planned("mixture: {tokens: 20K, max_epochs: 1, over_max_epochs: spread}")
    rows = shown(plan_report.plan_grids(facts)[0])
    assert rows["code"]["proportion"] == "^ ~ 37.50%"
    assert (rows["code"]["wanted"], rows["web"]["wanted"]) == ("75.00%", "25.00%")


def test_a_plan_has_groups_and_published_numbers(planned):
    more = "mixture: {tokens: 20K, groups: {all: {of: [web, code], weight: 1}}}"
    facts = planned(more, sources__web__printed="{tokens: 100B, effective_tokens: 20B, epochs: 0.5}")
    mixture, published = plan_report.plan_grids(facts)
    assert list(shown(mixture)) == ["web", "code", "all (group)", "total"]
    assert shown(published)["web"]["epochs"] == "0.50 ≠ 0.20"
    text = report.csv_text(plan_report.CSV_HEADER, plan_report.csv_rows(facts))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(r["source"], float(r["proportion"]), r["files"]) for r in rows] == [
        ("code", 0.75, "1"),
        ("web", 0.25, "1"),
    ]
    assert all(row[key] != "" for row in rows for key in plan_report.CSV_HEADER)


def test_a_classifier_is_shown_with_decisions_by_scores_and_by_rounded_ones():
    counted = {"threshold": 3.0, "precision": 0.75, "recall": 0.5}
    held = {"examples": 40, "at_threshold": counted, "rounded": counted | {"recall": None}, "mse": 0.5}
    facts = {"classifiers": {}, "embedding_classifiers": {
        "edu": {"head": "linear", "examples": {"scored": 1_080}, "heldout": held},
        "few": {"head": "linear", "examples": {"scored": 2}, "heldout": held | {"rounded": {"precision": None}}},
    }}  # fmt: skip
    whole, few = report.classifier_lines(facts)
    assert whole == (
        "classifier edu (linear on embeddings): trained on 1,080 scored; on 40 held out: precision 0.750 and "
        "recall 0.500 at 3, precision 0.750 and recall no at scores that round to 3 or more, squared error 0.5000"
    )
    assert "round" not in few
