"""Cold restoration, direct regression, bridges and posterior sampling on the same inverse problems, in one table each.

Run ``python tests/benchmarks/inverse_problems.py``, or with ``--quick`` a short version. Held-out digits and patches of
held-out photographs are blurred, pixelated, masked or desaturated, without and with noise, and rounded to 8 bits. What
is missing is trained: ``configs/noise.yaml``, ``photo_noise.yaml``, ``photo_blur.yaml``, ``photo_pixelate.yaml`` and
the two bridges of photographs, 7 minutes each, and the small models of ``_inverse_models.py``, half a minute each.
Direct regression is the prediction of the cold model from t = 1. All models but those with ``noise .05`` in their names
were trained without that noise, and only posterior sampling knows its standard deviation. FID is ``fid_digits``; the
spread is the standard deviation of a pixel over several samples of an image; NFE counts network evaluations, +
derivatives of the network; the time is that of one CPU thread.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _inverse_models import Part, bridge, trained_on
from _trained import restoration_module
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusion_lightning import RestorationModule, degradations
from diffusion_lightning.core.images import quantize, to_unit
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import normal, per_image_generators
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.data import Digits, Photographs
from diffusion_lightning.degradations.bridge import KINDS
from diffusion_lightning.inverse import DDNM, DDRM, DPS, MMPS, DiffPIR, PiGDM, Posterior, RePaint
from diffusion_lightning.inverse.noise_level import ROUNDING
from diffusion_lightning.metrics import DigitsClassifier, FrechetDistances, restoration_metrics
from diffusion_lightning.samplers import Direct, KarrasSpacing, ProbabilityFlow
from diffusion_lightning.samplers.base import Sampler

NOISE = 0.05
"""σ_y of the noisy measurements, in images in [-1, 1]."""

BLUR = {"steps": 20, "kernel_size": 11, "std": 0.8, "schedule": "constant", "padding": "circular"}
PHOTO_BLUR = BLUR | {"steps": 10, "kernel_size": 7, "padding": "reflect"}
FLOOR = {"noise_floor": 0.02}
"""Of the blurs that models are trained on, as in blur.yaml."""

MASK, PIXELATE = {"region": [0.0, 0.0, 0.5, 1.0]}, {"steps": 2, "first_downsampling": "mean"}
DPS_STEPS = 100
"""Half of those of the command line, for time."""

SPREAD_IMAGES = 8
"""Images from which the spread is computed."""


class Method(NamedTuple):
    """How images are restored: by a model and a sampler of it, or by a method of posterior sampling with its model."""

    name: str
    module: RestorationModule
    sampler: Sampler | None = None
    posterior: Callable[[float], Posterior] | None = None


class Result(NamedTuple):
    """Restored images, and per image the network evaluations, their derivatives, and the CPU seconds."""

    images: Tensor
    evaluations: int
    derivatives: int
    seconds: float


def part(name: str, arguments: dict[str, Any]) -> Part:
    """A degradation as an entry of a YAML file."""
    return {"class_path": name, "init_args": arguments}


def measure(operator: degradations.Degradation, clean: Tensor, noise: float) -> Tensor:
    """y = A x + σ_y n, rounded to 8 bits."""
    generators = per_image_generators(0, range(len(clean)), "measurement")
    measured = operator.operator(clean, times_like(clean, 1.0), {})
    return quantize(measured + noise * normal(clean.shape, generators))


def restore(method: Method, y: Tensor, noise: float, seed: int = 0) -> Result:
    """Restore the images y (B, C, H, W) with the noise σ_y."""
    module, evaluations, derivatives = method.module, 0, 0
    denoise_fn = module.denoise_fn()

    def count_derivative(gradient: Tensor) -> None:
        nonlocal derivatives
        derivatives += 1

    def counted(x: Tensor, t: Tensor) -> Prediction:
        nonlocal evaluations
        evaluations += 1
        prediction = denoise_fn(x, t)
        if prediction.x0.requires_grad:
            prediction.x0.register_hook(count_derivative)
        return prediction

    generators = per_image_generators(seed, range(len(y)), "walk")
    sampler = method.sampler or module.sampling.sampler
    start = time.process_time()
    if method.posterior is None:
        x, params = module.degradation.start(y, generators)
        images = sampler(counted, module.degradation, x, params, generators)
    else:
        posterior = method.posterior(noise)
        conditioned, x = posterior.begin(counted, module.degradation, y, generators)
        sampler = posterior.suited(sampler, module.degradation)
        images = sampler(conditioned, module.degradation, x, {}, generators)
    seconds = (time.process_time() - start) / len(y)
    return Result(quantize(images), evaluations, derivatives, seconds)


def posterior_methods(module: RestorationModule, operator: degradations.Degradation) -> list[Method]:
    """The methods of posterior sampling that suit an operator."""

    def with_noise(kind: type[Posterior], **arguments: Any) -> Callable[[float], Posterior]:
        return lambda noise: kind(operator, noise=max(noise, ROUNDING), **arguments)

    methods = {
        "MMPS": with_noise(MMPS, max_steps=5),  # the paper's 1 to 5, which take less time than the default
        **{kind.__name__: with_noise(kind) for kind in (PiGDM, DDRM, DDNM, DiffPIR)},
        "DPS": lambda noise: DPS(operator, steps=DPS_STEPS),
    }
    if isinstance(operator, degradations.Mask):
        methods["RePaint"] = lambda noise: RePaint(operator)
    return [Method(name, module, posterior=posterior) for name, posterior in methods.items()]


def table_of(
    title: str,
    clean: Tensor,
    operator: degradations.Degradation,
    methods: list[Method],
    samples: int,
    real: Tensor | None,
) -> Table:
    """The scores of all methods for one operator, without noise / with noise.

    Args:
        title: The title.
        clean: The original images.
        operator: A.
        methods: The methods.
        samples: Samples of each image, for the spread.
        real: Held-out images for FID; None for none.
    """
    table = Table("", "RMSE", "SSIM", "FID (digits)", "spread", "NFE", "CPU ms/image", title=title)
    rows: dict[str, list[list[str]]] = {"degraded": []}
    for noise in (0.0, NOISE):
        y = measure(operator, clean, noise)
        rows["degraded"].append([*scores(y, clean, real), "", "", ""])
        for method in methods:
            result = restore(method, y, noise)
            row = scores(result.images, clean, real)
            spread = 0.0 if isinstance(method.sampler, Direct) else spread_of(method, y, noise, samples)
            nfe = f"{result.evaluations}" + (f" + {result.derivatives}" if result.derivatives else "")
            rows.setdefault(method.name, []).append([*row, f"{spread:.3f}", nfe, f"{1000 * result.seconds:.0f}"])
    for name, (quiet, noisy) in rows.items():
        table.add_row(name, *(a if a == b else f"{a} / {b}" for a, b in zip(quiet, noisy, strict=True)))
    return table


def scores(images: Tensor, clean: Tensor, real: Tensor | None) -> list[str]:
    """RMSE on [0, 1], SSIM, and FID from held-out images in the features of the digits classifier."""
    values = restoration_metrics()(to_unit(images), to_unit(clean))
    fid = ""
    if real is not None:
        features = DigitsClassifier()
        features.prepare("runs/cache")
        distance = FrechetDistances(features, ["restored"])
        distance.update_real(real)
        distance.update("restored", images)
        fid = f"{distance.compute()['restored']:.0f}"
    return [f"{values['rmse']:.3f}", f"{values['ssim']:.3f}", fid]


def spread_of(method: Method, y: Tensor, noise: float, samples: int) -> float:
    """The mean over pixels of the standard deviation over samples, on [0, 1]."""
    restored = [restore(method, y[:SPREAD_IMAGES], noise, seed).images for seed in range(1, samples + 1)]
    return torch.stack(restored).std(0).mean().item() / 2


def learned(cold: RestorationModule, label: str = "") -> list[Method]:
    """Direct regression by a cold model, and its cold restoration."""
    return [Method(f"direct regression{label}", cold, Direct()), Method(f"cold restoration{label}", cold)]


def digits(images: int, samples: int, quick: bool) -> list[Table]:
    """The tables of held-out digits."""
    real = torch.cat(list(Digits(size=16).clean_images("val", 359)))
    prior = restoration_module("noise")
    tables = []
    for name, operator, arguments, floor in (
        ("blur", "GaussianBlur", BLUR, FLOOR),
        ("pixelation", "Pixelate", PIXELATE, {}),
        ("mask", "Mask", MASK, {}),
    ):
        trained = part(operator, arguments | floor)
        methods = learned(trained_on(name, trained))
        if name == "blur":
            methods += learned(restoration_module("blur"), ", blur.yaml")
            methods += learned(
                trained_on("blur_noisy", part(operator, arguments | {"noise_floor": NOISE})), ", noise .05"
            )
        for kind in KINDS if name == "blur" and not quick else ("i2sb", "indi"):
            sampler = "ProbabilityFlow" if kind == "indi" else "DDPM"
            methods.append(
                Method(f"bridge, {kind}", trained_on(f"{name}_{kind}", bridge(kind, trained), sampler=sampler))
            )
        measurement = getattr(degradations, operator)(**arguments)
        methods += posterior_methods(prior, measurement)
        scored = real if images >= 100 else None
        tables.append(table_of(f"digits, {name}", real[:images], measurement, methods, samples, scored))
        if quick:
            break
    return tables


def photographs(images: int, samples: int) -> list[Table]:
    """The tables of patches of held-out photographs."""
    clean = torch.cat(list(Photographs(size=48).clean_images("val", images)))
    prior = restoration_module("photo_noise")
    # With half the evaluations of its second-order sampler, which generates better images.
    prior.sampling = prior.sampling.replace(sampler=ProbabilityFlow(18, KarrasSpacing()))
    tables = []
    for name, operator, arguments in (
        ("blur", "GaussianBlur", PHOTO_BLUR),
        ("pixelation", "Pixelate", PIXELATE),
        ("mask", "Mask", MASK),
        ("desaturation", "Desaturate", {}),
    ):
        if name in ("blur", "pixelation"):
            cold = restoration_module("photo_blur" if name == "blur" else "photo_pixelate")
        else:
            cold = trained_on(f"photo_{name}", part(operator, arguments), "photo_blur")
        methods = learned(cold)
        if name == "blur":
            for kind in ("i2sb", "indi"):
                model = restoration_module(f"bridge_{kind}")
                methods += [Method(f"bridge, {kind}, direct", model, Direct()), Method(f"bridge, {kind}", model)]
        measurement = getattr(degradations, operator)(**arguments)
        methods += posterior_methods(prior, measurement)
        tables.append(table_of(f"photographs, {name}", clean, measurement, methods, samples, None))
    return tables


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 blurred digits and two kinds of bridges alone")
    parser.add_argument("--images", type=int, default=100, help="number of digits (default: %(default)s)")
    parser.add_argument("--patches", type=int, default=16, help="patches of photographs (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="samples for the spread (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    for table in digits(16 if options.quick else options.images, options.samples, options.quick):
        console.print(table)
    if not options.quick:
        for table in photographs(options.patches, options.samples):
            console.print(table)


if __name__ == "__main__":
    main()
