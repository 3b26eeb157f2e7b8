"""What does a run draw of each source, how often, and what did it become?

The table has the shape of MPT-7B's (huggingface.co/mosaicml/mpt-7b): source, tokens in source, proportion, effective
tokens, epochs. Beside these: what repetition takes from a source's worth (Muennighoff et al. 2023, arXiv:2305.16264),
what the source was before filters and dedup, its samples and shards. Rows for groups, held-out text and totals follow.
All of it comes from mixture.json; what a run has not (weights that were not capped, text that was not held out) is
left out. docs/mixture.md says what every column means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.report import Column, Grid
from winnow.shards.mixture import FEW_EPOCHS, MANY_EPOCHS, ROUNDING

OFTEN, TOO_OFTEN, CAPPED, UNFIT, ESTIMATE = "!", "!!", "^", "≠", "~"
LEGEND = {
    OFTEN: f"{OFTEN} more than {FEW_EPOCHS} epochs: repeated text is worth less than new",
    TOO_OFTEN: f"{TOO_OFTEN} more than {MANY_EPOCHS} epochs: more of them are worth next to nothing",
    CAPPED: f"{CAPPED} held at max_epochs; `wanted` is the share before",
    UNFIT: f"{UNFIT} the published number does not fit: see the published numbers",
}
UNITS = 10_000
"""Shares are shown in hundredths of a percent."""
SUMMED = (
    "tokens", "in_samples", "proportion", "wanted", "realised", "effective_tokens", "effective_unique_tokens",
    "realised_tokens", "documents", "text_bytes", "read_bytes", "kept_bytes", "samples", "drawn", "padding_tokens",
    "cut_documents", "packed", "excluded_documents", "shards", "files", "stored_bytes", "splits", "heldout_tokens",
)  # fmt: skip
CSV_HEADER = (
    "source", "weight", "wanted_proportion", "proportion", "tokens", "effective_tokens", "epochs", "unique_factor",
    "effective_unique_tokens", "documents", "text_bytes", "tokens_per_byte", "read_documents", "read_bytes",
    "removed_before", "samples", "samples_drawn", "padding_tokens", "cut_documents", "shards", "heldout_documents",
    "heldout_text_bytes", "heldout_tokens", "heldout_samples", "heldout_shards", "excluded_documents",
    "excluded_tokens", "sampled_bytes", "sampled_of_bytes", "realised_samples", "realised_tokens",
    "realised_proportion", "realised_epochs", "printed_tokens", "printed_proportion", "printed_effective_tokens",
    "printed_epochs",
)  # fmt: skip
PRINTED = ("tokens", "proportion", "effective_tokens", "epochs")
DECILE_RANKS = {0: 2, 1: 1, 5: 0, 9: 1, 10: 2}
"""Of a score's deciles; the others go first."""

Line = dict[str, Any]
"""A row before it is shown: counts by the names of SUMMED, shares in UNITS, ratios; None where there is none."""


def percent(units: int) -> str:
    return f"{units * 100 / UNITS:.2f}%"


def in_units(shares: Sequence[float | None]) -> list[int | None]:
    """Shares in whole UNITS, each rounded up or down so that they sum to what the shares sum to, rounded.

    Rounded up are those with the largest remainders (Hamilton's method); a share that is not known stays so.
    """
    exact = [0.0 if share is None else share * UNITS for share in shares]
    # A share such as 0.299 is a little less in binary.
    units = [math.floor(share + 1e-6) for share in exact]
    short = round(math.fsum(exact)) - sum(units)
    for i in sorted(range(len(exact)), key=lambda i: units[i] - exact[i])[: max(short, 0)]:
        units[i] += 1
    return [None if share is None else n for share, n in zip(shares, units, strict=True)]


def ratio(part: float | None, whole: float | None) -> float | None:
    """None where one is not known, or the whole is 0."""
    return None if part is None or not whole else part / whole


@dataclass(frozen=True, slots=True)
class Shown:
    key: str
    """In a `Line`."""
    column: Column
    show: Callable[[Any], str]


COLUMNS = (
    Shown("tokens", Column("tokens in source", 2), show_count),
    Shown("proportion", Column("proportion"), percent),
    Shown("effective_tokens", Column("effective tokens", 1), show_count),
    Shown("epochs", Column("epochs"), "{:.2f}".format),
    Shown("unique_factor", Column("unique factor", 7), "{:.3f}".format),
    Shown("wanted", Column("wanted", 4), percent),
    Shown("realised", Column("realised proportion", 5), percent),
    Shown("realised_epochs", Column("realised epochs", 5), "{:.2f}".format),
    Shown("documents", Column("documents", 8), "{:,}".format),
    Shown("text_bytes", Column("text", 9), show_bytes),
    Shown("tokens_per_byte", Column("tokens/byte", 13), "{:.3f}".format),
    Shown("removed", Column("removed before", 10), "{:.1%}".format),
    Shown("samples", Column("samples", 6), "{:,}".format),
    Shown("drawn", Column("samples drawn", 12), "{:,}".format),
    Shown("padding", Column("padding", 11), "{:.2%}".format),
    Shown("cut", Column("cut documents", 11), "{:.2%}".format),
    Shown("excluded_documents", Column("taken out", 12), "{:,}".format),
    Shown("shards", Column("shards", 14), "{:,}".format),
)


# ---- the mixture ---------------------------------------------------------------------------------------------


def mixture_grids(facts: Mapping[str, Any]) -> list[Grid]:
    """The mixture, what was published about it where the recipe says so, and the scores that classifiers gave."""
    return [mixture_grid(facts), *printed_grids(facts), *score_grids(facts)]


def mixture_grid(facts: Mapping[str, Any]) -> Grid:
    """A row for each source, group and held-out split, and one for the whole."""
    held = [_held_out(source) for source in facts["sources"] if source["val"]["documents"]]
    lines = _source_lines(facts)
    mixed = facts["mixed"][0] if facts.get("mixed") else None
    if mixed:
        lines = [line | {"shards": None} for line in lines]
    whole = {"shards": mixed["shards"]} if mixed else {}
    title, groups = f"Mixture of {facts['name']}", facts.get("mixture_groups", [])
    grid = grid_of(title, lines, groups, COLUMNS, held, whole)
    warnings = [f"warning: {warning}" for warning in facts.get("warnings", [])]
    return replace(
        grid,
        notes=[
            *_epoch_notes(facts),
            *_vocabulary_note(facts),
            *grid.notes,
            *_sampling_notes(facts),
            *warnings,
        ],
    )


def grid_of(
    title: str,
    sources: Sequence[Line],
    groups: Sequence[Mapping[str, Any]],
    columns: Sequence[Shown],
    held: Sequence[Line] = (),
    whole: Mapping[str, Any] | None = None,
) -> Grid:
    """A row for each line of a source, for each group ({name, of}) and for the whole; what its marks mean below.

    whole : what is known of the whole alone.
    """
    lines = {line["name"]: line for line in sources}
    sections: list[list[Line]] = [[]]
    for tree in trees(list(lines), groups):
        if len(tree) == 1:
            sections[-1].append(lines[tree[0][0]])
        else:
            grouped = [
                lines[n] if n in lines else summed(f"{n} (group)", [lines[m] for m in of]) for n, of in tree
            ]
            sections += [grouped, []]
    totals = [{**summed("total", list(lines.values())), **(whole or {})}]
    totals[0]["estimated"].discard("proportion")  # it is the whole, whatever the parts are
    if len(held) > 1:
        totals.append(summed("all held out", held))
    sections += [list(held), totals]
    shown = [[_without_equals(line, columns) for line in section] for section in sections]
    used = {mark for section in shown for line in section for _, mark in _marks(line)}
    rows = [[[line["name"], *_cells(line, columns)] for line in section] for section in shown]
    headings = [Column("source", is_text=True), *(column.column for column in columns)]
    return Grid(
        title, headings, rows, [text for mark, text in LEGEND.items() if mark in used]
    ).without_blanks()


def trees(
    sources: Sequence[str], groups: Sequence[Mapping[str, Any]]
) -> list[list[tuple[str, tuple[str, ...]]]]:
    """Sources and groups ({name, of}) as they are shown: for each that is in no group a list of (name, its sources).

    A group comes after its members, and the whole of a group where the first of its sources is among `sources`.
    """
    members = {group["name"]: group["of"] for group in groups}
    group_of = {member: name for name, of in members.items() for member in of}

    def below(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        leaves: list[str] = []
        for member in members.get(name, ()):
            inner = list(below(member))
            yield from inner
            leaves += inner[-1][1]
        yield name, tuple(leaves) if name in members else (name,)

    tops: dict[str, None] = {}
    for name in sources:
        while name in group_of:
            name = group_of[name]
        tops[name] = None
    return [list(below(top)) for top in tops]


def _source_lines(facts: Mapping[str, Any]) -> list[Line]:
    sources = facts["sources"]
    unfit = {finding["what"] for finding in facts.get("printed", [])}
    planned = in_units([s["proportion"] for s in sources])
    wanted = in_units([s.get("wanted") for s in sources])
    realised = in_units([(s.get("realised") or {}).get("proportion") for s in sources])
    lines = []
    for source, *shares in zip(sources, planned, wanted, realised, strict=True):
        train = source["train"]
        line = _split_counts(train) | dict(zip(("proportion", "wanted", "realised"), shares, strict=True))
        line |= {
            "name": source["name"],
            "effective_tokens": source["effective_tokens"],
            "effective_unique_tokens": source.get("effective_unique_tokens"),
            "realised_tokens": (source.get("realised") or {}).get("tokens"),
            "drawn": source.get("rows_drawn"),
            "read_bytes": source["text_bytes"],
            "kept_bytes": source["kept_bytes"],
            "excluded_documents": (source.get("excluded") or {}).get("documents"),
            "unfit": {key for key in PRINTED if f"{key} of {source['name']}" in unfit},
        }
        lines.append(line_of(line) | {"epochs": source["epochs"]})
    return lines


def _held_out(source: Mapping[str, Any]) -> Line:
    return line_of(_split_counts(source["val"]) | {"name": f"{source['name']} (held out)"})


def _split_counts(split: Mapping[str, Any]) -> Line:
    names = ("tokens", "documents", "text_bytes", "padding_tokens", "cut_documents", "shards")
    counts: Line = {name: split.get(name) for name in names}
    counts["packed"] = split.get("packed_documents", split["documents"])  # those of older runs
    return counts | {"samples": split["rows"], "in_samples": split["sample_tokens"]}


def summed(name: str, lines: Sequence[Line]) -> Line:
    """Lines as one; what one of them does not know is not known."""
    line: Line = {"name": name, "estimated": {key for other in lines for key in other.get("estimated", ())}}
    for key in SUMMED:
        values = [other[key] for other in lines]
        line[key] = None if None in values or not values else sum(values)
    return line_of(line)


def line_of(counts: Line) -> Line:
    """Counts with the ratios that follow from them."""
    line = dict.fromkeys(SUMMED) | counts
    padding, kept = line["padding_tokens"], ratio(line["kept_bytes"], line["read_bytes"])
    return line | {
        "epochs": ratio(line["effective_tokens"], line["in_samples"]),
        "unique_factor": ratio(line["effective_unique_tokens"], line["effective_tokens"]),
        "realised_epochs": ratio(line["realised_tokens"], line["in_samples"]),
        "tokens_per_byte": ratio(line["tokens"], line["text_bytes"]),
        "removed": None if kept is None else 1 - kept,
        # Nothing is worth saying of what a packing does not do.
        "padding": ratio(padding, padding + line["in_samples"]) if padding else None,
        "cut": ratio(line["cut_documents"], line["packed"]) if line["cut_documents"] else None,
        "excluded_documents": line["excluded_documents"] or None,
    }


def _without_equals(line: Line, columns: Sequence[Shown]) -> Line:
    """Without what was wanted and what was realised where it looks like what is planned."""
    show = {shown.key: shown.show for shown in columns}
    same: Line = {}
    for key, planned in (("wanted", "proportion"), ("realised", "proportion"), ("realised_epochs", "epochs")):
        if (
            key in show
            and None not in (line[key], line[planned])
            and show[key](line[key]) == show[planned](line[planned])
        ):
            same[key] = None
    return line | same


def _marks(line: Line) -> Iterator[tuple[str, str]]:
    """(key, mark) of the cells of a line that are to be looked at."""
    if (epochs := line["epochs"]) is not None and epochs > FEW_EPOCHS * (1 + ROUNDING):
        yield "epochs", TOO_OFTEN if epochs > MANY_EPOCHS * (1 + ROUNDING) else OFTEN
    if line["wanted"] is not None and line["proportion"] < line["wanted"]:
        yield "proportion", CAPPED
    yield from ((key, UNFIT) for key in line.get("unfit", ()))
    yield from ((key, ESTIMATE) for key in line.get("estimated", ()))


def _cells(line: Line, columns: Sequence[Shown]) -> list[str]:
    marks = sorted(_marks(line))
    return [
        ""
        if line[column.key] is None
        else " ".join([*(mark for key, mark in marks if key == column.key), column.show(line[column.key])])
        for column in columns
    ]


def _epoch_notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """How long an epoch of the trainer's loader is, of each packing."""
    packings = facts.get("packings") or []
    mixed = {part["packing"]: part for part in facts.get("mixed", [])}
    for packing in packings:
        label = f"{packing['name']}: " if len(packings) > 1 else ""
        share = "" if packing.get("share") is None else f", {packing['share']:.2%} of the run's tokens"
        shards = ""
        if part := mixed.get(packing["name"]):
            shards = f", mixed in {part['shards']:,} shard{'' if part['shards'] == 1 else 's'}"
        rows, length = packing["epoch_rows"], packing["length"]
        yield f"{label}{rows:,} samples of {length:,} tokens in an epoch of the trainer{shards}{share}"


def _vocabulary_note(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a model's embedding must hold."""
    if tokenizer := facts.get("tokenizer"):
        rows = tokenizer["max_id"] + 1
        given = tokenizer["model_vocab"]
        more = f"; the model has {given:,}" if given else f", {tokenizer['padded_vocab']:,} in whole 128s"
        yield f"token ids are 0 to {tokenizer['max_id']:,}: an embedding takes {rows:,} rows or more{more}"


def _sampling_notes(facts: Mapping[str, Any]) -> Iterator[str]:
    for source in facts["sources"]:
        if part := source.get("sampled"):
            yield (
                f"{source['name']}: {part['splits']:,} of {part['of_splits']:,} splits were read, "
                f"{show_bytes(part['bytes'])} of {show_bytes(part['of_bytes'])}"
            )


# ---- what was published --------------------------------------------------------------------------------------


def printed_grids(facts: Mapping[str, Any]) -> list[Grid]:
    """The published numbers, with the recomputed one beside each that does not fit; none where the recipe has none."""
    findings = {finding["what"]: finding for finding in facts.get("printed", [])}
    show = {shown.key: shown.show for shown in COLUMNS} | {"proportion": "{:.2%}".format}
    rows = []
    for source in facts["sources"]:
        printed = source.get("printed") or {}
        cells = []
        for key in PRINTED:
            text = "" if printed.get(key) is None else show[key](printed[key])
            if finding := findings.get(f"{key} of {source['name']}"):
                text = f"{text} {UNFIT} {show[key](finding['recomputed'])}"
            cells.append(text)
        if any(cells):
            rows.append([source["name"], *cells])
    if not rows and not findings:
        return []
    columns = [Column("source", is_text=True), *(shown.column for shown in COLUMNS if shown.key in PRINTED)]
    notes = [f"{UNFIT} {finding['message']}" for finding in facts.get("printed", [])]
    return [Grid("Published numbers", columns, [rows], notes).without_blanks()]


# ---- what classifiers on embeddings said ---------------------------------------------------------------------


def score_grids(facts: Mapping[str, Any]) -> list[Grid]:
    """The deciles of each source's scores, before `quality` drops any document; none without such a classifier."""
    rows = [
        [source["name"], classifier, show_count(found["documents"]), *map("{:.4g}".format, found["deciles"])]
        for source in facts["sources"]
        for classifier, found in source.get("quality_scores", {}).items()
        if found["deciles"]
    ]
    named = [Column("source", is_text=True), Column("classifier", is_text=True), Column("documents", 4)]
    deciles = [Column(f"{k * 10}%", DECILE_RANKS.get(k, 3)) for k in range(11)]
    note = "N%: of N% of the documents the score is not above it"
    return [Grid("Scores", [*named, *deciles], [rows], [note])] if rows else []


# ---- for programs --------------------------------------------------------------------------------------------


def csv_rows(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """By CSV_HEADER, a row for each source: numbers as they are, None for what a run has not."""
    for line, source in zip(_source_lines(facts), facts["sources"], strict=True):
        own = ("tokens", "effective_tokens", "epochs", "unique_factor", "effective_unique_tokens", "documents",
               "text_bytes", "tokens_per_byte", "samples", "padding_tokens", "cut_documents", "shards")  # fmt: skip
        row: dict[str, Any] = {key: line[key] for key in own}
        row |= {
            "source": source["name"],
            "weight": source["weight"],
            "wanted_proportion": source.get("wanted"),
            "proportion": source["proportion"],
            "unique_factor": source.get("unique_factor"),
            "read_documents": source["rows"],
            "read_bytes": source["text_bytes"],
            "removed_before": line["removed"],
            "samples_drawn": source.get("rows_drawn"),
        }
        held = _split_counts(source["val"])
        row |= {
            f"heldout_{key}": held[key] for key in ("documents", "text_bytes", "tokens", "samples", "shards")
        }
        excluded, sampled = source.get("excluded") or {}, source.get("sampled") or {}
        realised, printed = source.get("realised") or {}, source.get("printed") or {}
        row |= {f"excluded_{key}": excluded.get(key) for key in ("documents", "tokens")}
        row |= {f"sampled_{key}": sampled.get(key) for key in ("bytes", "of_bytes")}
        row |= {"realised_samples": realised.get("rows")}
        row |= {f"realised_{key}": realised.get(key) for key in ("tokens", "proportion", "epochs")}
        row |= {f"printed_{key}": printed.get(key) for key in PRINTED}
        yield row
