"""A convolution as an exact sparse matrix, written down tap by tap; shares no code with jaxcert."""

import itertools
import math

import numpy as np
import scipy.sparse
import scipy.sparse.linalg


def pads(size, taps, stride, dilation, padding):
    """Zeros before and after an axis, as XLA defines the names."""
    reach = (taps - 1) * dilation + 1
    if padding == "VALID":
        return 0, 0
    if padding == "SAME":
        total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
        return total // 2, total - total // 2
    return padding


def sparse_operator(kernel, input_shape, *, strides=1, padding="SAME", groups=1, dilation=1):
    """The matrix `[outputs, inputs]` of a convolution with one stride and dilation on all axes."""
    if kernel.ndim == 3:
        kernel, input_shape, one_dimensional = kernel[None], (1, *input_shape), True
    else:
        one_dimensional = False
    height, width, channels = input_shape
    sizes, shifts, outputs, steps = (height, width), [], [], []
    for axis in range(2):
        taps = kernel.shape[axis]
        step = 1 if one_dimensional and axis == 0 else strides
        gap = 1 if one_dimensional and axis == 0 else dilation
        reach = (taps - 1) * gap + 1
        if padding == "CIRCULAR":
            outputs.append(math.ceil(sizes[axis] / step))
            shifts.append((reach - 1) // 2)
        else:
            given = padding if isinstance(padding, str) else padding[axis]
            if one_dimensional and axis == 0:
                given = (0, 0)
            low, high = pads(sizes[axis], taps, step, gap, given)
            outputs.append((sizes[axis] + low + high - reach) // step + 1)
            shifts.append(low)
        steps.append((step, gap))
    inner, out_channels = kernel.shape[2:]
    per_group = out_channels // groups
    entries = []
    for y, x, i, j in itertools.product(
        range(outputs[0]), range(outputs[1]), range(kernel.shape[0]), range(kernel.shape[1])
    ):
        row = y * steps[0][0] - shifts[0] + i * steps[0][1]
        column = x * steps[1][0] - shifts[1] + j * steps[1][1]
        if padding == "CIRCULAR":
            row, column = row % height, column % width
        if 0 <= row < height and 0 <= column < width:
            entries.append((y * outputs[1] + x, row * width + column, i, j))
    output_pixel, input_pixel, i, j = np.array(entries).T
    blocks = kernel[i, j].astype(np.float64)  # [entries, inner, out]
    o = np.arange(out_channels)
    k = np.arange(inner)
    shape = blocks.shape
    rows = np.broadcast_to(output_pixel[:, None, None] * out_channels + o, shape)
    source = (o // per_group) * inner + k[:, None]
    columns = np.broadcast_to(input_pixel[:, None, None] * channels + source, shape)
    matrix = scipy.sparse.coo_matrix(
        (blocks.ravel(), (rows.ravel(), columns.ravel())),
        shape=(math.prod(outputs) * out_channels, height * width * channels),
    )
    return matrix.tocsr()


def spectral_norm(matrix):
    """The largest singular value, by a dense decomposition or, if large, by Lanczos."""
    if min(matrix.shape) <= 400:
        return float(np.linalg.norm(matrix.toarray(), 2))
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    return float(
        scipy.sparse.linalg.svds(matrix, k=1, v0=start, tol=1e-12, return_singular_vectors=False)[0]
    )
