"""The bits per dimension that validation and test log."""

import warnings
from pathlib import Path

import pytest
import torch
from helpers.runs import Stored, Tiny, blur, tiny_module, tiny_trainer
from torch import Tensor

from diffusion_lightning.callbacks import Likelihood, likelihood
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.metrics.likelihood import bits_per_dimension, dequantize, flow_log_likelihood, rademacher
from diffusion_lightning.metrics.variational_bound import variational_bound
from diffusion_lightning.core.rng import per_image_generators


def measured(root: Path, look: Likelihood, stage: str = "validate", clip: bool = False, **data) -> float:
    module = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny(), clip=clip)
    run = getattr(tiny_trainer(root, look), stage)
    (logged,) = run(module, Stored(10, seed=3, **data), verbose=False)
    return logged["val/bpd" if stage == "validate" else "test/bpd"]


@pytest.mark.parametrize("clip", [False, True], ids=["guesses as they are", "bounded guesses"])
@pytest.mark.parametrize("method", ["flow", "bound"])
def test_it_logs_the_mean_of_the_held_out_images(method: str, clip: bool, tmp_path: Path) -> None:
    found = measured(tmp_path, Likelihood(7, method, steps=5, probes=2), clip=clip, batch_size=4)
    module, data = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny()).eval(), Stored(10, seed=3)

    def clip_denoised(x: Tensor, t: Tensor) -> Tensor:
        return module(x, t).clamp(-1, 1)

    denoise = clip_denoised if clip else module
    clean = next(data.clean_images("val", 7))
    generators = per_image_generators(3, range(7), "likelihood")
    if method == "bound":
        expected = variational_bound(denoise, module.degradation, clean, generators, 5).total
    else:
        spread = dequantize(clean, generators)
        nats = flow_log_likelihood(denoise, module.degradation, spread, rademacher(clean, 2, generators), 5)
        expected = bits_per_dimension(nats, 64)
    assert found == pytest.approx(expected.mean().item(), rel=1e-4)


@pytest.mark.parametrize("method", ["flow", "bound"])
def test_the_test_images_are_measured_alike_in_batches_of_any_size(method: str, tmp_path: Path) -> None:
    values = [measured(tmp_path, Likelihood(10, method, steps=4), "test", batch_size=size) for size in (3, 10)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_degradation_without_a_density_is_refused_before_training(tmp_path: Path) -> None:
    module = tiny_module(degradation=blur())
    with pytest.raises(ValueError, match=r"a likelihood needs a degradation α_t x.*judge it by FID"):
        tiny_trainer(tmp_path, Likelihood(), max_epochs=1).fit(module, Stored(4))


@pytest.mark.parametrize(("bits", "warns"), [(563.0, True), (2.6, False)], ids=["563 bits", "2.6 bits"])
def test_more_bits_than_those_of_random_grey_levels_are_warned_of(
    bits: float, warns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "bits_per_dimension", lambda density, size: torch.full_like(density, bits))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        assert measured(tmp_path, Likelihood(2, steps=1)) == pytest.approx(bits)
    told = [str(warning.message) for warning in given if "grey levels at random" in str(warning.message)]
    assert len(told) == warns
    assert not told or "the method bound" in told[0]


def test_weights_and_gradients_are_left_alone(tmp_path: Path) -> None:
    module = tiny_module(degradation=GaussianNoise(12), denoiser=Tiny())
    before = [p.clone() for p in module.parameters()]
    tiny_trainer(tmp_path, Likelihood(4, steps=3)).validate(module, Stored(4), verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("settings", [{"images": 0}, {"method": "elbow"}, {"steps": 0}, {"probes": 0}])
def test_wrong_arguments_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Likelihood(**settings)
