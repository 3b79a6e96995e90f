"""Random networks and oracles that share no code with the package."""

import itertools

import numpy as np
from scipy import optimize


def random_network(seed, sizes, *, bias=0.5):
    """Gaussian layers; `bias` scales the biases, and 0 leaves them out.

    Otherwise the last bias balances the scores, so that every class wins somewhere.
    """
    rng = np.random.default_rng([seed, *sizes])
    layers = [
        (rng.normal(size=(new, old)) * np.sqrt(2.0 / old), bias * rng.normal(size=new))
        for old, new in itertools.pairwise(sizes)
    ]
    if bias:
        weight, shift = layers[-1]
        layers[-1] = weight, shift - forward(layers, rng.normal(size=(99, sizes[0]))).mean(axis=0)
    return layers


def arguments(layers):
    """The two layers of a network as w1, b1, w2, b2."""
    (w1, b1), (w2, b2) = layers
    return w1, b1, w2, b2


def forward(layers, x):
    """Scores `[n, classes]` at points `[n, d]`."""
    for number, (weight, bias) in enumerate(layers):
        if number:
            x = np.where(x > 0, x, 0)
        x = np.einsum("oi,ni->no", weight, x) + bias
    return x


def patterns(num_units):
    """All rows of 0 and 1."""
    return np.array(list(itertools.product((0, 1), repeat=num_units)))


def affine_piece(layers, pattern):
    """Slope `[classes, d]` and offset `[classes]` of a one-hidden-layer network on a pattern."""
    w1, b1, w2, b2 = arguments(layers)
    return (w2 * pattern) @ w1, (w2 * pattern) @ b1 + b2


def inside_pattern(layers, pattern):
    """Inequalities `matrix @ x <= bound` of the cell on which the units have this pattern."""
    w1, b1, _, _ = arguments(layers)
    sign = 1.0 - 2.0 * np.asarray(pattern)
    return sign[:, None] * w1, -sign * b1


def linear_range(objective, matrix, bound, *, box):
    """Least and largest value of a linear function on a polyhedron in a box, or None if empty."""
    found = []
    for sign in (1.0, -1.0):
        done = optimize.linprog(
            sign * objective, A_ub=matrix, b_ub=bound, bounds=[(-box, box)] * objective.size,
            method="highs",
        )  # fmt: skip
        if done.status == 2:
            return None
        assert done.status == 0, done.message
        found.append(sign * done.fun)
    return tuple(found)


def inner_radius(matrix, bound, *, box):
    """Radius of the largest ball in a polyhedron inside a box, negative if that is empty."""
    dimension = matrix.shape[1]
    lengths = np.linalg.norm(matrix, axis=1)
    sides = np.concatenate([np.eye(dimension), -np.eye(dimension)])
    rows = np.concatenate(
        [
            np.concatenate([matrix, lengths[:, None]], axis=1),
            np.concatenate([sides, np.ones((2 * dimension, 1))], axis=1),
        ]
    )
    done = optimize.linprog(
        np.append(np.zeros(dimension), -1.0),
        A_ub=rows,
        b_ub=np.append(bound, np.full(2 * dimension, box)),
        bounds=[(None, None)] * (dimension + 1),
        method="highs",
    )
    if done.status == 2:
        # A unit that is constant, on the wrong side.
        return -1.0
    assert done.status == 0, done.message
    return -done.fun
