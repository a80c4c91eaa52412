"""The steps of DDRM (2201.11793) and DiffPIR (2305.08995): a fixed fraction of the noise is fresh at each step."""

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, flow_coefficients, sigma_at
from diffusion_lightning.samplers.spacing import StepSpacing


class FreshNoise(Sampler):
    """κ = √(1 − η²) σ_s/σ_t and ζ = η σ_s, DiffPIR's ζ being η²: x̂_0 = x_0 gives the exact marginal at every time.

    The fraction is that of a step, whatever its length: with many steps nearly all noise is new, and samples are less
    diverse than the posterior. The papers use 15 to 100 steps.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        eta: η: 0 is the probability flow, 1 replaces all noise in each step.
        spacing: The times of the steps; equally spaced if None.
    """

    def __init__(self, steps: int | None = None, eta: float = 0.85, spacing: StepSpacing | None = None) -> None:
        super().__init__(steps, spacing)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: choose a value in [0, 1]")
        self.eta = eta

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has Gaussian noise.

        Raises:
            ValueError: It has none.
        """
        if not (degradation.noisy and degradation.gaussian_noise):
            raise ValueError(
                f"{type(self).__name__} adds Gaussian noise and {type(degradation).__name__} has none: "
                "use ProbabilityFlow or Cold"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(√(1 − η²) σ_s/σ_t, η σ_s); from x_1 = y of a bridge without noise there, all noise is fresh."""
        kappa, zeta = flow_coefficients(degradation, t, s)
        if zeta > 0:
            return kappa, zeta
        return (1 - self.eta**2) ** 0.5 * kappa, self.eta * sigma_at(degradation, s)
