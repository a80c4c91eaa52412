"""Classifier-free guidance (Ho and Salimans, 2207.12598): extrapolate from the unconditional prediction."""

from diffusion_lightning.core.conditions import Condition, without_labels
from diffusion_lightning.core.types import PredictFn
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.guidance.base import ConditionalDenoiser, Guidance, check_interval, extrapolate


class ClassifierFreeGuidance(Guidance):
    """x̂_0 = u + scale (c − u), with the conditional prediction c and the unconditional prediction u (2207.12598).

    For D_t = α_t this rule on x̂_0 equals the paper's rule on ε. The scale 0 is u alone and 1 is c alone, at one network
    evaluation; other scales need two.

    Args:
        scale: The guidance scale. 1 is no guidance; larger values follow the condition more strongly (the paper's w is
            scale − 1).
        interval: The interval of t in which to guide; c is used elsewhere (2404.07724).
        guidance_rescale: The fraction by which the standard deviation of each guided image is brought back to that of
            c, in [0, 1]. It prevents overexposed images at large scales (2305.08891, sec. 3.4, there for the network's
            output).
    """

    def __init__(
        self, scale: float = 3.0, interval: tuple[float, float] = (0.0, 1.0), guidance_rescale: float = 0.0
    ) -> None:
        super().__init__(scale)
        check_interval(interval)
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale={guidance_rescale}: choose a fraction in [0, 1]; 0.7 is usual")
        self.interval = interval
        self.guidance_rescale = guidance_rescale

    def guide(
        self, denoiser_for: ConditionalDenoiser, condition: Condition | None, degradation: Degradation
    ) -> PredictFn:
        """The guided denoiser; the unconditional denoiser if the condition is None."""
        null = None if condition is None else without_labels(condition)
        if condition is None or (self.scale == 0 and tuple(self.interval) == (0, 1)):
            return denoiser_for(null)
        if self.scale == 1:
            return denoiser_for(condition)
        uncond, cond = denoiser_for(null), denoiser_for(condition)
        return extrapolate(uncond, cond, self.scale, self.interval, self.guidance_rescale)
