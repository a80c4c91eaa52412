"""Rollout training: images x_t that the sampler has made from the network's own predictions, without gradients."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS
from helpers.oracles import Perfect
from helpers.runs import DEBUG, QUIET, Stored, Tiny, blur, fail, tiny_module, tiny_trainer
from helpers.sampler_cases import RANDOM, SAMPLERS
from helpers.sampling import smooth_denoiser
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn

from diffusion_lightning import RestorationBatch, RestorationModule
from diffusion_lightning.core.images import quantize
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction, as_prediction
from diffusion_lightning.data import degrade
from diffusion_lightning.degradations import Degradation, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.modules import Rollout
from diffusion_lightning.objectives.time_samplers import LogNormalNoiseLevel, UniformSteps, UniformTime
from diffusion_lightning.samplers import DDPM, Heun, Naive, ProbabilityFlow, Sampler
from diffusion_lightning.samplers.base import SamplerState, Step

KEY = (0, 0, 0)


def images(number: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(number, 3, side, side, generator=generator, dtype=torch.float64) * 1.6 - 0.8


def exact_batch(degradation: Degradation, clean: Tensor, t: float = 0.5) -> RestorationBatch:
    """The images, all at the time t, with their positions as labels."""
    times, labels = torch.full((len(clean),), t, dtype=torch.float32), {"label": torch.arange(len(clean))}
    return degrade(degradation, clean, times, per_image_generators(0, range(len(clean))), condition=labels)


def rolled(rollout: Rollout, degradation: Degradation, batch: RestorationBatch, sampler: Sampler) -> RestorationBatch:
    """The batch after a rollout with a denoiser that knows the clean images by their labels."""
    perfect = lambda condition: as_prediction(Perfect(batch.clean[condition["label"]]))  # noqa: E731
    return rollout(batch, perfect, degradation, sampler, UniformSteps(), KEY)


class Still(Sampler):
    """Leaves the image as it is."""

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        raise AssertionError

    def step(self, state: Any, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        assert t > s
        return x, x


def unused(condition: Any) -> Any:
    """A denoiser whose predictions nobody needs."""
    return lambda x, t: Prediction(x)


def at(module: RestorationModule, batch: int = 0, rank: int = 0, epoch: int = 0) -> RestorationModule:
    """The module on this rank at this batch of a run, without a run."""
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=SimpleNamespace(seed=3),
        global_rank=rank,
        current_epoch=epoch,
        fit_loop=SimpleNamespace(total_batch_idx=batch),
        precision_plugin=Precision(),
    )
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize("case", DEGRADATIONS)
def test_with_the_true_images_the_sampler_makes_the_exact_x_t(case: str) -> None:
    degradation = DEGRADATIONS[case]()
    batch = exact_batch(degradation, images(8))
    result = rolled(Rollout(1.0, start="random", groups=4), degradation, batch, ProbabilityFlow())
    expected = degradation(batch.clean, result.t, batch.params or {})
    torch.testing.assert_close(result.degraded, expected, rtol=0, atol=1e-5)
    assert result.clean is batch.clean
    assert len(set(result.t.tolist())) > 1 or degradation.steps < 4


class Recorded(Rollout):
    """Keeps the times of its groups."""

    paths: list[list[float]]

    def times(self, degradation: Degradation, t: float, u: float) -> list[float]:
        self.paths.append(super().times(degradation, t, u))
        return self.paths[-1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_groups_that_share_an_evaluation_step_as_each_alone(name: str) -> None:
    degradation, sampler = GaussianNoise(steps=12, schedule=VE(sigma_max=5.0)), SAMPLERS[name](None)
    batch = exact_batch(degradation, images(6, 4))

    def denoiser_for(condition: Any) -> Any:
        return lambda x, t: Prediction(smooth_denoiser(x, t) + append_dims(condition["label"], x) / 5)

    rollout = Recorded(1.0, steps=3, groups=1 if name in RANDOM else 3)  # the groups share the generator
    rollout.paths = []
    result = rollout(batch, denoiser_for, degradation, sampler, UniformTime(), KEY)
    assert {len(path) for path in rollout.paths} == {4}
    for part, path in zip(torch.arange(6).chunk(rollout.groups), rollout.paths, strict=True):
        noise = keyed_generator(*KEY, "rollout noise")
        params = {"noise": batch.params["noise"][part]}
        denoise_fn = denoiser_for({"label": part})
        steps = round(3 / (path[0] - path[-1]))
        state = SamplerState(denoise_fn, degradation, params, noise, sampler.fixed_noise, steps)
        x = degradation(batch.clean[part], times_like(batch.clean[part], path[0]), params)
        for t, s in itertools.pairwise(path):
            x0, x_next = sampler.step(state, x, t, s)
            state.previous, x = Step(t, x, x0), x_next
        torch.testing.assert_close(result.degraded[part], x, rtol=1e-9, atol=1e-9)
        assert result.t[part].tolist() == pytest.approx([path[-1]] * len(part), abs=1e-7)


def test_a_sampler_that_adds_noise_keeps_the_variance() -> None:
    degradation = GaussianNoise(steps=10)
    batch = exact_batch(degradation, images(24))
    result = rolled(Rollout(share=1.0, groups=24), degradation, batch, DDPM())
    fresh = 0
    for clean, x, t, z in zip(batch.clean, result.degraded, result.t, batch.params["noise"], strict=True):
        residual = (x - degradation.alpha(t[None]) * clean) / degradation.sigma(t[None])
        assert residual.std().item() == pytest.approx(1, abs=4 / (2 * residual.numel()) ** 0.5)
        fresh += not torch.allclose(residual, z)
    assert fresh > 12  # the others have t = 1


def test_the_images_at_the_start_have_the_grey_levels_of_training() -> None:
    degradation, clean = GaussianBlur(steps=4, quantize="truncate"), images(4)
    result = Rollout(1.0)(exact_batch(degradation, clean), unused, degradation, Still(), UniformSteps(), KEY)
    ends = degradation(clean, torch.ones(4, dtype=torch.float64), {})
    torch.testing.assert_close(result.degraded, quantize(ends, truncate=True))


def test_the_share_is_exact_on_average_and_takes_the_first_images() -> None:
    degradation = GaussianNoise(steps=10)
    batch = exact_batch(degradation, torch.zeros(10, 1, 1, 1), t=0.013)  # a time that no rollout has
    for share in (0.0, 0.25, 1.0):
        numbers = []
        for number in range(100):
            result = Rollout(share, groups=1)(batch, unused, degradation, Still(), UniformSteps(), (0, 0, number))
            others = result.t == batch.t
            numbers.append(int((~others).sum()))
            assert others.tolist() == sorted(others.tolist())
            assert torch.equal(result.degraded[others], batch.degraded[others])
        assert set(numbers) <= {int(10 * share), int(10 * share + 0.75)}
        assert sum(numbers) / 100 == pytest.approx(10 * share, abs=0.2)


def test_times_have_the_distribution_of_the_time_sampler() -> None:
    degradation, number = GaussianNoise(steps=12, schedule=Karras(sigma_max=5.0)), 600
    batch = exact_batch(degradation, torch.zeros(number, 1, 1, 1))
    for time_sampler in (UniformSteps(), UniformTime(), LogNormalNoiseLevel(0.0, 1.0)):
        rollout = Rollout(1.0, steps=1, groups=number)
        result = rollout(batch, unused, degradation, Still(), time_sampler, KEY)
        expected = time_sampler.sample(2000, degradation, torch.Generator().manual_seed(0))
        quantiles = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float32)
        assert (result.t.quantile(quantiles) - expected.quantile(quantiles)).abs().max() < 0.085


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_steps_are_equal_and_on_the_grid_if_t_is(steps: int) -> None:
    rollout, pixels, noise = Rollout(steps=steps, start="random"), Pixelate(steps=4), GaussianNoise(steps=1000)
    for k, u in itertools.product((1, 2, 3, 4), (0.0, 0.01, 0.4, 0.99)):
        t = torch.tensor(k / 4, dtype=torch.float32).item()
        times = rollout.times(pixels, t, u)
        assert times[-1] == t
        assert all(round(4 * time) == pytest.approx(4 * time, abs=1e-6) for time in times)
        assert times == sorted(set(times), reverse=True)
        assert times[0] <= 1
        assert len(times) <= 1 + min(steps, 4 - k)
        assert (len(times) > 1) == (k < 4 and u > 0)
    between = torch.tensor(rollout.times(noise, 0.31234, 0.5), dtype=torch.float64)
    torch.testing.assert_close(between.diff(), torch.full_like(between[1:], -0.5 * 0.68766 / steps))
    assert rollout.times(noise, 0.31234, 0.5)[-1] == 0.31234
    from_end = Rollout(steps=steps).times(noise, 0.31234, 0.5)
    assert from_end == Rollout(steps=steps, start="random").times(noise, 0.31234, 1.0)
    assert (from_end[0], from_end[-1], len(from_end)) == (1.0, 0.31234, steps + 1)


@pytest.mark.parametrize("T", [30, 250, 500])
def test_rounding_errors_move_no_time_of_a_rollout_from_the_end(T: int) -> None:
    """The positions are ⌈k + (T − k) n / N⌉, in integers, and t' is 1 exactly, between grid points too."""
    degradation = GaussianNoise(steps=T)
    for steps, k in itertools.product(range(1, 11), (1, 2, 3, T // 2, T - 1)):
        rollout, t = Rollout(steps=steps), torch.tensor(k / T, dtype=torch.float32).item()
        expected = {k + -((k - T) * number // steps) for number in range(1, steps + 1)}
        assert rollout.times(degradation, t, 0.0)[:-1] == [position / T for position in sorted(expected, reverse=True)]
        assert rollout.times(degradation, t + 0.3 / T, 0.0)[0] == 1


def test_churn_is_that_of_a_trajectory_with_steps_of_that_size() -> None:
    """EDM's γ is churn/N, with N steps from 1 to 0."""
    sizes: list[float] = []

    class Record(Heun):
        def step(self, state: Any, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
            sizes.append(state.steps * (t - s))
            return x, x

    batch = exact_batch(degradation := GaussianNoise(steps=1000), torch.zeros(16, 1, 1, 1))
    Rollout(1.0, groups=16)(batch, unused, degradation, Record(churn=1.0), UniformTime(), KEY)
    assert len(sizes) == 32
    assert sizes == pytest.approx([1.0] * 32, rel=0.2)  # N is an integer


class Learned(nn.Module):
    """F(x, t) = w x, with dropout that would halve or zero it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float32))
        self.dropout = nn.Dropout(0.0)
        self.modes: list[bool] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.modes.append(self.dropout.training)
        return self.dropout(self.weight * x)


def test_the_gradient_is_that_of_the_loss_at_a_fixed_x_t() -> None:
    module = at(tiny_module(denoiser=Learned(), rollout=Rollout(1.0)))
    batch = degrade(module.degradation, images(6).float(), torch.full((6,), 0.5, dtype=torch.float32))
    fixed = module.roll_out(batch)
    assert not torch.equal(fixed.degraded, batch.degraded)
    module.training_step(batch, 0).backward()
    weight = module.denoiser.weight
    error = weight.detach() * fixed.degraded - fixed.clean
    torch.testing.assert_close(weight.grad, (error.sign() * fixed.degraded).mean())


def test_the_rollout_has_no_dropout_and_leaves_every_mode_as_it_was() -> None:
    module = at(tiny_module(denoiser=Learned(), rollout=Rollout(0.5)))
    module.denoiser.dropout.p = 0.5
    frozen = nn.Dropout(0.1)
    module.denoiser.frozen = frozen.eval()
    batch = degrade(module.degradation, images(6).float(), torch.full((6,), 0.25, dtype=torch.float32))
    state = torch.get_rng_state()
    module.roll_out(batch)
    assert torch.equal(state, torch.get_rng_state())
    assert set(module.denoiser.modes) == {False}
    assert module.denoiser.dropout.training
    assert not frozen.training
    module.training_step(batch, 0)
    assert module.denoiser.modes[-1]


def test_random_numbers_have_the_key_of_the_batch() -> None:
    module = tiny_module(rollout=Rollout(1.0))
    batch = degrade(module.degradation, images(4)[:, :1].float(), torch.full((4,), 0.25, dtype=torch.float32))
    results = [at(module, number, rank).roll_out(batch) for number, rank in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert torch.equal(results[0].degraded, results[1].degraded)
    assert not torch.equal(results[0].t, results[2].t)
    assert not torch.equal(results[0].t, results[3].t)


def test_the_module_s_rollout_uses_its_sampler_and_the_conditions() -> None:
    class Conditions(RestorationModule):
        """Predicts the label of the image, and keeps the labels that it is given."""

        labels: list[list[int]]

        def denoise_fn(self, condition: Any = None, sampling: Any = None) -> Any:
            self.labels.append(condition["label"].tolist())
            return lambda x, t: Prediction(append_dims(condition["label"], x).expand_as(x))

    module = at(Conditions(blur(steps=20), Tiny(), sampler=Naive(), rollout=Rollout(0.75, steps=1, groups=3)))
    module.labels = []
    batch = exact_batch(module.degradation, images(8, 8).float())
    result = module.roll_out(batch)
    (labels,) = module.labels
    assert len(labels) in (4, 6)  # a group with t = 1 has no step
    assert set(labels) <= set(range(6))
    for label in labels:
        expected = torch.full_like(batch.clean[0], label)  # a blurred constant is that constant
        torch.testing.assert_close(result.degraded[label], expected, rtol=0, atol=1e-5)


def trained(folder: Path, rollout: Rollout | None, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = tiny_module(degradation=blur(noise=0.1), denoiser=Tiny(norm=True), rollout=rollout)
    settings = {"max_epochs": 2} | settings
    tiny_trainer(folder, limit_val_batches=0, **settings).fit(module, datamodule=Stored(8, batch_size=4, seed=3))
    return module.state_dict()


def test_without_images_from_the_sampler_training_is_bitwise_the_same(tmp_path: Path) -> None:
    plain = trained(tmp_path, None)
    for rollout, same in (
        (Rollout(0.0), True),
        (Rollout(1.0, from_epoch=2), True),
        (Rollout(1.0, from_epoch=1), False),
    ):
        state = trained(tmp_path, rollout)
        assert all(torch.equal(state[name], value) for name, value in plain.items()) == same


def test_mixed_precision_trains_all_weights(tmp_path: Path) -> None:
    """Weights that autocast has cast without a gradient must not be used with one."""
    start = tiny_module(degradation=blur(noise=0.1), denoiser=Tiny(norm=True)).state_dict()
    state = trained(tmp_path, Rollout(1.0), precision="bf16-mixed", max_epochs=1)
    names = [name for name in start if "conv" in name or "shift" in name]
    assert len(names) == 3
    assert not any(torch.equal(start[name], state[name]) for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.5}, r"share=1.5: the share .* \[0, 1\]; 0.5"),
        ({"steps": 0}, "steps=0: choose an integer of at least 1"),
        ({"steps": True}, "steps=True"),
        ({"from_epoch": -1}, "from_epoch=-1: choose an integer of at least 0"),
        ({"groups": 2.0}, "groups=2.0"),
        ({"start": "later"}, "start='later': choose end or random"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rollout(**arguments)


def test_a_wrong_share_on_the_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", DEBUG, "--model.rollout=Rollout", "--model.rollout.share=2", *QUIET]
    (line,) = fail(tmp_path, capsys, *argv).errors
    assert "share=2.0: the share of the images of a batch is in [0, 1]" in line
