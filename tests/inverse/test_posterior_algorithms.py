"""Each method with its paper's sampler is the paper's algorithm, which is transcribed here in the paper's symbols."""

import pytest
import torch
from helpers.oracles import dense_matrix
from helpers.sampling import close, noise, smooth_denoiser

from diffusion_lightning.core.rng import keyed_generator, normal
from diffusion_lightning.degradations import Desaturate, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.inverse import DDNM, DDRM, DPS, DDRMSteps, DiffPIR, FreshNoise, RePaint, RePaintSteps
from diffusion_lightning.samplers import DDPM

SHAPE = (3, 4, 5)
T = 12
MODEL = GaussianNoise(steps=T, schedule="linear")
X1, Y = noise(2, *SHAPE, seed=1), noise(2, *SHAPE, seed=2).clamp(-1, 1)
OPERATORS = {
    "pixelation": Pixelate(steps=1, first_downsampling="mean"),
    "reflect blur": GaussianBlur(steps=2, kernel_size=3, std=0.7, schedule="constant", padding="reflect"),
    "desaturation": Desaturate(steps=2),
}


class Schedule:
    """The paper's ᾱ_i and β_i of the linear schedule, from i = 0 with ᾱ_0 = 1."""

    def __init__(self):
        grid = torch.arange(T + 1, dtype=torch.float64) / T
        self.alpha_bar = MODEL.alpha(grid) ** 2
        self.beta = 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]
        self.beta = torch.cat([torch.zeros(1, dtype=torch.float64), self.beta])

    def ancestral(self, i, x0, x, z):
        """x_{i−1} of DDPM's ancestral step."""
        a, a_prev, b = self.alpha_bar[i], self.alpha_bar[i - 1], self.beta[i]
        mean = a_prev.sqrt() * b / (1 - a) * x0 + (1 - b).sqrt() * (1 - a_prev) / (1 - a) * x
        return mean + ((1 - a_prev) / (1 - a) * b).sqrt() * z if i > 1 else mean


def denoise(x, i):
    return smooth_denoiser(x, torch.full((len(x),), i / T, dtype=torch.float64))


def fresh(generator):
    return normal(X1.shape, generator, like=X1)


def matrix_of(operator):
    return dense_matrix(operator, SHAPE, torch.ones(1, dtype=torch.float64))


def product(matrix, x):
    return (x.flatten(1) @ matrix.mT).view_as(x)


def sample(sampler, method):
    return sampler(method.condition(smooth_denoiser, MODEL, Y), MODEL, X1, {}, keyed_generator("steps"))


@pytest.mark.parametrize("name", OPERATORS)
def test_ddnm_with_ddpm_is_algorithm_1_of_ddnm(name):
    schedule, generator, x = Schedule(), keyed_generator("steps"), X1
    matrix = matrix_of(OPERATORS[name])
    inverse = torch.linalg.pinv(matrix, rtol=1e-5)
    for i in range(T, 0, -1):
        x0 = denoise(x, i)
        x0 = product(inverse, Y) + x0 - product(inverse @ matrix, x0)
        x = schedule.ancestral(i, x0, x, fresh(generator) if i > 1 else 0)
    assert close(sample(DDPM(T), DDNM(OPERATORS[name])), x, 1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_ddnm_with_noise_corrects_each_component_in_part(name):
    """By λ = min(1, s σ_t/(α_t σ_y)) of its Σ⁺ Uᵀ (y − A x̂_0), at a time where some are below 1 and some are not."""
    sigma_y, t = 0.2, torch.full((2,), 2 / T, dtype=torch.float64)
    matrix = matrix_of(OPERATORS[name])
    left, values, right = torch.linalg.svd(matrix)
    level = (MODEL.sigma(t[:1]) / MODEL.alpha(t[:1])).item()
    x0 = smooth_denoiser(X1, t)
    gains = torch.where(values > 1e-5, (values * level / sigma_y).clamp(max=1) / values, 0)
    expected = x0 + product(right.mT @ gains.diag() @ left.mT, Y - product(matrix, x0))
    assert (gains * values < 0.99).any()
    assert close(DDNM(OPERATORS[name], noise=sigma_y).condition(smooth_denoiser, MODEL, Y)(X1, t).x0, expected, 1e-9)


@pytest.mark.parametrize(("sigma_y", "time"), [(0.2, 3), (0.9, T)], ids=["the level of x_t", "at most 1"])
def test_ddrm_takes_the_components_of_y_that_are_less_noisy_than_x_t(sigma_y, time):
    """Those with σ_y/s ≤ min(σ_t/α_t, 1)."""
    t, operator, eta_b = torch.full((2,), time / T, dtype=torch.float64), OPERATORS["reflect blur"], 0.9
    left, values, right = torch.linalg.svd(matrix_of(operator))
    level = (MODEL.sigma(t[:1]) / MODEL.alpha(t[:1])).item()
    known = sigma_y / values <= min(level, 1)
    assert 0 < known.sum() < len(known)
    x0 = smooth_denoiser(X1, t)
    prior, of_y = x0.flatten(1) @ right.mT, (Y.flatten(1) @ left) / values
    expected = torch.where(known, (1 - eta_b) * prior + eta_b * of_y, prior) @ right
    method = DDRM(operator, noise=sigma_y, eta_b=eta_b)
    assert close(method.condition(smooth_denoiser, MODEL, Y)(X1, t).x0, expected.view_as(x0), 1e-9)


def test_dps_with_ddpm_is_algorithm_1_of_dps():
    schedule, generator, x = Schedule(), keyed_generator("steps"), X1
    matrix = matrix_of(OPERATORS["reflect blur"])
    for i in range(T, 0, -1):
        x = x.detach().requires_grad_()
        x0 = denoise(x, i)
        norm = (Y - product(matrix, x0)).flatten(1).norm(dim=1)
        (gradient,) = torch.autograd.grad((norm**2).sum(), x)
        step = schedule.ancestral(i, x0, x, fresh(generator) if i > 1 else 0)
        x = step - (0.4 / norm).view(-1, 1, 1, 1) * gradient
    assert close(sample(DDPM(T), DPS(OPERATORS["reflect blur"], scale=0.4)), x.detach(), 1e-9)


def test_diffpir_with_fresh_noise_is_algorithm_1_of_diffpir():
    schedule, generator, x = Schedule(), keyed_generator("steps"), X1
    matrix, weight, sigma_n, zeta = matrix_of(OPERATORS["reflect blur"]), 7.0, 0.2, 0.3
    identity = torch.eye(len(matrix), dtype=torch.float64)
    for i in range(T, 0, -1):
        a, a_prev = schedule.alpha_bar[i], schedule.alpha_bar[i - 1]
        rho = weight * sigma_n**2 / ((1 - a) / a)
        x0 = denoise(x, i)
        inverse = torch.linalg.inv(matrix.mT @ matrix + rho * identity)
        x0 = product(inverse, product(matrix.mT, Y) + rho * x0)
        epsilon = (x - a.sqrt() * x0) / (1 - a).sqrt()
        z = fresh(generator) if i > 1 else 0
        x = a_prev.sqrt() * x0 + (1 - a_prev).sqrt() * ((1 - zeta) ** 0.5 * epsilon + zeta**0.5 * z)
    method = DiffPIR(OPERATORS["reflect blur"], noise=sigma_n, weight=weight)
    assert close(sample(FreshNoise(T, eta=zeta**0.5), method), x, 1e-9)


@pytest.mark.parametrize("sigma_y", [0.0, 0.5], ids=["no noise", "noise"])
@pytest.mark.parametrize("name", OPERATORS)
def test_ddrm_steps_are_equation_8_of_ddrm(name, sigma_y):
    """In the paper's variance-exploding units: x̄ = x/α and σ = √(1 − ᾱ)/√ᾱ."""
    eta, eta_b = 0.85, 0.9
    schedule, generator, x = Schedule(), keyed_generator("steps"), X1
    left, values, right = torch.linalg.svd(matrix_of(OPERATORS[name]))
    values = torch.where(values > 1e-5, values, 0)
    y_bar = torch.where(values > 0, (Y.flatten(1) @ left) / values, 0)
    cases = set()
    for i in range(T, 0, -1):
        a, a_prev = schedule.alpha_bar[i], schedule.alpha_bar[i - 1]
        sigma_t, sigma_s = ((1 - a) / a).sqrt(), ((1 - a_prev) / a_prev).sqrt()
        theta, x_bar = denoise(x, i).flatten(1) @ right.mT, (x / a.sqrt()).flatten(1) @ right.mT
        z = fresh(generator).flatten(1) @ right.mT
        step = torch.empty_like(theta)
        for j, s in enumerate(values.tolist()):
            th, yb = theta[:, j], y_bar[:, j]
            if s == 0:
                cases.add("no singular value")
                mean, std = th + (1 - eta**2) ** 0.5 * sigma_s * (x_bar[:, j] - th) / sigma_t, eta * sigma_s
            elif sigma_s < sigma_y / s:
                cases.add("noisier than x_s")
                mean, std = th + (1 - eta**2) ** 0.5 * sigma_s * (yb - th) / (sigma_y / s), eta * sigma_s
            else:
                cases.add("less noisy than x_s")
                mean, std = (1 - eta_b) * th + eta_b * yb, (sigma_s**2 - sigma_y**2 / s**2 * eta_b**2).sqrt()
            step[:, j] = mean + std * z[:, j]
        x = a_prev.sqrt() * (step @ right).view_as(x)
    if sigma_y > 0:
        assert len(cases) == 3 or name == "reflect blur"
    method = DDRM(OPERATORS[name], noise=sigma_y, eta_b=eta_b)
    assert close(sample(DDRMSteps(T, eta=eta), method), x, 1e-9)


def test_repaint_steps_are_algorithm_1_of_repaint():
    schedule, generator, x = Schedule(), keyed_generator("steps"), X1
    mask = (torch.arange(5) < 3).double().expand(SHAPE)
    for i in range(T, 0, -1):
        a_prev, b = schedule.alpha_bar[i - 1], schedule.beta[i]
        for u in range(1, 4):
            unknown = schedule.ancestral(i, denoise(x, i), x, fresh(generator) if i > 1 else 0)
            known = a_prev.sqrt() * Y + (1 - a_prev).sqrt() * fresh(generator)
            before = mask * known + (1 - mask) * unknown
            if u < 3 and i > 1:
                x = (1 - b).sqrt() * before + b.sqrt() * fresh(generator)
            else:
                break
        x = before
    method = RePaint(lambda image: mask * image)
    assert close(sample(RePaintSteps(T, repeats=3), method), x, 1e-9)
