"""`restore --method mmps --measurement Pixelate`: images that another degradation than the model's has made."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import torch

from diffusion_lightning.core.images import ImageReadError, from_uint8, read_image
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse import DDNM, DDRM, DPS, MMPS, DiffPIR, PiGDM, Posterior, RePaint
from diffusion_lightning.inverse.noise_level import ROUNDING, estimate_noise
from diffusion_lightning.modules.restoration import RestorationModule

Method = Literal["cold", "mmps", "pigdm", "ddrm", "ddnm", "diffpir", "repaint", "dps"]
"""How to restore: from the model's own degradation (cold), or by posterior sampling from any other."""

METHODS: dict[str, type[Posterior]] = {
    "mmps": MMPS,
    "pigdm": PiGDM,
    "ddrm": DDRM,
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "repaint": RePaint,
    "dps": DPS,
}

DPS_STEPS = 200
"""Steps of DPS, whose gradient steps have a fixed factor, where the user chooses no number."""

MAX_ESTIMATES = 16
"""Images from which the noise is estimated."""


def choose_posterior(
    method: Method,
    measurement: Degradation | None,
    noise: float | Literal["auto"],
    severity: float | str | None,
    steps: int | None,
    paths: Sequence[Path],
    module: RestorationModule,
) -> Posterior | None:
    """The method that the command line names; None for ``cold``, the model's own degradation.

    Args:
        method: Its name.
        measurement: The degradation that made the images.
        noise: Standard deviation of their noise in [-1, 1], or ``auto``, the mean of estimates.
        severity: The severity of the degradation; 1 if None.
        steps: Number of sampling steps that the user has chosen, if any.
        paths: The images.
        module: The trained module.

    Raises:
        ValueError: The method does not suit the measurement or the model, or an option is missing.
    """
    if method == "cold":
        if measurement is not None or noise != 0:
            raise ValueError(f"--measurement and --noise describe images for --method {_others()}: name one of them")
        return None
    if measurement is None:
        raise ValueError(f"--method {method} needs --measurement, the degradation of your images, such as Pixelate")
    if not module.degradation.is_gaussian_diffusion:
        raise ValueError(
            f"--method {method} needs a model trained on GaussianNoise, and this one was trained on "
            f"{type(module.degradation).__name__}: use --method cold, or train one by configs/noise.yaml"
        )
    if measurement.has_unknown_params:
        raise ValueError(
            f"--measurement {type(measurement).__name__} has random parameters, which are unknown for your images: "
            "choose one without"
        )
    if isinstance(severity, str):
        raise ValueError(f"--severity {severity}: --method {method} needs one number, the severity of --measurement")
    if noise == "auto" and not METHODS[method].uses_noise:
        raise ValueError(f"--noise auto: --method {method} does not use the noise of the images: leave it out")
    sigma = _estimate_noise(paths, module.image_shape[0]) if noise == "auto" else noise
    arguments = {"steps": steps or DPS_STEPS} if method == "dps" else {}
    if METHODS[method].uses_noise and sigma >= 0:
        sigma = max(sigma, ROUNDING)
    posterior = METHODS[method](measurement, 1.0 if severity is None else severity, sigma, **arguments)
    _try(posterior, module)
    return posterior


def summary(posterior: Posterior) -> str:
    """``Pixelate at t = 1 and noise 0.05 by MMPS``."""
    noise = f" and noise {posterior.noise:.2g}" if posterior.uses_noise else ""
    measurement, method = type(posterior.measurement).__name__, type(posterior).__name__
    return f"{measurement} at t = {posterior.severity:g}{noise} by {method}"


def method_name(posterior: Posterior | None) -> str:
    """The name of a method on the command line."""
    return "cold" if posterior is None else next(name for name, kind in METHODS.items() if kind is type(posterior))


def _try(posterior: Posterior, module: RestorationModule) -> None:
    """Condition a trivial denoiser on a black image, so that a method that does not suit is refused at the start."""
    y = torch.zeros(1, *module.image_shape, dtype=torch.float32)
    denoiser = posterior.condition(lambda x, t: x, module.degradation, y)
    denoiser(y, torch.full((1,), 0.5, dtype=torch.float32))


def _estimate_noise(paths: Sequence[Path], channels: int) -> float:
    """The mean of estimates of σ_y for the first images that can be read, in [-1, 1]."""
    estimates: list[float] = []
    for path in paths:
        with suppress(ImageReadError):  # which is reported when its turn to be restored comes
            estimates.append(estimate_noise(from_uint8(read_image(path, channels))[None]).item())
        if len(estimates) == MAX_ESTIMATES:
            break
    if not estimates:
        raise ValueError("--noise auto: no image can be read: give a number, such as --noise 0.05")
    return sum(estimates) / len(estimates)


def _others() -> str:
    return ", ".join(get_args(Method)[1:])
