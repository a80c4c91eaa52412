"""What all methods share: any sampler, inference mode, flat memory, and clear refusals."""

import weakref

import pytest
import torch
from helpers.oracles import GaussianOracle
from helpers.sampling import close, noise, smooth_denoiser

from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import Compose, Fade, GaussianBlur, GaussianNoise, ImageNetC, Pixelate
from diffusion_lightning.inverse import DDNM, DDRM, DPS, MMPS, DDRMSteps, DiffPIR, PiGDM, RePaint, RePaintSteps
from diffusion_lightning.samplers import DDIM, DDPM, Heun, Multistep, ProbabilityFlow, tiled

MODEL = GaussianNoise(steps=20)
SHAPE = (2, 1, 8, 8)
HALF = torch.cat([torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)])
METHODS = {
    "MMPS": MMPS(Pixelate(steps=1), noise=0.1),
    "PiGDM": PiGDM(Pixelate(steps=1), noise=0.1),
    "DDNM": DDNM(Pixelate(steps=1)),
    "DDRM": DDRM(Pixelate(steps=1), noise=0.1),
    "DPS": DPS(Pixelate(steps=1), scale=0.1),
    "DiffPIR": DiffPIR(Pixelate(steps=1), noise=0.1),
    "RePaint": RePaint(lambda x: HALF * x),
}
every_method = pytest.mark.parametrize("name", METHODS)


def conditioned(method, y, denoise_fn=smooth_denoiser):
    return method.condition(denoise_fn, MODEL, y)


@every_method
def test_every_sampler_serves_every_method_and_stays_finite(name):
    denoiser = conditioned(METHODS[name], noise(*SHAPE, seed=1).clamp(-1, 1), GaussianOracle(MODEL, variance=0.3))
    for sampler in (
        ProbabilityFlow(6),
        DDIM(6, eta=0.5),
        DDPM(6),
        Heun(4),
        Multistep(6),
        METHODS[name].suited(DDIM(6)),
    ):
        assert sampler(denoiser, MODEL, noise(*SHAPE), {}, torch.Generator()).abs().max() < 10


@every_method
def test_a_measurement_of_another_size_is_refused(name):
    denoiser = conditioned(METHODS[name], noise(2, 1, 8, 4))
    with pytest.raises(ValueError, match=r"y has shape \(2, 1, 8, 4\), .* has shape \(2, 1, 8, 8\): give images"):
        denoiser(noise(*SHAPE), torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("DPS", "RePaint")])
def test_a_nonlinear_measurement_is_refused_but_by_dps(name):
    kind = type(METHODS[name])
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a linear measurement, unlike ImageNetC: use DPS"):
        conditioned(kind(ImageNetC("gaussian_noise")), noise(*SHAPE))
    if name != "DDRM":
        with pytest.raises(ValueError, match=f"{kind.__name__} needs a linear measurement, unlike tanh: use DPS"):
            conditioned(kind(torch.tanh), noise(*SHAPE))(noise(*SHAPE), torch.full((2,), 0.5, dtype=torch.float64))


def test_dps_follows_the_gradient_of_a_nonlinear_function():
    x, t, y = noise(*SHAPE), torch.full((2,), 0.5, dtype=torch.float64), noise(*SHAPE, seed=1).tanh()
    moved = conditioned(DPS(torch.tanh, scale=0.1, steps=20), y)(x, t).x0 - smooth_denoiser(x, t)
    leaf = x.clone().requires_grad_()
    norm = (y - smooth_denoiser(leaf, t).tanh()).flatten(1).norm(dim=1)
    (gradient,) = torch.autograd.grad(norm.sum(), leaf)
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(1), -gradient.flatten(1))
    assert (cosine - 1).abs().max() < 1e-12


@pytest.mark.parametrize("name", [name for name in METHODS if name != "DDNM"])
def test_a_model_without_gaussian_noise_is_refused(name):
    with pytest.raises(ValueError, match=r"needs a model trained on Gaussian noise, .* and not GaussianBlur"):
        METHODS[name].condition(smooth_denoiser, GaussianBlur(steps=3, noise=0.1), noise(*SHAPE))


@every_method
def test_predictions_are_the_same_in_inference_mode_and_carry_no_graph(name):
    x, y, t = noise(*SHAPE), noise(*SHAPE, seed=1), torch.full((2,), 0.5, dtype=torch.float64)
    expected = conditioned(METHODS[name], y)(x, t).x0
    assert not expected.requires_grad
    with torch.inference_mode():
        actual = conditioned(METHODS[name], y.clone())(x.clone(), t.clone()).x0
    assert torch.equal(actual, expected)


@every_method
def test_memory_does_not_grow_with_the_number_of_steps(name):
    """No graph of an earlier step is alive when the denoiser is called."""
    graphs, alive = [], []

    def watched(x, t):
        alive.append(sum(graph() is not None for graph in graphs))
        x0 = smooth_denoiser(x, t)
        if x0.grad_fn is not None:
            graphs.append(weakref.ref(x0))
        return x0

    ProbabilityFlow(8)(conditioned(METHODS[name], noise(*SHAPE, seed=1), watched), MODEL, noise(*SHAPE))
    assert len(alive) == 8
    assert max(alive) == 0


def test_a_tiled_denoiser_is_conditioned_as_a_whole_one():
    """For a denoiser without neighbours, tiles change nothing: the gradient passes through them."""
    x, y, t = noise(*SHAPE), noise(*SHAPE, seed=1), torch.full((2,), 0.5, dtype=torch.float64)

    def pointwise(x, t):
        return torch.sin(2 * x)

    whole = conditioned(METHODS["MMPS"], y, pointwise)(x, t).x0
    assert close(conditioned(METHODS["MMPS"], y, tiled(pointwise, 4, 2))(x, t).x0, whole)


def test_a_predicted_variance_which_is_the_priors_is_left_out():
    def learned(x, t):
        return Prediction(smooth_denoiser(x, t), torch.zeros_like(x))

    t = torch.full((2,), 0.5, dtype=torch.float64)
    assert conditioned(METHODS["MMPS"], noise(*SHAPE), learned)(noise(*SHAPE), t).log_variance is None


def test_a_function_is_solved_by_conjugate_gradients():
    """The same operator as a degradation and as a function, whose adjoint is found by autograd."""
    blur = GaussianBlur(steps=2, kernel_size=3, std=0.6, schedule="constant", padding="reflect")
    x, y, t = noise(*SHAPE), noise(*SHAPE, seed=1), torch.full((2,), 0.5, dtype=torch.float64)

    def function(image):
        return blur.operator(image, torch.ones(len(image), dtype=torch.float64), {})

    for kind in (PiGDM, DiffPIR, MMPS):
        by_svd, by_gradients = (conditioned(kind(a, noise=0.1), y)(x, t).x0 for a in (blur, function))
        assert close(by_gradients, by_svd, 1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MMPS(Pixelate(), severity=0.0), "severity=0.0: choose a value in"),
        (lambda: MMPS(Pixelate(), noise=-0.1), "noise=-0.1: a standard deviation"),
        (lambda: MMPS("Pixelate"), "measurement='Pixelate': give a degradation"),
        (lambda: MMPS(Pixelate(), max_steps=0), "max_steps=0"),
        (lambda: PiGDM(Pixelate(), data_variance=0.0), "data_variance=0.0"),
        (lambda: DPS(Pixelate(), scale=0.0), "scale=0.0"),
        (lambda: DiffPIR(Pixelate(), weight=0.0), "weight=0.0"),
        (lambda: DDRM(Pixelate(), eta_b=1.5), "eta_b=1.5"),
        (lambda: DDRMSteps(eta=-1.0), "eta=-1.0"),
        (lambda: RePaint(Fade(), noise=0.1), "use MMPS, or noise=0"),
        (lambda: RePaintSteps(repeats=0), "repeats=0"),
    ],
    ids=[
        "severity",
        "noise",
        "measurement",
        "steps",
        "variance",
        "scale",
        "weight",
        "eta_b",
        "eta",
        "RePaint",
        "repeats",
    ],
)
def test_invalid_arguments_are_refused_with_their_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DDRM(lambda x: x), "DDRM needs the singular values of a degradation"),
        (DDRM(Compose([GaussianBlur(steps=2), Fade()])), "DDRM needs singular values, which Compose does not have"),
        (DDNM(lambda x: x, noise=0.1), "needs a measurement with singular values: use MMPS"),
        (RePaint(Pixelate(steps=1)), "RePaint restores masked pixels, and Pixelate is not a mask: use MMPS or DDRM"),
    ],
    ids=["a function", "a mask composed with a blur", "noise without singular values", "no mask"],
)
def test_a_measurement_that_does_not_suit_is_refused_with_the_remedy(method, message):
    with pytest.raises(ValueError, match=message):
        conditioned(method, noise(*SHAPE))(noise(*SHAPE), torch.full((2,), 0.5, dtype=torch.float64))


def test_the_samplers_of_the_papers_need_the_denoisers_of_their_methods():
    for sampler in (DDRMSteps(3), RePaintSteps(3)):
        with pytest.raises(ValueError, match="needs the denoiser that"):
            sampler(conditioned(METHODS["MMPS"], noise(*SHAPE)), MODEL, noise(*SHAPE))
