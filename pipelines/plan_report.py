"""How is a plan shown?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from winnow.pipelines.located import RecipeError
from winnow.pipelines.mixture_report import Shown, grid_of, in_units, line_of, percent, printed_grids
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.plan_dedup import dedup_facts
from winnow.pipelines.plan_vectors import embedding_facts, embedding_lines, takes
from winnow.pipelines.planned_mixture import plan_shares, printed_findings, printed_values, stated_shares
from winnow.pipelines.planning import Plan, SourcePlan, training_memory
from winnow.pipelines.report import Column, Grid, output, print_grid
from winnow.pipelines.sampling import proposals, sampling_facts, sampling_lines
from winnow.shards import mixture

CSV_HEADER = (
    "source", "weight", "wanted_proportion", "proportion", "proportion_is_estimate", "tokens_estimate",
    "heldout_tokens_estimate", "effective_tokens", "epochs_estimate", "unique_factor_estimate",
    "effective_unique_tokens_estimate", "files", "stored_bytes", "splits", "text_bytes_estimate",
)  # fmt: skip
COLUMNS = (
    Shown("files", Column("files", 8), "{:,}".format),
    Shown("stored_bytes", Column("stored", 6), show_bytes),
    Shown("splits", Column("splits", 9), "{:,}".format),
    Shown("text_bytes", Column("~ text", 5), show_bytes),
    Shown("tokens", Column("~ tokens", 2), show_count),
    Shown("heldout_tokens", Column("~ held out", 7), lambda n: show_count(n) if n else ""),
    Shown("proportion", Column("proportion"), percent),
    Shown("effective_tokens", Column("effective tokens", 1), show_count),
    Shown("epochs", Column("~ epochs"), "{:.2f}".format),
    Shown("unique_factor", Column("~ unique factor", 4), "{:.3f}".format),
    Shown("wanted", Column("wanted", 3), percent),
)


def _train_estimate(source: SourcePlan) -> int:
    """Tokens of the source that are not held out; a source with a file has one at least, until it is read."""
    heldout = source.source.heldout
    return math.ceil(source.token_estimate * (1 - (heldout.fraction if heldout else 0.0)))


def _shares(plan: Plan) -> tuple[list[mixture.Share], list[str]]:
    """The mixture by estimate, and what there is to say of it. Raises RecipeError for one that cannot be.

    Estimates may be off, so a source that would be repeated too often is no error yet, and it is said.
    """
    tokens = {s.name: _train_estimate(s) for s in plan.sources}
    try:
        shares = plan_shares(plan.recipe, tokens)
    except RecipeError as error:
        if plan.recipe.mixture.max_epochs is None:
            raise
        uncapped = plan.recipe.mixture.model_copy(update={"max_epochs": None})
        shares = plan_shares(plan.recipe.model_copy(update={"mixture": uncapped}), tokens)
        return shares, [f"by estimate, {error}", *mixture.warnings(shares)]
    return shares, mixture.warnings(shares)


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A plan as plain values. Raises RecipeError for a mixture or a Bloom filter that cannot be."""
    shares, warnings = _shares(plan)
    stated = stated_shares(plan.recipe)
    sources = [
        {
            "name": s.name,
            "root": s.root,
            "files": len(s.files),
            "stored_bytes": s.stored_bytes,
            "splits": s.expected.n if s.expected else len(s.splits),
            "partitions": plan.partitions(s),
            "text_bytes_estimate": int(s.text_estimate),
            "tokens_estimate": share.tokens,
            "heldout_tokens_estimate": max(0, int(s.token_estimate) - share.tokens),
            "weight": s.source.weight,
            "wanted": share.wanted,
            "proportion": share.proportion,
            "proportion_is_estimate": s.name not in stated or share.proportion != share.wanted,
            "effective_tokens": share.effective_tokens,
            "epochs_estimate": share.epochs,
            "unique_factor_estimate": share.unique_factor,
            "effective_unique_tokens_estimate": share.effective_unique_tokens,
            "printed": printed_values(s.source.printed),
        }
        for s, share in zip(plan.sources, shares, strict=True)
    ]
    classifiers = {
        name: {
            "examples": {kind: _examples(sources) for kind, sources in kinds.items()},
            "training_memory_bytes": training_memory(plan.recipe.classifiers[name].options),
        }
        for name, kinds in plan.examples.items()
    }
    embeddings = embedding_facts(plan)
    drawn = sum(s.effective_tokens for s in shares)
    vectors = sum(e["vector_bytes_estimate"] for e in embeddings)
    return {
        "name": plan.recipe.name,
        "classifiers": classifiers,
        "embedding_classifiers": {
            name: {
                "head": plan.recipe.embedding_classifiers[name].head,
                "examples": {kind: _examples(sources) for kind, sources in kinds.items()},
            }
            for name, kinds in plan.embedding_examples.items()
        },
        "sources": sources,
        "sampling": sampling_facts(plan),
        "proposals": proposals(plan, {s.source: s.effective_tokens for s in shares}),
        "dedup": dedup_facts(plan),
        "embeddings": embeddings,
        "budget_tokens": round(drawn),
        "budget_is_estimate": plan.recipe.mixture.tokens is None,
        "mixture_groups": [
            {"name": name, "of": list(group.of)} for name, group in plan.recipe.mixture.groups.items()
        ],
        "printed": [asdict(finding) for finding in printed_findings(plan.recipe)],
        "warnings": warnings,
        "disk_bytes_estimate": int(plan.disk_estimate(drawn)) + vectors,
        "task_memory_bytes": plan.task_memory,
        "ray_memory_bytes": plan.recipe.limits.task_memory,
    }


def _examples(sources: Sequence[SourcePlan]) -> dict[str, dict[str, int]]:
    """Files and bytes of each source of a classifier's examples."""
    return {s.name.split(".", 2)[2]: {"files": len(s.files), "stored_bytes": s.stored_bytes} for s in sources}


def _example(name: str, facts: dict[str, Any]) -> str:
    return f"{name} ({show_bytes(facts['stored_bytes'])})"


def _shown(kinds: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{kind} {', '.join(_example(n, e) for n, e in examples.items())}" for kind, examples in kinds.items()
    )


def _step_line(step: dict[str, Any]) -> str:
    if step["step"] == "decontaminate":
        return f"decontaminate: {', '.join(step['group'])}"
    line = f"{step['step']} dedup: {', then '.join(step['group'])}"
    if len(step["group"]) > 1:
        line += " (the first named keeps)"
    if step["partitions"]:
        rounds = f" in {step['rounds']} rounds" if step["rounds"] > 1 else ""
        line += f"; exchange ~ {show_bytes(step['exchange_bytes_estimate'])}, {step['partitions']:,} partitions{rounds}"
    if step["kept_bytes_estimate"]:
        line += f"; kept for later runs ~ {show_bytes(step['kept_bytes_estimate'])}"
    if "filter_bytes_estimate" in step:
        line += f"; {step['shards']:,} shards, a filter ~ {show_bytes(step['filter_bytes_estimate'])}"
    if "clusters_estimate" in step:
        of = f"~ {show_count(step['documents_estimate'])} documents"
        line += f"; {of} in {step['clusters_estimate']:,} clusters, {takes(step)}"
    return line


def plan_grids(facts: Mapping[str, Any]) -> list[Grid]:
    """A row for each source and group, and one for the whole; and the published numbers, where there are any."""
    planned, wanted = (in_units([s[key] for s in facts["sources"]]) for key in ("proportion", "wanted"))
    lines = []
    for s, proportion, before in zip(facts["sources"], planned, wanted, strict=True):
        estimated = {"proportion"} if s["proportion_is_estimate"] else set()
        if estimated or facts["budget_is_estimate"]:
            estimated.add("effective_tokens")
        counts = {key: s[key] for key in ("name", "files", "stored_bytes", "splits", "effective_tokens")}
        counts |= {
            "text_bytes": s["text_bytes_estimate"],
            "tokens": s["tokens_estimate"],
            "in_samples": s["tokens_estimate"],
            "heldout_tokens": s["heldout_tokens_estimate"],
            "effective_unique_tokens": s["effective_unique_tokens_estimate"],
            "proportion": proportion,
            "wanted": before,
            "estimated": estimated,
        }
        lines.append(line_of(counts))
    grid = grid_of(f"Plan of {facts['name']}", lines, facts["mixture_groups"], COLUMNS)
    notes = [*grid.notes, *(f"warning: {warning}" for warning in facts["warnings"])]
    return [replace(grid, notes=notes), *printed_grids(facts)]


def csv_rows(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """By CSV_HEADER, a row for each source."""
    for source in facts["sources"]:
        yield dict(source) | {"source": source["name"], "wanted_proportion": source["wanted"]}


def print_plan(facts: Mapping[str, Any]) -> None:
    """The plan on standard output; estimates are marked with ~."""
    console = output()
    for grid in plan_grids(facts):
        print_grid(grid, console)
    for name, classifier in facts["classifiers"].items():
        memory = show_bytes(classifier["training_memory_bytes"])
        line = f"classifier {name}: trained first, on {_shown(classifier['examples'])}; memory ~ {memory}"
        console.print(line, highlight=False)
    for name, classifier in facts["embedding_classifiers"].items():
        head, shown = classifier["head"], _shown(classifier["examples"])
        console.print(f"classifier {name} ({head} on embeddings): trained first, on {shown}", highlight=False)
    for line in sampling_lines(facts["sampling"], facts["proposals"]):
        console.print(line, highlight=False, markup=False)
    for line in embedding_lines(facts["embeddings"]):
        console.print(line, highlight=False, markup=False)
    for step in facts["dedup"]:
        console.print(_step_line(step), highlight=False)
    console.print(
        f"disk below RUN ~ {show_bytes(facts['disk_bytes_estimate'])}; a task holds up to "
        f"~ {show_bytes(facts['task_memory_bytes'])} and asks Ray for {show_bytes(facts['ray_memory_bytes'])}"
    )
    console.print("Estimates (~) are before filters and dedup. Nothing was started.")
