"""The adaptive solver against SciPy's, and the flow of a Gaussian by it against the closed form."""

import pytest
import torch
from helpers.oracles import GaussianOracle
from helpers.sampling import noise
from scipy.integrate import RK45, solve_ivp

from diffusion_lightning.core import dormand_prince as solver
from diffusion_lightning.core.dormand_prince import dormand_prince
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, Cosine, FlowMatching
from diffusion_lightning.samplers import AdaptiveODE

VARIANCE = 0.3


def pendulum(u, y):
    """A nonlinear equation of two values, which depends on u."""
    return torch.stack([y[:, 1], -4 * y[:, 0].sin() * (1 + u) - 0.3 * y[:, 1]], 1)


def test_the_tableau_is_that_of_dormand_and_prince_in_scipy():
    assert (0.0, *solver.NODES[:5]) == pytest.approx(RK45.C)
    for i, weights in enumerate(solver.WEIGHTS[:5]):
        assert weights == pytest.approx(RK45.A[i + 1][: i + 1])
    assert solver.WEIGHTS[5] == pytest.approx(RK45.B)
    assert list(solver.ERROR) == pytest.approx(RK45.E)


@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (1.0, -2.0)], ids=["forwards", "backwards"])
def test_each_equation_takes_the_steps_of_scipy_alone(start, end):
    """The same solution to the last digits, thus the same steps, and no more evaluations than the slowest needs."""
    y = torch.tensor([[1.0, 0.0], [3.0, -5.0], [0.0, 0.0]], dtype=torch.float64)
    evaluations = []

    def counted(u, y):
        evaluations.append(u)
        return pendulum(u, y)

    found = dormand_prince(counted, start, end, y, 1e-6, 1e-7)
    numbers = []
    for one, result in zip(y, found, strict=True):

        def alone(u, y):
            return pendulum(torch.tensor([u], dtype=torch.float64), torch.as_tensor(y)[None])[0].numpy()

        reference = solve_ivp(alone, (start, end), one.numpy(), rtol=1e-6, atol=1e-7)
        numbers.append(reference.nfev)
        assert torch.allclose(result, torch.as_tensor(reference.y[:, -1]), rtol=0, atol=1e-11)
    assert len(evaluations) == max(numbers)


def test_an_equation_that_becomes_nan_ends_as_nan_and_leaves_the_others():
    def slope(u, y):
        return torch.where(y > 5, torch.nan, y)

    found = dormand_prince(slope, 0.0, 1.0, torch.tensor([[1.0], [4.0]], dtype=torch.float64), 1e-8, 1e-8)
    assert found[0].item() == pytest.approx(2.718281828, abs=1e-6)
    assert found[1].isnan()


def test_a_tolerance_that_cannot_be_met_is_an_error(monkeypatch):
    monkeypatch.setattr(solver, "MAX_EVALUATIONS", 60)
    with pytest.raises(ValueError, match="rtol=1e-12, atol=1e-12: no solution after 60 evaluations; choose larger"):
        dormand_prince(pendulum, 0.0, 9.0, torch.ones(1, 2, dtype=torch.float64), 1e-12, 1e-12)


@pytest.mark.parametrize("t_start", [1.0, 0.4])
@pytest.mark.parametrize("schedule", [Cosine(), VE(), FlowMatching()], ids=["cosine", "VE", "flow matching"])
def test_the_flow_of_a_gaussian_is_exact_to_the_tolerance(schedule, t_start):
    """x_t = (S_t/S_1) x_1 with S² = λα² + σ², then x̂_0; with fewer evaluations at a larger tolerance."""
    degradation = GaussianNoise(1000, schedule)
    times = torch.tensor([t_start, 1 / 1000], dtype=torch.float64)
    alpha, sigma = degradation.alpha(times), degradation.sigma(times)
    spread = (VARIANCE * alpha**2 + sigma**2).sqrt()
    x = spread[0] * noise(3, 1, 2, 2)
    oracle, numbers = GaussianOracle(degradation, 0.0, VARIANCE), []
    for tolerance in (1e-3, 1e-5):
        evaluations = []

        def denoise(x, t, evaluations=evaluations):
            evaluations.append(t)
            return oracle(x, t)

        first, middle, last = AdaptiveODE(tolerance, tolerance).trajectory(denoise, degradation, x, t_start=t_start)
        numbers.append(len(evaluations))
        assert torch.allclose(middle.x, spread[1] / spread[0] * x, rtol=0, atol=20 * tolerance)
        assert torch.equal(last.x, middle.x0)
        assert torch.allclose(first.x0, oracle(x, times[:1].expand(3)), rtol=0, atol=1e-9)
        assert min(t.min() for t in evaluations) >= 1 / 1000 - 1e-12
    assert numbers[0] < numbers[1] < 200


def test_adaptive_ode_rejects_what_it_cannot_solve():
    with pytest.raises(ValueError, match=r"AdaptiveODE needs a degradation α_t x .* unlike GaussianBlur: use Heun"):
        AdaptiveODE().check(GaussianBlur(noise=0.1))
    with pytest.raises(ValueError, match="rtol=0: choose a positive tolerance"):
        AdaptiveODE(rtol=0)
