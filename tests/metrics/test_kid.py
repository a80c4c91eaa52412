"""The kernel distance against the unbiased MMD of the polynomial kernel, computed directly."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusion_lightning.metrics import KID


class Pixels(nn.Module):
    """The pixels as features, in units of the 256 grey levels; has a weight and a dropout."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 1 / 255))
        self.dropout = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return self.dropout(images.flatten(1) * self.scale)


def images(number: int, mean: float, seed: int) -> Tensor:
    """Images (N, 3, 2, 2) in [0, 1], of 8-bit grey levels."""
    noise = torch.randn(number, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return ((mean + 0.1 * noise).clamp(0, 1) * 255).round() / 255


def unbiased_mmd(a: Tensor, b: Tensor) -> float:
    """MMD² with k(x, y) = (xᵀy/n + 1)³ of images whose pixels are the features, without the diagonals."""
    x, y = (images.double().flatten(1).numpy() for images in (a, b))

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p @ q.T / p.shape[1] + 1) ** 3

    def mean_of_pairs(p: np.ndarray) -> float:
        return (kernel(p, p).sum() - np.trace(kernel(p, p))) / (len(p) * (len(p) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()


PREDICTION, TARGET = images(40, 0.6, seed=1), images(40, 0.4, seed=2)


def kid(subset_size: int = 40, subsets: int = 3) -> KID:
    metric = KID(Pixels(), subset_size=subset_size, subsets=subsets)
    metric.update(PREDICTION, TARGET)
    return metric


def test_with_all_images_in_a_subset_it_is_the_unbiased_mmd() -> None:
    assert kid().compute().item() == pytest.approx(unbiased_mmd(PREDICTION, TARGET), rel=1e-4)


def test_it_is_unbiased_and_so_may_be_negative() -> None:
    metric, prediction, target = KID(Pixels(), subset_size=40, subsets=1), images(40, 0.5, 15), images(40, 0.5, 16)
    metric.update(prediction, target)
    expected = unbiased_mmd(prediction, target)
    assert expected < 0
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


def test_smaller_subsets_give_nearly_the_same_distance() -> None:
    """The mean over the subsets has the same expectation."""
    found = kid(subset_size=20, subsets=200).compute().item()
    assert found == pytest.approx(unbiased_mmd(PREDICTION, TARGET), rel=0.02)
    assert found != kid().compute().item()


def test_batches_give_the_distance_of_the_whole() -> None:
    metric = KID(Pixels(), subset_size=40, subsets=1)
    for part in torch.arange(40).split(7):
        metric.update(PREDICTION[part], TARGET[part])
    assert metric.compute().item() == pytest.approx(kid().compute().item(), rel=1e-5)


def test_the_subsets_do_not_depend_on_the_global_random_state() -> None:
    torch.manual_seed(1)
    first = kid(subset_size=10).compute()
    torch.manual_seed(2)
    assert torch.equal(kid(subset_size=10).compute(), first)


def test_the_global_random_states_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = kid(subset_size=10)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs' generators were seeded"))
    state = torch.get_rng_state()
    metric.compute()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", [0, 1, 9])
def test_fewer_images_than_a_subset_give_nan(number: int) -> None:
    metric = KID(Pixels(), subset_size=10)
    if number:
        metric.update(PREDICTION[:number], TARGET[:number])
    state = torch.get_rng_state()
    assert metric.compute().isnan()
    assert torch.equal(torch.get_rng_state(), state)


def test_reset_removes_all_images() -> None:
    metric = kid()
    metric.reset()
    metric.update(TARGET, PREDICTION)
    assert metric.compute().item() == pytest.approx(unbiased_mmd(TARGET, PREDICTION), rel=1e-4)
    metric.reset()
    metric.update(PREDICTION[:1], TARGET[:1])
    assert metric.compute().isnan()


def test_the_features_are_frozen_and_in_eval_mode() -> None:
    features = Pixels().train()
    KID(features)
    assert not features.training
    assert not features.dropout.training
    assert not features.scale.requires_grad


def test_features_without_num_features_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"Flatten.*num_features"):
        KID(nn.Flatten())
