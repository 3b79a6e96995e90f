"""A small data set and classifier whose runs take milliseconds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import data, report, smoothing


def _classify(weights: jax.Array, images: jax.Array) -> jax.Array:
    return images.reshape(images.shape[0], -1) @ weights


@pytest.fixture(scope="session")
def classify() -> jax.tree_util.Partial:
    """A linear classifier over three classes for images of 2 x 2 pixels."""
    weights = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    return jax.tree_util.Partial(_classify, jnp.asarray(weights))


@pytest.fixture(scope="session")
def dataset() -> data.Dataset:
    """Seven images out of a set of 70, with the ids 0, 10, ..., 60."""
    generator = np.random.default_rng(5)
    return data.Dataset(
        images=generator.uniform(size=(7, 2, 2, 1)).astype(np.float32),
        labels=generator.integers(0, 3, size=7).astype(np.int32),
        name="toy",
        split="test",
        num_classes=3,
        positions=np.arange(0, 70, 10),
    )


@pytest.fixture
def run(classify, dataset, tmp_path) -> Callable[..., report.Log]:
    """Certify the data set with small settings, any of which a test may change."""

    def certify(**changes) -> report.Log:
        settings = {
            "folder": tmp_path / "run",
            "noise": smoothing.gaussian(0.25),
            "num_samples": 200,
            "selection_samples": 10,
            "progress": False,
            "images_per_launch": 3,
        }
        settings |= changes
        key = settings.pop("key", jax.random.key(11))
        chosen = settings.pop("dataset", dataset)
        return report.certify_run(key, settings.pop("classify", classify), chosen, **settings)

    return certify


@pytest.fixture
def make_row() -> Callable[..., report.Row]:
    """Make a consistent row: 200 samples, 190 of them for class 7."""

    def make(index: int = 0, **changes) -> report.Row:
        counts, selection = {3: 10, 7: 190}, {7: 10}
        noise, alpha = smoothing.gaussian(0.25), 0.001
        certificate = smoothing.certificate_from_counts(
            [[selection.get(label, 0) for label in range(10)]],
            [[counts.get(label, 0) for label in range(10)]],
            noise=noise,
            alpha=alpha,
        )
        values = {
            "index": index,
            "label": 7,
            "predict": 7,
            "radius": float(certificate.radius[0]),
            "correct": True,
            "time": 0.25,
            "counts": counts,
            "samples": 200,
            "alpha": alpha,
            "noise": str(noise),
            "selection": selection,
        }
        return report.Row(**{**values, **changes})

    return make
