"""Which libraries and files do a recipe's results go by?"""

from __future__ import annotations

from winnow.filters.datatrove_block import DatatroveBlock
from winnow.pipelines import encoders, filtering
from winnow.pipelines.agreement import ON_GPUS, Terms
from winnow.pipelines.engine import Done
from winnow.pipelines.plan_vectors import HEADS
from winnow.pipelines.planning import Plan
from winnow.shards import storage

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""What is installed under another name than it is imported by."""
BESIDE = {"trafilatura": ("justext",), HEADS: ("scipy",)}
"""Libraries that a package leaves a part of its results to."""


def terms(plan: Plan, tokenizer: Done) -> Terms:
    """What every node has to have in common with the driver, for this recipe."""
    names: set[str] = set()
    for source in plan.everything:
        read = source.read
        for name in read.convert.packages if read.convert else ():
            names.update((name, *BESIDE.get(name, ())))
        names.update(
            {"datasets"}
            if read.format == "dataset"
            else {"fastwarc"}
            if read.format in ("warc", "wet")
            else ()
        )
        for settings in filtering.filter_settings(source):
            names.update(package for package, _ in filtering.needed_packages(settings))
            names.update({"py3langid"} if getattr(settings, "model", None) == "py3langid" else ())
            names.update({DatatroveBlock.name} if isinstance(settings, DatatroveBlock) else ())
    if encoders.wanted(plan.recipe):
        names.update(ON_GPUS)
    if plan.recipe.embedding_classifiers:
        names.update((HEADS, *BESIDE[HEADS]))
    files = [
        storage.join(tokenizer.location, name) for record in tokenizer.records for name in record.outputs
    ]
    return Terms(tuple(sorted(DISTRIBUTIONS.get(name, name) for name in names)), tuple(sorted(files)))
