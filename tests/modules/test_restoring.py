"""Restored images lie between the sampled and the direct ones, and are consistent with the input if that is chosen."""

import pytest
import torch
from helpers.runs import blur, tiny_module

from diffusion_lightning import RestorationBatch, RestorationModule
from diffusion_lightning.inverse.consistency import make_consistent
from diffusion_lightning.samplers import Direct

T = 0.75


@pytest.fixture
def module() -> RestorationModule:
    return tiny_module(degradation=blur())


def blurred(module: RestorationModule) -> torch.Tensor:
    clean = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return module.degradation(clean, torch.full((3,), T), {})


def restore(module: RestorationModule, **settings: object) -> torch.Tensor:
    x = blurred(module)
    module.sampling = module.sampling.replace(**settings)
    return module.predict_step(RestorationBatch(x, x, torch.full((3,), T), None, {}, torch.arange(3)), 0).detach()


def test_fidelity_is_the_line_from_sampled_to_direct(module: RestorationModule) -> None:
    sampled = restore(module)
    direct = restore(module, sampler=Direct())
    assert not torch.allclose(sampled, direct, atol=0.01)
    for fidelity in (0.25, 1.0):
        between = restore(tiny_module(degradation=blur()), fidelity=fidelity)
        torch.testing.assert_close(between, (1 - fidelity) * sampled + fidelity * direct)
    assert torch.equal(restore(module, sampler=Direct(), fidelity=0.25), direct)


def test_the_direct_prediction_beside_the_sampled_one_is_no_step_of_it(module: RestorationModule) -> None:
    steps = []
    restore(module, fidelity=0.5, on_step=steps.append)
    assert [step.t for step in steps] == [*module.sampling.sampler.times(module.degradation, T)]


def test_the_result_is_made_consistent_with_the_input(module: RestorationModule) -> None:
    plain = restore(module)
    x = blurred(module)
    expected = make_consistent(plain, x, module.degradation, torch.full((3,), T, dtype=torch.float64))
    torch.testing.assert_close(restore(module, consistent=True), expected)
    assert not torch.allclose(plain, expected, atol=0.01)
