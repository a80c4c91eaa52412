"""Singular value decompositions in factors: U and V are orthogonal, and U Σ Vᵀ is the dense matrix (spine check 17)."""

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases
from helpers.keyed_params import keyed_params
from helpers.oracles import dense_matrix

from diffusion_lightning.degradations import Compose, Desaturate, Fade, GaussianBlur, ImageNetC, Pixelate

SHAPES = {"square": (1, 5, 5), "odd and wide with two channels": (2, 4, 7), "tall RGB": (3, 6, 2), "a row": (1, 1, 6)}
TIMES = torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)
PARTS_WITHOUT_FACTORS = {"blur and fading with cosine noise", "blur and fading at once"}

FACTORED = {
    case: DEGRADATIONS[case]
    for case in cases(lambda degradation: degradation.linear)
    if case not in PARTS_WITHOUT_FACTORS
} | {
    "luma": lambda: Desaturate(steps=3, grey="luma"),
    "blur, pixelation and desaturation": lambda: Compose(
        [GaussianBlur(steps=4, kernel_size=5, padding="reflect"), Pixelate(steps=2), Desaturate(steps=3)]
    ),
    "two masks and desaturation": lambda: Compose(
        [Fade(steps=5, std=0.7), Desaturate(steps=3), Fade(steps=4, centre="random")]
    ),
}


def decomposed(case, shape):
    degradation = FACTORED[case]()
    params = keyed_params(degradation, torch.zeros(len(TIMES), *shape, dtype=torch.float64))
    return degradation, params, degradation.svd(shape, TIMES, params)


def matrices_of(function, number, shape):
    """The matrices (B, n, n) of a linear function of a batch of B images, which acts on each of them."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).view(-1, 1, *shape)
    return torch.stack([function(unit.expand(number, *shape)).flatten(1) for unit in units], 2)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("case", FACTORED)
def test_u_sigma_vt_is_the_dense_matrix_and_u_and_v_are_orthogonal(case, shape):
    if "luma" in case and shape[0] != 3:
        shape = (3, *shape[1:])
    degradation, params, svd = decomposed(case, shape)
    assert svd.values.dtype == torch.float64
    assert svd.values.min() >= 0
    u, v, ut, vt = (matrices_of(function, len(TIMES), shape) for function in (svd.U, svd.V, svd.Ut, svd.Vt))
    identity = torch.eye(u.shape[-1], dtype=torch.float64)
    for matrix, transpose in ((u, ut), (v, vt)):
        assert (matrix.mT @ matrix - identity).abs().max() < 1e-10
        assert (transpose - matrix.mT).abs().max() < 1e-13
    product = u @ (svd.values.expand(len(TIMES), *shape).flatten(1)[:, :, None] * v.mT)
    exact = torch.stack([dense_matrix(degradation, shape, TIMES[i : i + 1], params, i) for i in range(len(TIMES))])
    assert (product - exact).abs().max() < 1e-10


@pytest.mark.parametrize("case", ["pixelation", "reflect blur", "desaturation", "fading from the border"])
def test_the_pseudo_inverse_is_that_of_the_dense_matrix(case):
    shape = (3, 4, 6)
    degradation, params, svd = decomposed(case, shape)
    inverse = matrices_of(lambda y: svd.pinv(y, tolerance=1e-9), len(TIMES), shape)
    for i in range(len(TIMES)):
        exact = torch.linalg.pinv(dense_matrix(degradation, shape, TIMES[i : i + 1], params, i), rtol=1e-9)
        assert (inverse[i] - exact).abs().max() <= 1e-10 * exact.abs().max()


def test_one_time_serves_a_batch_of_images():
    degradation = Pixelate(steps=2)
    x = torch.rand(3, 2, 5, 4, dtype=torch.float64)
    svd = degradation.svd((2, 5, 4), torch.ones(1))
    expected = degradation(x, torch.ones(3, dtype=torch.float64), {})
    assert (svd.U(svd.values * svd.Vt(x)) - expected).abs().max() < 1e-14


@pytest.mark.parametrize("case", sorted(PARTS_WITHOUT_FACTORS))
def test_a_mask_composed_with_a_blur_is_refused(case):
    degradation = DEGRADATIONS[case]()
    params = keyed_params(degradation, torch.zeros(1, 1, 4, 4))
    with pytest.raises(TypeError, match=r"a mask composed with a blur .* use a method without one, such as MMPS"):
        degradation.svd((1, 4, 4), torch.ones(1), params)


def test_a_degradation_without_factors_is_refused():
    with pytest.raises(TypeError, match=r"ImageNetC has no singular value decomposition .* such as MMPS"):
        ImageNetC("fog").svd((3, 32, 32), torch.ones(1))
