"""Noise schedules against 50-digit arithmetic, on the grid, between its points and below 1/T; spine checks 1 and 2."""

import itertools

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from diffusion_lightning.core.tables import GRID_TOLERANCE
from diffusion_lightning.degradations import noise_schedules
from diffusion_lightning.degradations.noise_schedules import (
    VE,
    VP,
    Cosine,
    FlowMatching,
    Karras,
    Linear,
    NoiseSchedule,
    ScaledLinear,
    SubVP,
    alpha_bar_from_betas,
)


def cosine(u, steps, offset="0.008", bound="0.999"):
    """β_k = 1 − f(k)/f(k−1), clipped (2102.09672, eq. 17)."""
    s = mpf(offset)
    f = [mpmath.cos((mpf(k) / steps + s) / (1 + s) * mpmath.pi / 2) ** 2 for k in range(steps + 1)]
    return from_betas(u, [min(1 - after / before, mpf(bound)) for before, after in itertools.pairwise(f)])


def linear(u, steps, start="1e-4", end="0.02"):
    """β evenly from 1000/T · start to 1000/T · end, clipped (2006.11239, sec. 4)."""
    first, last = mpf(start) * 1000 / steps, mpf(end) * 1000 / steps
    betas = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
    return from_betas(u, [min(beta, mpf("0.999")) for beta in betas])


def scaled_linear(u, steps, start="0.00085", end="0.012"):
    """√β evenly from √start to √end, times 1000/T, clipped (2112.10752, the authors' code)."""
    first, last = mpmath.sqrt(mpf(start)), mpmath.sqrt(mpf(end))
    roots = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
    return from_betas(u, [min(root**2 * 1000 / steps, mpf("0.999")) for root in roots])


def from_betas(u, betas):
    alpha_bar = [mpf(1)]
    for beta in betas:
        alpha_bar.append(alpha_bar[-1] * (1 - beta))
    values = []
    for x in u:
        k = min(int(x), len(betas) - 1)
        value = alpha_bar[k] + (x - k) * (alpha_bar[k + 1] - alpha_bar[k])
        values.append((mpmath.sqrt(value), mpmath.sqrt(1 - value)))
    return values


def vp(u, steps, low="0.1", high="20", power="0.5"):
    """α = exp(−¼ t² (β_max − β_min) − ½ t β_min), σ² = 1 − α² (2011.13456, eq. 33)."""
    low, high, values = mpf(low), mpf(high), []
    for x in u:
        t = x / steps
        alpha = mpmath.exp(-(t**2) * (high - low) / 4 - t * low / 2)
        values.append((alpha, (1 - alpha**2) ** mpf(power)))
    return values


def ve(u, steps, low="0.01", high="50"):
    """σ = σ_min (σ_max/σ_min)^((u−1)/(T−1)) from u = 1 on."""
    return exploding(u, steps, lambda fraction: mpf(low) * (mpf(high) / mpf(low)) ** fraction)


def karras(u, steps, low="0.002", high="80", rho=7):
    """2206.00364, eq. 5, with increasing levels."""
    a, b = mpf(low) ** (mpf(1) / rho), mpf(high) ** (mpf(1) / rho)
    return exploding(u, steps, lambda fraction: (a + fraction * (b - a)) ** rho)


def exploding(u, steps, sigma):
    fractions = [max(x - 1, 0) / (steps - 1) if steps > 1 else mpf(1) for x in u]
    return [(mpf(1), sigma(fraction) * min(x, 1)) for x, fraction in zip(u, fractions, strict=True)]


SCHEDULES = {
    "Cosine": (Cosine(), cosine),
    "Cosine with other numbers": (Cosine(0.05, 0.7), lambda u, steps: cosine(u, steps, "0.05", "0.7")),
    "Linear": (Linear(), linear),
    "Linear with other numbers": (Linear(2e-4, 0.01), lambda u, steps: linear(u, steps, "2e-4", "0.01")),
    "ScaledLinear": (ScaledLinear(), scaled_linear),
    "VP": (VP(), vp),
    "VP with other numbers": (VP(0.3, 9), lambda u, steps: vp(u, steps, "0.3", "9")),
    "SubVP": (SubVP(), lambda u, steps: vp(u, steps, power="1")),
    "VE": (VE(), ve),
    "VE with other numbers": (VE(0.05, 7), lambda u, steps: ve(u, steps, "0.05", "7")),
    "Karras": (Karras(), karras),
    "Karras with other numbers": (Karras(0.05, 7, 3), lambda u, steps: karras(u, steps, "0.05", "7", 3)),
    "FlowMatching": (FlowMatching(), lambda u, steps: [(1 - x / steps, x / steps) for x in u]),
}
"""Each schedule, and (α, σ) at u = t·T by the paper's formula in mpmath."""
GRIDS = [1, 2, 10, 50, 1000]
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_grid = pytest.mark.parametrize("steps", GRIDS)


def grid(steps):
    return torch.arange(steps + 1, dtype=torch.float64) / steps


def some_times(steps):
    """Grid points, points between them, and points below t = 1/T; none at 0."""
    off = [0.0011, 0.01, 0.3, 0.9, *(k + part for k in range(1, steps, max(1, steps // 40)) for part in (0.2, 0.71))]
    return torch.cat([grid(steps)[1:], torch.tensor(off, dtype=torch.float64) / steps])


@every_grid
@every_schedule
def test_alpha_and_sigma_have_a_relative_error_below_1e_12(name, steps):
    schedule, exact = SCHEDULES[name]
    t = some_times(steps)
    alpha, sigma = schedule(t, steps)
    assert alpha.dtype == sigma.dtype == torch.float64
    with mpmath.workdps(50):
        u = [mpf(time) * steps for time in t.tolist()]
        u = [mpmath.nint(x) if abs(x - mpmath.nint(x)) <= GRID_TOLERANCE else x for x in u]
        for i, (true_alpha, true_sigma) in enumerate(exact(u, steps)):
            assert abs(alpha[i].item() - true_alpha) <= 1e-12 * true_alpha, f"α at u = {u[i]}"
            assert abs(sigma[i].item() - true_sigma) <= 1e-12 * true_sigma, f"σ at u = {u[i]}"


@every_grid
@every_schedule
def test_at_0_alpha_is_exactly_1_and_sigma_exactly_0(name, steps):
    for t in (torch.zeros(1), torch.tensor([0.9e-3 / steps])):
        alpha, sigma = SCHEDULES[name][0](t, steps)
        assert (alpha.item(), sigma.item()) == (1.0, 0.0)


@every_grid
@every_schedule
def test_noise_increases_and_the_snr_decreases_at_every_time(name, steps):
    t = some_times(steps).sort().values
    alpha, sigma = SCHEDULES[name][0](t, steps)
    assert (sigma.diff() > 0).all()
    assert ((alpha / sigma).diff() < 0).all()
    assert (alpha.diff() <= 0).all()


@every_schedule
def test_float32_times_on_the_grid_give_the_same_bits(name):
    schedule = SCHEDULES[name][0]
    for single, double in zip(schedule(grid(300).float(), 300), schedule(grid(300), 300), strict=True):
        assert torch.equal(single, double)


@every_schedule
def test_steps_between_any_times_compose_to_the_marginal(name):
    """x_t given x_s has the coefficient α_t/α_s and the variance σ_t² − (α_t/α_s)² σ_s², which is at least 0."""
    t = grid(40)
    alpha, sigma = SCHEDULES[name][0](t, 40)
    s, t = torch.triu_indices(41, 41, 1)
    variance = sigma[t] ** 2 - (alpha[t] / alpha[s]) ** 2 * sigma[s] ** 2
    assert (variance > 0).all()
    mean, total = 1.0, 0.0
    for before, after in itertools.pairwise((0, 1, 7, 8, 20, 39, 40)):
        ratio = (alpha[after] / alpha[before]).item()
        mean *= ratio
        total = ratio**2 * total + variance[(s == before) & (t == after)].item()
        assert mean == pytest.approx(alpha[after].item(), rel=1e-13, abs=1e-300)
        assert total == pytest.approx(sigma[after].item() ** 2, rel=1e-12)


def beta(t):
    return 0.1 + t * (20 - 0.1)


EQUATIONS = {
    "VP": (VP(), lambda t: -beta(t) / 2, lambda t: beta(t)),
    "SubVP": (SubVP(), lambda t: -beta(t) / 2, lambda t: beta(t) * (1 - mpmath.exp(-2 * (0.1 * t + 19.9 * t**2 / 2)))),
    "FlowMatching": (FlowMatching(), lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
}
"""f and g² of dx = f x dt + g dw (2011.13456, eqs. 32 and 29; flow matching's follow from α = 1 − t, σ = t)."""


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_schedule_has_the_moments_of_its_differential_equation(name):
    """ṁ = f m and v̇ = 2 f v + g² from (1, 0), by the Runge-Kutta method of order 4."""
    schedule, f, square = EQUATIONS[name]

    def slope(t, m, v):
        return f(t) * m, 2 * f(t) * v + square(t)

    m, v, h, number = 1.0, 0.0, 0.8 / 2000, 2000
    for i in range(number):
        t = i * h
        a = slope(t, m, v)
        b = slope(t + h / 2, m + h / 2 * a[0], v + h / 2 * a[1])
        c = slope(t + h / 2, m + h / 2 * b[0], v + h / 2 * b[1])
        d = slope(t + h, m + h * c[0], v + h * c[1])
        m, v = (y + h / 6 * (a[j] + 2 * b[j] + 2 * c[j] + d[j]) for j, y in enumerate((m, v)))
    alpha, sigma = schedule(torch.tensor([0.8], dtype=torch.float64), 10)
    assert alpha.item() == pytest.approx(float(m), rel=1e-9)
    assert sigma.item() ** 2 == pytest.approx(float(v), rel=1e-9)


def test_ve_has_the_geometric_levels_of_ncsn():
    levels = VE(0.01, 1.0)(grid(10), 10)[1]
    assert levels[1:].tolist() == pytest.approx([0.01 * 100 ** (i / 9) for i in range(10)], rel=1e-13)
    assert torch.allclose(levels[2:] / levels[1:-1], torch.full((9,), 100 ** (1 / 9), dtype=torch.float64), rtol=1e-13)


def test_karras_has_the_levels_of_edm():
    """σ_i for i = 0 … N−1 of eq. 5 are those of k = N … 1."""
    number = 18
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    edm = [(ends[0] + i / (number - 1) * (ends[1] - ends[0])) ** 7 for i in range(number)]
    assert Karras()(grid(number).flip(0), number)[1].tolist() == pytest.approx([*edm, 0.0], rel=1e-12)


def test_the_sigma_of_sub_vp_is_the_square_of_vp_s_and_alpha_is_the_same():
    t = some_times(50)
    (alpha, sigma), (alpha_vp, sigma_vp) = SubVP(0.2, 10)(t, 50), VP(0.2, 10)(t, 50)
    assert torch.equal(alpha, alpha_vp)
    assert torch.allclose(sigma, sigma_vp**2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("steps", [50, 1000])
def test_only_the_last_beta_of_the_cosine_schedule_is_clipped(steps):
    betas = Cosine().betas(steps)
    assert betas[-1].item() == 0.999
    assert betas[:-1].max() < 0.9


def test_the_linear_schedule_s_end_hardly_depends_on_the_steps():
    ends = [Linear().alpha_bar(steps)[-1].log().item() for steps in (500, 1000, 4000)]
    assert max(ends) / min(ends) == pytest.approx(1, rel=0.02)


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=30))
def test_alpha_bar_is_the_product_of_one_minus_beta(betas):
    table = alpha_bar_from_betas(torch.tensor(betas, dtype=torch.float64))
    product = 1.0
    for value, beta in zip(table[1:].tolist(), betas, strict=True):
        product *= 1 - beta
        assert value == pytest.approx(product, rel=1e-13)
    assert table[0] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(offset=-0.1), r"offset=-0.1: choose a finite number"),
        (lambda: Cosine(max_beta=1.5), r"max_beta=1.5: choose 0 < max_beta <= 1"),
        (lambda: Linear(0.0, 0.1), r"beta_start=0.0, beta_end=0.1: choose 0 < beta_start <= beta_end < 1"),
        (lambda: Linear(0.2, 0.1), r"beta_start=0.2, beta_end=0.1"),
        (lambda: VP(0.0), r"beta_min=0.0, beta_max=20.0: choose 0 < beta_min"),
        (lambda: SubVP(5.0, 1.0), r"beta_min=5.0, beta_max=1.0"),
        (lambda: VE(0.0), r"sigma_min=0.0, sigma_max=50.0: choose 0 < sigma_min"),
        (lambda: VE(2.0, 1.0), r"sigma_min=2.0, sigma_max=1.0"),
        (lambda: VE(2.0, float("inf")), r"sigma_max=inf"),
        (lambda: Karras(rho=0.0), r"rho=0.0: choose a positive number"),
    ],
    ids=lambda value: None if callable(value) else value.partition(":")[0],
)
def test_invalid_numbers_are_rejected_with_their_value_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_schedule_is_tested_here():
    public = {
        name
        for name, value in vars(noise_schedules).items()
        if isinstance(value, type) and issubclass(value, NoiseSchedule) and not name.startswith("_")
    }
    assert public - {"NoiseSchedule"} == {type(schedule).__name__ for schedule, _ in SCHEDULES.values()}
