"""Summaries of items with their uncertainty: means, shares and medians with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number measured on ``n`` items; ``low`` and ``high`` bound it (95 %, percentile bootstrap over items)."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: float | int | None) -> float | int | None:
    """Six digits for JSON, which has no infinity: never is None."""
    if value is None or isinstance(value, int):
        return value
    return round(float(value), 6) if math.isfinite(value) else None


def mean(values: Sequence[float | bool], seed: int = 0) -> Estimate:
    """Mean; a share where the values are bools."""
    return _bootstrap(values, lambda samples: samples.mean(-1), seed)


def median(values: Sequence[float], seed: int = 0) -> Estimate:
    """Median; values that never came are infinite, and so may the median be (None in JSON)."""
    return _bootstrap(values, lambda samples: np.sort(samples, -1)[..., (samples.shape[-1] - 1) // 2], seed)


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """Sum over sum, as a word error rate over items; resampled by items. No value when there is nothing to divide by."""
    pairs = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], -1)
    if len(pairs) == 0 or pairs[:, 1].sum() == 0:
        return Estimate(None, None, None, len(pairs))
    drawn = pairs[_draws(len(pairs), seed)].sum(1)
    found = drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12)
    low, high = _interval(found)
    return Estimate(float(pairs[:, 0].sum() / pairs[:, 1].sum()), low, high, len(pairs))


def _bootstrap(values: Sequence[float | bool], statistic, seed: int) -> Estimate:
    array = np.asarray(values, float)
    if array.size == 0:
        return Estimate(None, None, None, 0)
    low, high = _interval(statistic(array[_draws(len(array), seed)]))
    return Estimate(float(statistic(array)), low, high, len(array))


def _draws(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, count)).integers(0, count, (RESAMPLES, count))


def _interval(found: np.ndarray) -> tuple[float, float]:
    """Ranks, not interpolated: some of the values may be infinite."""
    ranked, tail = np.sort(found), (1 - LEVEL) / 2
    low, high = (ranked[max(0, math.ceil(share * len(ranked)) - 1)] for share in (tail, 1 - tail))
    return float(low), float(high)
