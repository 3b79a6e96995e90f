"""The same networks in PyTorch, and the loop that the field certifies with.

Needs the `bench` extra.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from flax import nnx

from jaxcert import models, smoothing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH_SIZE = 1000


def convert(network: nnx.Module) -> torch.nn.Module:
    """The PyTorch module with the weights of a jaxcert network, in evaluation mode on `DEVICE`."""
    if isinstance(network, models.MLP):
        module: torch.nn.Module = _MLP(network)
    elif isinstance(network, models.LeNet):
        module = _LeNet(network)
    elif isinstance(network, models.ResNet):
        module = _ResNet(network)
    else:
        raise TypeError(f"network must be an MLP, a LeNet or a ResNet, got {type(network)}")
    return module.eval().to(DEVICE)


def to_channels_first(images: np.ndarray) -> torch.Tensor:
    """Images `[n, height, width, channels]` as a contiguous `[n, channels, height, width]`."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(DEVICE)


def certify(
    module: torch.nn.Module,
    images: torch.Tensor,
    *,
    sigma: float,
    num_classes: int,
    num_samples: int,
    selection_samples: int = 100,
    alpha: float = 0.001,
    batch_size: int = BATCH_SIZE,
) -> list[tuple[int, float]]:
    """Certify images one at a time, as the public code of the field does.

    Args:
      module: maps `[n, channels, height, width]` to scores `[n, num_classes]`.
      images: `[b, channels, height, width]`.
      sigma: standard deviation of the noise.
      num_classes: number of classes.
      num_samples: estimation samples for each image.
      selection_samples: selection samples for each image.
      alpha: failure probability for each image.
      batch_size: noisy images in one call of the module.

    Returns:
      Label and radius of each image.
    """
    noise = smoothing.gaussian(sigma)
    results = []
    for image in images:
        chosen = _sample_counts(module, image, sigma, selection_samples, num_classes, batch_size)
        counts = _sample_counts(module, image, sigma, num_samples, num_classes, batch_size)
        found = smoothing.certificate_from_counts(
            chosen[None], counts[None], noise=noise, alpha=alpha
        )
        results.append((int(found.label[0]), float(found.radius[0])))
    return results


def _sample_counts(
    module: torch.nn.Module,
    image: torch.Tensor,
    sigma: float,
    num_samples: int,
    num_classes: int,
    batch_size: int,
) -> np.ndarray:
    counts = np.zeros(num_classes, dtype=np.int64)
    with torch.no_grad():
        while num_samples > 0:
            size = min(batch_size, num_samples)
            num_samples -= size
            batch = image.repeat((size, 1, 1, 1))
            noise = torch.randn_like(batch) * sigma
            labels = module(batch + noise).argmax(1)
            # Faster than the loop over labels that the field's code has here.
            counts += np.bincount(labels.cpu().numpy(), minlength=num_classes)
    return counts


class _Normalised(torch.nn.Module):
    """The input normalisation that all three networks begin with."""

    def __init__(self, network: Any):
        super().__init__()
        normalisation = network.normalisation
        self.register_buffer("mean", _tensor(normalisation.mean)[:, None, None])
        self.register_buffer("inverse_std", _tensor(normalisation.inverse_std)[:, None, None])

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) * self.inverse_std


class _MLP(_Normalised):
    def __init__(self, network: models.MLP):
        super().__init__(network)
        first, *others = network.layers
        self.layers = torch.nn.ModuleList(
            [_linear(first, network.input_shape), *(_linear(layer) for layer in others)]
        )
        self.head = _linear(network.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normalise(x).flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


class _LeNet(_Normalised):
    def __init__(self, network: models.LeNet):
        super().__init__(network)
        self.convolutions = torch.nn.ModuleList(
            [_convolution(c, stride=2, padding=network.padding) for c in network.convolutions]
        )
        side = list(network.input_shape[:2])
        for _ in network.channels:
            side = [(size + 2 * network.padding - 4) // 2 + 1 for size in side]
        self.dense = _linear(network.dense, (*side, network.channels[-1]))
        self.head = _linear(network.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normalise(x)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return self.head(F.relu(self.dense(x.flatten(1))))


class _ResNet(_Normalised):
    def __init__(self, network: models.ResNet):
        super().__init__(network)
        self.stem = _convolution(network.stem, stride=1, padding=1)
        self.stem_norm = _batch_norm(network.stem_norm)
        self.blocks = torch.nn.ModuleList([_BasicBlock(block) for block in network.blocks])
        self.head = _linear(network.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(self.normalise(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class _BasicBlock(torch.nn.Module):
    def __init__(self, block: Any):
        super().__init__()
        self.stride, self.padding = block.stride, block.padding
        self.first = _convolution(block.first, stride=block.stride, padding=1)
        self.first_norm = _batch_norm(block.first_norm)
        self.second = _convolution(block.second, stride=1, padding=1)
        self.second_norm = _batch_norm(block.second_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding)))


def _tensor(variable: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(variable[...]))


def _linear(layer: nnx.Linear, image_shape: tuple[int, ...] | None = None) -> torch.nn.Linear:
    """A dense layer; with `image_shape`, one whose inputs are a flattened image.

    Flax flattens `[height, width, channels]`, PyTorch `[channels, height, width]`.
    """
    kernel = np.asarray(layer.kernel[...])
    if image_shape is not None:
        outputs = kernel.shape[1]
        kernel = kernel.reshape(*image_shape, outputs).transpose(2, 0, 1, 3).reshape(-1, outputs)
    result = torch.nn.Linear(*kernel.shape)
    _set(result.weight, kernel.T)
    assert layer.bias is not None
    _set(result.bias, layer.bias[...])
    return result


def _convolution(layer: nnx.Conv, *, stride: int, padding: int) -> torch.nn.Conv2d:
    kernel = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1)
    has_bias = layer.bias is not None
    result = torch.nn.Conv2d(
        kernel.shape[1], kernel.shape[0], kernel.shape[2:],
        stride=stride, padding=padding, bias=has_bias,
    )  # fmt: skip
    _set(result.weight, kernel)
    if layer.bias is not None:
        _set(result.bias, layer.bias[...])
    return result


def _batch_norm(layer: nnx.BatchNorm) -> torch.nn.BatchNorm2d:
    result = torch.nn.BatchNorm2d(layer.num_features, eps=layer.epsilon)
    assert layer.scale is not None
    assert layer.bias is not None
    _set(result.weight, layer.scale[...])
    _set(result.bias, layer.bias[...])
    _set(result.running_mean, layer.mean[...])
    _set(result.running_var, layer.var[...])
    return result


def _set(target: Any, values: Any) -> None:
    """Overwrite a weight; its shape must fit exactly."""
    source = torch.tensor(np.ascontiguousarray(values))
    if source.shape != target.shape:
        raise ValueError(
            f"weights must have shape {tuple(target.shape)}, got {tuple(source.shape)}"
        )
    with torch.no_grad():
        target.copy_(source)
