"""Spine check 13: with the pseudo-inverse as restorer a cold walk finds what the end of the degradation has kept."""

import pytest
import torch
from helpers.oracles import dense_matrix

from diffusion_lightning.degradations import Desaturate, GaussianBlur, Pixelate
from diffusion_lightning.samplers import Cold, Direct, Heun, Multistep, Naive, ProbabilityFlow

SHAPE = (3, 4, 4)
DEGRADATIONS = {
    "blur": lambda: GaussianBlur(steps=6, kernel_size=3, std=0.4, schedule="constant"),
    "pixelation": lambda: Pixelate(steps=2, first_downsampling="mean"),
    "desaturation": lambda: Desaturate(steps=5),
}
SAMPLERS = {
    "Direct": lambda: Direct(),
    "Naive": Naive,
    "Cold": Cold,
    "flow": ProbabilityFlow,
    "Heun": Heun,
    "Multistep": Multistep,
}


class PseudoInverse:
    """x̂_0 = D_t⁺ x_t: the least image that explains what is seen."""

    def __init__(self, degradation):
        self.degradation = degradation

    def __call__(self, x, t):
        inverse = torch.linalg.pinv(dense_matrix(self.degradation, SHAPE, t[:1].double()), rtol=1e-9)
        return (x.flatten(1) @ inverse.mT).view_as(x)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", DEGRADATIONS)
def test_an_image_in_the_range_of_the_transpose_of_the_end_comes_back(case, name):
    degradation = DEGRADATIONS[case]()
    one = torch.ones(1, dtype=torch.float64)
    seed = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = degradation.adjoint(seed, one.expand(4), {})
    x = degradation(clean, one.expand(4), {})
    restored = SAMPLERS[name]()(PseudoInverse(degradation), degradation, x)
    assert (restored - clean).abs().max() < 1e-9


@pytest.mark.parametrize("case", ["pixelation", "desaturation"])
def test_of_any_other_image_comes_back_its_part_in_that_range(case):
    """The lost part does not: D_1⁺ D_1 is a projection, and no sampler can know more."""
    degradation = DEGRADATIONS[case]()
    one = torch.ones(1, dtype=torch.float64)
    clean = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = dense_matrix(degradation, SHAPE, one)
    kept = (clean.flatten(1) @ (torch.linalg.pinv(matrix, rtol=1e-9) @ matrix).mT).view_as(clean)
    assert (kept - clean).abs().max() > 0.5
    x = degradation(clean, one.expand(4), {})
    for sampler in SAMPLERS.values():
        assert (sampler()(PseudoInverse(degradation), degradation, x) - kept).abs().max() < 1e-9
