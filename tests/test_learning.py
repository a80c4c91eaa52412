"""Trained networks reach the loss of the optimal denoiser, in seconds."""

import math

import pytest
import torch
from helpers.oracles import MixtureOracle
from torch import Tensor, nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.data import degrade
from diffusion_lightning.degradations import Degradation, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import FlowMatching, Karras
from diffusion_lightning.objectives.losses import L2
from diffusion_lightning.objectives.parameterizations import EDM, Parameterization, V, Velocity

CASES = {
    "v of cosine noise": (GaussianNoise(20), V()),
    "the velocity of a straight path": (GaussianNoise(20, FlowMatching()), Velocity()),
    "EDM's target of its levels": (GaussianNoise(20, Karras(0.02, 5.0)), EDM(0.75)),
}


class Small(nn.Module):
    """F(x, t) of images of two values: four layers, with sines and cosines of t as inputs."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Linear(12, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                nn.Linear(width, 2),
            )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]) * math.pi
        return self.body(torch.cat([x.flatten(1), angles.sin(), angles.cos()], 1)).view_as(x)


def mixture(degradation: Degradation) -> MixtureOracle:
    means = torch.tensor([[0.8, 0.3], [-0.7, 0.6], [0.1, -0.8]], dtype=torch.float64).view(3, 1, 1, 2)
    spread = torch.tensor([[0.02, 0.01], [0.01, 0.04]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return MixtureOracle(weights, means, spread.expand(3, 2, 2), degradation)


def module_of(degradation: Degradation, parameterization: Parameterization) -> RestorationModule:
    module = RestorationModule(degradation, Small(), parameterization, L2())
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return module


def train(module: RestorationModule, batch_of, steps: int, rate: float) -> list[float]:
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    losses = []
    for step in range(steps):
        loss = module.training_step(batch_of(step), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("case", CASES)
def test_a_small_network_reaches_the_optimal_loss_within_5_per_cent(case: str) -> None:
    """The optimal L2 loss is that of E[x_0 | x_t], which the oracle computes."""
    degradation, parameterization = CASES[case]
    oracle, module = mixture(degradation), module_of(degradation, parameterization)

    def batch(key: int | str, number: int):
        generator = keyed_generator(key)
        clean = oracle.sample(number, generator).float()
        return degrade(
            degradation, clean, module.time_sampler.sample(number, degradation, generator), generator=generator
        )

    train(module, lambda step: batch(step, 256), 1200, 1e-2)
    held_out = batch("held out", 20_000)
    with torch.no_grad():
        prediction = module(held_out.degraded, held_out.t)
    optimum = oracle(held_out.degraded, held_out.t)
    reached, floor = ((x0 - held_out.clean).square().mean().item() for x0 in (prediction, optimum))
    assert held_out.clean.var().item() > 1.5 * floor
    assert reached < 1.05 * floor


def test_one_batch_can_be_memorized() -> None:
    degradation = GaussianNoise(20, FlowMatching())
    module = module_of(degradation, Velocity())
    clean = mixture(degradation).sample(16, keyed_generator(0)).float()
    batch = degrade(degradation, clean, torch.linspace(0.3, 1, 16), generator=keyed_generator(1))
    losses = train(module, lambda step: batch, 600, 5e-3)
    assert losses[-1] < 0.001 * losses[0]
