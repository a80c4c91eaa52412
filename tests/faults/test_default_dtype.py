"""F11: under ``--trainer.precision bf16-true`` torch's default dtype is bfloat16, and no number may depend on it.

Everything is computed twice, under the usual default float32 and under another one, and must be equal.
"""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS
from helpers.keyed_params import keyed_params
from helpers.oracles import Perfect
from helpers.runs import Stored, tiny_module, tiny_trainer
from helpers.sampler_cases import SAMPLERS, suits
from lightning.pytorch import Callback
from torch import Tensor

import diffusion_lightning
from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import RestorationMetrics
from diffusion_lightning.conditioning import ClassEmbedding, LowResolution, TextTransformer
from diffusion_lightning.core import rng
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.data import NonLeakyAugmentation
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise, ImageNetC, Transform
from diffusion_lightning.degradations.imagenet_c import NAMES, SNOW
from diffusion_lightning.degradations.noise_schedules import VE, VP, Cosine, FlowMatching, Karras, Linear, SubVP
from diffusion_lightning.degradations.posterior import posterior
from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.guidance.base import clip_denoised
from diffusion_lightning.metrics.likelihood import dequantize, exact_probes, flow_log_likelihood, rademacher
from diffusion_lightning.metrics.restoration import restoration_metrics
from diffusion_lightning.metrics.variational_bound import variational_bound
from diffusion_lightning.modules import Rollout
from diffusion_lightning.networks import ADMClassifier, Discriminator, NCSNpp, UNet, UNetClassifier
from diffusion_lightning.networks.blocks import timestep_embedding
from diffusion_lightning.networks.time_embedding import SinusoidalEmbedding
from diffusion_lightning.objectives import (
    EDM,
    L1,
    L2,
    X0,
    Eps,
    HybridLoss,
    LearnedVariance,
    LogNormalNoiseLevel,
    PowerWeight,
    Residual,
    Score,
    SNRWeight,
    SoftScoreMatching,
    UniformSteps,
    UniformTime,
    V,
    Velocity,
)
from diffusion_lightning.priors import BlockMeans, ChannelMeans, HeldOutImages
from diffusion_lightning.samplers import DDPM

PACKAGE = Path(diffusion_lightning.__file__).parent
OTHERS = [torch.bfloat16, torch.float64]
under_another_default = pytest.mark.parametrize("dtype", OTHERS, ids=lambda dtype: str(dtype).removeprefix("torch."))

WIDE = (3, 35, 310)
"""The shape of images whose coordinates bfloat16 cannot count."""

PARAMETERIZATIONS = (X0, Residual, Eps, Score, V, Velocity, EDM)
TIME_SAMPLERS = (UniformSteps, UniformTime, LogNormalNoiseLevel)
SCHEDULES = (Cosine, Linear, VP, SubVP, VE, Karras, FlowMatching)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    SNOW.cache.__init__()  # type: ignore[misc]  # the one table that outlives its test
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        SNOW.cache.__init__()  # type: ignore[misc]


def images(number: int = 3, shape: tuple[int, ...] = (3, 9, 8)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, *shape, generator=generator, dtype=torch.float32) * 2 - 1


def times(number: int = 3) -> Tensor:
    return torch.tensor([0.3, 0.85, 1.0], dtype=torch.float32)[:number]


def leaves(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return leaves(list(value.values()))
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None else [torch.tensor(value, dtype=torch.float64)]


def assert_independent_of_default(compute: Callable[[], Any], dtype: torch.dtype) -> None:
    expected = leaves(compute())
    with default_dtype(dtype):
        actual = leaves(compute())
    assert [leaf.dtype for leaf in actual] == [leaf.dtype for leaf in expected]
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@under_another_default
@pytest.mark.parametrize("case", DEGRADATIONS)
def test_a_degradation_does_not_depend_on_the_default_dtype(case, dtype):
    def compute() -> Any:
        degradation, x = DEGRADATIONS[case](), images(shape=WIDE)
        params = keyed_params(degradation, x)
        outputs = [degradation(x, times(), params), degradation.sigma(times()), params]
        if degradation.has_alpha:
            outputs += [degradation.alpha(times()), degradation.time_at_noise_level(times())]
        if degradation.linear:
            outputs.append(degradation.adjoint(x, times(), params))
            with suppress(TypeError):
                outputs.append(degradation.singular_values(WIDE, times(), params))
        return outputs

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_does_not_depend_on_the_default_dtype(name, dtype):
    def compute() -> Any:
        degradation, x = ImageNetC(name, steps=7), images(shape=WIDE)
        params = keyed_params(degradation, x)
        return degradation(x, times(), params), params

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize(
    ("function", "ranges"),
    [
        ("kornia.filters.motion_blur", {"kernel_size": [1, 5, 2], "angle": [0.0, 60.0]}),
        ("kornia.filters.gaussian_blur2d", {"sigma": [[0.1, 0.1], [2.0, 3.0]]}),
        ("kornia.geometry.transform.rotate", {"angle": [0.0, 40.0]}),
        ("torchvision.transforms.functional.gaussian_blur", {"sigma": [0.1, 2.0]}),
        ("torchvision.transforms.functional.rotate", {"angle": [0.0, 40.0]}),
    ],
    ids=["motion blur", "blur", "rotation", "torchvision's blur", "torchvision's rotation"],
)
def test_a_library_function_does_not_depend_on_the_default_dtype(function, ranges, dtype):
    constants: dict[str, Any] = {"kernel_size": [5, 5]} if "gaussian" in function else {}
    constants |= {"direction": 0.5} if "motion" in function else {}

    def compute() -> Tensor:
        return Transform(function, ranges, constants=constants, steps=4)(images(shape=WIDE), times(), {})

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_does_not_depend_on_the_default_dtype(name, dtype):
    def compute() -> Any:
        outputs = []
        for degradation in (GaussianNoise(steps=12), GaussianBlur(steps=9, kernel_size=5, noise=0.3)):
            if suits(sampler := SAMPLERS[name](5), degradation):
                x = images()
                start = degrade(degradation, x, torch.ones(3, dtype=torch.float32), per_image_generators(0, range(3)))
                generators = per_image_generators(1, range(3))
                outputs.append(sampler(Perfect(0.9 * x), degradation, start.degraded, start.params, generators))
                outputs.append(sampler.times(degradation))
        return outputs

    assert_independent_of_default(compute, dtype)


@under_another_default
def test_a_rollout_does_not_depend_on_the_default_dtype(dtype):
    def compute() -> Any:
        degradation, x = GaussianNoise(steps=12), images()
        batch = degrade(degradation, x, times(), per_image_generators(0, range(3)))
        denoiser_for = lambda condition: lambda noisy, t: Prediction(0.9 * noisy)  # noqa: E731
        rolled = Rollout(1.0, groups=2)(batch, denoiser_for, degradation, DDPM(), UniformSteps(), (0, 0, 0))
        return rolled.degraded, rolled.t

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize("make", SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_noise_schedule_does_not_depend_on_the_default_dtype(make, dtype):
    def compute() -> Any:
        degradation = GaussianNoise(steps=13, schedule=make())
        t, s = times(), 0.6 * times()
        chain = posterior(degradation, t.double(), s.double())
        sampled = [
            sampler().sample(3, degradation, generators, "cpu")
            for sampler in TIME_SAMPLERS
            for generators in (rng.keyed_generator("t"), per_image_generators(0, range(3)))
        ]
        return degradation.alpha(t), degradation.sigma(t), list(chain), sampled

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize("make", TIME_SAMPLERS, ids=lambda sampler: sampler.__name__)
def test_training_times_are_float32(make, dtype):
    with default_dtype(dtype):
        assert make().sample(4, GaussianNoise(steps=1000), rng.keyed_generator("t")).dtype == torch.float32


@under_another_default
@pytest.mark.parametrize("make", PARAMETERIZATIONS, ids=lambda parameterization: parameterization.__name__)
def test_a_parameterization_does_not_depend_on_the_default_dtype(make, dtype):
    def compute() -> Any:
        degradation, x, output = GaussianNoise(steps=12), images(), 0.3 * images().flip(0)
        plain, learned = make(), LearnedVariance(make())
        scalings, twice = plain.scalings(degradation, times()), torch.cat([output, output], 1)
        prediction = learned.to_x0(degradation, x, times(), twice, learned.scalings(degradation, times()))
        clean = images().flip(1)
        losses = [L1()(prediction, clean, times(), degradation), HybridLoss()(prediction, clean, times(), degradation)]
        losses += [
            loss(prediction, clean, times(), degradation, {})
            for loss in (L2(SNRWeight()), L2(PowerWeight()), SoftScoreMatching())
        ]
        return list(scalings), plain.to_x0(degradation, x, times(), output, scalings), prediction, losses

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize(
    "make", [ChannelMeans, lambda: BlockMeans(4, 2), HeldOutImages], ids=["channel means", "block means", "held out"]
)
def test_a_prior_does_not_depend_on_the_default_dtype(make, dtype):
    def compute() -> Any:
        prior, degradation = make(), GaussianBlur(steps=9, kernel_size=5, noise=0.3)
        prior.fit([images(8)], degradation)
        return prior.state, prior.sample(degradation, per_image_generators(0, range(3)))

    assert_independent_of_default(compute, dtype)


@under_another_default
def test_a_likelihood_does_not_depend_on_the_default_dtype(dtype):
    def compute() -> Any:
        degradation, x = GaussianNoise(steps=12, schedule=Linear()), images(2, (1, 3, 3))
        generators = per_image_generators(0, range(2))
        dequantized = dequantize(x, generators)
        probes = rademacher(x, 2, generators), exact_probes(x)

        def shrink(x: Tensor, t: Tensor) -> Tensor:
            return 0.8 * x

        flow = flow_log_likelihood(shrink, degradation, dequantized, probes[0], 4)
        return dequantized, probes, flow, list(variational_bound(shrink, degradation, x, generators, 5))

    assert_independent_of_default(compute, dtype)


@under_another_default
def test_restoration_scores_do_not_depend_on_the_default_dtype(dtype):
    metrics = restoration_metrics()  # a callback makes them outside the precision's context

    def compute() -> Any:
        metrics.reset()
        metrics.update(images(3, (3, 12, 12)) * 0.5 + 0.5, images(3, (3, 12, 12)).flip(0) * 0.5 + 0.5)
        return metrics.compute()

    assert_independent_of_default(compute, dtype)


@under_another_default
def test_time_features_do_not_depend_on_the_default_dtype(dtype):
    sinusoidal = SinusoidalEmbedding(32, 8)
    assert_independent_of_default(lambda: (timestep_embedding(times(), 32), sinusoidal.encode(times())), dtype)


@under_another_default
@pytest.mark.parametrize(
    "network",
    [
        UNet(3, 8, [1, 2], 1),
        UNetClassifier(4, 3, 8, [1, 2], 1),
        NCSNpp(width=8, multipliers=[1, 2], blocks=1),
        ADMClassifier(4, 16, 3, 8, [1, 2], 1, [2], pool="mean"),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_network_does_not_depend_on_the_default_dtype(network, dtype):
    network.eval()
    assert_independent_of_default(lambda: network(images(), times()).detach(), dtype)


@under_another_default
def test_other_networks_do_not_depend_on_the_default_dtype(dtype):
    discriminator, text = Discriminator(3, 8, 2), TextTransformer("bytes", dim=8, layers=1, heads=2).eval()
    captions = {"caption": ["a red apple", "", "blue"]}

    def compute() -> Any:
        embedding = text.encode(captions)
        return discriminator(images()).detach(), embedding.pooled.detach(), embedding.tokens.detach()

    assert_independent_of_default(compute, dtype)


@under_another_default
def test_the_dropped_conditions_do_not_depend_on_the_default_dtype(dtype):
    labels, embedding = torch.arange(2000), ClassEmbedding(2000, 4, dropout=0.3)

    def compute() -> Any:
        return embedding.drop({"label": labels}, rng.keyed_generator("drop"))["label"]

    assert_independent_of_default(compute, dtype)


@under_another_default
def test_augmentation_and_small_images_do_not_depend_on_the_default_dtype(dtype):
    augmentation, conditioner = NonLeakyAugmentation(0.9), LowResolution(2, blur=0.5, noise=0.1)

    def compute() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            augmented, labels = augmentation(images())
        small = conditioner.randomize(conditioner.complete({}, images()), rng.keyed_generator("small"))
        return augmented, labels, small["image"]

    assert_independent_of_default(compute, dtype)


@under_another_default
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_does_not_depend_on_the_default_dtype(rescale, dtype):
    guidance = ClassifierFreeGuidance(2.5, (0.1, 0.9), rescale)

    def denoiser_for(condition: Any) -> Any:
        return lambda x, t: Prediction((0.3 if condition else 0.6) * x)

    def compute() -> Any:
        guided = guidance.guide(denoiser_for, {"label": torch.arange(3)}, GaussianNoise(steps=12))
        return clip_denoised(guided)(images(), times()).x0

    assert_independent_of_default(compute, dtype)


class _Batches(Callback):
    """Keeps the batches of a run and the times that the network gets."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.times: list[Tensor] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.denoiser.register_forward_hook(lambda module, inputs, output: self.times.append(inputs[1].detach()))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


def run_in(precision: Any, folder: Path) -> tuple[_Batches, RestorationModule]:
    seen = _Batches()
    module = tiny_module(degradation=GaussianBlur(steps=1000, kernel_size=5, noise=0.3), time_sampler=UniformTime())
    trainer = tiny_trainer(folder, seen, RestorationMetrics(images=4), precision=precision, max_epochs=2)
    trainer.fit(module, Stored(8, batch_size=4, seed=0))
    return seen, module


def test_a_run_in_bf16_has_the_times_and_images_of_one_in_float32(tmp_path):
    half, full = run_in("bf16-true", tmp_path / "bf16")[0], run_in("32-true", tmp_path / "32")[0]
    assert len(half.batches) == len(full.batches) > 0
    for left, right in zip(half.batches, full.batches, strict=True):
        for a, b in zip(leaves(left), leaves(right), strict=True):
            assert torch.equal(a, b)
            assert a.dtype == b.dtype
    assert len(half.times) == len(full.times)
    for left, right in zip(half.times, full.times, strict=True):
        assert left.dtype == torch.float32
        assert torch.equal(left, right)


def test_a_module_in_bf16_generates_float32_images(tmp_path):
    module = run_in("bf16-true", tmp_path)[1]
    with default_dtype(torch.bfloat16):
        generated = module.generate(range(2))
    assert generated.dtype == torch.float32
    expected = module.generate(range(2))
    torch.testing.assert_close(generated, expected, rtol=0, atol=0)


FACTORIES = {"linspace", "logspace", "ones", "zeros", "empty", "eye", "rand", "randn", "hann_window"}


def test_every_tensor_made_from_numbers_names_its_dtype():
    """Weights, which are made in the precision of the run on purpose, are ``nn.Parameter`` or a layer's."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        weights = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "Parameter"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)) or id(node) in weights:
                continue
            owner = node.func.value
            made = isinstance(owner, ast.Name) and owner.id == "torch" and node.func.attr in FACTORIES
            if made and not any(keyword.arg in ("dtype", None) for keyword in node.keywords):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} torch.{node.func.attr}")
    assert not found, "name the dtype, float32 or float64:\n" + "\n".join(found)
