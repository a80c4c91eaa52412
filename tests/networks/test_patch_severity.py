"""PatchSeverityEstimator: its features in closed form, and the patches of large images together."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.degradations import GaussianBlur
from diffusion_lightning.networks import PatchSeverityEstimator, patch_severity


def features(x: Tensor, size: int = 256, scales: int = 1) -> Tensor:
    """Of one patch."""
    return PatchSeverityEstimator(x.shape[1], size=size, scales=scales).double()._features(x)[0, 0]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_features_of_white_noise() -> None:
    """Of the standard deviation s: log s + log of the norm of the filter, and the mean size √(2/π) of a Gaussian."""
    s = 0.2
    values = features(0.1 + s * noise(1, 1, 256, 256))
    norms = torch.tensor([2, 2, 1, 2, 2, 1.5, 1.5, 2.25], dtype=torch.float64).sqrt()
    torch.testing.assert_close(values[0], torch.tensor(0.1, dtype=torch.float64), atol=5e-3, rtol=0)
    torch.testing.assert_close(values[1], torch.tensor(math.log(s) + 3, dtype=torch.float64), atol=0.02, rtol=0)
    torch.testing.assert_close(values[4:12], (s * norms).log() + 3, atol=0.03, rtol=0)
    ratio = torch.full((8,), math.log(2 / math.pi) / 2, dtype=torch.float64)
    torch.testing.assert_close(values[12:20], ratio, atol=0.02, rtol=0)
    torch.testing.assert_close(values[20:23], torch.zeros(3, dtype=torch.float64), atol=0.03, rtol=0)


def test_blocks_have_no_differences_at_aligned_positions() -> None:
    blocks = noise(1, 3, 20, 20).repeat_interleave(4, 2).repeat_interleave(4, 3)
    aligned = features(blocks, scales=3)[4:].view(3, 19)[:, 16:]
    assert (aligned[:2] < -5).all()
    assert (aligned[2].abs() < 1).all()


def test_colourfulness_is_that_of_the_colours_alone() -> None:
    grey, colour = noise(1, 1, 32, 32).expand(-1, 3, -1, -1), torch.tensor([0.3, 0.0, -0.3], dtype=torch.float64)
    without, having = features(grey), features(grey + colour[:, None, None])
    assert (without[2:4] == math.log(patch_severity.POWER_FLOOR) / 2 + 3).all()
    expected = torch.tensor([math.log(0.06) / 2 + 3, math.log(0.2) + 3], dtype=torch.float64)
    torch.testing.assert_close(having[2:4], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(having[4:], without[4:])


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (33, 20)])
def test_an_image_of_one_patch_has_a_distribution(size: tuple[int, int]) -> None:
    logits = PatchSeverityEstimator(2, bins=20)(torch.rand(2, 2, *size) * 2 - 1)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))
    assert logits.shape[1] == 21


def test_a_grey_image_is_one_of_three_equal_channels() -> None:
    estimator, grey = PatchSeverityEstimator(), torch.rand(2, 1, 9, 8) * 2 - 1
    torch.testing.assert_close(estimator(grey), estimator(grey.repeat(1, 3, 1, 1)))


def test_equal_patches_count_as_the_root_of_their_number() -> None:
    """A constant image has no borders, because padding repeats it."""
    estimator = PatchSeverityEstimator(1, size=8).double()
    one, six = (estimator(torch.full((1, 1, *size), 0.3, dtype=torch.float64)) for size in ((8, 8), (17, 23)))
    torch.testing.assert_close(six, one * 6**0.5)


@pytest.mark.parametrize(("height", "strips"), [(32, [16, 16]), (33, [16, 17]), (38, [16, 16, 6])])
def test_strips_of_a_large_image_are_patches_of_it(
    monkeypatch: pytest.MonkeyPatch, height: int, strips: list[int]
) -> None:
    """A rest of less than half a patch belongs to the strip before it."""
    estimator = PatchSeverityEstimator(1, size=8, seed=1).double()
    x = 0.3 * noise(8, 1, height, 16)
    parts, numbers = x.split(strips, 2), [2 * max(1, round(rows / 8)) for rows in strips]
    logits = [estimator(part) * number**0.5 for part, number in zip(parts, numbers, strict=True)]
    monkeypatch.setattr(patch_severity, "STRIP_PIXELS", 16 * 20)  # strips of 16 rows
    torch.testing.assert_close(estimator(x), sum(logits) / sum(numbers) ** 0.5)


def test_an_estimate_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, x = PatchSeverityEstimator(1, size=8).double(), 0.3 * noise(8, 1, 35, 16)
    monkeypatch.setattr(patch_severity, "STRIP_PIXELS", 3 * 35 * 16)
    torch.testing.assert_close(estimator(x), torch.cat([estimator(image[None]) for image in x]))
    monkeypatch.setattr(patch_severity, "STRIP_PIXELS", 16 * 20)
    torch.testing.assert_close(estimator(x)[:1], estimator(x[:1]))


def test_the_first_weights_take_no_random_numbers_from_others() -> None:
    state = torch.get_rng_state()
    one, same, other = PatchSeverityEstimator(1), PatchSeverityEstimator(1), PatchSeverityEstimator(1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_an_estimator_without_patches_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"size=0.*at least 1"):
        PatchSeverityEstimator(size=0)


def test_patches_together_know_more_than_one() -> None:
    """Trained on patches of 16 px of textures with the spectrum of photographs, and blurred; at 64 px it is nearer."""
    blur = GaussianBlur(steps=5, kernel_size=7, std=0.8, schedule="constant", padding="reflect", noise_floor=0.02)
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(64, dtype=torch.float32)
    amplitude = 1 / (frequency[:, None] ** 2 + frequency[None, :33] ** 2).sqrt().clamp(min=1 / 64)

    def blurred(number: int, size: int) -> tuple[Tensor, Tensor]:
        spectra = torch.fft.rfft2(torch.randn(number, 1, 64, 64, generator=generator, dtype=torch.float32)) * amplitude
        texture = 0.5 * torch.fft.irfft2(spectra)[..., :size, :size]
        contrast = 10 ** -torch.rand(number, 1, 1, 1, generator=generator, dtype=torch.float32)
        t = torch.randint(1, 6, (number,), generator=generator) / 5
        x = contrast * texture / texture.std()
        return blur(x, t, blur.sample_params(x, generator)), t

    estimator = PatchSeverityEstimator(1, size=16, bins=5, scales=3)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=5e-3)
    for _ in range(120):
        x, t = blurred(32, 16)
        loss = F.cross_entropy(estimator(x), (t * 5).round().long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    errors = []
    with torch.no_grad():
        for size in (16, 64):
            x, t = blurred(64, size)
            errors.append((estimator(x).argmax(1) / 5 - t).abs().mean())
    assert errors[0] < 0.2, "0.32 without knowledge"
    assert errors[1] < 0.9 * errors[0]
