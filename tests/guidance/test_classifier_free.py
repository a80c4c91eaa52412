"""Guidance: spine check 18. The guided x̂_0 in closed form on mixtures, one call where one will do, and all samplers."""

import math

import pytest
import torch
from helpers.oracles import MixtureOracle, Perfect, dense_matrix
from helpers.sampler_cases import SAMPLERS, suits
from torch import Tensor

from diffusion_lightning.guidance import Autoguidance, ClassifierFreeGuidance
from diffusion_lightning.guidance.base import clip_denoised
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching
from diffusion_lightning.samplers import Cold
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0])
"""Of the mixture's components: the classes share no component, and one has two."""

DEGRADATIONS = {
    "cosine noise": lambda: GaussianNoise(steps=20),
    "noise on a straight path": lambda: GaussianNoise(steps=8, schedule=FlowMatching()),
    "exploding noise": lambda: GaussianNoise(steps=12, schedule=VE(sigma_max=5.0)),
    "warm blur": lambda: GaussianBlur(steps=10, kernel_size=3, noise=0.3),
}
every_degradation = pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)


class World:
    """p(x_0) a mixture, p(x_0 | label) its components of that class, and their exact denoisers, which count calls."""

    def __init__(self, degradation):
        generator = torch.Generator().manual_seed(0)
        self.degradation = degradation
        self.means = torch.rand(3, 1, 2, 3, generator=generator, dtype=torch.float64) * 2 - 1
        factors = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64) * 0.2
        self.covariances = factors @ factors.mT + 0.01 * torch.eye(6, dtype=torch.float64)
        self.calls: list[str] = []

    def law(self, label: int | None) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.arange(3) if label is None else (label == CLASSES).nonzero()[:, 0]
        return WEIGHTS[chosen] / WEIGHTS[chosen].sum(), self.means[chosen], self.covariances[chosen]

    def hear(self, condition):
        def denoise(x, t):
            self.calls.append("untold" if condition is None else "told")
            labels = [None] * len(x) if condition is None else condition["label"].tolist()
            each = [
                MixtureOracle(*self.law(label), self.degradation)(x[i : i + 1], t[i : i + 1])
                for i, label in enumerate(labels)
            ]
            return torch.cat(each)

        return denoise

    def score(self, x: Tensor, t: float, label: int | None) -> Tensor:
        """∇ log p(x_t) or ∇ log p(x_t | label) of one image, by automatic differentiation of the density."""
        time = torch.tensor([t], dtype=torch.float64)
        matrix = dense_matrix(self.degradation, x.shape, time)
        weights, means, covariances = self.law(label)
        noise = self.degradation.sigma(time) ** 2 * torch.eye(len(matrix), dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(
            means.flatten(1) @ matrix.mT, matrix @ covariances @ matrix.mT + noise
        )
        x = x.flatten().requires_grad_()
        (score,) = torch.autograd.grad((weights.log() + law.log_prob(x)).logsumexp(0), x)
        return score

    def told(self, *labels):
        return {"label": torch.tensor(labels)}


def batch(number=4, t=0.6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(number, 1, 2, 3, generator=generator, dtype=torch.float64)
    return x, torch.full((number,), t, dtype=torch.float64)


def x0_of(estimate):
    return estimate.x0 if isinstance(estimate, Prediction) else estimate


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
@pytest.mark.parametrize("t", [0.3, 0.9])
@every_degradation
def test_the_guided_guess_has_the_score_of_p_of_x_to_1_minus_w_times_p_of_x_given_y_to_w(make, t, scale):
    """σ² ∇ log p(x_t) = D_t x̂_0 − x_t for a linear D (Tweedie), and the same of the product of powers."""
    world, labels = World(make()), [0, 1, 1, 0]
    x, times = batch(4, t)
    resolve_guidance = x0_of(ClassifierFreeGuidance(scale).guide(world.hear, world.told(*labels), world.degradation)(x, times))
    seen = world.degradation.operator(resolve_guidance, times, {})
    for i, label in enumerate(labels):
        score = (1 - scale) * world.score(x[i], t, None) + scale * world.score(x[i], t, label)
        expected = x[i].flatten() + world.degradation.sigma(times[i : i + 1]) ** 2 * score
        torch.testing.assert_close(seen[i].flatten(), expected, rtol=1e-8, atol=1e-8)


def test_of_two_gaussians_it_is_the_denoiser_of_their_product_of_powers():
    """N(0, 1)^{1−w} N(m, v)^w at every noise level, one number a pixel."""
    degradation, w, m, v = GaussianNoise(steps=20), 3.0, 0.4, 0.25
    x, t = batch(4, 0.5)
    alpha, sigma = degradation.alpha(t), degradation.sigma(t)

    def posterior_mean(mean, variance):
        gain = variance * alpha / (variance * alpha**2 + sigma**2)
        return mean + append_dims(gain, x) * (x - append_dims(alpha, x) * mean)

    def hear(condition):
        return lambda x, t: posterior_mean(0.0, 1.0) if condition is None else posterior_mean(m, v)

    resolve_guidance = x0_of(ClassifierFreeGuidance(w).guide(hear, {"label": torch.zeros(4)}, degradation)(x, t))
    plain, told = alpha**2 + sigma**2, alpha**2 * v + sigma**2  # the variances of x_t
    precision = (1 - w) / plain + w / told
    mean = w * alpha * m / told / precision
    score = append_dims(precision, x) * (append_dims(mean, x) - x)
    torch.testing.assert_close(resolve_guidance, (x + append_dims(sigma**2, x) * score) / append_dims(alpha, x))


@pytest.mark.parametrize(("scale", "alone"), [(0.0, "untold"), (1.0, "told")], ids=["0", "1"])
@every_degradation
def test_a_scale_of_0_is_the_unconditional_denoiser_and_of_1_the_conditional_bitwise_in_one_call(make, scale, alone):
    world, condition = World(make()), {"label": torch.tensor([0, 1, 1, 0])}
    x, t = batch()
    resolve_guidance = x0_of(ClassifierFreeGuidance(scale, rescale=0.5).guide(world.hear, condition, world.degradation)(x, t))
    assert world.calls == [alone]
    assert torch.equal(resolve_guidance, world.hear(None if alone == "untold" else condition)(x, t))


def test_other_scales_cost_two_calls_and_no_condition_one():
    world, (x, t) = World(GaussianNoise(steps=20)), batch()
    ClassifierFreeGuidance(2.0).guide(world.hear, world.told(0, 0, 1, 1), world.degradation)(x, t)
    assert sorted(world.calls) == ["told", "untold"]
    world.calls.clear()
    resolve_guidance = ClassifierFreeGuidance(2.0).guide(world.hear, None, world.degradation)(x, t)
    assert world.calls == ["untold"]
    assert torch.equal(x0_of(resolve_guidance), world.hear(None)(x, t))


@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_outside_the_interval_the_conditional_guess_is_taken_in_one_call(scale):
    world, condition = World(GaussianNoise(steps=20)), {"label": torch.tensor([0, 1, 1, 0])}
    resolve_guidance = ClassifierFreeGuidance(scale, interval=(0.2, 0.7)).guide(world.hear, condition, world.degradation)
    x, _ = batch()
    for time, inside in ((0.1, False), (0.2, False), (0.21, True), (0.7, True), (0.71, False), (1.0, False)):
        t = torch.full((4,), time, dtype=torch.float64)
        world.calls.clear()
        guess = x0_of(resolve_guidance(x, t))
        assert sorted(world.calls) == (["told", "untold"] if inside else ["told"]), time
        null_condition, told = world.hear(None)(x, t), world.hear(condition)(x, t)
        assert torch.equal(guess, null_condition + scale * (told - null_condition) if inside else told), time


def test_in_a_batch_of_many_times_each_image_is_guided_by_its_own():
    world, condition = World(GaussianNoise(steps=20)), {"label": torch.tensor([0, 1, 1, 0])}
    resolve_guidance = ClassifierFreeGuidance(3.0, (0.2, 0.7), rescale=0.5).guide(world.hear, condition, world.degradation)
    (x, _), t = batch(), torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    together = x0_of(resolve_guidance(x, t))
    for i in range(4):
        one = ClassifierFreeGuidance(3.0, (0.2, 0.7), rescale=0.5).guide(
            world.hear, {"label": condition["label"][i : i + 1]}, world.degradation
        )
        torch.testing.assert_close(together[i : i + 1], x0_of(one(x[i : i + 1], t[i : i + 1])))


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_brings_the_deviation_over_each_image_back_to_the_conditional_one_s(rescale):
    world, condition = World(GaussianNoise(steps=20)), {"label": torch.tensor([0, 1, 1, 0])}
    x, t = batch()
    guess = x0_of(ClassifierFreeGuidance(5.0, rescale=rescale).guide(world.hear, condition, world.degradation)(x, t))
    null_condition, told = world.hear(None)(x, t), world.hear(condition)(x, t)
    plain = null_condition + 5.0 * (told - null_condition)
    deviations = [image.flatten(1).std(1) for image in (guess, told, plain)]
    torch.testing.assert_close(deviations[0], rescale * deviations[1] + (1 - rescale) * deviations[2])
    torch.testing.assert_close(guess, plain * append_dims(deviations[0] / deviations[2], plain))
    assert torch.equal(guess, plain) == (rescale == 0)


def test_rescaling_a_guess_without_contrast_leaves_it_finite():
    flat = torch.ones(2, 1, 2, 3, dtype=torch.float64)
    resolve_guidance = ClassifierFreeGuidance(2.0, rescale=1.0).guide(
        lambda condition: Perfect(flat), {"label": torch.zeros(2)}, GaussianNoise(steps=20)
    )
    assert x0_of(resolve_guidance(*batch(2))).isfinite().all()


def test_the_variance_that_the_conditional_denoiser_tells_is_kept():
    (x, t), told = batch(), batch()[0].square()

    def hear(condition):
        return lambda x, t: Prediction(0 * x, 2 * told) if condition is None else Prediction(x, told)

    estimate = ClassifierFreeGuidance(3.0).guide(hear, {"label": torch.zeros(4)}, GaussianNoise(steps=20))(x, t)
    torch.testing.assert_close(estimate.x0, 3.0 * x)
    assert torch.equal(estimate.log_variance, told)


def test_bounds_hold_after_guidance():
    def hear(condition):
        return Perfect(torch.full((4, 1, 2, 3), 0.5 if condition is None else -0.5))

    resolve_guidance = ClassifierFreeGuidance(3.0).guide(hear, {"label": torch.zeros(4)}, GaussianNoise(steps=20))
    assert (x0_of(resolve_guidance(*batch())) == -2.5).all()
    assert (x0_of(clip_denoised(resolve_guidance)(*batch())) == -1).all()


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
def test_every_sampler_walks_by_the_guided_guess(make, name):
    """Neither guess is the clean image, but at scale 2 the guided one is: the walk must end there."""
    degradation, generator = make(), torch.Generator().manual_seed(0)
    clean = torch.rand(2, 1, 6, 5, generator=generator, dtype=torch.float64) * 2 - 1
    wrong = torch.randn(clean.shape, generator=generator, dtype=torch.float64)

    def hear(condition):
        return Perfect(clean - (wrong if condition is None else wrong / 2))

    resolve_guidance = ClassifierFreeGuidance(2.0).guide(hear, {"label": torch.zeros(2)}, degradation)
    params = degradation.sample_params(clean, generator)
    x1 = degradation(clean, torch.ones(2, dtype=torch.float64), params)
    end = SAMPLERS[name](4)(resolve_guidance, degradation, x1, params, generator)
    torch.testing.assert_close(end, clean, rtol=0, atol=1e-5)


def test_a_guided_cold_walk_ends_at_the_picture_of_its_label():
    """Of two pictures that blur alike the label decides, and guidance takes away what doubt the told guess has left."""
    degradation = GaussianBlur(steps=6, kernel_size=3, final_mean=True)
    pictures = torch.zeros(2, 1, 4, 4)
    pictures[0, 0, :, :2], pictures[1, 0, :, 2:] = 1.0, 1.0
    unsure, sure = pictures.mean(0), 0.75

    def hear(condition):
        def denoise(x, t):
            if condition is None:
                return unsure.expand_as(x)
            told, other = pictures[condition["label"]], pictures[1 - condition["label"]]
            return sure * told + (1 - sure) * other

        return denoise

    labels = torch.tensor([0, 1, 1])
    params = degradation.sample_params(pictures[labels])
    x1 = degradation(pictures[labels], torch.ones(3), params)
    torch.testing.assert_close(x1[0], x1[1])
    resolve_guidance = ClassifierFreeGuidance(2.0).guide(hear, {"label": labels}, degradation)
    torch.testing.assert_close(Cold()(resolve_guidance, degradation, x1, params), pictures[labels], rtol=0, atol=1e-5)


BAD = [
    (lambda: ClassifierFreeGuidance(math.nan), "scale=nan"),
    (lambda: ClassifierFreeGuidance(math.inf), "scale=inf"),
    (lambda: ClassifierFreeGuidance(interval=(0.5, 0.5)), r"interval=\[0.5, 0.5\]"),
    (lambda: ClassifierFreeGuidance(interval=(-0.1, 0.5)), r"interval=\[-0.1, 0.5\]"),
    (lambda: ClassifierFreeGuidance(interval=(0.1, 1.5)), r"interval=\[0.1, 1.5\]"),
    (lambda: ClassifierFreeGuidance(rescale=1.1), r"rescale=1.1"),
    (lambda: Autoguidance("weak.ckpt", math.nan), "scale=nan"),
    (lambda: Autoguidance("weak.ckpt", interval=(0.7, 0.2)), r"interval=\[0.7, 0.2\]"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
