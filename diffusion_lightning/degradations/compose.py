"""Several degradations one after another, each with its own interval of t."""

from torch import Tensor, nn

from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.noise_schedules import NoiseSchedule
from diffusion_lightning.degradations.svd import Factors, scale_factors


class Compose(Degradation):
    """The operators of several degradations, first to last; the noise σ_t is added after all of them.

    Args:
        degradations: The degradations, in the order in which they act. They must have no noise of their own.
        intervals: For each the [start, end] in t over which it goes from clean to its end; all of [0, 1] if None.
        steps: T; the largest T of the degradations if None.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
        schedule: Instead of ``noise``: a noise schedule (α_t, σ_t), for α_t·(D^n ∘ … ∘ D^1)(x) + σ_t z. Blur with
            ``VE`` is the degradation of Soft Diffusion (2209.05442).
    """

    def __init__(
        self,
        degradations: list[Degradation],
        intervals: list[tuple[float, float]] | None = None,
        steps: int | None = None,
        noise: float = 0.0,
        noise_floor: float = 0.0,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        if not degradations:
            raise ValueError("degradations is empty: give the degradations to compose")
        super().__init__(steps or max(part.steps for part in degradations), noise, noise_floor)
        if noisy := next((type(part).__name__ for part in degradations if part.noisy), None):
            raise ValueError(f"{noisy} has noise, which Compose adds last: give the noise to Compose instead")
        if schedule is not None and super().noisy:
            raise ValueError(
                f"noise={noise}, noise_floor={noise_floor}: leave them out, the schedule defines the noise"
            )
        self.schedule = schedule
        self.degradations = nn.ModuleList(degradations)
        self.intervals = intervals or [(0.0, 1.0)] * len(degradations)
        if len(self.intervals) != len(degradations):
            raise ValueError(f"{len(self.intervals)} intervals for {len(degradations)} degradations: give one for each")
        for start, end in self.intervals:
            if not 0 <= start < end <= 1:
                raise ValueError(f"interval [{start}, {end}]: choose 0 ≤ start < end ≤ 1")
        self.linear = all(part.linear for part in degradations)
        self.has_unknown_params = any(part.has_unknown_params for part in degradations)

    @property
    def noisy(self) -> bool:
        """Whether σ_t > 0 for t > 0."""
        return super().noisy or self.schedule is not None

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t (B,), of the schedule if there is one."""
        return super().sigma(t) if self.schedule is None else self.schedule(t, self.steps)[1].to(t.dtype)

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """The random parameters of all degradations, under ``i.name``."""
        return {
            f"{i}.{name}": value
            for i, part in enumerate(self._parts())
            for name, value in part.sample_params(x, generator).items()
        }

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """D^n ∘ … ∘ D^1, times α_t."""
        for i, part in enumerate(self._parts()):
            x = part.operator(x, self._time(i, t), self._params_of(i, params))
        return self._scale(x, t)

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """(D^1)ᵀ ∘ … ∘ (D^n)ᵀ."""
        y = self._scale(y, t)
        for i, part in reversed(list(enumerate(self._parts()))):
            y = part.adjoint(y, self._time(i, t), self._params_of(i, params))
        return y

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """The products of the parts' factors."""
        product = Factors() if self.schedule is None else scale_factors(self.schedule(t, self.steps)[0], shape[0])
        for i, part in enumerate(self._parts()):
            product = product.then(part.factors(shape, self._time(i, t), self._params_of(i, params)))
        return product

    def _scale(self, x: Tensor, t: Tensor) -> Tensor:
        return x if self.schedule is None else append_dims(self.schedule(t, self.steps)[0], x) * x

    def _parts(self) -> list[Degradation]:
        return list(self.degradations)  # type: ignore[arg-type]  # a ModuleList is typed as a list of modules

    def _time(self, i: int, t: Tensor) -> Tensor:
        start, end = self.intervals[i]
        t = to_grid(t, self.steps) / self.steps  # by its own grid: that of a part may be coarser or finer
        return ((t - start) / (end - start)).clamp(0, 1)

    @staticmethod
    def _params_of(i: int, params: Params) -> Params:
        prefix = f"{i}."
        return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
