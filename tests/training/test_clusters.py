import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import data, models, prototypes, training


@pytest.fixture
def key():
    return jax.random.key(5)


def exact_loss(features, labels, samples, gap):
    """The loss written out, one image at a time, in float64."""
    features = np.float64(features)
    centres = features.reshape(-1, samples, features.shape[1]).mean(axis=1)
    classes = labels[::samples]
    owns = [((f - centres[j // samples]) ** 2).sum() for j, f in enumerate(features)]
    variance = sum(owns) / (len(features) - 1)
    terms = []
    for j, (feature, own) in enumerate(zip(features, owns, strict=True)):
        rivals = sum(
            np.exp(-((feature - centre) ** 2).sum() / (2 * variance))
            for centre, label in zip(centres, classes, strict=True)
            if label != labels[j]
        )
        terms.append(max(0.0, -np.log(np.exp(-own / (2 * variance) - gap) / rivals)))
    return np.mean(terms), variance


@pytest.mark.parametrize("gap", [0.5, 12.5])
def test_loss_is_the_formula(key, gap):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 0, 2], 5)
    features = np.float32(generator.normal(size=(20, 3)) + labels[:, None])
    loss, metrics = training.magnet_loss(
        key, lambda x: x, jnp.asarray(features), jnp.asarray(labels), noise=None,
        samples_per_cluster=5, gap=gap,
    )  # fmt: skip
    expected, variance = exact_loss(features, labels, 5, gap)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["variance"], variance, rtol=1e-5)


def test_own_class_takes_no_part_in_the_denominator(key):
    """A cluster of the same class moved elsewhere changes nothing but its own terms."""
    labels = jnp.repeat(jnp.array([0, 0, 1]), 4)
    generator = np.random.default_rng(1)
    features = jnp.asarray(generator.normal(size=(12, 2)), jnp.float32)

    def terms(moved):
        squares = ((moved[:, None] - moved.reshape(3, 4, 2).mean(axis=1)[None]) ** 2).sum(axis=2)
        own = squares[jnp.arange(12), jnp.arange(12) // 4]
        is_other = jnp.array([0, 0, 1])[None] != labels[:, None]
        return training._clusters._hinges(own, squares, is_other, 1.0, 12.5)

    before, after = terms(features), terms(features.at[4:8].add(7.0))
    np.testing.assert_allclose(after[:4], before[:4], rtol=1e-5)
    assert np.abs(after[8:] - before[8:]).max() > 0.1


def test_gradient_is_finite_where_features_coincide(key):
    def loss(scale):
        return training.magnet_loss(
            key, lambda x: scale * x, jnp.zeros((8, 2)), jnp.repeat(jnp.array([0, 1]), 4),
            noise=None, samples_per_cluster=4,
        )[0]  # fmt: skip

    assert np.isfinite(loss(1.0))
    assert np.isfinite(jax.grad(loss)(1.0))


def test_batches_are_clusters_beside_their_nearest_rivals(key):
    """Classes in a row: the rivals of a seed are its neighbours of another class."""
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(4), 30)
    features = np.float32(10 * labels[:, None] + generator.normal(size=(120, 1)))
    rows = training.cluster_batches(
        key, lambda x: x, features, labels, num_classes=4, batch_size=12, clusters_per_class=1,
        samples_per_cluster=4,
    )  # fmt: skip
    batches = labels[rows].reshape(-1, 3, 4)
    assert len(rows) == 120
    assert (batches.min(axis=2) == batches.max(axis=2)).all()
    for seed, *rivals in batches[:, :, 0]:
        expected = sorted(set(range(4)) - {seed}, key=lambda other: abs(other - seed))[:2]
        assert {abs(r - seed) for r in rivals} == {abs(r - seed) for r in expected}
    for cluster in rows.reshape(-1, 4):
        assert len(set(cluster)) == 4
    again = training.cluster_batches(
        key, lambda x: x, features, labels, num_classes=4, batch_size=12, clusters_per_class=1,
        samples_per_cluster=4,
    )  # fmt: skip
    np.testing.assert_array_equal(rows, again)


def test_divergence_is_least_without_attack_and_grows_with_the_radius(key):
    generator = np.random.default_rng(3)
    labels = jnp.repeat(jnp.array([0, 1, 0, 2]), 5)
    images = jnp.asarray(generator.uniform(size=(20, 6)), jnp.float32)
    weights = jnp.asarray(generator.normal(size=(6, 3)), jnp.float32)

    def divergence(radius):
        loss, metrics = training.magnet_trades_loss(
            key, lambda x: x @ weights, images, labels, noise=None, samples_per_cluster=5,
            radius=radius, step_size=2 * radius, weight=3.0,
        )  # fmt: skip
        magnet, _ = training.magnet_loss(
            key, lambda x: x @ weights, images, labels, noise=None, samples_per_cluster=5
        )
        np.testing.assert_allclose(loss, magnet + 3 * metrics["divergence"], rtol=1e-5)
        return float(metrics["divergence"])

    # Without a move this is the entropy of the answers, by class.
    features = np.float64(images @ weights)
    centres = features.reshape(4, 5, 3).mean(axis=1)
    squares = ((features[:, None] - centres[None]) ** 2).sum(axis=2)
    variance = squares[np.arange(20), np.arange(20) // 5].sum() / 19
    likelihoods = np.exp(-squares / (2 * variance))
    by_class = np.stack(
        [likelihoods[:, [0, 2]].sum(axis=1), likelihoods[:, 1], likelihoods[:, 3]], axis=1
    )
    p = by_class / by_class.sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1).mean()
    values = [divergence(radius) for radius in (1e-6, 0.1, 0.3)]
    np.testing.assert_allclose(values[0], entropy, rtol=1e-4)
    assert values[0] < values[1] < values[2]


def digits(count=600):
    whole = data.load("digits", "train")
    return whole._replace(images=whole.images[:count], labels=whole.labels[:count])


SETTINGS = {"samples_per_cluster": 6}


def train(network, dataset, **settings):
    arrange = functools.partial(training.cluster_batches, num_classes=10, batch_size=72, **SETTINGS)
    return training.train(
        jax.random.key(9), network, dataset,
        **{"num_epochs": 8, "batch_size": 72, "learning_rate": 3e-3, "progress": False,
           "loss": functools.partial(training.magnet_loss, **SETTINGS), "arrange": arrange}
        | settings,
    )  # fmt: skip


def encoder(features=8, seed=0):
    return models.create(
        "mlp", input_shape=(8, 8, 1), num_classes=features, mean=0.3, std=0.4, seed=seed
    )


def held_out_accuracy(network, dataset):
    test = data.load("digits", "test")
    encode = models.from_nnx(network)
    table = prototypes.fit_prototypes(
        jax.random.key(1), encode(dataset.images), dataset.labels, num_classes=10,
        clusters_per_class=2,
    )  # fmt: skip
    classify = prototypes.classifier(encode, table, num_classes=10)
    return float((classify(test.images).argmax(axis=1) == test.labels).mean())


def test_training_by_clusters_makes_nearest_centres_a_good_classifier():
    network, dataset = encoder(), digits()
    before = held_out_accuracy(network, dataset)
    history = train(network, dataset).history
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    after = held_out_accuracy(network, dataset)
    assert after > 0.85
    assert after > before + 0.05


def test_a_killed_run_continues_to_the_same_weights(tmp_path, monkeypatch):
    whole = encoder()
    train(whole, digits(216), num_epochs=3)
    write = training._train._Checkpoints.write

    def end_after_the_first(self, state, history):
        write(self, state, history)
        raise KeyboardInterrupt

    resumed = encoder()
    with monkeypatch.context() as patch:
        patch.setattr(training._train._Checkpoints, "write", end_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            train(resumed, digits(216), num_epochs=3, checkpoint_dir=tmp_path / "run")
    train(resumed, digits(216), num_epochs=3, checkpoint_dir=tmp_path / "run")
    prints = [models.fingerprint(models.from_nnx(one)) for one in (whole, resumed)]
    assert prints[0] == prints[1]
    with pytest.raises(ValueError, match="arrange was .*cluster_batches.* and is now None"):
        train(resumed, digits(216), num_epochs=3, checkpoint_dir=tmp_path / "run", arrange=None)


def too_few(key, classify, images, labels):
    return np.zeros(3, int)


def out_of_range(key, classify, images, labels):
    return np.full(216, 216)


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (too_few, r"arrange must return integers of shape \(216,\)"),
        (out_of_range, r"arrange must return rows in \[0, 215\]"),
    ],
)
def test_an_arrangement_that_does_not_fit_is_refused(arrange, message):
    with pytest.raises(ValueError, match=message):
        train(encoder(), digits(216), num_epochs=1, arrange=arrange)


def test_sizes_that_do_not_fit_are_named(key):
    features, labels = jnp.zeros((10, 2)), jnp.zeros(10, int)
    with pytest.raises(ValueError, match="whole clusters of samples_per_cluster = 4"):
        training.magnet_loss(key, lambda x: x, features, labels, noise=None, samples_per_cluster=4)
    with pytest.raises(ValueError, match=r"a number of clusters in \[2, 3\], got 10"):
        training.cluster_batches(
            key, lambda x: x, np.zeros((10, 2)), np.zeros(10, int), num_classes=2, batch_size=10
        )
