"""Which tokenizer does a run go by, with which control tokens?"""

from __future__ import annotations

from winnow.pipelines import chat_tokens, mixing, packings, tokens
from winnow.pipelines.engine import Done, Engine, RunError
from winnow.pipelines.jobs import Task
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Stage
from winnow.tokenize.encoder import check_append
from winnow.tokenize.source import TokenizerError, TokenizerSource, resolve

CONTROL_TOKENS = ("eos_token", "bos_token", "pad_token")
REMAPPED = ("rename", "add")


def source_of(recipe: Recipe) -> TokenizerSource:
    """The file that the recipe's tokenizer means. Raises RecipeError."""
    try:
        return resolve(recipe.tokenizer.name)
    except TokenizerError as error:
        raise recipe.located(("tokenizer", "name"), str(error)) from error


def tokenizer(engine: Engine, recipe: Recipe, source: TokenizerSource) -> Done:
    """The tokenizer's stage. It takes a second once, so it is the driver's own work, not Ray's."""
    settings = recipe.tokenizer
    spec = tokens.TokenizerSpec(
        source,
        settings.eos_token,
        settings.bos_token,
        settings.pad_token,
        tuple(sorted(settings.rename.items())),
        tuple(settings.add),
    )
    identity = {
        "name": source.name,
        "kind": source.kind,
        "sha256": source.sha256,
        "eos_token": spec.eos_token,
        "bos_token": spec.bos_token,
    }
    # What a recipe does not ask for is not in the identity of its stages.
    identity |= {key: getattr(spec, key) for key in ("pad_token", *REMAPPED) if getattr(spec, key)}
    stage = Stage("tokenizer", tokens.VERSION, identity)
    try:
        done = engine.perform(stage, [Task(0, tokens.tokenizer_task, spec)])
        vocabulary = tokens.load_vocabulary(done.location)
        check_append(vocabulary, settings.append)
    except TokenizerError as error:
        raise recipe.located(("tokenizer", "name"), str(error)) from error
    except RunError as error:
        cause = getattr(error.__cause__, "cause", None)
        if isinstance(cause, TokenizerError):
            named = [key for key in CONTROL_TOKENS if str(cause).startswith(f"{getattr(settings, key)!r} ")]
            named += [key for key in REMAPPED if str(cause).startswith(f"{key}: ")]
            raise recipe.located(("tokenizer", *(named or ["name"])), str(cause)) from error
        raise
    packings.check_vocabulary(recipe, vocabulary)
    chat_tokens.check(recipe, vocabulary, tokens.spelling(done.location)[0])
    for packing in packings.packings(recipe.sequence):
        mixing.layout_of(recipe, vocabulary, packing)  # a sample that fits no shard is said before any work
    return done
