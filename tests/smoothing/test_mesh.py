import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from jaxcert import report, smoothing
from jaxcert.smoothing import _mesh, _sampling
from tests.smoothing import counts_on_devices

ROOT = Path(__file__).resolve().parents[2]
NOISE = smoothing.gaussian(0.5)


@pytest.fixture(scope="module")
def expected():
    return counts_on_devices.counts()


def on_devices(number, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.smoothing.counts_on_devices", *arguments],
        cwd=ROOT, env={**os.environ, "JAX_NUM_CPU_DEVICES": str(number), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def result_of(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def rows_without_time(folder):
    lines = (folder / "log.tsv").read_text().splitlines()
    return [line.split("\t")[:5] + line.split("\t")[6:] for line in lines]


@pytest.mark.parametrize(
    "layouts", [["2x4"], pytest.param(["1x1", "1x2", "2x2", "8x1"], marks=pytest.mark.slow)]
)
def test_counts_and_logs_are_the_same_on_one_two_four_and_eight_devices(
    expected, tmp_path, layouts
):
    result = result_of(on_devices(8, "--layouts", *layouts, "--pmap", "--runs", str(tmp_path)))
    assert result.pop("devices") == 8
    assert result.keys() == {
        *layouts,
        *(f"pmap {math.prod(map(int, layout.split('x')))}" for layout in layouts),
    }
    for layout, counts in result.items():
        assert counts == expected, layout
    for layout in layouts:
        assert rows_without_time(tmp_path / layout) == rows_without_time(tmp_path / "alone")
        assert report.recheck(tmp_path / layout) == (3, 3, (), 0)


def test_counts_are_the_same_on_a_mesh_across_two_processes(expected):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = [
        on_devices(2, "--layouts", "2x2", "1x4", "--processes", port, str(index))
        for index in range(2)
    ]
    for process in processes:
        assert result_of(process) == {"devices": 4, "2x2": expected, "1x4": expected}


class TestSplitWeights:
    """Weights that the caller has split over a third axis stay so, and the counts are the same."""

    WIDTH = 512

    @staticmethod
    def apply(weights, inputs):
        first, second = weights
        return jax.nn.relu(inputs @ first) @ second

    def weights(self):
        generator = np.random.default_rng(0)
        return tuple(
            jnp.asarray(generator.normal(size=shape).astype(np.float32))
            for shape in ((12, self.WIDTH), (self.WIDTH, 3))
        )

    def split(self, mesh):
        specs = (jax.P(None, "model"), jax.P("model", None))
        placed = [
            jax.device_put(leaf, NamedSharding(mesh, spec))
            for leaf, spec in zip(self.weights(), specs, strict=True)
        ]
        return jax.tree_util.Partial(self.apply, tuple(placed))

    @pytest.fixture
    def inputs(self, key):
        return jax.random.uniform(key, (2, 12))

    @pytest.fixture
    def mesh(self, request):
        if len(jax.devices()) < 4:
            pytest.skip("needs four devices, real or simulated (JAX_NUM_CPU_DEVICES=4)")
        kind = getattr(request, "param", AxisType.Auto)
        return jax.make_mesh((1, 2, 2), ("images", "samples", "model"), axis_types=(kind,) * 3)

    def settings(self):
        return {"noise": NOISE, "num_samples": 301, "num_classes": 3}

    @pytest.mark.parametrize("mesh", [AxisType.Auto, AxisType.Explicit], indirect=True)
    def test_counts(self, key, inputs, mesh):
        alone = jax.tree_util.Partial(self.apply, self.weights())
        expected = np.asarray(smoothing.class_counts(key, alone, inputs, **self.settings()))
        count = lambda: smoothing.class_counts(  # noqa: E731
            key, self.split(mesh), inputs, mesh=mesh, **self.settings()
        )
        np.testing.assert_array_equal(count(), expected)
        # A mesh that the caller has set changes nothing.
        with jax.set_mesh(mesh):
            np.testing.assert_array_equal(count(), expected)
        assert len(np.unique(expected)) > 3

    def test_the_other_verbs(self, key, inputs, mesh):
        alone = jax.tree_util.Partial(self.apply, self.weights())
        settings = {"noise": NOISE, "num_classes": 3}
        certificate = smoothing.certify(key, alone, inputs, num_samples=500, **settings)
        for results in zip(
            *(
                (
                    smoothing.decide_radius(
                        key, classify, inputs, radius=0.1, max_samples=500, mesh=where, **settings
                    ),
                    smoothing.recertify(
                        key, classify, classify, inputs, certificate=certificate, noise=NOISE,
                        num_samples=300, direct_above=1.0, mesh=where,
                    ),
                )
                for classify, where in ((alone, None), (self.split(mesh), mesh))
            ),
            strict=True,
        ):  # fmt: skip
            jax.tree.map(np.testing.assert_array_equal, *results)

    def compiled(self, key, inputs, mesh, *, place_weights):
        """The program of `class_counts` and where it has its arguments."""
        _, shape, operands = _sampling.prepare(
            key, self.split(mesh), inputs, **self.settings(), ids=None, chunk_size=10,
            images_axis=1, samples_axis=2,
        )  # fmt: skip
        placed = (
            _mesh.place(mesh, operands[0], jax.P()),
            place_weights(mesh, operands[1]),
            *_mesh.place(mesh, operands[2:], _mesh.by_image(mesh)),
        )
        return _sampling._count.lower(
            *placed, 301, num_classes=3, shape=shape, mesh=mesh
        ).compile()  # fmt: skip

    def test_no_device_has_a_full_copy(self, key, inputs, mesh):
        full = sum(leaf.nbytes for leaf in self.weights())
        split = self.compiled(key, inputs, mesh, place_weights=_mesh.place_weights)
        weights = split.input_shardings[0][1].args[0]
        assert [sharding.spec for sharding in weights] == [
            jax.P(None, "model"), jax.P("model", None),
        ]  # fmt: skip
        other = sum(leaf.nbytes for leaf in jax.tree.leaves((inputs, NOISE))) + 100
        assert split.memory_analysis().argument_size_in_bytes < full / 2 + other
        # Nor does the program gather one.
        assert "all-gather" not in split.as_text()
        assert f"f32[12,{self.WIDTH}]" not in split.as_text()
        # Copies everywhere, as on meshes without such an axis, are found out by the same checks.
        copied = self.compiled(
            key, inputs, mesh, place_weights=lambda *given: _mesh.place(*given, jax.P())
        )
        assert copied.memory_analysis().argument_size_in_bytes > full
        assert f"f32[12,{self.WIDTH}]" in copied.as_text()

    def test_weights_split_over_other_axes_are_gathered(self, key, inputs, mesh):
        """Only axes that split no work can hold parts; a wrong sum would show in the counts."""
        first, second = self.weights()
        alone = jax.tree_util.Partial(self.apply, (first, second))
        by_both = NamedSharding(mesh, jax.P(None, ("samples", "model")))
        placed = jax.tree_util.Partial(self.apply, (jax.device_put(first, by_both), second))
        np.testing.assert_array_equal(
            smoothing.class_counts(key, placed, inputs, mesh=mesh, **self.settings()),
            smoothing.class_counts(key, alone, inputs, **self.settings()),
        )

    def test_under_jit(self, key, inputs, mesh):
        alone = jax.tree_util.Partial(self.apply, self.weights())
        count = jax.jit(
            lambda classify: smoothing.class_counts(
                key, classify, inputs, mesh=mesh, **self.settings()
            )
        )
        np.testing.assert_array_equal(
            count(self.split(mesh)),
            smoothing.class_counts(key, alone, inputs, **self.settings()),
        )
