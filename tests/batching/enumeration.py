"""Every batch of a small sampling with its probability, in NumPy: an oracle."""

import itertools

import numpy as np

# Six least-squares examples in three dimensions, in two parts.
NUM_EXAMPLES = 6
PARTS = np.array([0, 1, 0, 1, 1, 0])
FEATURES = np.random.default_rng(5).standard_normal((NUM_EXAMPLES, 3)) * np.array([2.0, 1.0, 0.5])
TARGETS = np.random.default_rng(6).standard_normal(NUM_EXAMPLES)
RIDGE = 0.3


def gradients(x, features=FEATURES, targets=TARGETS):
    """Gradients of (a_i x - b_i)^2 / 2 + RIDGE |x|^2 / 2, one a row."""
    return features * (features @ x - targets)[:, None] + RIDGE * x


def value(x):
    return np.mean((FEATURES @ x - TARGETS) ** 2) / 2 + RIDGE * x @ x / 2


def hessian(rows=slice(None)):
    chosen = FEATURES[rows]
    return chosen.T @ chosen / len(chosen) + RIDGE * np.eye(FEATURES.shape[1])


def optimum():
    return np.linalg.solve(hessian(), FEATURES.T @ TARGETS / NUM_EXAMPLES)


def smoothness(rows=slice(None)):
    return np.linalg.eigvalsh(hessian(rows))[-1]


EXAMPLE_SMOOTHNESS = np.sum(FEATURES**2, axis=1) + RIDGE
PART_SMOOTHNESS = np.array([smoothness(part == PARTS) for part in range(2)])
STRONG_CONVEXITY = np.linalg.eigvalsh(hessian())[0]


def subsets(members, probabilities):
    """Every subset of independent members."""
    for inside in itertools.product([0, 1], repeat=len(members)):
        chance = np.prod([p if i else 1 - p for i, p in zip(inside, probabilities, strict=True)])
        yield chance, [m for m, i in zip(members, inside, strict=True) if i]


def nice(tau, parts, part_probabilities):
    for part, q in enumerate(part_probabilities):
        members = np.flatnonzero(parts == part)
        sets = list(itertools.combinations(members, tau))
        for chosen in sets:
            v = np.zeros(len(parts))
            v[list(chosen)] = len(parts) / len(parts) * len(members) / (q * tau)
            yield q / len(sets), v


def independent(probabilities, parts, part_probabilities):
    for part, q in enumerate(part_probabilities):
        members = np.flatnonzero(parts == part)
        for chance, chosen in subsets(members, probabilities[members]):
            v = np.zeros(len(parts))
            v[chosen] = 1 / (q * probabilities[chosen])
            yield q * chance, v


def with_replacement(tau, probabilities):
    count = len(probabilities)
    for draws in itertools.product(range(count), repeat=tau):
        v = np.zeros(count)
        np.add.at(v, list(draws), 1 / (tau * probabilities[list(draws)]))
        yield np.prod(probabilities[list(draws)]), v


def estimates(batches, rows):
    """Probabilities `[b]` and gradient estimates `[b, d]` of all batches."""
    chances, weights = (np.array(column) for column in zip(*batches, strict=True))
    np.testing.assert_allclose(chances.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(chances @ weights, 1, rtol=1e-11)
    return chances, weights @ rows / len(rows)
