"""Layers whose backward pass also yields the gradient norm of each example."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def dense(inputs: jax.Array, kernel: jax.Array, bias: jax.Array, probe: jax.Array) -> jax.Array:
    r"""A dense layer that adds its part of each example's squared gradient norm to a probe.

    .. math::
        y = x W + b, \quad \frac{\partial}{\partial probe_i} := (\|x_i\|^2 + 1) \|\delta_i\|^2

    with :math:`\delta_i` the gradient at the output: the gradients of one example are the outer
    product :math:`x_i \delta_i^\top` and :math:`\delta_i`, which are never formed. The probe does
    not change the output; its so-called derivative collects the squared norms, over all layers that
    share it. Right where every parameter enters one layer only and the loss is a sum over examples.

    Args:
      inputs: `[b, in]`.
      kernel: `[in, out]`.
      bias: `[out]`.
      probe: `[b]`, of any value.

    Returns:
      `[b, out]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import batching
      >>> x, w, b = jnp.array([[3.0, 4.0]]), jnp.ones((2, 1)), jnp.zeros(1)
      >>> jax.grad(lambda probe: batching.dense(x, w, b, probe).sum())(jnp.zeros(1))
      Array([26.], dtype=float32)

    References:
      Goodfellow, "Efficient Per-Example Gradient Computations", 2015, arXiv:1510.01799.
    """
    del probe
    return inputs @ kernel + bias


def _dense_forward(
    inputs: jax.Array, kernel: jax.Array, bias: jax.Array, probe: jax.Array
) -> tuple[jax.Array, Any]:
    return inputs @ kernel + bias, (inputs, kernel)


def _dense_backward(saved: Any, output: jax.Array) -> tuple[jax.Array, ...]:
    inputs, kernel = saved
    norms = (jnp.sum(inputs**2, axis=1) + 1) * jnp.sum(output**2, axis=1)
    return output @ kernel.T, inputs.T @ output, jnp.sum(output, axis=0), norms


dense.defvjp(_dense_forward, _dense_backward)


def conv(
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    probe: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: str = "SAME",
) -> jax.Array:
    r"""A convolution that adds its part of each example's squared gradient norm to a probe.

    .. math::
        \frac{\partial}{\partial probe_i} := \Big\|\sum_t p_{it} \delta_{it}^\top\Big\|_F^2
        + \Big\|\sum_t \delta_{it}\Big\|^2

    over the positions t, with :math:`p_{it}` the patch under the kernel. The gradients of single
    examples are formed for this one layer, and only within its backward pass; see `dense`.

    Args:
      inputs: `[b, h, w, in]`.
      kernel: `[kh, kw, in, out]`.
      bias: `[out]`.
      probe: `[b]`, of any value.
      strides: of the two axes.
      padding: `"SAME"` or `"VALID"`.

    Returns:
      `[b, h', w', out]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import batching
      >>> x, w, b = jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)), jnp.zeros(1)
      >>> jax.grad(lambda probe: batching.conv(x, w, b, probe).sum())(jnp.zeros(1))
      Array([32.], dtype=float32)
    """
    return _conv(tuple(strides), padding, inputs, kernel, bias, probe)


def _plain_conv(
    strides: tuple[int, ...], padding: str, inputs: jax.Array, kernel: jax.Array
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_call(
    strides: tuple[int, ...],
    padding: str,
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    probe: jax.Array,
) -> jax.Array:
    del probe
    return _plain_conv(strides, padding, inputs, kernel) + bias


_conv = jax.custom_vjp(_conv_call, nondiff_argnums=(0, 1))


def _conv_forward(
    strides: tuple[int, ...],
    padding: str,
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    probe: jax.Array,
) -> tuple[jax.Array, Any]:
    return _conv_call(strides, padding, inputs, kernel, bias, probe), (inputs, kernel)


def _conv_backward(
    strides: tuple[int, ...], padding: str, saved: Any, output: jax.Array
) -> tuple[jax.Array, ...]:
    inputs, kernel = saved
    _, pull = jax.vjp(lambda x: _plain_conv(strides, padding, x, kernel), inputs)
    patches = jax.lax.conv_general_dilated_patches(
        inputs, kernel.shape[:2], strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    each = jnp.einsum("bhwk,bhwc->bkc", patches, output)
    biases = jnp.sum(output, axis=(1, 2))
    norms = jnp.sum(each**2, axis=(1, 2)) + jnp.sum(biases**2, axis=1)
    # The patches list the input channels before the positions of the kernel.
    height, width, channels, out = kernel.shape
    total = each.sum(axis=0).reshape(channels, height, width, out).transpose(1, 2, 0, 3)
    return *pull(output), total, jnp.sum(biases, axis=0), norms


_conv.defvjp(_conv_forward, _conv_backward)
