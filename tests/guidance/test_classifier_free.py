"""Classifier-free guidance (spine check 18): x̂_0 in closed form on mixtures, the NFE, and every sampler."""

import math

import pytest
import torch
from helpers.oracles import MixtureOracle, Perfect, dense_matrix
from helpers.sampler_cases import SAMPLERS, suits
from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction, as_prediction
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching
from diffusion_lightning.guidance import Autoguidance, ClassifierFreeGuidance
from diffusion_lightning.guidance.base import clip_denoised
from diffusion_lightning.samplers import Cold

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0])
"""The class of each component of the mixture: one class has two components."""

DEGRADATIONS = {
    "cosine noise": lambda: GaussianNoise(steps=20),
    "noise on a straight path": lambda: GaussianNoise(steps=8, schedule=FlowMatching()),
    "exploding noise": lambda: GaussianNoise(steps=12, schedule=VE(sigma_max=5.0)),
    "warm blur": lambda: GaussianBlur(steps=10, kernel_size=3, noise=0.3),
}
every_degradation = pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
LABELS = {"label": torch.tensor([0, 1, 1, 0])}


class ClassMixture:
    """p(x_0) is a mixture, p(x_0 | label) its components of that class. The exact denoisers record their calls."""

    def __init__(self, degradation):
        generator = torch.Generator().manual_seed(0)
        self.degradation = degradation
        self.means = torch.rand(3, 1, 2, 3, generator=generator, dtype=torch.float64) * 2 - 1
        factors = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64) * 0.2
        self.covariances = factors @ factors.mT + 0.01 * torch.eye(6, dtype=torch.float64)
        self.calls: list[str] = []

    def components(self, label: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and covariances of a class, or of all classes."""
        chosen = torch.arange(3) if label is None else (label == CLASSES).nonzero()[:, 0]
        return WEIGHTS[chosen] / WEIGHTS[chosen].sum(), self.means[chosen], self.covariances[chosen]

    def denoiser_for(self, condition):
        def denoise(x, t):
            self.calls.append("unconditional" if condition is None else "conditional")
            labels = [None] * len(x) if condition is None else condition["label"].tolist()
            x0 = [
                MixtureOracle(*self.components(label), self.degradation)(x[i : i + 1], t[i : i + 1])
                for i, label in enumerate(labels)
            ]
            return Prediction(torch.cat(x0))

        return denoise

    def guide(self, guidance, condition):
        """The guided denoiser (x, t) → x̂_0."""
        denoise_fn = guidance.guide(self.denoiser_for, condition, self.degradation)
        return lambda x, t: denoise_fn(x, t).x0

    def predictions(self, condition, x, t):
        """The unconditional and the conditional x̂_0."""
        return self.denoiser_for(None)(x, t).x0, self.denoiser_for(condition)(x, t).x0

    def score(self, x: Tensor, t: float, label: int | None) -> Tensor:
        """∇ log p(x_t) or ∇ log p(x_t | label) of one image, by automatic differentiation of the density."""
        time = torch.tensor([t], dtype=torch.float64)
        matrix = dense_matrix(self.degradation, x.shape, time)
        weights, means, covariances = self.components(label)
        noise = self.degradation.sigma(time) ** 2 * torch.eye(len(matrix), dtype=torch.float64)
        density = torch.distributions.MultivariateNormal(
            means.flatten(1) @ matrix.mT, matrix @ covariances @ matrix.mT + noise
        )
        x = x.flatten().requires_grad_()
        (score,) = torch.autograd.grad((weights.log() + density.log_prob(x)).logsumexp(0), x)
        return score


def batch(number=4, t=0.6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(number, 1, 2, 3, generator=generator, dtype=torch.float64)
    return x, torch.full((number,), t, dtype=torch.float64)


def constants(uncond, cond):
    """A ``denoiser_for`` whose predictions do not depend on x_t."""
    return lambda condition: as_prediction(Perfect(uncond if condition is None else cond))


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
@pytest.mark.parametrize("t", [0.3, 0.9])
@every_degradation
def test_guided_prediction_has_the_score_of_the_product_of_powers(make, t, scale):
    """Of p(x)^{1−w} p(x | y)^w: σ² ∇ log p(x_t) = D_t x̂_0 − x_t for a linear D (Tweedie)."""
    mixture = ClassMixture(make())
    x, times = batch(4, t)
    guided = mixture.guide(ClassifierFreeGuidance(scale), LABELS)(x, times)
    degraded = mixture.degradation.operator(guided, times, {})
    for i, label in enumerate(LABELS["label"].tolist()):
        score = (1 - scale) * mixture.score(x[i], t, None) + scale * mixture.score(x[i], t, label)
        expected = x[i].flatten() + mixture.degradation.sigma(times[i : i + 1]) ** 2 * score
        torch.testing.assert_close(degraded[i].flatten(), expected, rtol=1e-8, atol=1e-8)


def test_guidance_of_two_gaussians_is_the_denoiser_of_their_product():
    """N(0, 1)^{1−w} N(m, v)^w at every noise level, in every pixel."""
    degradation, w, m, v = GaussianNoise(steps=20), 3.0, 0.4, 0.25
    x, t = batch(4, 0.5)
    alpha, sigma = degradation.alpha(t), degradation.sigma(t)

    def posterior_mean(mean, variance):
        gain = variance * alpha / (variance * alpha**2 + sigma**2)
        return mean + append_dims(gain, x) * (x - append_dims(alpha, x) * mean)

    denoiser_for = constants(posterior_mean(0.0, 1.0), posterior_mean(m, v))
    guided = ClassifierFreeGuidance(w).guide(denoiser_for, {"label": torch.zeros(4)}, degradation)(x, t).x0
    uncond, cond = alpha**2 + sigma**2, alpha**2 * v + sigma**2  # the variances of x_t
    precision = (1 - w) / uncond + w / cond
    mean = w * alpha * m / cond / precision
    score = append_dims(precision, x) * (append_dims(mean, x) - x)
    torch.testing.assert_close(guided, (x + append_dims(sigma**2, x) * score) / append_dims(alpha, x))


@pytest.mark.parametrize(("scale", "call"), [(0.0, "unconditional"), (1.0, "conditional")], ids=["0", "1"])
@every_degradation
def test_scales_0_and_1_are_the_two_denoisers_in_one_evaluation(make, scale, call):
    """Bitwise."""
    mixture = ClassMixture(make())
    x, t = batch()
    guided = mixture.guide(ClassifierFreeGuidance(scale, guidance_rescale=0.5), LABELS)(x, t)
    assert mixture.calls == [call]
    assert torch.equal(guided, mixture.predictions(LABELS, x, t)[int(scale)])


def test_other_scales_need_two_evaluations_and_no_condition_one():
    mixture, (x, t) = ClassMixture(GaussianNoise(steps=20)), batch()
    mixture.guide(ClassifierFreeGuidance(2.0), {"label": torch.tensor([0, 0, 1, 1])})(x, t)
    assert sorted(mixture.calls) == ["conditional", "unconditional"]
    mixture.calls.clear()
    guided = mixture.guide(ClassifierFreeGuidance(2.0), None)(x, t)
    assert mixture.calls == ["unconditional"]
    assert torch.equal(guided, mixture.denoiser_for(None)(x, t).x0)


@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_outside_the_interval_the_conditional_denoiser_is_evaluated_alone(scale):
    mixture, (x, _) = ClassMixture(GaussianNoise(steps=20)), batch()
    denoise = mixture.guide(ClassifierFreeGuidance(scale, interval=(0.2, 0.7)), LABELS)
    for time, inside in ((0.1, False), (0.2, False), (0.21, True), (0.7, True), (0.71, False), (1.0, False)):
        t = torch.full((4,), time, dtype=torch.float64)
        mixture.calls.clear()
        guided = denoise(x, t)
        assert sorted(mixture.calls) == (["conditional", "unconditional"] if inside else ["conditional"]), time
        uncond, cond = mixture.predictions(LABELS, x, t)
        assert torch.equal(guided, uncond + scale * (cond - uncond) if inside else cond), time


def test_each_image_of_a_batch_is_guided_by_its_own_time():
    mixture, guidance = ClassMixture(GaussianNoise(steps=20)), ClassifierFreeGuidance(3.0, (0.2, 0.7), 0.5)
    (x, _), t = batch(), torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    together = mixture.guide(guidance, LABELS)(x, t)
    for i in range(4):
        alone = mixture.guide(guidance, {"label": LABELS["label"][i : i + 1]})(x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_interpolates_the_standard_deviation_of_each_image(rescale):
    """From that of the guided prediction to that of the conditional one."""
    mixture, (x, t) = ClassMixture(GaussianNoise(steps=20)), batch()
    guided = mixture.guide(ClassifierFreeGuidance(5.0, guidance_rescale=rescale), LABELS)(x, t)
    uncond, cond = mixture.predictions(LABELS, x, t)
    plain = uncond + 5.0 * (cond - uncond)
    std, cond_std, plain_std = (image.flatten(1).std(1) for image in (guided, cond, plain))
    torch.testing.assert_close(std, rescale * cond_std + (1 - rescale) * plain_std)
    torch.testing.assert_close(guided, plain * append_dims(std / plain_std, plain))
    assert torch.equal(guided, plain) == (rescale == 0)


def test_rescaling_a_constant_prediction_is_finite():
    flat = torch.ones(2, 1, 2, 3, dtype=torch.float64)
    guidance = ClassifierFreeGuidance(2.0, guidance_rescale=1.0)
    denoise = guidance.guide(constants(flat, flat), {"label": torch.zeros(2)}, GaussianNoise(steps=20))
    assert denoise(*batch(2)).x0.isfinite().all()


def test_the_variance_that_the_conditional_denoiser_predicts_is_kept():
    (x, t), log_variance = batch(), batch()[0].square()

    def denoiser_for(condition):
        if condition is None:
            return lambda x, t: Prediction(0 * x, 2 * log_variance)
        return lambda x, t: Prediction(x, log_variance)

    denoise = ClassifierFreeGuidance(3.0).guide(denoiser_for, {"label": torch.zeros(4)}, GaussianNoise(steps=20))
    prediction = denoise(x, t)
    torch.testing.assert_close(prediction.x0, 3.0 * x)
    assert torch.equal(prediction.log_variance, log_variance)


def test_clipping_applies_after_guidance():
    denoiser_for = constants(torch.full((4, 1, 2, 3), 0.5), torch.full((4, 1, 2, 3), -0.5))
    denoise = ClassifierFreeGuidance(3.0).guide(denoiser_for, {"label": torch.zeros(4)}, GaussianNoise(steps=20))
    assert (denoise(*batch()).x0 == -2.5).all()
    assert (clip_denoised(denoise)(*batch()).x0 == -1).all()


COLD_AND_HOT = {
    "cold blur": lambda: GaussianBlur(steps=6, kernel_size=3),
    "noise": lambda: GaussianNoise(steps=20),
}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(make, name, id=f"{case} by {name}")
        for case, make in COLD_AND_HOT.items()
        for name, build in SAMPLERS.items()
        if suits(build(None), make())
    ],
)
def test_every_sampler_uses_the_guided_prediction(make, name):
    """Neither prediction is the clean image, but at scale 2 the guided one is: sampling must end there."""
    degradation, generator = make(), torch.Generator().manual_seed(0)
    clean = torch.rand(2, 1, 6, 5, generator=generator, dtype=torch.float64) * 2 - 1
    error = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    denoiser_for = constants(clean - error, clean - error / 2)
    denoise = ClassifierFreeGuidance(2.0).guide(denoiser_for, {"label": torch.zeros(2)}, degradation)
    params = degradation.sample_params(clean, generator)
    x1 = degradation(clean, torch.ones(2, dtype=torch.float64), params)
    end = SAMPLERS[name](4)(denoise, degradation, x1, params, generator)
    torch.testing.assert_close(end, clean, rtol=0, atol=1e-5)


def test_guided_cold_sampling_ends_at_the_image_of_its_label():
    """Of two images with the same blur the label decides, and guidance removes the rest of the other image."""
    degradation = GaussianBlur(steps=6, kernel_size=3, final_mean=True)
    images = torch.zeros(2, 1, 4, 4)
    images[0, 0, :, :2], images[1, 0, :, 2:] = 1.0, 1.0
    probability = 0.75

    def denoiser_for(condition):
        if condition is None:
            return lambda x, t: Prediction(images.mean(0).expand_as(x))
        right, other = images[condition["label"]], images[1 - condition["label"]]
        return lambda x, t: Prediction(probability * right + (1 - probability) * other)

    labels = torch.tensor([0, 1, 1])
    params = degradation.sample_params(images[labels])
    x1 = degradation(images[labels], torch.ones(3), params)
    torch.testing.assert_close(x1[0], x1[1])
    denoise = ClassifierFreeGuidance(2.0).guide(denoiser_for, {"label": labels}, degradation)
    torch.testing.assert_close(Cold()(denoise, degradation, x1, params), images[labels], rtol=0, atol=1e-5)


OUT_OF_RANGE = [
    (lambda: ClassifierFreeGuidance(math.nan), "scale=nan"),
    (lambda: ClassifierFreeGuidance(math.inf), "scale=inf"),
    (lambda: ClassifierFreeGuidance(interval=(0.5, 0.5)), r"interval=\[0.5, 0.5\]"),
    (lambda: ClassifierFreeGuidance(interval=(-0.1, 0.5)), r"interval=\[-0.1, 0.5\]"),
    (lambda: ClassifierFreeGuidance(interval=(0.1, 1.5)), r"interval=\[0.1, 1.5\]"),
    (lambda: ClassifierFreeGuidance(guidance_rescale=1.1), r"guidance_rescale=1.1"),
    (lambda: Autoguidance("weak.ckpt", math.nan), "scale=nan"),
    (lambda: Autoguidance("weak.ckpt", interval=(0.7, 0.2)), r"interval=\[0.7, 0.2\]"),
]


@pytest.mark.parametrize(("make", "message"), OUT_OF_RANGE, ids=[message for _, message in OUT_OF_RANGE])
def test_guidance_rejects_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
