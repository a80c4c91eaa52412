"""Cold sampling with the pseudo-inverse as the denoiser recovers what D_1 keeps of an image (spine check 13)."""

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
    "ProbabilityFlow": ProbabilityFlow,
    "Heun": Heun,
    "Multistep": Multistep,
}


class PseudoInverse:
    """x̂_0 = D_t⁺ x_t: the image of minimum norm that explains x_t."""

    def __init__(self, degradation):
        self.degradation = degradation

    def __call__(self, x, t):
        inverse = torch.linalg.pinv(dense_matrix(self.degradation, SHAPE, t[:1].double()), rtol=1e-9)
        return (x.flatten(1) @ inverse.mT).view_as(x)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", DEGRADATIONS)
def test_images_in_the_range_of_the_adjoint_of_d_1_are_recovered(case, name):
    degradation = DEGRADATIONS[case]()
    one = torch.ones(1, dtype=torch.float64)
    y = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = degradation.adjoint(y, one.expand(4), {})
    x = degradation(clean, one.expand(4), {})
    restored = SAMPLERS[name]()(PseudoInverse(degradation), degradation, x)
    assert (restored - clean).abs().max() < 1e-9


@pytest.mark.parametrize("case", ["pixelation", "desaturation"])
def test_other_images_lose_their_part_outside_that_range(case):
    """D_1⁺ D_1 is a projection, and no sampler can recover what it removes."""
    degradation = DEGRADATIONS[case]()
    one = torch.ones(1, dtype=torch.float64)
    clean = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = dense_matrix(degradation, SHAPE, one)
    projected = (clean.flatten(1) @ (torch.linalg.pinv(matrix, rtol=1e-9) @ matrix).mT).view_as(clean)
    assert (projected - clean).abs().max() > 0.5
    x = degradation(clean, one.expand(4), {})
    for sampler in SAMPLERS.values():
        assert (sampler()(PseudoInverse(degradation), degradation, x) - projected).abs().max() < 1e-9
