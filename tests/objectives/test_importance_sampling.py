"""Importance sampling of t: the algorithm of Improved DDPM's code, and weights that leave the mean as it is."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.objectives import ImportanceSampledSteps, UniformSteps

STEPS, HISTORY = 7, 3
DEGRADATION = GaussianNoise(STEPS)


def times(k: torch.Tensor) -> torch.Tensor:
    return (k / STEPS).float()


def trained(losses: list[float], uniform: float = 0.001) -> ImportanceSampledSteps:
    """Has had the loss losses[k − 1] at each k three times."""
    sampler, k = ImportanceSampledSteps(HISTORY, uniform), torch.arange(1, STEPS + 1)
    for _ in range(HISTORY):
        sampler.reweight(torch.tensor(losses, dtype=torch.float64), times(k), DEGRADATION)
        sampler.learn(lambda values: values)
    return sampler


def test_the_probabilities_are_those_of_the_last_losses_of_each_step() -> None:
    """Against a list of each step's last losses, one loss after the other; often more than three at once."""
    rng, sampler = np.random.default_rng(0), ImportanceSampledSteps(HISTORY, 0.05)
    lists = [deque(maxlen=HISTORY) for _ in range(STEPS)]
    warm = []
    for _ in range(12):
        k = torch.from_numpy(rng.choice([1, 1, 1, 2, 3, 4, 5, 6, 7], 13))
        losses = torch.from_numpy(rng.exponential(k.numpy(), 13))
        sampler.reweight(losses, times(k), DEGRADATION)
        sampler.learn(lambda values: values)
        for i, loss in zip(k.tolist(), losses.tolist(), strict=True):
            lists[i - 1].append(loss)
        warm.append(all(len(last) == HISTORY for last in lists))
        if warm[-1]:
            root = np.array([np.sqrt(np.mean(np.square(last))) for last in lists])
            expected = 0.95 * root / root.sum() + 0.05 / STEPS
        else:
            expected = np.full(STEPS, 1 / STEPS)
        np.testing.assert_allclose(sampler.probabilities(DEGRADATION).numpy(), expected, rtol=1e-12)
    assert not warm[1]
    assert warm[-2]


def test_times_have_the_probabilities() -> None:
    sampler = trained([0.1, 1, 2, 5, 0.5, 0.2, 30], 0.2)
    number = 20_000
    t = sampler.sample(number, DEGRADATION, keyed_generator(0))
    assert torch.isin(t, torch.arange(1, STEPS + 1, dtype=torch.float32) / STEPS).all()
    expected = sampler.probabilities(DEGRADATION) * number
    counts = (t * STEPS).round().long().bincount(minlength=STEPS + 1)[1:]
    chi = ((counts - expected) ** 2 / expected).sum().item()
    assert chi <= STEPS - 1 + 5 * (2 * (STEPS - 1)) ** 0.5


def test_the_weighted_loss_has_the_mean_of_uniform_steps() -> None:
    """Losses that do not vary at one t have, weighted, no variance at all but for the uniform part."""
    losses = torch.tensor([0.1, 1, 2, 5, 0.5, 0.2, 30], dtype=torch.float64)
    sampler, k = trained(losses.tolist()), torch.arange(1, STEPS + 1)
    p = sampler.probabilities(DEGRADATION)
    weighted = sampler.reweight(losses, times(k), DEGRADATION)
    assert (p * weighted).sum().item() == pytest.approx(losses.mean().item(), rel=1e-12)
    variance = (p * weighted.square()).sum() - (p * weighted).sum() ** 2
    assert variance < 1e-3 * losses.var()


def test_the_gradient_is_weighted_and_does_not_reach_the_history() -> None:
    sampler = trained([1.0] * 6 + [8.0])
    losses = torch.ones(2, requires_grad=True)
    sampler.reweight(losses, times(torch.tensor([1, 7])), DEGRADATION).sum().backward()
    p = sampler.probabilities(DEGRADATION)[[0, 6]]
    torch.testing.assert_close(losses.grad, (1 / (STEPS * p)).float())
    sampler.learn(lambda values: values)
    assert not sampler.state["losses"].requires_grad


def test_the_history_is_that_of_all_processes() -> None:
    alone, one = trained([1.0, 2, 3, 4, 5, 6, 7]), trained([1.0, 2, 3, 4, 5, 6, 7])
    k, losses = torch.tensor([2, 5, 5, 7]), torch.tensor([9.0, 8, 7, 6], dtype=torch.float64)
    alone.reweight(losses, times(k), DEGRADATION)
    alone.learn(lambda values: values)
    one.reweight(losses[:2], times(k[:2]), DEGRADATION)
    others = torch.stack([k[2:].double() - 1, losses[2:]])
    one.learn(lambda values: torch.cat([values, others], 1))
    assert torch.equal(alone.probabilities(DEGRADATION), one.probabilities(DEGRADATION))


def test_held_out_images_keep_their_times() -> None:
    sampler = trained([0.0] * 6 + [1.0])
    generators = [per_image_generators(0, range(50)) for _ in range(2)]
    uniform = UniformSteps().sample(50, DEGRADATION, generators[0])
    assert torch.equal(sampler.sample_held_out(50, DEGRADATION, generators[1]), uniform)
    assert (sampler.sample(50, DEGRADATION, keyed_generator(0)) == 1).float().mean() > 0.9


def test_losses_of_zero_leave_the_steps_uniform() -> None:
    probabilities = trained([0.0] * STEPS).probabilities(DEGRADATION)
    torch.testing.assert_close(probabilities, torch.full((STEPS,), 1 / STEPS, dtype=torch.float64))


def test_a_restored_sampler_goes_on_and_one_of_other_steps_is_refused() -> None:
    sampler, other = trained([1.0, 2, 3, 4, 5, 6, 7]), ImportanceSampledSteps(HISTORY)
    other.restore(sampler.state, DEGRADATION)
    assert torch.equal(other.probabilities(DEGRADATION), sampler.probabilities(DEGRADATION))
    other.restore({}, DEGRADATION)
    assert not other.state
    with pytest.raises(ValueError, match=r"no losses of 8 steps × 3: give the --model\.time_sampler"):
        other.restore(sampler.state, GaussianNoise(8))
    with pytest.raises(ValueError, match="no losses of 7 steps × 10"):
        ImportanceSampledSteps().restore(sampler.state, DEGRADATION)


@pytest.mark.parametrize(
    ("name", "change"),
    [("losses", lambda x: x / 0), ("losses", Tensor.float), ("counts", lambda x: x - 100)],
    ids=["infinite losses", "losses of float32", "negative counts"],
)
def test_losses_that_are_none_are_refused(name: str, change: Callable[[Tensor], Tensor]) -> None:
    state = trained([1.0, 2, 3, 4, 5, 6, 7]).state
    with pytest.raises(ValueError, match="not finite float64 numbers, or their counts are negative: start a new run"):
        ImportanceSampledSteps(HISTORY).restore(state | {name: change(state[name])}, DEGRADATION)


@pytest.mark.parametrize("settings", [{"history": 0}, {"uniform": 0.0}, {"uniform": 1.5}], ids=str)
def test_settings_out_of_range_are_rejected(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        ImportanceSampledSteps(**settings)
