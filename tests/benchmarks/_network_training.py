"""Held-out loss of the networks after the same minutes of training on the same data: scikit-learn's digits, blurred."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

HELD_OUT = 297
SIDE = 16
MIN_STD, MAX_STD = 0.3, 4.0  # standard deviations of the blur at t = 0 and t = 1, in pixels


def digits() -> tuple[Tensor, Tensor]:
    """Digits for training and held-out digits, (N, 1, 16, 16) in [-1, 1]."""
    images = torch.as_tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return images[HELD_OUT:], images[:HELD_OUT]


def blur(images: Tensor, t: Tensor) -> Tensor:
    """Circular Gaussian blur of images (B, C, S, S), its width growing geometrically with t (B,) in [0, 1]."""
    std = MIN_STD * (MAX_STD / MIN_STD) ** t[:, None]
    attenuation = torch.exp(-0.5 * (2 * math.pi * std * torch.fft.fftfreq(images.shape[-1])) ** 2)
    spectrum = torch.fft.fft2(images) * (attenuation[:, None, :, None] * attenuation[:, None, None, :])
    return torch.fft.ifft2(spectrum).real.contiguous()


@dataclass
class Run:
    """The training of one network: its optimizer, the seconds it has used and the steps it has made."""

    network: nn.Module
    learning_rate: float
    clock: Callable[[], float] = time.perf_counter
    seconds: float = 0.0
    steps: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate)

    def step(self, images: Tensor, batch_size: int, budget: float) -> None:
        """One step on batch number `steps`, which all networks get; cosine decay over the time budget."""
        generator = torch.Generator().manual_seed(self.steps)
        clean = images[torch.randint(len(images), (batch_size,), generator=generator)]
        t = torch.rand(batch_size, generator=generator)
        degraded = blur(clean, t)
        start = self.clock()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, self.seconds / budget)))
        self.optimizer.zero_grad(set_to_none=True)
        (degraded + self.network(degraded, t) - clean).abs().mean().backward()
        self.optimizer.step()
        self.seconds += self.clock() - start
        self.steps += 1

    @torch.no_grad()
    def loss(self, images: Tensor) -> float:
        """Mean L1 loss on held-out images, over equally spaced t."""
        self.network.eval()
        losses = []
        for severity in torch.linspace(0.125, 1, 8).tolist():
            t = torch.full((len(images),), severity)
            degraded = blur(images, t)
            losses.append((degraded + self.network(degraded, t) - images).abs().mean().item())
        self.network.train()
        return sum(losses) / len(losses)


def train(
    networks: dict[str, nn.Module],
    minutes: float,
    batch_size: int,
    learning_rate: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Run]:
    """Train all networks for the same minutes each.

    The network that has used the least time takes the next step, so that other load on the machine slows all equally.
    """
    images, _ = digits()
    runs = {name: Run(network, learning_rate, clock) for name, network in networks.items()}
    budget = 60 * minutes
    while (run := min(runs.values(), key=lambda run: run.seconds)).seconds < budget:
        run.step(images, batch_size, budget)
    return runs
