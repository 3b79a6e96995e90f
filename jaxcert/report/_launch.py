"""Certifying a group of images in one launch, and writing down what came out."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import smoothing
from jaxcert._classifier import Classifier
from jaxcert.data import Dataset

from ._rows import Row


class Launcher:
    """Certifies groups of images, always in launches of one shape."""

    def __init__(
        self,
        key: jax.Array,
        classify: Classifier,
        dataset: Dataset,
        noise: smoothing.Noise,
        num_samples: int,
        selection_samples: int,
        alpha: float,
        tolerance: float | None,
        chunk_size: int | None,
        mesh: jax.sharding.Mesh | None,
    ) -> None:
        self._key, self._classify, self._dataset = key, classify, dataset
        self._noise, self._num_samples, self._alpha = noise, num_samples, alpha
        self._selection_samples, self._tolerance = selection_samples, tolerance
        self._chunk_size, self._mesh = chunk_size, mesh

    def rows(self, places: np.ndarray, size: int) -> list[Row]:
        """Certify the images at these places of the data set, padded to `size` images."""
        started = time.perf_counter()
        # The last group is filled up with its last image, so that nothing compiles twice.
        padded = np.concatenate([places, np.repeat(places[-1:], size - places.size)])
        certificate = self._certify(padded)
        seconds = (time.perf_counter() - started) / places.size
        rows = []
        for position, place in enumerate(places):
            label = int(self._dataset.labels[place])
            predict = int(certificate.label[position])
            rows.append(
                Row(
                    index=int(self._dataset.ids[place]),
                    label=label,
                    predict=predict,
                    radius=float(certificate.radius[position]),
                    correct=predict == label,
                    time=seconds,
                    counts=_sparse(certificate.counts[position]),
                    samples=int(certificate.counts[position].sum()),
                    alpha=self._alpha,
                    noise=str(self._noise_of(place)),
                    selection=_sparse(certificate.selection_counts[position]),
                )
            )
        return rows

    def _certify(self, places: np.ndarray) -> smoothing.Certificate | smoothing.AdaptiveCertificate:
        images, ids = self._dataset.images[places], self._dataset.ids[places]
        if self._tolerance is not None:
            return smoothing.certify_adaptive(
                self._key, self._classify, images, noise=self._noise_of(places),
                num_classes=self._dataset.num_classes, tolerance=self._tolerance,
                max_samples=self._num_samples, selection_samples=self._selection_samples,
                alpha=self._alpha, ids=ids, chunk_size=self._chunk_size, mesh=self._mesh,
            )  # fmt: skip
        return smoothing.certify(
            self._key, self._classify, images, noise=self._noise_of(places),
            num_classes=self._dataset.num_classes, num_samples=self._num_samples,
            selection_samples=self._selection_samples, alpha=self._alpha, ids=ids,
            chunk_size=self._chunk_size, mesh=self._mesh,
        )  # fmt: skip

    def _noise_of(self, places: ArrayLike) -> smoothing.Noise:
        scale = self._noise.scale
        if np.ndim(scale) == 0:
            return self._noise
        return dataclasses.replace(self._noise, scale=scale[np.asarray(places)])


def _sparse(counts: np.ndarray) -> dict[int, int]:
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
