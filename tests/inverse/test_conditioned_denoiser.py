"""What all methods share: any sampler, inference mode, flat memory, and clear refusals."""

import weakref

import pytest
import torch
from helpers.oracles import GaussianOracle
from helpers.sampling import close, noise, smooth_denoiser

from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import Compose, Fade, GaussianBlur, GaussianNoise, ImageNetC, Pixelate, separable
from diffusion_lightning.inverse import DDNM, DDRM, DPS, MMPS, DDRMSteps, DiffPIR, PiGDM, RePaint, RePaintSteps
from diffusion_lightning.samplers import DDIM, DDPM, Heun, Multistep, ProbabilityFlow, QuadraticSpacing, tiled

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
        METHODS[name].suited(DDIM(6), MODEL),
    ):
        assert sampler(denoiser, MODEL, noise(*SHAPE), {}, torch.Generator()).abs().max() < 10


@every_method
def test_at_t_0_the_image_is_known(name):
    """The other image of the batch, at t = 0.5, is as it is alone."""
    x, y, t = noise(*SHAPE), noise(*SHAPE, seed=1), torch.tensor([0.0, 0.5], dtype=torch.float64)
    x0 = conditioned(METHODS[name], y)(x, t).x0
    assert torch.equal(x0[0], smooth_denoiser(x, t)[0])
    assert close(x0[1:], conditioned(METHODS[name], y[1:])(x[1:], t[1:]).x0)


def test_the_sampler_of_the_paper_has_the_steps_of_another():
    shown = {name: repr(method.suited(DDIM(6), MODEL)) for name, method in METHODS.items()}
    assert shown["DDRM"] == "DDRMSteps(steps=6)"
    assert shown["RePaint"] == "RePaintSteps(steps=6)"
    assert shown["DDNM"] == "DDPM(steps=6)"
    spaced = DDIM(6, spacing=QuadraticSpacing())
    assert repr(METHODS["DDNM"].suited(spaced, MODEL)) == "DDPM(steps=6, spacing=QuadraticSpacing)"
    assert METHODS["DDNM"].suited(spaced, GaussianBlur()) is spaced


@pytest.mark.parametrize("name", ["DDRM", "RePaint"])
def test_their_own_samplers_keep_the_dtype_of_images(name):
    """Under mixed precision the network's predictions are of another."""

    def half(x, t):
        return smooth_denoiser(x, t).to(torch.bfloat16)

    denoiser = conditioned(METHODS[name], noise(*SHAPE, seed=1), half)
    assert METHODS[name].suited(DDIM(3), MODEL)(denoiser, MODEL, noise(*SHAPE)).dtype == torch.float64


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


def test_large_images_are_solved_by_conjugate_gradients(monkeypatch):
    """Above ``MAX_MATRIX`` there is no decomposition, whose time grows with the cube of the side."""
    x, y, t = noise(*SHAPE), noise(*SHAPE, seed=1), torch.full((2,), 0.5, dtype=torch.float64)
    kinds = {PiGDM: 0.1, DiffPIR: 0.1, DDNM: 0.0}
    expected = [conditioned(kind(Pixelate(steps=1), noise=sigma), y)(x, t).x0 for kind, sigma in kinds.items()]
    monkeypatch.setattr(separable, "MAX_MATRIX", 4)
    monkeypatch.setattr(torch.linalg, "svd", None)
    for (kind, sigma), x0 in zip(kinds.items(), expected, strict=True):
        assert close(conditioned(kind(Pixelate(steps=1), noise=sigma), y)(x, t).x0, x0, 1e-6)
    for method in (DDRM(Pixelate(steps=1)), DDNM(Pixelate(steps=1), noise=0.1)):
        with pytest.raises(ValueError, match=r"needs .*singular values.*: use MMPS"):
            conditioned(method, y)(x, t)


def test_the_decomposition_is_computed_once_for_all_batches(monkeypatch):
    method, t, made = DDRM(Pixelate(steps=1), noise=0.1), torch.full((2,), 0.5, dtype=torch.float64), []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda matrix: (made.append(matrix), svd(matrix))[1])
    for seed in (1, 2):
        conditioned(method, noise(*SHAPE, seed=seed))(noise(*SHAPE), t)
    assert len(made) == 2, "one for each axis"


@pytest.mark.parametrize("kind", [MMPS, PiGDM, DPS])
def test_a_function_without_gradient_is_refused_with_the_remedy(kind):
    def by_numpy(x):
        return torch.from_numpy(2 * x.detach().numpy())

    denoiser = conditioned(kind(by_numpy), noise(*SHAPE))
    with pytest.raises(ValueError, match=r"the measurement by_numpy has no gradient .*: compute it by"):
        denoiser(noise(*SHAPE), torch.full((2,), 0.5, dtype=torch.float64))


@every_method
def test_a_measurement_that_adds_noise_itself_is_refused(name):
    kind = type(METHODS[name])
    for measurement in (MODEL, Fade(noise=0.5), GaussianBlur(noise_floor=0.1)):
        with pytest.raises(ValueError, match=r"adds noise itself: give one without noise, and .* by noise=… "):
            conditioned(kind(measurement), noise(*SHAPE))


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
        (lambda: RePaint(Fade(), noise=0.1), "RePaint does not use the noise of y: use MMPS, or noise=0"),
        (lambda: DPS(Fade(), noise=0.1), "DPS does not use the noise of y: use MMPS, or noise=0"),
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
        "DPS",
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


def test_ddnm_with_noise_needs_the_noise_level_of_a_hot_model():
    DDNM(Pixelate()).condition(smooth_denoiser, GaussianBlur(), noise(*SHAPE))
    with pytest.raises(ValueError, match=r"DDNM with noise=0.1 needs .*, and not GaussianBlur: use noise=0, or train"):
        DDNM(Pixelate(), noise=0.1).condition(smooth_denoiser, GaussianBlur(), noise(*SHAPE))


def test_the_samplers_of_the_papers_need_the_denoisers_of_their_methods():
    for sampler in (DDRMSteps(3), RePaintSteps(3)):
        with pytest.raises(ValueError, match="needs the denoiser that"):
            sampler(conditioned(METHODS["MMPS"], noise(*SHAPE)), MODEL, noise(*SHAPE))
