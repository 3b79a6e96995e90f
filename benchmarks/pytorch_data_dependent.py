"""The search for sigma in PyTorch, written as the public code of data-dependent smoothing does it.

Needs the `bench` extra.
"""

import torch

from benchmarks import pytorch


def optimize_sigma(
    module: torch.nn.Module,
    images: torch.Tensor,
    *,
    initial_sigma: float,
    num_steps: int,
    num_samples: int,
    learning_rate: float,
    max_probability: float = 0.999,
) -> torch.Tensor:
    """Ascend the soft radius in sigma: repeated images, one backward pass through the network.

    Args:
      module: maps `[n, channels, height, width]` to scores `[n, num_classes]`.
      images: `[b, channels, height, width]`.
      initial_sigma: where every image starts.
      num_steps: steps of the ascent.
      num_samples: draws of noise for each image in each step.
      learning_rate: of the ascent.
      max_probability: where probabilities are cut.

    Returns:
      `[b]`, sigma of each image.
    """
    normal = torch.distributions.Normal(0.0, 1.0)
    sigma = torch.full((len(images), 1, 1, 1), initial_sigma, device=pytorch.DEVICE)
    rows = images.repeat_interleave(num_samples, dim=0)
    for _ in range(num_steps):
        sigma = sigma.detach().requires_grad_(True)
        noise = torch.randn_like(rows) * sigma.repeat_interleave(num_samples, dim=0)
        probabilities = torch.softmax(module(rows + noise), dim=1)
        mean = probabilities.reshape(len(images), num_samples, -1).mean(dim=1)
        top = mean.topk(2).values.clamp(1 - max_probability, max_probability)
        radius = sigma.reshape(-1) / 2 * (normal.icdf(top[:, 0]) - normal.icdf(top[:, 1]))
        (slope,) = torch.autograd.grad(radius.sum(), sigma)
        sigma = sigma + learning_rate * slope
    return sigma.detach().reshape(-1)
