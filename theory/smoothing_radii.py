"""Claims about the radius that a smoothed classifier certifies for a given probability."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxcert import smoothing
from theory import smoothed_sets
from theory.ledger import Claim, Verdict

Radius = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The errors of two probabilities, over a p - 1/2 of at least 0.1.
MARGIN_TOLERANCE = 20 * smoothed_sets.ORACLE_ERROR
# Below 4 standard deviations, rounding the probability to float64 moves the radius by less.
TIGHTNESS_TOLERANCE = 1e-9


def check_radius(
    radius: Radius,
    seed: int,
    trials: int,
    *,
    families: Sequence[smoothed_sets.SetFamily],
    cdf: smoothed_sets.Cdf,
    order: int,
    largest_unit_radius: float,
    steps: int = 150,
) -> Verdict:
    """Attack a radius formula on sets of known probability, and compare it with the truth.

    The slack is the share of p - 1/2 that the attacked answer keeps. On the half-line {x < t}
    the truth is t, so the tightness there is the ratio of the claimed radius to t.
    """
    rng = np.random.default_rng(seed)
    attacks = [
        (
            family.name,
            smoothed_sets.search(rng, family, radius, order=order, starts=trials, steps=steps),
        )
        for family in families
    ]
    name, worst = min(attacks, key=lambda attack: attack[1].margin)

    true_unit_radius = np.linspace(largest_unit_radius / 1000, largest_unit_radius, 1000)
    scale = np.float64(np.float32(0.25))
    claimed = radius(np.full(1000, scale), cdf(true_unit_radius))
    tightness = float(np.min(claimed / (scale * true_unit_radius)))
    return Verdict(
        holds=worst.margin >= -MARGIN_TOLERANCE and tightness >= 1.0 - TIGHTNESS_TOLERANCE,
        worst_slack=worst.margin,
        tightness=tightness,
        trials=sum(attack.evaluations for _, attack in attacks) + true_unit_radius.size,
        witness=(
            f"{name}, scale {worst.scale:.3g}, p {worst.probability:.6f}, "
            f"set [{', '.join(f'{value:.6g}' for value in worst.parameters)}]"
        ),
        seed=seed,
        measured=tuple(
            zip(claimed[::25].tolist(), (scale * true_unit_radius)[::25].tolist(), strict=True)
        ),
    )


def _of(make_noise: Callable[[np.ndarray], smoothing.Noise]) -> Radius:
    """Call jaxcert's radius with float64 scales that float32 holds exactly."""
    return lambda scale, p: make_noise(scale.astype(np.float32)).radius(p)


def _scaled(radius: Radius, factor: float) -> Radius:
    return lambda scale, p: factor * radius(scale, p)


def _float32_above(p: np.ndarray) -> np.ndarray:
    above = np.nextafter(p.astype(np.float32), np.float32(2.0)).astype(np.float64)
    return np.minimum(above, 1.0)


GAUSSIAN = _of(smoothing.gaussian)
LAPLACE = _of(smoothing.laplace)
UNIFORM = _of(smoothing.uniform)

CLAIMS = (
    Claim(
        name="gaussian-l2-radius",
        statement=(
            "If a class has probability p > 1/2 under N(0, sigma^2 I) noise at x, it keeps more "
            "than 1/2 at every x' with |x' - x|_2 < sigma Phi^-1(p); no larger radius holds."
        ),
        reference=(
            "Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via Randomized Smoothing, "
            "2019, arXiv:1902.02918"
        ),
        hypotheses=(
            "searched over half-spaces, balls, boxes, two intervals, and complements, p >= 0.6",
        ),
        check=functools.partial(
            check_radius,
            families=(
                smoothed_sets.half_lines(smoothed_sets.gaussian_cdf),
                smoothed_sets.interval_pairs(smoothed_sets.gaussian_cdf),
                smoothed_sets.boxes(smoothed_sets.gaussian_cdf, 2),
                smoothed_sets.gaussian_half_spaces(3),
                smoothed_sets.gaussian_balls(3),
            ),
            cdf=smoothed_sets.gaussian_cdf,
            order=2,
            largest_unit_radius=4.0,
        ),
        formula=GAUSSIAN,
        trials=64,
        twins={
            "5 percent too large": _scaled(GAUSSIAN, 1.05),
            "1e-6 too large": _scaled(GAUSSIAN, 1.0 + 1e-6),
            "loose by 1e-6": _scaled(GAUSSIAN, 1.0 - 1e-6),
            "p rounded up to float32": lambda scale, p: GAUSSIAN(scale, _float32_above(p)),
        },
    ),
    Claim(
        name="laplace-l1-radius",
        statement=(
            "If a class has probability p > 1/2 under Laplace noise of scale b at x, it keeps more "
            "than 1/2 at every x' with |x' - x|_1 < -b log(2 (1 - p)); no larger radius holds."
        ),
        reference=(
            "Teng, Lee, Yuan, l1 Adversarial Robustness Certificates: a Randomized Smoothing "
            "Approach, 2020; Yang et al., Randomized Smoothing of All Shapes and Sizes, 2020, "
            "arXiv:2002.08118"
        ),
        hypotheses=("searched over boxes, two intervals and their complements, p >= 0.6",),
        check=functools.partial(
            check_radius,
            families=(
                smoothed_sets.half_lines(smoothed_sets.laplace_cdf),
                smoothed_sets.interval_pairs(smoothed_sets.laplace_cdf),
                smoothed_sets.boxes(smoothed_sets.laplace_cdf, 2),
                smoothed_sets.boxes(smoothed_sets.laplace_cdf, 3),
            ),
            cdf=smoothed_sets.laplace_cdf,
            order=1,
            largest_unit_radius=6.0,
        ),
        formula=LAPLACE,
        trials=64,
        twins={
            "5 percent too large": _scaled(LAPLACE, 1.05),
            "loose by 1e-6": _scaled(LAPLACE, 1.0 - 1e-6),
            "scale read as standard deviation": _scaled(LAPLACE, np.sqrt(2.0)),
        },
    ),
    Claim(
        name="uniform-l1-radius",
        statement=(
            "If a class has probability p > 1/2 under uniform noise on [-w, w] at x, it keeps more "
            "than 1/2 at every x' with |x' - x|_1 < 2 w (p - 1/2); no larger radius holds."
        ),
        reference=(
            "Lee, Yuan, Chang, Jaakkola, Tight Certificates of Adversarial Robustness for Randomly "
            "Smoothed Classifiers, 2019, arXiv:1906.04948; Yang et al., 2020, arXiv:2002.08118"
        ),
        hypotheses=("searched over boxes, two intervals and their complements, p >= 0.6",),
        check=functools.partial(
            check_radius,
            families=(
                smoothed_sets.half_lines(smoothed_sets.uniform_cdf),
                smoothed_sets.interval_pairs(smoothed_sets.uniform_cdf),
                smoothed_sets.boxes(smoothed_sets.uniform_cdf, 2),
                smoothed_sets.boxes(smoothed_sets.uniform_cdf, 3),
            ),
            cdf=smoothed_sets.uniform_cdf,
            order=1,
            largest_unit_radius=1.0,
        ),
        formula=UNIFORM,
        trials=64,
        twins={
            "5 percent too large": _scaled(UNIFORM, 1.05),
            "loose by 1e-6": _scaled(UNIFORM, 1.0 - 1e-6),
            "standard deviation read as half width": _scaled(UNIFORM, np.sqrt(3.0)),
        },
    ),
)
