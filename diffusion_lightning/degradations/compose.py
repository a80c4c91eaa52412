"""Several degradations one after another, each with its own share of t."""

from torch import Tensor, nn

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.noise_schedules import NoiseSchedule
from diffusion_lightning.schedules import grid_position, per_image
from diffusion_lightning.types import Generators, Params


class Compose(Degradation):
    """The operators of the parts, first to last; the noise σ_t is this degradation's own and comes after all of them.

    Args:
        parts: The degradations, in the order in which they act. They must have no noise of their own.
        spans: For each part the [start, end] in t over which it goes from clean to its end; all of [0, 1] if None.
        steps: T; the most of the parts if None.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: The least σ_t for t ≥ 1/T.
        schedule: In place of ``noise``: a noise schedule (α_t, σ_t), for α_t·(D^n ∘ … ∘ D^1)(x) + σ_t z. Blur with
            ``VE`` is the degradation of Soft Diffusion (2209.05442).
    """

    def __init__(
        self,
        parts: list[Degradation],
        spans: list[tuple[float, float]] | None = None,
        steps: int | None = None,
        noise: float = 0.0,
        noise_floor: float = 0.0,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        if not parts:
            raise ValueError("parts is empty: give the degradations to compose")
        super().__init__(steps or max(part.steps for part in parts), noise, noise_floor)
        if noisy := next((type(part).__name__ for part in parts if part.noisy), None):
            raise ValueError(f"the part {noisy} has noise, which Compose adds last: give Compose the noise instead")
        if schedule is not None and super().noisy:
            raise ValueError(
                f"noise={noise}, noise_floor={noise_floor}: leave them out, the schedule says how noise grows"
            )
        self.schedule = schedule
        self.parts = nn.ModuleList(parts)
        self.spans = spans or [(0.0, 1.0)] * len(parts)
        if len(self.spans) != len(parts):
            raise ValueError(f"{len(self.spans)} spans for {len(parts)} parts: give one for each")
        for start, end in self.spans:
            if not 0 <= start < end <= 1:
                raise ValueError(f"span [{start}, {end}]: a part runs over 0 ≤ start < end ≤ 1")
        self.linear = all(part.linear for part in parts)
        self.hidden_params = any(part.hidden_params for part in parts)

    @property
    def noisy(self) -> bool:
        """Whether σ_t > 0 for t > 0."""
        return super().noisy or self.schedule is not None

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t (B,) of the schedule, if there is one."""
        return super().sigma(t) if self.schedule is None else self.schedule(t, self.steps)[1].to(t.dtype)

    def draw(self, x: Tensor, generator: Generators) -> Params:
        """The parts' draws, under ``i.name``."""
        return {
            f"{i}.{name}": value
            for i, part in enumerate(self._list())
            for name, value in part.sample_params(x, generator).items()
        }

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """D^n ∘ … ∘ D^1, times α_t."""
        for i, part in enumerate(self._list()):
            x = part.operator(x, self._time(i, t), self._own(i, params))
        return self._fade(x, t)

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """(D^1)ᵀ ∘ … ∘ (D^n)ᵀ."""
        y = self._fade(y, t)
        for i, part in reversed(list(enumerate(self._list()))):
            y = part.adjoint(y, self._time(i, t), self._own(i, params))
        return y

    def _fade(self, x: Tensor, t: Tensor) -> Tensor:
        return x if self.schedule is None else per_image(self.schedule(t, self.steps)[0], x) * x

    def _list(self) -> list[Degradation]:
        return list(self.parts)  # type: ignore[arg-type]  # a ModuleList forgets what its modules are

    def _time(self, i: int, t: Tensor) -> Tensor:
        start, end = self.spans[i]
        t = grid_position(t, self.steps) / self.steps  # by its own grid: a part's may be the coarser or the finer one
        return ((t - start) / (end - start)).clamp(0, 1)

    @staticmethod
    def _own(i: int, params: Params) -> Params:
        prefix = f"{i}."
        return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
