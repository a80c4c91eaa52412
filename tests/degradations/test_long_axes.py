"""Large images are blurred and pixelated without matrices, and the result is that of the matrices."""

import pytest
import torch
from torch import Tensor

from diffusion_lightning.degradations import GaussianBlur, Pixelate, separable
from diffusion_lightning.degradations.separable import Separable

T = torch.tensor([0.0, 0.4, 0.95, 1.0], dtype=torch.float64)
CASES: dict[str, Separable] = {
    "circular blur": GaussianBlur(steps=6),
    "reflected blur": GaussianBlur(steps=6, std=0.3, padding="reflect"),
    "circular blur to the mean": GaussianBlur(steps=6, std=0.3, final_mean=True),
    "reflected blur to the mean": GaussianBlur(steps=6, std=0.3, padding="reflect", final_mean=True),
    "bicubic pixelation": Pixelate(steps=3),
    "mean pixelation": Pixelate(steps=3, first_downsampling="mean"),
}


class OnlyMatrices(Separable):
    """A degradation of a user, without an own ``change_lines``."""

    def matrix_minus_identity(self, size: int, t: Tensor, like: Tensor) -> Tensor:
        matrix = torch.rand(size, size, generator=torch.Generator().manual_seed(size), dtype=like.dtype)
        return t[:, None, None] * (matrix - torch.eye(size, dtype=like.dtype))


@pytest.mark.parametrize("size", [(17, 12), (9, 9), (16, 10), (2, 7)], ids=str)
@pytest.mark.parametrize("name", [*CASES, "only matrices"])
def test_lines_are_changed_as_by_matrices(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    degradation = CASES.get(name) or OnlyMatrices(steps=6)
    x = torch.rand(len(T), 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [degradation.operator(x, T, {}), degradation.adjoint(x, T, {})]
    monkeypatch.setattr(separable, "MAX_MATRIX", 4)
    monkeypatch.setattr(separable, "CHUNK", 100)  # several chunks, the last of which is smaller
    found = [degradation.operator(x, T, {}), degradation.adjoint(x, T, {})]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(found[0][0], x[0]), "t = 0 is the image itself, bit for bit"


@pytest.mark.parametrize("name", ["reflected blur", "bicubic pixelation"])
def test_a_large_image_takes_no_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a matrix was made")

    monkeypatch.setattr(GaussianBlur, "matrix_minus_identity", refuse)
    monkeypatch.setattr(Pixelate, "matrix_minus_identity", refuse)
    x = torch.rand(1, 1, separable.MAX_MATRIX + 1, 8)
    t = torch.ones(1)
    y = CASES[name].operator(x, t, {})
    squared_norm = (y * y).sum().item()
    assert squared_norm == pytest.approx((x * CASES[name].adjoint(y, t, {})).sum().item(), rel=1e-4)
    assert y.var() < x.var() / 2
