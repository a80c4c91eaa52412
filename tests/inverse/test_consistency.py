"""Data consistency solves its least-squares problem, and changes nothing that the degradation removes."""

import pytest
import torch
from helpers.oracles import dense_matrix
from torch import Tensor

from diffusion_lightning.degradations import Degradation, Desaturate, Fade, GaussianBlur, GaussianNoise, Pixelate, Snow
from diffusion_lightning.inverse.consistency import ERROR, ROUNDING, has_consistency, make_consistent

SHAPE = (3, 6, 5)
T = torch.tensor([0.5, 1.0], dtype=torch.float64)
EXACT = torch.zeros_like(T)
CASES: dict[str, Degradation] = {
    "pixelation": Pixelate(steps=2),
    "desaturation": Desaturate(),
    "fading": Fade(steps=2, std=2.0),
    "blur": GaussianBlur(steps=2, kernel_size=3, std=0.6, schedule="constant"),
}


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(T), *SHAPE, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("name", CASES)
def test_the_result_solves_the_regularized_least_squares(name: str) -> None:
    degradation, clean, x0 = CASES[name], images(0), images(1)
    y = degradation(clean, T, {})
    found = make_consistent(x0, y, degradation, T, noise=EXACT, max_steps=50)
    for i in range(len(T)):
        a = dense_matrix(degradation, SHAPE, T[i : i + 1], {})
        weight = (ROUNDING / ERROR) ** 2 * torch.eye(len(a), dtype=a.dtype)
        change = torch.linalg.solve(a.mT @ a + weight, a.mT @ (y - degradation(x0, T, {}))[i].flatten())
        torch.testing.assert_close(found[i], x0[i] + change.view(SHAPE), rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_becomes_that_of_the_input_and_what_is_removed_stays(name: str) -> None:
    degradation, clean, x0 = CASES[name], images(0), images(1)
    found = make_consistent(x0, degradation(clean, T, {}), degradation, T, noise=EXACT, max_steps=50)
    for i in range(len(T)):
        _, values, v = torch.linalg.svd(dense_matrix(degradation, SHAPE, T[i : i + 1], {}))
        kept, removed = v[values > 0.3], v[values < 1e-9]
        torch.testing.assert_close(kept @ found[i].flatten(), kept @ clean[i].flatten(), rtol=0, atol=0.01)
        torch.testing.assert_close(removed @ found[i].flatten(), removed @ x0[i].flatten(), rtol=0, atol=1e-9)


def test_an_affine_degradation_is_inverted_from_its_own_colour() -> None:
    degradation = Fade(steps=4, std=1.0, colour="random")
    clean, x0 = images(0), images(1)
    params = degradation.sample_params(clean, torch.Generator().manual_seed(0))
    y = degradation(clean, T, params)
    found = make_consistent(x0, y, degradation, T, params, noise=EXACT, max_steps=50)
    assert (degradation(found, T, params) - y).abs().max() < 0.01 < (degradation(x0, T, params) - y).abs().max()


def test_noise_is_not_taken_for_the_image() -> None:
    degradation = GaussianNoise(steps=10)
    clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t = torch.tensor([0.2, 0.4])
    y = degradation(clean, t, degradation.sample_params(clean, torch.Generator().manual_seed(0)))
    assert torch.equal(make_consistent(clean, y, degradation, t), clean)


def test_a_shift_that_noise_cannot_explain_is_undone() -> None:
    degradation, clean = Pixelate(steps=2, noise=0.02), images(0)
    y = degradation(clean, T, degradation.sample_params(clean, torch.Generator().manual_seed(0)))
    shift = (make_consistent(clean + 0.2, y, degradation, T) - clean).mean((2, 3))
    assert shift.abs().max() < 0.03


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_image_that_was_not_degraded_so_is_not_amplified(value: float) -> None:
    """Noise that no degradation of the model explains is left, though a blur could only explain it by huge values."""
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    t = torch.ones(1)
    y = GaussianBlur()(torch.full_like(noise, value), t, {}) + 0.1 * noise
    found = make_consistent(torch.full_like(noise, value), y, GaussianBlur(), t)
    assert (found - value).abs().max() < 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_overflows_where_nothing_can_be_gained(value: float) -> None:
    x = torch.full((2, 3, 32, 32), value)
    for degradation in (GaussianBlur(), Fade(steps=100, std=2.0)):
        y = degradation(x, torch.tensor([0.7, 1.0]), {}) + 1 / 255  # as grey levels of a file
        found = make_consistent(x, y, degradation, torch.tensor([0.7, 1.0]))
        assert (found - x).abs().max() < 0.01


def test_only_known_linear_degradations_say_what_they_keep() -> None:
    assert has_consistency(GaussianBlur())
    assert not has_consistency(Fade(centre="random"))
    assert not has_consistency(Snow())
    assert not has_consistency(GaussianNoise())
