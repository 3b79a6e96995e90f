"""Sequential tests: anytime validity at the threshold itself, and what they save.

A rule is sound when, at p = threshold, it certifies at most a share alpha of the streams. The check
is an exact binomial test that raises a false alarm with probability below 1e-6; peeking at a
Clopper-Pearson bound must fail it.
"""

import numpy as np
import pytest
from scipy import signal, stats

from jaxcert import smoothing
from jaxcert.smoothing import Verdict, _sequential

RULES = ["spending", "betting", "one_sided_betting", "union"]
STREAMS, MAX_SAMPLES, ALPHA = 10_000, 5000, 0.05
THRESHOLDS = [0.5, 0.8413447460685429, 0.99]


def assert_sound(num_false, num_streams, alpha=ALPHA):
    test = stats.binomtest(int(num_false), num_streams, alpha, alternative="greater")
    assert test.pvalue > 1e-6, f"{num_false} of {num_streams} decisions are false"


def run(test, probability, num_streams, rng):
    """Verdicts and samples spent on streams of draws with one success probability."""
    counts = np.zeros(num_streams, np.int64)
    verdict, spent = np.zeros(num_streams, int), np.zeros(num_streams, int)
    active = np.ones(num_streams, bool)
    for look, block in enumerate(np.diff(test.num_samples, prepend=0)):
        counts += rng.binomial(block, probability, num_streams)
        here, stops = _sequential.verdicts(test, look, counts)
        ends = active & stops
        verdict[ends], spent[ends] = here[ends], test.num_samples[look]
        active &= ~stops
    assert not active.any()
    return verdict, spent


def peeking(threshold, *, max_samples, alpha):
    """A fixed-sample bound at level alpha, looked at again and again: wrong."""
    looks = _sequential.look_schedule(max_samples)
    counts = np.arange(max_samples + 1)
    boundary = [
        int(np.argmax(stats.binom.sf(counts - 1, look, threshold) <= alpha)) for look in looks
    ]
    never = np.full_like(looks, -1)
    return _sequential.SequentialTest(looks, np.array(boundary), never, never + 2, never)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("give_up", [0.0, 0.1])
@pytest.mark.parametrize("rule", RULES)
def test_at_the_threshold_at_most_alpha_is_certified_and_at_most_alpha_refuted(
    rule, give_up, threshold
):
    test = smoothing.sequential_test(
        threshold, max_samples=MAX_SAMPLES, alpha=ALPHA, rule=rule, give_up=give_up
    )
    verdict, _ = run(test, threshold, STREAMS, np.random.default_rng(20))
    assert_sound((verdict == Verdict.CERTIFIED).sum(), STREAMS)
    assert_sound((verdict == Verdict.REFUTED).sum(), STREAMS)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_peeking_is_caught(threshold):
    test = peeking(threshold, max_samples=MAX_SAMPLES, alpha=ALPHA)
    verdict, _ = run(test, threshold, STREAMS, np.random.default_rng(21))
    with pytest.raises(AssertionError, match="decisions are false"):
        assert_sound((verdict == Verdict.CERTIFIED).sum(), STREAMS)


@pytest.mark.parametrize("threshold", [0.3, 0.8413447460685429, 0.99])
@pytest.mark.parametrize("one_sided", [False, True])
def test_betting_holds_at_every_single_sample(one_sided, threshold):
    """Ville's bound asks for no schedule, whereas the broken bar log(1 / (4 alpha)) is caught."""
    rule = _sequential._one_sided_betting_boundary if one_sided else _sequential._betting_boundary
    looks = np.arange(1, 2001)
    draws = np.random.default_rng(22).random((STREAMS, looks.size), dtype=np.float32)
    counts = np.cumsum(draws < np.float32(threshold), axis=1, dtype=np.int32)
    threshold = float(np.float32(threshold))
    assert_sound((counts >= rule(threshold, looks, ALPHA)).any(axis=1).sum(), STREAMS)
    if one_sided:
        broken = (counts >= rule(threshold, looks, 4 * ALPHA)).any(axis=1).sum()
        with pytest.raises(AssertionError, match="decisions are false"):
            assert_sound(broken, STREAMS)


@pytest.mark.parametrize("probability", [0.02, 0.5, 0.97])
def test_the_confidence_sequence_covers_at_all_samples_together(probability):
    looks = np.unique(np.geomspace(1, 3000, 60).astype(int))
    blocks = np.diff(looks, prepend=0)
    rng = np.random.default_rng(23)
    counts = np.cumsum(rng.binomial(blocks, probability, (STREAMS, looks.size)), axis=1)
    left_out = np.zeros(STREAMS, bool)
    above_fixed = np.zeros(STREAMS, bool)
    for look, column in zip(looks, counts.T, strict=True):
        seen, which = np.unique(column, return_inverse=True)
        lower = smoothing.confidence_sequence_lower(seen, look, alpha=ALPHA)
        upper = smoothing.confidence_sequence_upper(seen, look, alpha=ALPHA)
        fixed = smoothing.clopper_pearson_lower(seen, look, alpha=ALPHA)
        left_out |= ((lower > probability) | (upper < probability))[which]
        above_fixed |= (fixed > probability)[which]
    assert_sound(left_out.sum(), STREAMS)
    with pytest.raises(AssertionError, match="decisions are false"):
        assert_sound(above_fixed.sum(), STREAMS)


def test_the_confidence_sequence_solves_its_equation():
    counts, draws = np.array([1, 40, 90, 99_990]), np.array([100, 100, 100, 100_000])
    lower = smoothing.confidence_sequence_lower(counts, draws, alpha=0.001)
    wealth = _sequential._log_wealth(counts * 1.0, draws * 1.0, lower, one_sided=False)
    np.testing.assert_allclose(wealth, np.log(1000), atol=2e-6)
    assert np.all(lower < smoothing.clopper_pearson_lower(counts, draws, alpha=0.001))
    assert smoothing.confidence_sequence_lower(0, 5, alpha=0.1) == 0.0
    assert smoothing.confidence_sequence_upper(5, 5, alpha=0.1) == 1.0


def crossing_probability(boundary, looks, probability):
    """Probability of reaching the boundary at any look: one draw at a time, all counts kept."""
    mass, crossed = np.ones(1), 0.0
    for draw in range(1, looks[-1] + 1):
        mass = np.convolve(mass, [1 - probability, probability])
        if draw in looks:
            above = np.arange(mass.size) >= boundary[list(looks).index(draw)]
            crossed += mass[above].sum()
            mass = np.where(above, 0.0, mass)
    return crossed


@pytest.mark.parametrize("threshold", [0.2, 0.8413447460685429, 0.99])
@pytest.mark.parametrize("rule", RULES)
def test_the_exact_probability_of_a_false_decision(rule, threshold):
    """Every rule stays below alpha at p = threshold and below; `"spending"` uses most of it."""
    test = smoothing.sequential_test(threshold, max_samples=1500, alpha=ALPHA, rule=rule, give_up=0)
    at = crossing_probability(test.certify_from, test.num_samples, threshold)
    below = crossing_probability(test.certify_from, test.num_samples, 0.98 * threshold)
    mirrored = crossing_probability(
        test.num_samples - test.refute_to, test.num_samples, 1 - threshold
    )
    assert below < at <= ALPHA
    assert mirrored <= ALPHA
    if rule == "spending":
        assert at > 0.8 * ALPHA
        lower_by_one = crossing_probability(test.certify_from - 1, test.num_samples, threshold)
        assert lower_by_one > ALPHA


def test_spending_is_the_same_through_the_fourier_transform(monkeypatch):
    """Where the distributions are long, convolution goes through the FFT, with its error added."""
    looks = _sequential.look_schedule(50_000)
    plain = _sequential._spending_boundary(0.9, looks, 0.001)
    used = []
    original = signal.fftconvolve
    monkeypatch.setattr(_sequential, "_LARGEST_PLAIN_CONVOLUTION", 0)
    monkeypatch.setattr(signal, "fftconvolve", lambda *a: used.append(1) or original(*a))
    through_fft = _sequential._spending_boundary(0.9, looks, 0.001)
    assert len(used) == len(looks)
    assert np.all(through_fft >= plain)
    assert np.abs(through_fft - plain).max() <= 1


def test_a_tiny_alpha_decides_later_but_soundly():
    strict = smoothing.sequential_test(0.9, max_samples=10_000, alpha=1e-12)
    loose = smoothing.sequential_test(0.9, max_samples=10_000, alpha=1e-3)
    assert np.all(strict.certify_from >= loose.certify_from)
    assert strict.certify_from[-1] <= 10_000


@pytest.mark.parametrize("rule", RULES)
def test_easy_streams_are_decided_early(rule):
    test = smoothing.sequential_test(0.84, max_samples=100_000, alpha=0.001, rule=rule)
    rng = np.random.default_rng(24)
    for probability, expected in ((0.95, Verdict.CERTIFIED), (0.7, Verdict.REFUTED)):
        verdict, spent = run(test, probability, 1000, rng)
        assert np.mean(verdict == expected) > 0.995
        assert spent.mean() < 300


def test_spending_costs_least_and_certifies_most():
    """Within three standard errors of the threshold at N, where the samples go."""
    rng = np.random.default_rng(25)
    probability = 0.84 + rng.uniform(-0.02, 0.02, 4000)
    cost, certified = {}, {}
    for rule in RULES:
        test = smoothing.sequential_test(
            0.84, max_samples=100_000, alpha=0.001, rule=rule, give_up=0
        )
        verdict, spent = run(test, probability, 4000, np.random.default_rng(26))
        cost[rule], certified[rule] = spent.mean(), (verdict == Verdict.CERTIFIED).mean()
    assert all(cost["spending"] < 0.9 * cost[rule] for rule in RULES[1:])
    assert all(certified["spending"] > certified[rule] for rule in RULES[1:])


def test_giving_up_saves_samples_and_loses_few_decisions():
    rng = np.random.default_rng(27)
    probability = 0.84 + rng.uniform(-0.02, 0.02, 4000)
    settings = {"max_samples": 100_000, "alpha": 0.001}
    results = [
        run(smoothing.sequential_test(0.84, give_up=give_up, **settings), probability, 4000, rng)
        for give_up in (0, 0.1)
    ]
    (full, full_spent), (early, early_spent) = results
    assert early_spent.mean() < 0.8 * full_spent.mean()
    assert np.mean(early != 0) > np.mean(full != 0) - 0.03


def test_the_last_look_is_at_max_samples():
    for max_samples in (1, 2, 31, 32, 33, 100_000):
        test = smoothing.sequential_test(0.6, max_samples=max_samples, alpha=0.05)
        assert test.num_samples[-1] == max_samples
        assert np.all(np.diff(test.num_samples) > 0)
        assert all(len(row) == len(test.num_samples) for row in test)
        assert np.all(test.refute_to < test.certify_from)


def test_a_plan_cannot_be_written_over():
    test = smoothing.sequential_test(0.6, max_samples=100, alpha=0.05)
    with pytest.raises(ValueError, match="read-only"):
        test.certify_from[0] = 0


class TestBadInput:
    def plan(self, threshold=0.8, **settings):
        settings = {"max_samples": 1000, "alpha": 0.01} | settings
        return smoothing.sequential_test(threshold, **settings)

    @pytest.mark.parametrize("bad", [0, 1, -0.5, np.nan])
    def test_threshold(self, bad):
        with pytest.raises(ValueError, match="threshold must lie strictly between 0 and 1"):
            self.plan(bad)

    def test_alpha(self):
        with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
            self.plan(alpha=0)

    def test_max_samples(self):
        with pytest.raises(ValueError, match="max_samples must lie in"):
            self.plan(max_samples=0)
        with pytest.raises(TypeError, match="max_samples must be an integer"):
            self.plan(max_samples=1e5)

    def test_rule(self):
        with pytest.raises(ValueError, match="rule must be one of spending, betting.*'peeking'"):
            self.plan(rule="peeking")

    def test_give_up(self):
        with pytest.raises(ValueError, match=r"give_up must lie in \[0, 1\), got 1"):
            self.plan(give_up=1)
        with pytest.raises(TypeError, match="give_up must be a real number"):
            self.plan(give_up="soon")

    def test_counts(self):
        with pytest.raises(ValueError, match="counts must lie in"):
            smoothing.confidence_sequence_lower(6, 5, alpha=0.1)
        with pytest.raises(TypeError, match="must be integers"):
            smoothing.confidence_sequence_upper(0.5, 5, alpha=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.6, 0.9986])
@pytest.mark.parametrize("rule", RULES)
def test_validity_over_many_streams_at_the_settings_of_practice(rule, threshold):
    """A million streams to N = 100,000 at alpha = 0.001."""
    test = smoothing.sequential_test(threshold, max_samples=100_000, alpha=0.001, rule=rule)
    rng = np.random.default_rng(28)
    certified = refuted = 0
    for _ in range(10):
        verdict, _ = run(test, threshold, 100_000, rng)
        certified += (verdict == Verdict.CERTIFIED).sum()
        refuted += (verdict == Verdict.REFUTED).sum()
    assert_sound(certified, 10**6, 0.001)
    assert_sound(refuted, 10**6, 0.001)
    assert certified + refuted > 50, "a test that never decides would pass"
