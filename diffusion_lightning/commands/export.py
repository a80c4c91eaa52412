"""`export`: a trained model as a folder to share, or its denoiser as a program for other runtimes."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from diffusion_lightning.commands.base import PredictingTrainer, trained_module
from diffusion_lightning.conditioning.base import ConditionEmbedding
from diffusion_lightning.core.conditions import null_condition
from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.core.pretrained import CONFIG
from diffusion_lightning.modules.restoration import RestorationModule

Format = Literal["folder", "torch", "onnx"]

TOLERANCE = 1e-3
"""The largest difference of an exported denoiser from the module, on images in [-1, 1]."""

GRID_IMAGES = 16


def export(
    trainer: PredictingTrainer,
    model: LightningModule,
    datamodule: LightningDataModule | None = None,
    ckpt_path: str | None = None,
    output: str = "exported",
    format: Format = "folder",
    license: str = "",
    overwrite: bool = False,
) -> None:
    """Export a trained model: as a folder to share, or its denoiser for other runtimes.

    Args:
        trainer: The trainer.
        model: The model.
        datamodule: Not used; `--data` is accepted for any command.
        ckpt_path: The checkpoint, a .ckpt file that `fit` wrote.
        output: The folder, or the file: .pt2 for torch, .onnx for onnx.
        format: folder is for `from_pretrained`, with a model card; torch and onnx are programs (x_t, t) → x̂_0 for any
            number of images of the training size. onnx needs the extra `onnx`.
        license: The licence of the weights for the model card, such as mit.
        overwrite: Whether to replace files.

    Example:
        diffusion-lightning export --ckpt_path runs/blur/checkpoints/last.ckpt --output blur --license mit
    """
    module = trained_module(model, ckpt_path, None, None, seed=0).eval().requires_grad_(False)
    if not trainer.is_global_zero:
        return
    if format == "folder":
        check_outputs([Path(output, CONFIG)], overwrite, lambda path: False)
        data, scores = describe_run(Path(ckpt_path).parent.parent if ckpt_path else Path())
        images = module.generate(range(GRID_IMAGES)) if module.conditioner is None else None
        module.save_pretrained(output, data, scores, license, images)
        text = f"{output} has the model and its card, README.md"
    else:
        suffix = ".pt2" if format == "torch" else ".onnx"
        path = Path(output).with_name(Path(output).name.removesuffix(suffix) + suffix)
        check_outputs([path], overwrite, lambda path: False)
        difference = (_export_torch if format == "torch" else _export_onnx)(module, path)
        text = f"{path} has the denoiser; it differs from the model by at most {difference:.1g}"
    get_console().print(text, soft_wrap=True, highlight=False)


class Denoiser(nn.Module):
    """The denoiser (x_t, t) → x̂_0 of a module, with the embedded condition as further inputs if it is conditional.

    Args:
        module: A trained module.
    """

    def __init__(self, module: RestorationModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """x̂_0 (B, C, H, W) of x_t and t (B,), and the pooled embedding and the tokens of the condition."""
        embedding = None if self.module.conditioner is None else ConditionEmbedding(pooled, tokens)
        return self.module.predict_x0(x, t, embedding).x0

    def example(self, batch_size: int) -> dict[str, Tensor]:
        """Inputs for so many images, by name."""
        generator = torch.Generator().manual_seed(batch_size)
        shape = (batch_size, *self.module.image_shape)
        inputs = {
            "x": torch.randn(shape, generator=generator, dtype=torch.float32),
            "t": torch.rand(batch_size, generator=generator, dtype=torch.float32),
        }
        conditioner = self.module.conditioner
        if conditioner is not None:
            embedding = conditioner(null_condition(conditioner.condition_keys, batch_size))
            inputs |= {name: value for name, value in embedding._asdict().items() if value is not None}
        return inputs


def _export_torch(module: RestorationModule, path: Path) -> float:
    program = _program(Denoiser(module))
    atomic_write(path, lambda partial: _save_as(path.suffix, partial, lambda file: torch.export.save(program, file)))
    return _difference(module, torch.export.load(path).module())


def _export_onnx(module: RestorationModule, path: Path) -> float:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("--format onnx needs the extra `onnx`: pip install 'diffusion-lightning[onnx]'") from error
    denoiser = Denoiser(module)
    example = denoiser.example(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own dependencies
        converted = torch.onnx.export(
            _program(denoiser),
            input_names=[*example],
            output_names=["x0"],
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert converted is not None  # only torch's older exporter returns nothing
    atomic_write(path, lambda partial: converted.save(partial, external_data=False))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(**inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

    return _difference(module, run)


def _program(denoiser: Denoiser) -> torch.export.ExportedProgram:
    """The denoiser for any number of images of the training size."""
    example = denoiser.example(2)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(denoiser, (), example, dynamic_shapes={name: {0: batch} for name in example})


def _save_as(suffix: str, partial: Path, save: Callable[[Path], None]) -> None:
    """Save under a name with a suffix, which torch requires, and rename to ``partial``."""
    named = partial.with_name(partial.name + suffix)
    try:
        save(named)
        named.replace(partial)
    finally:
        named.unlink(missing_ok=True)


def _difference(module: RestorationModule, program: Callable[..., Tensor]) -> float:
    """The largest difference of a program from the module, on other inputs than those it was made from.

    Raises:
        ValueError: It is more than rounding.
    """
    denoiser = Denoiser(module)
    inputs = denoiser.example(3)
    with torch.no_grad():
        difference = (program(**inputs) - denoiser(**inputs)).abs().max().item()
    if not difference <= TOLERANCE:
        raise ValueError(f"the exported denoiser differs from the model by {difference:.2g}: please report this")
    return difference


def describe_run(folder: Path) -> tuple[str, dict[str, float]]:
    """What the run in a folder was trained on, and its last scores, as far as they are known.

    Args:
        folder: The ``default_root_dir`` of the run, with its config.yaml and TensorBoard's files.
    """
    data = ""
    if (folder / CONFIG).is_file():
        settings: Any = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")).get("data") or {}
        name = str(settings.get("class_path", "")).rpartition(".")[2]
        size = (settings.get("init_args") or {}).get("size")
        data = f"{name}, {size} px" if name and size else name
    if not any(folder.glob("events.out.tfevents.*")):
        return data, {}
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("val/")]
    return data, {tag: events.Scalars(tag)[-1].value for tag in tags}
