"""SeverityEstimator: images of any size and number of channels, in strips if they are large."""

import pytest
import torch

from diffusion_lightning.networks import SeverityEstimator, severity


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (16, 16), (33, 20)])
def test_images_of_any_size_have_a_distribution(channels: int, size: tuple[int, int]) -> None:
    estimator = SeverityEstimator(channels, bins=20)
    logits = estimator(torch.rand(2, channels, *size) * 2 - 1)
    assert logits.shape == (2, 21)
    assert logits.isfinite().all()


def test_a_grey_image_is_one_of_three_equal_channels() -> None:
    estimator, grey = SeverityEstimator(), torch.rand(2, 1, 9, 8) * 2 - 1
    assert torch.equal(estimator(grey), estimator(grey.repeat(1, 3, 1, 1)))


def test_statistics_do_not_depend_on_the_size_of_the_image() -> None:
    """A constant image has no borders, because padding repeats it."""
    estimator = SeverityEstimator(1)
    small, large = (estimator(torch.full((1, 1, *size), 0.3)) for size in ((4, 4), (37, 64)))
    torch.testing.assert_close(small, large)


def test_strips_of_a_large_image_are_weighted_by_their_heights(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = SeverityEstimator(1)
    rows = torch.cat([torch.full((2, 1, 32, 16), -0.9), torch.full((2, 1, 8, 16), 0.8)], 2)
    parts = [(height, estimator._moments(x)) for height, x in ((32, rows[:, :, :32]), (8, rows[:, :, 32:]))]
    mean, square = (sum(height * moments for height, moments in parts) / 40).chunk(2, 1)  # type: ignore[union-attr]
    expected = estimator.head(torch.cat([mean, (square - mean**2).clamp(min=1e-6).sqrt()], 1))
    monkeypatch.setattr(severity, "STRIP_PIXELS", 2 * 16 * 10)  # strips of 8 rows
    torch.testing.assert_close(estimator(rows), expected)


def test_strips_of_a_photograph_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, images = SeverityEstimator(3), torch.rand(1, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    whole = estimator(images).softmax(1)
    monkeypatch.setattr(severity, "STRIP_PIXELS", 64 * 33)
    assert (estimator(images).softmax(1) - whole).abs().sum() < 0.02


def test_the_first_weights_take_no_random_numbers_from_others() -> None:
    state = torch.get_rng_state()
    one, same, other = SeverityEstimator(1), SeverityEstimator(1), SeverityEstimator(1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_an_estimator_without_scales_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"scales=0.*at least 1"):
        SeverityEstimator(scales=0)
