"""Gaussian noise, the hot special case: x_t = α_t x_0 + σ_t z with any noise schedule (DDPM, 2006.11239)."""

from typing import Literal

from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.noise_schedules import Cosine, Linear, NoiseSchedule
from diffusion_lightning.degradations.svd import Factors, scale_factors

SCHEDULES = {"cosine": Cosine, "linear": Linear}


class GaussianNoise(Degradation):
    """Gaussian noise that grows while the image fades.

    Args:
        steps: T, the grid on which the schedule is defined.
        schedule: ``cosine`` (Improved DDPM, and Cold Diffusion), ``linear`` (DDPM), or a class of
            ``degradations.noise_schedules`` with its arguments, such as VE or FlowMatching.
    """

    linear = True

    def __init__(self, steps: int = 1000, schedule: Literal["cosine", "linear"] | NoiseSchedule = "cosine") -> None:
        super().__init__(steps)
        if isinstance(schedule, str) and schedule not in SCHEDULES:
            raise ValueError(
                f"schedule={schedule!r}: choose {' or '.join(SCHEDULES)}, or a noise schedule: "
                "Cosine, Linear, ScaledLinear, VP, SubVP, VE, Karras or FlowMatching"
            )
        self.schedule = SCHEDULES[schedule]() if isinstance(schedule, str) else schedule

    @property
    def noisy(self) -> bool:
        """True: this degradation is noise."""
        return True

    def alpha(self, t: Tensor) -> Tensor:
        """α_t (B,), in the dtype of t."""
        return self.schedule(t, self.steps)[0].to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t (B,), in the dtype of t."""
        return self.schedule(t, self.steps)[1].to(t.dtype)

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """α_t x."""
        return append_dims(self.schedule(t, self.steps)[0], x) * x

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """α_t y."""
        return self.operator(y, t, params)

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """α_t, a multiple of the identity."""
        return scale_factors(self.schedule(t, self.steps)[0], shape[0])
