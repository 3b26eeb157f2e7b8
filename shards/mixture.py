"""From the tokens of each source to the mixture a trainer sees, and back.

Pure arithmetic. Shares are of tokens; rows are of equal length, so a share of tokens is a share of rows.
*Effective tokens* are the tokens drawn from a source over the training run, *epochs* how often that passes
over what the source has (MosaicML's table of MPT-7B, huggingface.co/mosaicml/mpt-7b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROUNDING = 1e-9
"""Relative error of a share that is forgiven: floats sum to 1 only nearly."""


class MixtureError(ValueError):
    """A mixture that the sources cannot give."""


@dataclass(frozen=True, slots=True)
class Share:
    """One source's part of a mixture."""

    source: str
    tokens: int
    """In its training rows."""
    proportion: float
    effective_tokens: float

    @property
    def epochs(self) -> float:
        return self.effective_tokens / self.tokens if self.tokens else 0.0


def proportions(
    names: Sequence[str], weights: Mapping[str, float | None], tokens: Mapping[str, int]
) -> dict[str, float]:
    """Shares that sum to 1: the weights normalised, or the sources' sizes where no weight is given.

    A source without a token gets no share where shares follow size. Raises MixtureError when a weighted source
    has no tokens, or none has any.
    """
    weighted = all(weights[n] is not None for n in names)
    if not any(tokens[n] for n in names):
        raise MixtureError("no source has a full sample of tokens")
    if weighted:
        empty = [n for n in names if not tokens[n]]
        if empty:
            raise MixtureError(
                f"source {empty[0]!r} has a weight but not one full sample; take it out, shorten "
                "sequence.length, or loosen its filters"
            )
    parts = {n: float(weights[n] or 0) if weighted else float(tokens[n]) for n in names}
    total = sum(parts.values())
    return {n: part / total for n, part in parts.items()}


def mix(
    names: Sequence[str],
    weights: Mapping[str, float | None],
    tokens: Mapping[str, int],
    budget: int | None,
    max_epochs: float | None = None,
) -> list[Share]:
    """The mixture of a token budget (default: as many tokens as there are).

    tokens : training tokens by source.
    Raises MixtureError when a source would be repeated more than `max_epochs` times, naming what each offers.
    """
    shares = proportions(names, weights, tokens)
    total = budget if budget is not None else sum(tokens[n] for n in names)
    mixed = [Share(n, tokens[n], shares[n], shares[n] * total) for n in names]
    if max_epochs is not None:
        over = [s for s in mixed if s.epochs > max_epochs * (1 + ROUNDING)]
        if over:
            detail = ", ".join(f"{s.source} {s.epochs:.2f} epochs of {s.tokens:,} tokens" for s in over)
            most = min(max_epochs * s.tokens / s.proportion for s in over)
            raise MixtureError(
                f"{total:,} tokens need more than {max_epochs:g} epochs: {detail}; with these weights at most "
                f"{int(most):,} tokens are to be had: lower mixture.tokens, raise max_epochs, or add text"
            )
    return mixed


def epoch_rows(shares: Sequence[Share], length: int) -> int:
    """Rows of one epoch of the trainer's loader: the budget in whole samples, at least one."""
    return max(1, round(sum(s.effective_tokens for s in shares)) // length)
