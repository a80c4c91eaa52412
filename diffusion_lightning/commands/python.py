"""``diffusion_lightning.restore``: what the command `restore` does, from Python, for tensors and for files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffusion_lightning.commands.base import trained_module
from diffusion_lightning.commands.restore import prepare_sampling
from diffusion_lightning.commands.severity import choose_severity
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.finite import check_finite
from diffusion_lightning.core.images import from_uint8, to_levels
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.data.degrade import already_degraded
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.modules.sampling import Tile
from diffusion_lightning.samplers import Sampler

MAX_VALUE = 16
"""More than noisy images in [-1, 1] reach; larger values are of another scale."""


@overload
def restore(
    model: LightningModule | str | Path, images: Tensor, severity: float | str | None = ..., **options: Any
) -> Tensor: ...


@overload
def restore(
    model: LightningModule | str | Path, images: str | Path, severity: float | str | None = ..., **options: Any
) -> list[Path]: ...


def restore(
    model: LightningModule | str | Path,
    images: Tensor | str | Path,
    severity: float | str | None = None,
    *,
    sampler: Sampler | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    tile: Tile = "auto",
    fidelity: float = 0.0,
    consistent: bool | None = None,
    trust: Iterable[str] = (),
    **options: Any,
) -> Tensor | list[Path]:
    """Restore degraded images with a trained model.

    Args:
        model: A trained ``RestorationModule``, or the path of its checkpoint. A module keeps its own sampling settings.
        images: Images (B, C, H, W) or one (C, H, W), floating point in [-1, 1], uint8 or uint16; or the path of an
            image file or of a folder of them.
        severity: Their severity t, in [0, 1]; or ``auto``, estimated for each, the default where the model has a
            severity estimator, else 1.
        sampler: The sampler; the model's own by default.
        steps: Number of sampling steps; the sampler's own by default.
        seed: Random seed, for samplers that add noise.
        batch_size: Images restored at once.
        tile: Side in pixels of the tiles of large images, ``auto`` or ``off``; see ``choose_tiling``.
        fidelity: From 0 for sampled images to 1 for the direct prediction.
        consistent: Whether what the degradation keeps of an image stays as it is in the input; None for where the
            degradation is linear and known.
        trust: Further packages that the checkpoint may run code of.
        **options: Of files, those of the command: ``output``, ``samples``, ``method``, ``measurement``, ``noise``,
            ``format``, ``quality``, ``metadata``, ``frames``, ``compare``, ``reference`` and ``overwrite``.

    Returns:
        Of a tensor, one of the same shape, dtype and device, in [-1, 1] or in the levels of the input. Of files, the
        restored files.

    Raises:
        FileNotFoundError: There is no such checkpoint, file or folder.
        ValueError: An argument is out of its range, the model is not a trained one, or some files cannot be restored;
            the others are restored then.
    """
    frozen = isinstance(model, str | Path)
    module = load_frozen(model, RestorationModule, trust) if isinstance(model, str | Path) else model
    if not isinstance(images, Tensor | str | Path):
        raise TypeError(f"restore got images of the type {type(images).__name__}: give a tensor, or a path")
    if isinstance(images, Tensor) and options:
        raise TypeError(f"restore got {', '.join(options)}, which are options of files, with a tensor")
    before = getattr(module, "sampling", None)
    try:
        if isinstance(images, Tensor):
            trained = trained_module(module, None, sampler, steps, seed)
            prepare_sampling(trained, tile, fidelity, consistent)
            return _restore_tensor(trained.to(images.device) if frozen else trained, images, severity, batch_size)
        trainer = DiffusionTrainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
        settings: dict[str, Any] = {"severity": severity, "seed": seed, "batch_size": batch_size, "tile": tile}
        settings |= {"fidelity": fidelity, "consistent": consistent, "sampler": sampler, "steps": steps}
        return trainer.restore(module, str(images), **settings, **options)
    finally:
        if isinstance(module, RestorationModule) and before is not None:
            module.sampling = before


def _restore_tensor(module: RestorationModule, images: Tensor, severity: float | str | None, batch_size: int) -> Tensor:
    start = choose_severity(severity, module)
    if isinstance(start, list):
        raise ValueError(f"severity={severity!r}: several severities are for files: give one number, or auto")
    channels = module.image_shape[0]
    if images.ndim not in (3, 4) or images.shape[-3] != channels:
        raise ValueError(
            f"images of the shape {tuple(images.shape)}: the model restores images of {channels} channel(s), "
            f"(B, {channels}, H, W) or ({channels}, H, W)"
        )
    if not images.numel():
        raise ValueError(f"images of the shape {tuple(images.shape)}: there is none to restore")
    levels = not images.is_floating_point()
    if not levels:
        check_finite(images, "an image to restore")
        if (largest := float(images.abs().max())) > MAX_VALUE:
            raise ValueError(f"images have values up to {largest:g}: scale them to [-1, 1], or give uint8")
    x = (from_uint8(images) if levels else images.float()).reshape(-1, *images.shape[-3:]).to(module.device)

    def batch_of(part: Tensor, index: Tensor) -> RestorationBatch:
        t = module.round_severity(module.estimate_severity(part).t) if start == "auto" else times_like(part, start)
        generators = per_image_generators(module.sampling.seed, index, "start")
        return already_degraded(module.degradation, part, t, generators, index)

    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            restored = [
                module.predict_step(batch_of(part, index), 0)
                for part, index in zip(x.split(batch_size), torch.arange(len(x)).split(batch_size), strict=True)
            ]
    finally:
        module.train(training)
    result = torch.cat(restored).reshape(images.shape)
    result = to_levels(result, images.dtype == torch.uint16) if levels else result.clamp(-1, 1).to(images.dtype)
    return result.to(images.device).clone()  # outside inference mode, so that it can take part in a gradient
