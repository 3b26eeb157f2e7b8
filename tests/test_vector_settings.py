"""What a recipe may say of embeddings, semantic dedup and classifiers on embeddings; mistakes are located."""

from __future__ import annotations

import pytest
from winnow.pipelines.classifier_settings import EmbeddingClassifier, Quality, quality_mistakes
from winnow.pipelines.encoders import needed_by, wanted
from winnow.pipelines.located import RecipeError
from winnow.pipelines.recipe import dump, read, values

HEAD = "name: r\ntokenizer: {name: mistral-7b-v0.1}\n"
SOURCES = """sources:
  a: {read: {format: text, path: "a/*"}, dedup: {semantic: {keep_fraction: 80%, embedding: opt}}}
  b:
    read: {format: text, path: "b/*"}
    quality: [{classifier: edu, min_score: 3}]
  c: {read: {format: text, path: "c/*"}, dedup: {semantic: {eps: 0.07}, prototypes: {keep_fraction: 0.5}}}
"""
EMBEDDINGS = "embeddings: {opt: {model: facebook/opt-125m, pooling: last, max_tokens: 2k}}\n"
SCORED = "scored: {x: {read: {format: text, path: 'x/*'}, score: score}}"
CLASSIFIERS = f"embedding_classifiers: {{edu: {{head: linear, threshold: 3, {SCORED}}}}}\n"
WHOLE = HEAD + EMBEDDINGS + CLASSIFIERS + SOURCES


def errors(text: str) -> list[str]:
    with pytest.raises(RecipeError) as raised:
        read(text, "r.yaml")
    return str(raised.value).splitlines()


def test_a_recipe_with_all_of_it():
    recipe = read(WHOLE, "r.yaml")
    assert recipe.embedding("opt").max_tokens == 2000
    assert recipe.embedding("default").model == "sentence-transformers/all-MiniLM-L6-v2"
    assert [(s.name, [g.sources for g in s.groups]) for s in recipe.dedup_steps()] == [
        ("semantic", [("a",), ("c",)]),
        ("prototypes", [("c",)]),
    ]
    assert list(wanted(recipe)) == ["opt", "default"]
    assert [needed_by(recipe, name) for name in "abc"] == [["opt"], ["default"], ["default"]]
    assert values(read(dump(recipe), "again.yaml")) == values(recipe)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("embedding: opt", "embedding: opd", "there is no embedding 'opd'; did you mean 'opt'?"),
        ("classifier: edu", "classifier: ed", "there is no classifier 'ed'; did you mean 'edu'?"),
        ("{eps: 0.07}", "{}", "semantic dedup needs one of keep_fraction (MPT-7B's C4: 0.8) and eps"),
        ("{eps: 0.07}", "true", "semantic dedup needs one of keep_fraction (MPT-7B's C4: 0.8) and eps"),
        ("eps: 0.07", "eps: 0.07, keep_fraction: 0.5", "semantic dedup needs one of keep_fraction"),
        ("keep_fraction: 80%", "keep_fraction: 0.5, greedy: true", "greedy needs eps"),
        ("{keep_fraction: 0.5}", "true", "'keep_fraction' is missing"),
        ("head: linear, threshold: 3", "head: logistic", "with scored examples it needs a threshold"),
        (SCORED, "positive: {x: {read: {format: text, path: 'x/*'}}}", "positive and negative examples are wanted"),
        ("min_score: 3", "min_score: 3, keep_fraction: 0.5", "keep_fraction goes without min_score"),
        ("threshold: 3", "threshold: 3, options: {trees: 5, l2: 2}", "4:68: a linear head has no trees; it has l2"),
        ("head: linear", "head: liner, options: {trees: 5}", "'linear'"),
        ("head: linear", "head: forest, options: {l2: 1}",
         "a forest head has no l2; it has trees, depth, min_leaf, seed"),
        ("min_score: 3}", "min_score: 3}, {classifier: edu, min_score: 2}",
         "9:66: there is a min_score of 'edu' above"),
        ("head: linear", "head: logistic", "9:33: nothing passes 3: the scores of 'edu' are probabilities"),
        ("max_tokens: 2k", "max_tokens: 4", "3:73: must be at least 8, not 4"),
    ],
)  # fmt: skip
def test_mistakes_have_a_place(before, after, message):
    assert before in WHOLE
    found = errors(WHOLE.replace(before, after))
    assert len(found) == 1
    assert found[0].startswith("r.yaml:")
    assert message in found[0]


def test_sources_that_are_compared_together_have_the_settings_of_that():
    text = WHOLE + "dedup: {semantic: {across: [a, c], keep_fraction: 0.5, embedding: opt}}\n"
    assert "compared by the recipe's `dedup` with other settings than its own here" in errors(text)[0]


@pytest.mark.parametrize(
    ("head", "options"),
    [("linear", {"l2": 1.0}), ("forest", {"trees": 100, "depth": None, "min_leaf": 1, "seed": 0})],
)
def test_a_recipe_is_shown_with_the_options_that_its_head_has(head, options):
    recipe = read(WHOLE.replace("head: linear", f"head: {head}"), "r.yaml")
    shown = values(recipe)
    assert shown["embedding_classifiers"]["edu"]["options"] == options
    assert values(read(dump(recipe), "again.yaml")) == shown


def classifier(head: str, kind: str) -> EmbeddingClassifier:
    examples = {"x": {"read": {"format": "text", "path": "x/*"}}}
    if kind == "classes":
        return EmbeddingClassifier.model_validate({"head": head, "positive": examples, "negative": examples})
    scored = {"x": {**examples["x"], "score": "score"}}
    return EmbeddingClassifier.model_validate({"head": head, "scored": scored, "threshold": 3})


def mistakes(uses: list[dict], head: str = "linear", kind: str = "scored") -> list[tuple]:
    settings = [Quality.model_validate({"classifier": "edu"} | use) for use in uses]
    return list(quality_mistakes(settings, {"edu": classifier(head, kind)}))


def test_a_classifier_has_one_bound_of_a_kind():
    share = {"keep_fraction": 0.5}
    assert mistakes([{"min_score": 1}, share, {"max_score": 4}, {}, {}]) == []
    assert mistakes([{"min_score": 1}, {"classifier": "other", "min_score": 1}]) == []
    found = mistakes([{"min_score": 1, "max_score": 4}, share, {"max_score": 5}, share, {"min_score": 1}])
    assert [place for place, _ in found] == [(2, "max_score"), (3, "keep_fraction"), (4, "min_score")]
    assert found[0][1] == "there is a max_score of 'edu' above; one is enough"


@pytest.mark.parametrize(
    ("head", "kind", "probabilities"),
    [
        ("logistic", "classes", True),
        ("logistic", "scored", True),
        ("forest", "classes", True),
        ("forest", "scored", False),
        ("linear", "classes", False),
        ("linear", "scored", False),
    ],
)
def test_no_bound_on_probabilities_lets_nothing_pass(head, kind, probabilities):
    assert classifier(head, kind).probabilities == probabilities
    assert (
        mistakes([{"min_score": 1, "max_score": 1}, {"classifier": "other", "min_score": 9}], head, kind)
        == []
    )
    assert mistakes([{"min_score": 0, "max_score": 0}], head, kind) == []
    found = mistakes([{"min_score": 2.5}, {"max_score": -0.1}], head, kind)
    assert [place for place, _ in found] == ([(0, "min_score"), (1, "max_score")] if probabilities else [])
    if probabilities:
        assert found[0][1] == "nothing passes 2.5: the scores of 'edu' are probabilities, from 0 to 1"
