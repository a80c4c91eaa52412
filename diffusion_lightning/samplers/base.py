"""The loop that all samplers share: x_s = D_s(x̂_0) + κ (x_t − D_t(x̂_0)) + ζ η, from t_start to s = 0."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

import torch
from rich.progress import track
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.arguments import KeepsArguments
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.types import DenoiseFn, Generators, Params, Prediction, as_prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.spacing import StepSpacing, UniformSpacing


class Step(NamedTuple):
    """One point of a trajectory: the time t, the image x_t, and the prediction x̂_0 (at t = 0 the image itself)."""

    t: float
    x: Tensor
    x0: Tensor


class SamplerState:
    """What the steps of one trajectory share: the denoiser, the degradation with its parameters, and the generator.

    Args:
        denoise_fn: The denoiser, (x_t (B, C, H, W), t (B,)) → x̂_0.
        degradation: The degradation of the images.
        params: Its random parameters, kept along the trajectory.
        generator: For the noise that steps add.
        fixed_noise: Whether steps use the full forward D_t + σ_t z instead of the operator D_t alone.
        steps: N, the number of steps of the trajectory.

    Attributes:
        previous: The previous step, for multistep samplers.
    """

    def __init__(
        self,
        denoise_fn: DenoiseFn,
        degradation: Degradation,
        params: Params,
        generator: Generators,
        fixed_noise: bool = False,
        steps: int = 1,
    ) -> None:
        self.denoise_fn = denoise_fn
        self.predict = as_prediction(denoise_fn)
        self.degradation = degradation
        self.params = params
        self.generator = generator
        self.steps = steps
        self.forward = degradation if fixed_noise else degradation.operator
        self.previous: Step | None = None

    def predict_x0(self, x: Tensor, t: float) -> Prediction:
        """The prediction of x_0 from the images x at the time t: one network function evaluation."""
        prediction = self.predict(x, times_like(x, t))
        return prediction._replace(x0=prediction.x0.to(x.dtype))

    def degrade(self, x0: Tensor, t: float) -> Tensor:
        """D_t(x_0), with σ_t z if the sampler uses fixed noise."""
        return self.forward(x0, times_like(x0, t), self.params) if t > 0 else x0

    def transition(
        self, x: Tensor, x0: Tensor, t: float, s: float, kappa: float | Tensor, zeta: float | Tensor
    ) -> Tensor:
        """D_s(x̂_0) + κ (x − D_t(x̂_0)) + ζ η; κ and ζ are numbers, or tensors that broadcast to x."""
        x_next = self.degrade(x0, s)
        if not isinstance(kappa, float) or kappa:
            x_next = x_next + kappa * (x - self.degrade(x0, t))
        if not isinstance(zeta, float) or zeta:
            x_next = x_next + zeta * rng.normal(x.shape, self.generator, like=x)
        return x_next


class Sampler(KeepsArguments, ABC):
    """A rule from x_1 to x_0: two numbers per step, κ(t, s) and ζ(t, s).

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None.
    """

    fixed_noise: bool = False
    """Whether the rule uses the full forward D_t + σ_t z with fixed z, instead of the operator alone."""

    chooses_steps: bool = False
    """Whether the rule chooses its own steps, as an adaptive solver does: ``steps`` changes nothing."""

    nfe_per_step: int = 1
    """The maximum number of network function evaluations (NFE) of one step."""

    def __init__(self, steps: int | None = None, spacing: StepSpacing | None = None) -> None:
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps={steps!r}: the number of sampling steps must be an integer of at least 1")
        self.steps = steps
        self.spacing = spacing or UniformSpacing()
        if steps is not None and self.spacing.own_steps not in (None, steps):
            raise ValueError(
                f"steps={steps}: {type(self.spacing).__name__} has {self.spacing.own_steps} steps of its own: leave "
                "steps out, or choose another spacing"
            )

    @property
    def chosen_spacing(self) -> StepSpacing | None:
        """The spacing as an argument for another sampler: None if it is the usual one, equally spaced."""
        return None if type(self.spacing) is UniformSpacing else self.spacing

    def replace(self, **changes: Any) -> Self:
        """See ``KeepsArguments.replace``. ``steps`` can be replaced in a sampler without such an argument, too."""
        if "steps" not in changes or self.accepts("steps"):
            return super().replace(**changes)
        steps = changes.pop("steps")
        changed = super().replace(**changes)
        Sampler.__init__(changed, steps, self.spacing)
        return changed

    @abstractmethod
    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """κ and ζ of the step from t to s."""

    def check(self, degradation: Degradation) -> None:
        """Check that the sampler is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """

    def check_variance(self, predicted: bool) -> None:
        """Check that the sampler has the variance that it needs.

        Args:
            predicted: Whether the network predicts a variance.

        Raises:
            ValueError: It needs one, and the network predicts none.
        """

    def times(self, degradation: Degradation, t_start: float = 1.0) -> list[float]:
        """The times of the trajectory, from ``t_start`` to 0."""
        steps = self.steps or self.spacing.own_steps or max(1, round(degradation.steps * t_start))
        return self.spacing.times(degradation, steps, t_start)

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at t, and x_s. Samplers that are more than (κ, ζ) override this."""
        x0 = state.predict_x0(x, t).x0
        return x0, state.transition(x, x0, t, s, *self.coefficients(state.degradation, t, s))

    @torch.no_grad()
    def trajectory(
        self,
        denoise_fn: DenoiseFn,
        degradation: Degradation,
        x: Tensor,
        params: Params | None = None,
        generator: Generators = None,
        t_start: float = 1.0,
    ) -> Iterator[Step]:
        """Sample and yield one ``Step`` per time of the trajectory, the last at t = 0; see ``__call__``."""
        if not 0 < t_start <= 1:
            raise ValueError(f"t_start={t_start}: sampling starts at a severity in (0, 1]")
        self.check(degradation)
        params = dict(params or {})
        if self.fixed_noise and degradation.noisy:
            params.setdefault("noise", x.new_zeros(()).expand_as(x))  # which takes no memory
        times = self.times(degradation, t_start)
        state = SamplerState(denoise_fn, degradation, params, generator, self.fixed_noise, len(times) - 1)
        for t, s in itertools.pairwise(times):
            x0, x_next = self.step(state, x, t, s)
            state.previous = Step(t, x, x0)
            yield state.previous
            x = x_next
        yield Step(0.0, x, x)

    def __call__(
        self,
        denoise_fn: DenoiseFn,
        degradation: Degradation,
        x: Tensor,
        params: Params | None = None,
        generator: Generators = None,
        t_start: float = 1.0,
        on_step: Callable[[Step], None] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Sample x_0, (B, C, H, W), from x.

        Args:
            denoise_fn: The denoiser, (x_t (B, C, H, W), t (B,)) → x̂_0.
            degradation: The degradation of the images.
            x: The images at ``t_start``, (B, C, H, W).
            params: The random parameters of the degradation, kept along the trajectory; a missing noise is 0.
            generator: For samplers that add noise: one generator, or one per image.
            t_start: The severity of x, in (0, 1].
            on_step: Called with every ``Step``.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: ``t_start`` is outside (0, 1], or the sampler is not defined for this degradation.
        """
        steps: Iterable[Step] = self.trajectory(denoise_fn, degradation, x, params, generator, t_start)
        if progress:
            steps = track(steps, type(self).__name__, total=len(self.times(degradation, t_start)))
        for step in steps:
            if on_step is not None:
                on_step(step)
        return step.x


def sigma_at(degradation: Degradation, t: float) -> float:
    """σ_t in float64."""
    return degradation.sigma(torch.tensor([t], dtype=torch.float64)).item()


def alpha_at(degradation: Degradation, t: float) -> float:
    """α_t in float64."""
    return degradation.alpha(torch.tensor([t], dtype=torch.float64)).item()


def signal_at(degradation: Degradation, t: float) -> float:
    """λ_t in float64: α_t, or a bridge's factor of x_0."""
    return degradation.signal(torch.tensor([t], dtype=torch.float64)).item()


def noise_level_at(degradation: Degradation, t: float) -> float:
    """σ_t/λ_t in float64, or σ_t for a degradation without λ_t."""
    return degradation.noise_level(torch.tensor([t], dtype=torch.float64)).item()


def sigma_ratio(degradation: Degradation, t: float, s: float) -> float:
    """σ_s/σ_t with 0/0 := 1, as ``Degradation.sigma_ratio``."""
    time, end = (torch.tensor([value], dtype=torch.float64) for value in (t, s))
    return degradation.sigma_ratio(time, end).item()


def flow_coefficients(degradation: Degradation, t: float, s: float) -> tuple[float, float]:
    """κ and ζ of the probability flow: (σ_s/σ_t, 0).

    From x_1 = y of a bridge without noise there, the step is (0, σ_s): the flow is singular at that point, from which
    it leads to all of the distribution of x_s.
    """
    ratio = sigma_ratio(degradation, t, s)
    return (ratio, 0.0) if math.isfinite(ratio) else (0.0, sigma_at(degradation, s))
