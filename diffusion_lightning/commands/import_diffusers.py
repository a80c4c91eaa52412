"""Folders of the diffusers library as checkpoints: an unconditional network and its noise scheduler.

The schedule, the prediction and the scalings come from their configurations, in float64. A setting that cannot be
expressed is refused by its name.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_lightning.commands.imported_model import ImportedModel
from diffusion_lightning.core.pretrained import read_tensors
from diffusion_lightning.networks.diffusers_unet import plain_config

NETWORK = "UNet2DModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler_config.json"

PARAMETERIZATIONS = {"epsilon": "Eps", "sample": "X0", "v_prediction": "V"}
BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
"""The defaults of diffusers."""

SCHEDULERS = ("DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerDiscrete", "UniPCMultistep")
"""Schedulers of the variance-preserving diffusion with these βs, without their ending."""

VARIANCES = {"fixed_small": "posterior", "fixed_large": "forward"}
"""DDPM's variances as ``DDPM`` names them."""

REFUSED = {"trained_betas": None, "rescale_betas_zero_snr": False, "thresholding": False}
"""Settings of schedulers that change what is computed, and the value that they must have."""

STEPS = 50
"""Sampling steps of a model whose scheduler is not DDPM's."""


def is_diffusers_folder(folder: Path) -> bool:
    """Whether a folder is a pipeline or a network of diffusers."""
    return (folder / "model_index.json").is_file() or (folder / WEIGHTS).is_file()


def read_diffusers(folder: Path) -> ImportedModel:
    """The model in a folder that ``save_pretrained`` of a diffusers pipeline wrote: unet/ and scheduler/.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or a setting cannot be expressed.
    """
    network = _read_json(folder / "unet" / "config.json")
    scheduler = _read_json(folder / "scheduler" / SCHEDULER)
    rule = str(scheduler.get("_class_name", ""))
    if rule.removesuffix("Scheduler") not in SCHEDULERS:
        raise ValueError(f"{folder / 'scheduler'}: the scheduler {rule or 'without a name'} cannot be expressed")
    steps = int(scheduler.get("num_train_timesteps", 1000))
    if network.get("_class_name") != NETWORK:
        raise ValueError(f"{folder / 'unet'} holds a {network.get('_class_name')}: only a {NETWORK} can be imported")
    if (embedding := network.get("time_embedding_type", "positional")) != "positional":
        raise ValueError(f"{folder / 'unet'}: time_embedding_type {embedding!r} cannot be expressed")
    parts = "diffusion_lightning"
    denoiser = {
        "class_path": f"{parts}.networks.DiffusersUNet",
        "init_args": {"config": plain_config(network), "steps": steps},
    }
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PARAMETERIZATIONS:
        raise ValueError(f"{folder / 'scheduler'}: prediction_type {prediction!r} cannot be expressed")
    channels = network.get("in_channels", 3)
    if network.get("out_channels", 3) != channels:
        raise ValueError(f"{folder / 'unet'} has other channels out than in: only networks of images can be imported")
    size = network.get("sample_size")
    return ImportedModel(
        arguments={
            "degradation": {
                "class_path": f"{parts}.degradations.GaussianNoise",
                "init_args": {"steps": steps, "schedule": _schedule(scheduler, steps, folder / "scheduler")},
            },
            "denoiser": denoiser,
            "parameterization": {"class_path": f"{parts}.objectives.{PARAMETERIZATIONS[prediction]}"},
            "sampler": _sampler(scheduler, steps),
            "clip_denoised": _clips(scheduler, folder / "scheduler"),
        },
        weights={f"denoiser.module.{name}": value for name, value in _read_weights(folder / "unet" / WEIGHTS).items()},
        channels=int(channels),
        size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
    )


def _schedule(scheduler: dict[str, Any], steps: int, place: Path) -> dict[str, Any]:
    """The noise schedule with the same β_k."""
    for name, value in REFUSED.items():
        if scheduler.get(name, value) != value:
            raise ValueError(f"{place}: {name} = {scheduler[name]!r} cannot be expressed")
    if scheduler.get("variance_type", "fixed_small") not in VARIANCES:
        raise ValueError(f"{place}: variance_type = {scheduler['variance_type']!r} cannot be expressed")
    kind, parts = scheduler.get("beta_schedule", "linear"), "diffusion_lightning.degradations"
    if kind == "squaredcos_cap_v2":
        return {"class_path": f"{parts}.noise_schedules.Cosine", "init_args": {"offset": 0.008, "max_beta": 0.999}}
    if kind not in ("linear", "scaled_linear"):
        raise ValueError(f"{place}: beta_schedule {kind!r} cannot be expressed")
    # Ours are the βs of T = 1000.
    ends = {name: float(scheduler.get(name, default)) * steps / 1000 for name, default in BETAS.items()}
    name = "Linear" if kind == "linear" else "ScaledLinear"
    return {"class_path": f"{parts}.noise_schedules.{name}", "init_args": ends}


def _sampler(scheduler: dict[str, Any], steps: int) -> dict[str, Any]:
    samplers = "diffusion_lightning.samplers"
    if scheduler.get("_class_name") == "DDPMScheduler":
        variance = VARIANCES[scheduler.get("variance_type", "fixed_small")]
        return {"class_path": f"{samplers}.DDPM", "init_args": {"steps": steps, "variance": variance}}
    return {"class_path": f"{samplers}.ProbabilityFlow", "init_args": {"steps": min(STEPS, steps)}}


def _clips(scheduler: dict[str, Any], place: Path) -> bool:
    clips = bool(scheduler.get("clip_sample", scheduler.get("_class_name") in ("DDPMScheduler", "DDIMScheduler")))
    if clips and scheduler.get("clip_sample_range", 1.0) != 1.0:
        raise ValueError(f"{place}: clip_sample_range = {scheduler['clip_sample_range']} cannot be expressed")
    return clips


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: give the folder of a pipeline of diffusers, with unet and scheduler"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings by name")
    return found


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: save the pipeline with safe_serialization=True")
    return read_tensors(path)
