"""The bits per dimension that Likelihood logs in validation and test."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Stored, Tiny, blur, tiny_module, tiny_trainer
from torch import Tensor

from diffusion_lightning.callbacks import Likelihood, likelihood
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.metrics.likelihood import bits_per_dimension, dequantize, flow_log_likelihood, rademacher
from diffusion_lightning.metrics.variational_bound import variational_bound


def measured(root: Path, callback: Likelihood, stage: str = "validate", clipped: bool = False, **data) -> float:
    module = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny(), clip_denoised=clipped)
    run = getattr(tiny_trainer(root, callback), stage)
    (logged,) = run(module, Stored(10, seed=3, **data), verbose=False)
    return logged["val/bpd" if stage == "validate" else "test/bpd"]


@pytest.mark.parametrize("clipped", [False, True], ids=["raw predictions", "clipped predictions"])
@pytest.mark.parametrize("method", ["ode", "vlb"])
def test_it_logs_the_mean_of_the_held_out_images(method: str, clipped: bool, tmp_path: Path) -> None:
    logged = measured(tmp_path, Likelihood(7, method, steps=5, probes=2), clipped=clipped, batch_size=4)
    module, data = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny()).eval(), Stored(10, seed=3)

    def clipped_denoiser(x: Tensor, t: Tensor) -> Tensor:
        return module(x, t).clamp(-1, 1)

    denoise_fn = clipped_denoiser if clipped else module
    clean = next(data.clean_images("val", 7))
    generators = per_image_generators(3, range(7), "likelihood")
    if method == "vlb":
        expected = variational_bound(denoise_fn, module.degradation, clean, generators, 5).total
    else:
        images = dequantize(clean, generators)
        nats = flow_log_likelihood(denoise_fn, module.degradation, images, rademacher(clean, 2, generators), 5)
        expected = bits_per_dimension(nats, 64)
    assert logged == pytest.approx(expected.mean().item(), rel=1e-4)


def test_several_dequantizations_have_the_bits_of_their_mean_density(tmp_path: Path) -> None:
    """Each has its own noise and probes; the first are those of one alone."""
    one, logged = (measured(tmp_path, Likelihood(3, steps=5, dequantizations=k), batch_size=2) for k in (1, 4))
    module, data = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny()).eval(), Stored(10, seed=3)
    clean, generators = next(data.clean_images("val", 3)), per_image_generators(3, range(3), "likelihood")
    nats = [
        flow_log_likelihood(
            module, module.degradation, dequantize(clean, generators), rademacher(clean, 1, generators), 5
        )
        for _ in range(4)
    ]
    assert one == pytest.approx(bits_per_dimension(nats[0], 64).mean().item(), rel=1e-4)
    top = torch.stack(nats).amax(0)  # alone these densities are below the smallest number
    mean = (torch.stack(nats) - top).exp().mean(0).log() + top
    assert logged == pytest.approx(bits_per_dimension(mean, 64).mean().item(), rel=1e-4)


def test_the_adaptive_solver_gives_the_value_of_many_fixed_steps(tmp_path: Path) -> None:
    fixed = measured(tmp_path, Likelihood(3, steps=64))
    tight, loose = (Likelihood(3, solver="dopri5", rtol=rtol, atol=rtol) for rtol in (1e-5, 1e-1))
    assert measured(tmp_path, tight) == pytest.approx(fixed, abs=1e-3)
    assert abs(measured(tmp_path, loose) - fixed) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "euler"}, "solver='euler': choose rk4 or dopri5"),
        ({"atol": 0.0}, "atol=0.0: choose positive tol"),
        ({"solver": "dopri5", "steps": 64}, "steps=64: dopri5 chooses its own: leave steps out"),
    ],
)
def test_likelihood_rejects_a_bad_solver_or_tolerance(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Likelihood(**arguments)


@pytest.mark.parametrize("method", ["ode", "vlb"])
def test_the_score_is_the_same_for_any_batch_size(method: str, tmp_path: Path) -> None:
    values = [measured(tmp_path, Likelihood(10, method, steps=4), "test", batch_size=size) for size in (3, 10)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_degradation_without_a_density_is_rejected_before_training(tmp_path: Path) -> None:
    module = tiny_module(degradation=blur())
    with pytest.raises(ValueError, match=r"a likelihood needs a degradation α_t x.*evaluate it by FID"):
        tiny_trainer(tmp_path, Likelihood(), max_epochs=1).fit(module, Stored(4))


@pytest.mark.parametrize(
    ("bits", "settings", "how"),
    [
        (563.0, {"steps": 1}, "too steep for 1 steps of rk4; use more steps, the method vlb"),
        (563.0, {"solver": "dopri5", "rtol": 0.1}, "too steep for dopri5 with rtol=0.1; use a smaller one, the method"),
        (2.6, {"steps": 1}, None),
    ],
    ids=["563 bits", "563 bits of the adaptive solver", "2.6 bits"],
)
def test_more_bits_than_random_grey_levels_raise_a_warning(
    bits: float, settings: dict[str, Any], how: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "bits_per_dimension", lambda density, size: torch.full_like(density, bits))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert measured(tmp_path, Likelihood(2, **settings)) == pytest.approx(bits)
    messages = [str(warning.message) for warning in caught if "of random grey levels" in str(warning.message)]
    assert len(messages) == (how is not None)
    assert how is None or how in messages[0]


def test_weights_and_gradients_do_not_change(tmp_path: Path) -> None:
    module = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny())
    before = [p.clone() for p in module.parameters()]
    tiny_trainer(tmp_path, Likelihood(4, steps=3)).validate(module, Stored(4), verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        *({"images": 0}, {"method": "elbow"}, {"steps": 0}, {"probes": 0}, {"dequantizations": 0}),
        {"dequantizations": 2, "method": "vlb"},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_rejected(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Likelihood(**settings)
