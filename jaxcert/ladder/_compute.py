"""All numbers about the surroundings of inputs, each from the part of the package that owns it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks, attacks, lipschitz, smoothing, tropical
from jaxcert.ladder._layers import cast_layer, in_single_precision
from jaxcert.ladder._records import Ladder, Rung
from jaxcert.lipschitz import Conv, Dense, Flatten, Layer, Relu

# Stages of the key, so that attack, search and noise share no random numbers.
_ATTACK, _SEARCH, _NOISE = 0x6C61_6401, 0x6C61_6402, 0x6C61_6403
# Where no attack succeeds, certificates look this far.
_FARTHEST = 10.0


def certification_ladder(
    key: jax.Array,
    layers: Sequence[Layer],
    inputs: ArrayLike,
    *,
    methods: Sequence[str] = ("product", "eclipse_fast", "lipsdp"),
    noise: smoothing.Noise | None = None,
    num_samples: int = 10_000,
    alpha: float = 0.001,
    attack_steps: int = 40,
    max_nodes: int = 200,
    refine: int | None = None,
) -> Ladder:
    r"""Line up every number about the l2 distance of inputs to the nearest one of another class.

    .. math::
        \text{certificates} \le \min \{ \|x' - x\|_2 : f(x') \text{ has another class} \}
        \le \text{attacks}

    From below: the margin over Lipschitz constants of the whole network by each method, the same
    for pairs of classes, and linear bounds with local Lipschitz constants, by bisection. From both
    sides, for one hidden layer: the distance to the decision boundary by branch and bound. From
    above: DeepFool and PGD. Around each input, within the distance of the attack, also the
    Lipschitz constant itself: sampled from below, and bounded by every method. The smoothed
    classifier, another one, comes with its own certificate.

    Args:
      key: a typed key.
      layers: the network, `Dense`, `Conv`, `Relu` and `Flatten`, that ends in a `Dense` layer; see
        `layers_of`.
      inputs: floating `[b, *shape]`.
      methods: of `lipschitz.network_lipschitz_upper`; those that the network does not fit are left
        out.
      noise: Gaussian noise of the smoothed classifier, or None for no such rung.
      num_samples: noisy samples for each input.
      alpha: failure probability of each smoothed certificate, in (0, 1).
      attack_steps: of PGD.
      max_nodes: of `tropical.boundary_distance`, for each input.
      refine: of `lipschitz.certified_radius_lower`.

    Returns:
      A `Ladder`. `inversions` says whether it is in order.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if shapes do not fit, a setting is out of range, or the noise is not Gaussian.

    Guarantee:
      Distances from below are sound for the network with exactly these weights, and for scores in
      float64 whose own rounding, some 1e-15, the certificates by margin do not include. Distances
      from above are of points whose class in float64 is another one. The smoothed certificate
      holds for its own classifier with probability 1 - alpha for each input.

    Example:
      >>> import jax, numpy as np
      >>> from jaxcert import ladder
      >>> from jaxcert.lipschitz import Dense
      >>> network = [Dense(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))]
      >>> found = ladder.certification_ladder(  # the boundary is the diagonal, 0.7071 away
      ...     jax.random.key(0), network, np.array([[2.0, 1.0]], np.float32), methods=("product",))
      >>> ladder.inversions(found)
      []
      >>> [(rung.name, round(float(rung.values[0]), 2)) for rung in found.rungs[:4]]
      [('margin, product', 0.71), ('margin of pairs, product', 0.71), ('linear bounds', 0.71),
       ('attack', 0.71)]

    References:
      The functions that it calls cite theirs.
    """
    key = _checks.typed_key("key", key)
    given = _checks.batch_of_inputs("inputs", inputs)
    if not _checks.is_concrete(given):
        raise TypeError("inputs must be an array at hand: the ladder is computed on the host")
    if noise is not None and noise.norm != "l2":
        raise ValueError(f"noise must certify in l2, got noise for {noise.norm}")
    points = np.asarray(given, np.float32)
    network = _single(layers)
    scores = _scores(network, points)
    label = scores.argmax(axis=1)
    rungs = _margin_rungs(network, points.shape[1:], scores, methods)
    attack = _attack(jax.random.fold_in(key, _ATTACK), network, points, label, attack_steps)
    reach = np.where(np.isfinite(attack), attack, _FARTHEST)
    constants = [rung for rung in rungs if rung.quantity == "lipschitz"]
    linear = lipschitz.certified_radius_lower(
        network, points, label, max_radius=reach.astype(np.float32), norm="l2", refine=refine
    )
    proofs = [rung for rung in rungs if rung.quantity == "distance"]
    proofs.append(Rung("linear bounds", "distance", "lower", np.asarray(linear, np.float64)))
    proofs += _boundary(network, points, label, attack, max_nodes)
    proofs.append(Rung("attack", "distance", "upper", attack))
    region = lipschitz.ball(points, reach.astype(np.float32), norm="l2")
    sampled = lipschitz.local_lipschitz_lower(
        jax.random.fold_in(key, _SEARCH), network, region, starts=4, steps=8
    )
    local = lipschitz.local_lipschitz_upper(network, region)
    constants = [
        Rung("sampled", "lipschitz", "lower", np.asarray(sampled, np.float64)),
        Rung("local", "lipschitz", "upper", np.asarray(local, np.float64)),
        *constants,
    ]
    smoothed_label = np.full(len(points), smoothing.ABSTAIN)
    if noise is not None:
        found = smoothing.certify(
            jax.random.fold_in(key, _NOISE), jax.tree_util.Partial(_forward, network), points,
            noise=noise, num_classes=scores.shape[1], num_samples=num_samples, alpha=alpha,
        )  # fmt: skip
        smoothed_label = found.label
        proofs.append(Rung("smoothed", "distance", "other", found.radius))
    top = np.sort(scores, axis=1)
    return Ladder(label, top[:, -1] - top[:, -2], smoothed_label, (*proofs, *constants))


def _single(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with float32 weights, of which the float64 scores are then those exactly."""
    if not isinstance(layers, (list, tuple)) or not layers:
        raise TypeError(f"layers must be a list of layers, got {type(layers).__name__}")
    found: list[Layer] = []
    for layer in layers:
        if isinstance(layer, (Relu, Flatten)):
            found.append(layer)
            continue
        if not isinstance(layer, (Dense, Conv)):
            raise TypeError(
                f"layers must be Dense, Conv, Relu or Flatten, got {type(layer).__name__}"
            )
        found.append(in_single_precision(layer))
    return found


def _scores(layers: Sequence[Layer], points: np.ndarray) -> np.ndarray:
    """Scores in float64 `[b, classes]`."""
    with jax.enable_x64(True):
        wide = [
            layer if isinstance(layer, (Relu, Flatten)) else cast_layer(layer, np.float64)
            for layer in layers
        ]
        return np.asarray(lipschitz.apply_layers(wide, points.astype(np.float64)))


def _forward(layers: Sequence[Layer], x: jax.Array) -> jax.Array:
    return lipschitz.apply_layers(layers, x)


def _margin_rungs(
    layers: list[Layer], shape: tuple[int, ...], scores: np.ndarray, methods: Sequence[str]
) -> list[Rung]:
    """The margin over constants of the whole network, and these constants."""
    rungs = []
    for method in methods:
        try:
            constant = lipschitz.network_lipschitz_upper(layers, method=method, input_shape=shape)
            pairs = lipschitz.pairwise_lipschitz_upper(layers, method=method, input_shape=shape)
        except ValueError as error:
            # What a method cannot take is said by this name; anything else is the caller's error.
            if not str(error).startswith("method must be 'product'"):
                raise
            continue
        radius = np.asarray(lipschitz.margin_radius(scores, constant), np.float64)
        of_pairs = np.asarray(lipschitz.margin_radius(scores, pairs), np.float64)
        rungs += [
            Rung(f"margin, {method}", "distance", "lower", radius),
            Rung(f"margin of pairs, {method}", "distance", "lower", of_pairs),
            Rung(method, "lipschitz", "upper", np.full(len(scores), constant)),
        ]
    return rungs


def _attack(
    key: jax.Array, layers: list[Layer], points: np.ndarray, label: np.ndarray, steps: int
) -> np.ndarray:
    """The nearest point of another class that DeepFool and then PGD find: `[b]`, or infinity."""
    # The weights are arguments, so that networks of one shape share a program.
    classify = jax.tree_util.Partial(_forward, layers)
    best = np.full(len(points), np.inf)

    def look(perturbed: Any) -> None:
        moved = np.asarray(perturbed)
        others = _scores(layers, moved).argmax(axis=1) != label
        away = (moved.astype(np.float64) - points.astype(np.float64)).reshape(len(points), -1)
        # A sum of squares is wrong by a unit in the last place for each term, at most.
        size = np.linalg.norm(away, axis=1) * (1 + (away.shape[1] + 4) * np.finfo(float).eps)
        best[others] = np.minimum(best, size)[others]

    look(attacks.deepfool(classify, points, label).inputs)
    for stage, share in enumerate((0.98, 0.98)):
        radius = np.where(np.isfinite(best), share * best, _FARTHEST).astype(np.float32)
        found = attacks.pgd(
            jax.random.fold_in(key, stage), classify, points, label, radius=radius,
            num_steps=steps, num_restarts=2,
        )  # fmt: skip
        look(found.inputs)
        look(attacks.shrink(classify, points, found.inputs, label).inputs)
    return best


def _boundary(
    layers: Sequence[Layer],
    points: np.ndarray,
    label: np.ndarray,
    attack: np.ndarray,
    max_nodes: int,
) -> list[Rung]:
    """The exact distance, enclosed, where there is one hidden layer."""
    match [layer for layer in layers if not isinstance(layer, Flatten)]:
        case [Dense() as first, Relu(), Dense() as last]:
            pass
        case _:
            return []
    flat = points.reshape(len(points), -1).astype(np.float64)
    w1, b1, w2, b2 = (
        np.asarray(value, np.float64)
        for value in (first.weight, first.bias, last.weight, last.bias)
    )
    lower, upper = np.zeros(len(flat)), np.full(len(flat), np.inf)
    for n, point in enumerate(flat):
        # Nothing beyond the attack matters; a little room keeps the bound from above in reach.
        limit = 1.001 * attack[n] if np.isfinite(attack[n]) else np.inf
        found = tropical.boundary_distance(
            point[None], w1, b1, w2, b2, classes=None, max_distance=limit, max_nodes=max_nodes
        )
        if found.label[0] == label[n]:
            lower[n], upper[n] = found.lower[0], found.upper[0]
    return [
        Rung("boundary, from below", "distance", "lower", lower),
        Rung("boundary, from above", "distance", "upper", upper),
    ]
