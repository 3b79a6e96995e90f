"""Samplings of six examples, each with the enumeration of its batches."""

import numpy as np

from jaxcert import batching
from tests.batching import enumeration as oracle

N = oracle.NUM_EXAMPLES
ONE = np.zeros(N, int)
WEIGHTS = np.array([0.1, 0.3, 0.2, 0.15, 0.05, 0.2])


def build(name):
    """One sampling, and the enumeration of its batches of a size."""
    whole = {"smoothness": oracle.smoothness()}
    divided = {"part_smoothness": oracle.PART_SMOOTHNESS, "part_of_example": oracle.PARTS}
    each = oracle.EXAMPLE_SMOOTHNESS
    family, _, variant = name.partition(" ")
    if family == "nice":
        return batching.nice(each, **whole), lambda tau: oracle.nice(tau, ONE, [1.0])
    if family == "with_replacement":
        chosen = WEIGHTS if variant else None
        probabilities = WEIGHTS if variant else np.full(N, 1 / N)
        return (
            batching.with_replacement(each, probabilities=chosen, **whole),
            lambda tau: oracle.with_replacement(tau, probabilities / probabilities.sum()),
        )
    q = [0.7, 0.3] if variant == "skewed" else [0.5, 0.5]
    if family == "partition_nice":
        return (
            batching.partition_nice(each, part_probabilities=q, **divided),
            lambda tau: oracle.nice(tau, oracle.PARTS, q),
        )
    importance = {"": "uniform", "skewed": "uniform"}.get(variant, variant)
    if family == "independent":
        sampling = batching.independent(
            each, importance=importance, weights=WEIGHTS if variant == "weights" else None, **whole
        )
        parts, q = ONE, [1.0]
    else:
        sampling = batching.partition_independent(
            each, importance=importance, part_probabilities=q, **divided
        )
        parts = oracle.PARTS

    def batches(tau):
        probabilities = np.asarray(sampling.inclusion_probabilities(tau))
        for part in set(parts):
            np.testing.assert_allclose(probabilities[parts == part].sum(), tau, rtol=1e-13)
        return oracle.independent(probabilities, parts, q)

    return sampling, batches


NAMES = [
    "nice",
    "independent",
    "independent smoothness",
    "independent weights",
    "with_replacement",
    "with_replacement weights",
    "partition_nice",
    "partition_nice skewed",
    "partition_independent",
    "partition_independent skewed",
    "partition_independent smoothness",
]
