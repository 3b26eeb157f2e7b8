"""How is a plan shown?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from winnow.pipelines.mixture_report import Shown, grid_of, in_units, line_of, percent, printed_grids
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.plan_dedup import dedup_facts
from winnow.pipelines.plan_exchange import exchange_facts, exchange_lines
from winnow.pipelines.plan_scratch import scratch_facts, scratch_line
from winnow.pipelines.plan_shares import drawn, unknown_facts, unknown_lines
from winnow.pipelines.plan_vectors import embedding_facts, embedding_lines, takes
from winnow.pipelines.planned_mixture import printed_findings, printed_values, stated_shares
from winnow.pipelines.planning import Plan, SourcePlan, training_memory
from winnow.pipelines.report import Column, Grid, output, print_grid
from winnow.pipelines.sampling import proposals, sampling_facts, sampling_lines

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


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A plan as plain values. Raises RecipeError for a mixture or a Bloom filter that cannot be."""
    shares, warnings = drawn(plan)
    stated = stated_shares(plan.recipe)
    sources = [
        _listed(plan, s)
        | {
            "tokens_estimate": share.tokens,
            "heldout_tokens_estimate": (
                None if share.tokens is None else max(0, int(s.token_estimate) - share.tokens)
            ),
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
    embeddings = [e | _left_out(plan, e["sources"], e["name"]) for e in embedding_facts(plan)]
    # What was published of the others is no size of what is read.
    known = replace(plan, sources=[s for s in plan.sources if s.unknown is None])
    dedup = [_with_what_is_known(plan, step) for step in dedup_facts(known)]
    effective = [s.effective_tokens for s in shares if s.effective_tokens is not None]
    budget = round(sum(effective)) if len(effective) == len(shares) else plan.recipe.mixture.tokens
    vectors = [e["vector_bytes_estimate"] for e in embeddings]
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
        "proposals": proposals(known, {s.source: s.effective_tokens or 0.0 for s in shares}),
        "unknown": unknown_facts(plan),
        "dedup": dedup,
        "exchanges": exchange_facts(plan, dedup),
        "embeddings": embeddings,
        "budget_tokens": budget,
        "budget_is_estimate": plan.recipe.mixture.tokens is None,
        "mixture_groups": [
            {"name": name, "of": list(group.of)} for name, group in plan.recipe.mixture.groups.items()
        ],
        "printed": [asdict(finding) for finding in printed_findings(plan.recipe)],
        "warnings": warnings,
        "disk_bytes_estimate": (
            None
            if len(known.sources) < len(plan.sources) or None in vectors or budget is None
            else int(plan.disk_estimate(budget)) + sum(vectors)
        ),
        "task_memory_bytes": plan.task_memory,
        "ray_memory_bytes": plan.recipe.limits.task_memory,
        "scratch_bytes_per_task": scratch_facts(plan),
    }


def _listed(plan: Plan, source: SourcePlan) -> dict[str, Any]:
    """What the listing of a source says; None for what nobody knows."""
    facts: dict[str, Any] = {"name": source.name, "root": source.root}
    if source.commit is not None:
        facts["commit"] = source.commit
    if source.unknown is not None:
        counts = ("files", "stored_bytes", "splits", "partitions", "text_bytes_estimate")
        return facts | dict.fromkeys(counts)
    return facts | {
        "files": len(source.files),
        "stored_bytes": source.stored_bytes,
        "splits": source.expected.n if source.expected else len(source.splits),
        "partitions": plan.shuffle(source).partitions,
        "text_bytes_estimate": int(source.text_estimate),
    }


def _with_what_is_known(plan: Plan, step: dict[str, Any]) -> dict[str, Any]:
    """A step without estimates where no source of its group is listed."""
    left_out = _left_out(plan, step["group"])
    if len(left_out.get("left_out", [])) < len(step["group"]):
        return step | left_out
    estimates = [key for key in step if key.endswith("_estimate")]
    return step | dict.fromkeys([*estimates, "partitions", "rounds"]) | left_out


def _left_out(plan: Plan, names: Sequence[str], embedding: str | None = None) -> dict[str, list[str]]:
    """The sources, and an embedding's examples, that estimates are without."""
    users = [n for n, c in plan.recipe.embedding_classifiers.items() if c.embedding == embedding]
    examples = [s for n in users for sources in plan.embedding_examples[n].values() for s in sources]
    wanted = [*(s for s in plan.sources if s.name in names), *examples]
    out = [s.name for s in wanted if s.unknown is not None]
    return {"left_out": out} if out else {}


def _examples(sources: Sequence[SourcePlan]) -> dict[str, dict[str, int | None]]:
    """Files and bytes of each source of a classifier's examples."""
    return {
        s.name.split(".", 2)[2]: {
            "files": None if s.unknown else len(s.files),
            "stored_bytes": None if s.unknown else s.stored_bytes,
        }
        for s in sources
    }


def _example(name: str, facts: dict[str, Any]) -> str:
    size = facts["stored_bytes"]
    return f"{name} ({'not known' if size is None else show_bytes(size)})"


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
    if step["exchange_bytes_estimate"] is None:
        shards = f"; {step['shards']:,} shards" if "shards" in step else ""
        return f"{line}{shards}; of how much text is not known"
    if step["partitions"]:
        rounds = f" in {step['rounds']} rounds" if step["rounds"] > 1 else ""
        partitions = f"{step['partitions']:,} partition" + ("s" if step["partitions"] != 1 else "")
        line += f"; exchange ~ {show_bytes(step['exchange_bytes_estimate'])}, {partitions}{rounds}"
    if step["kept_bytes_estimate"]:
        line += f"; kept for later runs ~ {show_bytes(step['kept_bytes_estimate'])}"
    if "filter_bytes_estimate" in step:
        line += f"; {step['shards']:,} shards, a filter ~ {show_bytes(step['filter_bytes_estimate'])}"
    if "clusters_estimate" in step:
        of = f"~ {show_count(step['documents_estimate'])} documents"
        line += f"; {of} in {step['clusters_estimate']:,} clusters, {takes(step)}"
    return line + _without(step)


def _without(facts: Mapping[str, Any]) -> str:
    left_out = facts.get("left_out")
    return f"; without {', '.join(left_out)}, whose size is not known" if left_out else ""


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
    warnings = (f"warning: {warning}" for warning in facts["warnings"])
    notes = [*grid.notes, *unknown_lines(facts["unknown"]), *warnings]
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
    for e, line in zip(facts["embeddings"], embedding_lines(facts["embeddings"]), strict=True):
        shown = line if e["documents_estimate"] is None else line + _without(e)
        console.print(shown, highlight=False, markup=False)
    for step in facts["dedup"]:
        console.print(_step_line(step), highlight=False)
    for line in exchange_lines(facts["exchanges"]):
        console.print(line, highlight=False, markup=False)
    disk = facts["disk_bytes_estimate"]
    console.print(
        f"disk below RUN {'is not known' if disk is None else f'~ {show_bytes(disk)}'}; a task holds up to "
        f"~ {show_bytes(facts['task_memory_bytes'])} and asks Ray for {show_bytes(facts['ray_memory_bytes'])}"
    )
    console.print(scratch_line(facts["scratch_bytes_per_task"]), highlight=False)
    console.print("Estimates (~) are before filters and dedup. Nothing was started.")
