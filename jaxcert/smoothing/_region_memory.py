"""Certified regions that were promised, kept disjoint between classes."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks, _storage
from jaxcert.smoothing import _region_geometry as geometry
from jaxcert.smoothing._certificate import ABSTAIN
from jaxcert.smoothing._region_answer import (
    RegionAnswer,
    checked_claims,
    checked_points,
    checked_scales,
)
from jaxcert.smoothing._region_index import RegionIndex, reach_of

_KIND = "regions of a smoothed classifier"
_COLUMNS = ("inputs", "labels", "radii")


@dataclasses.dataclass(frozen=True, eq=False)
class RegionMemory:
    r"""The certified regions of a classifier whose noise depends on the input.

    Where the noise is chosen for each input, a certificate at x says nothing about the answer at a
    neighbour, for which other noise is chosen. The memory makes it say so: it stores the regions
    that were promised, answers their class for every later point inside, and lets no region of
    another class meet them.

    .. math::
        R'(x) = \min\bigl(R(x), \min_{i: c_i \neq c} (\|x - x_i\| - R_i)\bigr), \qquad
        \text{and } c_i \text{ where } \|x - x_i\| \leq R_i

    A memory is a value: `insert` and `merge` return another one and leave it as it is. It is a
    pytree of NumPy arrays on the host; its radii must stay float64, so it is refused after a JAX
    transformation that narrowed them. What it answers depends on the order of the insertions: of
    two regions that disagree the first one wins.

    Attributes:
      inputs: `[n, d]`, the centres, in the order of insertion.
      labels: int64 `[n]`.
      radii: float64 `[n]`.
      scales: float32 `[n, d]`, half-axes of each region at radius 1; None for balls.
      spent: float64 `[]`, the sum of the failure probabilities of all certificates that were
        offered, stored or not: by the union bound, with probability `1 - spent` every stored region
        is one on which the classifier smoothed with the noise of its centre gives its label.
      shape: the shape of one input.
      norm: `"l2"` or `"l1"`.
      fingerprint: what identifies the classifier.

    Example:
      >>> import numpy as np
      >>> from jaxcert import smoothing
      >>> memory = smoothing.RegionMemory.init((2,), norm="l2", fingerprint="a model")
      >>> inputs = np.array([[0.0, 0.0], [3.0, 0.0], [0.5, 0.0]], np.float32)
      >>> memory, answer = memory.insert(inputs, [0, 1, 1], [1.0, 2.5, 0.5], alpha=0.001)
      >>> answer.label, answer.radius.round(6), answer.overridden
      (array([0, 1, 0]), array([1. , 2. , 0.5]), array([False, False,  True]))
      >>> memory.query(np.array([[1.5, 0.0], [0.0, -2.0]], np.float32)).label
      array([ 1, -1])

    References:
      Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022, arXiv:2012.04351.
      Sukenik, Kuvshinov, Guennemann, "Intriguing Properties of Input-Dependent Randomized
      Smoothing", 2022, arXiv:2110.05365. Eiras et al., "ANCER: Anisotropic Certification via
      Sample-wise Volume Maximization", 2022, arXiv:2107.04570.
    """

    inputs: Any
    labels: Any
    radii: Any
    scales: Any
    spent: Any
    shape: tuple[int, ...]
    norm: str
    fingerprint: str
    _index: RegionIndex | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def init(
        cls,
        shape: tuple[int, ...],
        *,
        norm: str = "l2",
        fingerprint: str,
        anisotropic: bool = False,
        dtype: Any = np.float32,
    ) -> RegionMemory:
        """Return an empty memory.

        Args:
          shape: of one input, without the batch axis.
          norm: of the regions: `"l2"` for Gaussian, `"l1"` for uniform and Laplace noise.
          fingerprint: what identifies the classifier, such as `models.fingerprint(classify)`.
          anisotropic: whether regions have half-axes of their own instead of being balls.
          dtype: of the inputs.

        Returns:
          A `RegionMemory`.

        Raises:
          TypeError, ValueError: if an argument does not fit.
        """
        shape = tuple(_checks.positive_integer("shape", length) for length in shape)
        if not shape:
            raise ValueError("shape must have at least one axis, got ()")
        if norm not in geometry.NORMS:
            raise ValueError(f"norm must be one of {', '.join(geometry.NORMS)}, got {norm!r}")
        if not isinstance(fingerprint, str) or not fingerprint:
            raise TypeError(f"fingerprint must be text, got {fingerprint!r}")
        if not np.issubdtype(dtype, np.floating):
            raise TypeError(f"dtype must be floating point, got {dtype}")
        index = RegionIndex(shape, norm, np.dtype(dtype), anisotropic)
        return cls._of(index, 0, np.float64(0.0), fingerprint)

    @classmethod
    def _of(
        cls, index: RegionIndex, count: int, spent: np.floating[Any], fingerprint: str
    ) -> RegionMemory:
        inputs, labels, radii = (index.column(name, count) for name in _COLUMNS)
        scales = index.column("scales", count) if "scales" in index.columns else None
        return cls(
            inputs, labels, radii, scales, spent, index.shape, index.norm, fingerprint, index
        )

    def __len__(self) -> int:
        """The number of stored regions."""
        return len(self.labels)

    def query(self, inputs: ArrayLike) -> RegionAnswer:
        """Look inputs up: the class of the stored region that holds each.

        Args:
          inputs: floating `[b, *shape]`.

        Returns:
          A `RegionAnswer`: `ABSTAIN` and radius 0 outside all regions; with scales the radius is
          for the half-axes of the region that holds the input.

        Raises:
          TypeError, ValueError: if an argument does not fit.

        Example:
          >>> import numpy as np
          >>> from jaxcert import smoothing
          >>> memory = smoothing.RegionMemory.init((1,), fingerprint="a model")
          >>> memory, _ = memory.insert(np.ones((1, 1), np.float32), [4], [0.5], alpha=0.001)
          >>> memory.query(np.array([[1.25], [2.0]], np.float32)).radius.round(6)
          array([0.25, 0.  ])
        """
        index = self._search()
        points = checked_points(inputs, self.shape, self.inputs.dtype)
        batch = len(points)
        labels, radii = np.full(batch, ABSTAIN, np.int64), np.zeros(batch)
        for row, point in enumerate(points):
            found = index.candidates(len(self), point, 0.0)
            offsets = point.astype(np.float64) - self.inputs[found].astype(np.float64)
            inside, room = self._remaining(found, offsets, None)
            if inside.any():
                first = int(np.argmax(inside))
                labels[row] = self.labels[found[first]]
                radii[row] = room.max() if self.scales is None else room[first]
        is_inside = labels != ABSTAIN
        none = np.zeros(batch, bool)
        return RegionAnswer(labels, radii, is_inside, none, none, none)

    def insert(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        radii: ArrayLike,
        *,
        alpha: float,
        scales: ArrayLike | None = None,
    ) -> tuple[RegionMemory, RegionAnswer]:
        """Offer certified regions one after another, each to the memory that the former left.

        Inside a stored region its class is the answer, whatever was certified. Elsewhere the region
        is cut to keep clear of all regions of other classes, and stored. Abstentions, and regions
        that a stored one of their class holds, add nothing.

        Args:
          inputs: floating `[b, *shape]`.
          labels: integers `[b]`, classes or `ABSTAIN`.
          radii: `[b]`, at least 0.
          alpha: the failure probability of each certificate, in (0, 1).
          scales: float32 `[b, *shape]`, half-axes at radius 1, for a memory made with
            `anisotropic`.

        Returns:
          The memory with these regions, and a `RegionAnswer` for each input.

        Raises:
          TypeError, ValueError: if an argument does not fit.

        Example:
          >>> import numpy as np
          >>> from jaxcert import smoothing
          >>> memory = smoothing.RegionMemory.init((1,), fingerprint="a model")
          >>> inputs = np.array([[0.0], [2.0]], np.float32)
          >>> memory, answer = memory.insert(inputs, [0, 1], [0.5, 2.0], alpha=0.001)
          >>> len(memory), answer.radius.round(6), float(memory.spent)
          (2, array([0.5, 1.5]), 0.002)
        """
        alpha = _checks.probability("alpha", alpha)
        points = checked_points(inputs, self.shape, self.inputs.dtype)
        classes, sizes = checked_claims(labels, radii, len(points))
        axes = checked_scales(scales, (len(points), *self.shape), wanted=self.scales is not None)
        memory: RegionMemory = self
        answers = []
        index, count = self._search(), len(self)
        for row, point in enumerate(points):
            own = None if axes is None else axes[row]
            answer = memory._answer(point, int(classes[row]), float(sizes[row]), own)
            answers.append(answer)
            if answer[-1]:
                label, radius = np.array(answer[:1], np.int64), np.array(answer[1:2], np.float64)
                index = index.extend(
                    count, point[None], label, radius, None if own is None else own[None]
                )
                count += 1
                memory = RegionMemory._of(index, count, self.spent, self.fingerprint)
        spent = np.float64(self.spent + len(points) * alpha)
        kinds = (np.int64, np.float64, bool, bool, bool, bool)
        fields = [
            np.array(column, kind)
            for column, kind in zip(zip(*answers, strict=True), kinds, strict=True)
        ]
        return dataclasses.replace(memory, spent=spent), RegionAnswer(*fields)

    def _answer(
        self, point: np.ndarray, label: int, radius: float, scales: np.ndarray | None
    ) -> tuple[int, float, bool, bool, bool, bool]:
        """The fields of a `RegionAnswer` for one certificate."""
        if label == ABSTAIN:
            radius = 0.0
        reach = radius if scales is None else float(reach_of(np.array(radius), scales))
        found = self._search().candidates(len(self), point, reach)
        offsets = point.astype(np.float64) - self.inputs[found].astype(np.float64)
        inside, room = self._remaining(found, offsets, scales)
        theirs = self.labels[found]
        kept = 0.0
        if inside.any():
            stored_label = int(theirs[np.argmax(inside)])
            kept = float(room.max())
            if label != stored_label:
                return stored_label, kept, True, label != ABSTAIN, False, False
        elif label == ABSTAIN:
            return ABSTAIN, 0.0, False, False, False, False
        others = theirs != label
        limits = geometry.disjoint_radii(
            offsets[others],
            self.radii[found][others],
            None if scales is None else self.scales[found][others].astype(np.float64),
            None if scales is None else scales.astype(np.float64),
            self.norm,
        )
        disjoint = min(radius, float(limits.min(initial=math.inf)))
        is_new = not inside.any() or disjoint > kept
        return label, max(disjoint, kept), bool(inside.any()), False, disjoint < radius, is_new

    def _remaining(
        self, found: np.ndarray, offsets: np.ndarray, scales: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        theirs = None if self.scales is None else self.scales[found].astype(np.float64)
        own = theirs if scales is None else scales.astype(np.float64)
        return geometry.remaining(offsets, self.radii[found], theirs, own, self.norm)

    def merge(self, other: RegionMemory) -> tuple[RegionMemory, RegionAnswer]:
        """Add the regions of another memory of the same classifier, those of this one first.

        Where the two disagree one promise must go: regions of `other` are cut, and dropped where
        their centre lies in a region of another class.

        Args:
          other: a memory with the same shape, norm, kind of regions and fingerprint.

        Returns:
          The merged memory, and a `RegionAnswer` for each region of `other`: `overridden` where it
          was dropped, `shrunk` where it was cut.

        Raises:
          ValueError: if the memories do not belong together.
        """
        self.check(other.shape, norm=other.norm, fingerprint=other.fingerprint)
        if (self.scales is None) != (other.scales is None):
            raise ValueError("memories of balls and of regions with scales cannot be merged")
        spent = np.float64(self.spent + other.spent)
        if not len(other):
            empty = RegionAnswer(np.zeros(0, np.int64), np.zeros(0), *[np.zeros(0, bool)] * 4)
            return dataclasses.replace(self, spent=spent), empty
        shape = (-1, *self.shape)
        scales = None if other.scales is None else other.scales.reshape(shape)
        memory, answer = self.insert(
            other.inputs.reshape(shape), other.labels, other.radii, alpha=0.5, scales=scales
        )
        return dataclasses.replace(memory, spent=spent), answer

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the memory to a checksummed folder, whole or not at all.

        Args:
          path: of the folder.
          overwrite: replace a folder that is there.

        Raises:
          FileExistsError: if `path` exists and `overwrite` is false.
        """
        arrays = {name: np.asarray(getattr(self, name)) for name in _COLUMNS}
        if self.scales is not None:
            arrays["scales"] = self.scales
        settings = {
            "kind": _KIND, "count": len(self), "dtype": np.dtype(self.inputs.dtype).name,
            "shape": list(self.shape), "norm": self.norm, "anisotropic": self.scales is not None,
            "fingerprint": self.fingerprint, "spent": float(self.spent).hex(),
        }  # fmt: skip
        # Orbax does not write empty arrays.
        arrays = arrays if len(self) else {"empty": np.zeros(1)}
        _storage.write(path, arrays, settings, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RegionMemory:
        """Read back what `save` wrote.

        Args:
          path: of the folder.

        Returns:
          An equal memory.

        Raises:
          FileNotFoundError, ValueError: if the folder is missing, damaged or holds something else.
        """
        arrays, settings = _storage.read(path)
        if settings.get("kind") != _KIND:
            raise ValueError(f"{path} must hold {_KIND}, got {settings.get('kind')!r}")
        memory = cls.init(
            tuple(settings["shape"]), norm=settings["norm"], fingerprint=settings["fingerprint"],
            anisotropic=settings["anisotropic"], dtype=np.dtype(settings["dtype"]),
        )  # fmt: skip
        spent = np.float64(float.fromhex(settings["spent"]))
        if not settings["count"]:
            return dataclasses.replace(memory, spent=spent)
        inputs, labels, radii = (arrays[name] for name in _COLUMNS)
        index = memory._search().extend(0, inputs, labels, radii, arrays.get("scales"))
        return cls._of(index, settings["count"], spent, memory.fingerprint)

    def check(self, shape: tuple[int, ...], *, norm: str, fingerprint: str) -> None:
        """Raise unless the memory is one of such inputs, norm and classifier.

        Args:
          shape: of one input.
          norm: of the regions.
          fingerprint: of the classifier.

        Raises:
          ValueError: naming what differs.
        """
        wanted = {"shape": tuple(shape), "norm": norm, "fingerprint": fingerprint}
        for name, value in wanted.items():
            own = getattr(self, name)
            if own != value:
                other = "model" if name == "fingerprint" else name
                raise ValueError(
                    f"memory belongs to another {other}: its {name} is {own!r}, expected {value!r}"
                )

    def _search(self) -> RegionIndex:
        """The index, rebuilt where the memory came out of a transformation of pytrees."""
        if self._index is not None:
            return self._index
        if not all(_checks.is_concrete(leaf) for leaf in jax.tree.leaves(self)):
            raise TypeError("a RegionMemory decides on the host and cannot be used while tracing")
        radii = np.asarray(self.radii)
        if radii.dtype != np.float64 or np.asarray(self.spent).dtype != np.float64:
            raise TypeError(f"radii of a RegionMemory must be float64, got {radii.dtype}")
        inputs, scales = np.asarray(self.inputs), self.scales
        index = RegionIndex(self.shape, self.norm, inputs.dtype, scales is not None)
        labels = np.asarray(self.labels, np.int64)
        index.extend(0, inputs, labels, radii, None if scales is None else np.asarray(scales))
        rebuilt = RegionMemory._of(index, len(radii), np.float64(self.spent), self.fingerprint)
        for field in ("inputs", "labels", "radii", "scales", "spent", "_index"):
            object.__setattr__(self, field, getattr(rebuilt, field))
        return index


jax.tree_util.register_dataclass(
    RegionMemory,
    data_fields=["inputs", "labels", "radii", "scales", "spent"],
    meta_fields=["shape", "norm", "fingerprint"],
    drop_fields=["_index"],
)
