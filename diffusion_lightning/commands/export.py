"""`export`: a trained model as a folder to share, or its denoiser as a program for other runtimes."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console
from torch import Tensor, nn

from diffusion_lightning.commands.base import PredictingTrainer, trained_module
from diffusion_lightning.conditioning.base import ConditionEmbedding
from diffusion_lightning.core.checkpoints import read_checkpoint
from diffusion_lightning.core.conditions import DROPPED, null_condition
from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.core.pretrained import CONFIG, PRIOR, WEIGHTS
from diffusion_lightning.modules.model_card import CARD, SAMPLES
from diffusion_lightning.modules.restoration import RestorationModule

Format = Literal["folder", "torch", "onnx"]

TOLERANCE = 1e-3
"""The largest difference of an exported denoiser from the module, on images in [-1, 1]."""

FOLDER_FILES = (CONFIG, WEIGHTS, PRIOR, CARD, SAMPLES)


def export(
    trainer: PredictingTrainer,
    model: LightningModule,
    datamodule: LightningDataModule | None = None,
    ckpt_path: str | None = None,
    output: str = "exported",
    format: Format = "folder",
    license: str = "",
    images: int = 16,
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
            number of images of the training size, with the embedded condition as further inputs where there is one.
            onnx needs the extra `onnx`.
        license: The licence of the weights for the model card, such as mit.
        images: Number of images that are generated for the model card; an unconditional model alone can.
        overwrite: Whether to replace files.

    Example:
        diffusion-lightning export --ckpt_path runs/blur/checkpoints/last.ckpt --output blur --license mit
    """
    module = trained_module(model, ckpt_path, None, None, seed=0).eval().requires_grad_(False)
    if not trainer.is_global_zero:
        return
    if format == "folder":
        check_outputs([Path(output, name) for name in FOLDER_FILES], overwrite, lambda path: False)
        data, scores = describe_run(Path(ckpt_path)) if ckpt_path else ("", {})
        made = None
        if images > 0 and module.conditioner is None:
            made = module.to(trainer.strategy.root_device).generate(range(images)).cpu()
        module.save_pretrained(output, data, scores, license, made)
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

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        tokens: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """x̂_0 (B, C, H, W) of x_t and t (B,), and the parts of a ``ConditionEmbedding``."""
        embedding = None if self.module.conditioner is None else ConditionEmbedding(pooled, tokens, image)
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
            keys = [key for key in conditioner.condition_keys if key in DROPPED]
            embedding = conditioner(conditioner.complete(null_condition(keys, batch_size), inputs["x"]))
            embedding = embedding.expand(batch_size)
            inputs |= {name: value.contiguous() for name, value in embedding._asdict().items() if value is not None}
        return inputs


def _export_torch(module: RestorationModule, path: Path) -> float:
    program = _program(Denoiser(module))

    def save(partial: Path) -> Callable[..., Tensor]:
        named = partial.with_name(f"{partial.name}.pt2")  # torch requires the suffix
        try:
            torch.export.save(program, named)
            loaded = torch.export.load(named).module()
            named.replace(partial)
        finally:
            named.unlink(missing_ok=True)
        return loaded

    return _write_compared(module, path, save)


def _export_onnx(module: RestorationModule, path: Path) -> float:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("--format onnx needs the extra `onnx`: pip install 'diffusion-lightning[onnx]'") from error
    denoiser = Denoiser(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own dependencies
        converted = torch.onnx.export(
            _program(denoiser),
            input_names=[*denoiser.example(2)],
            output_names=["x0"],
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert converted is not None  # only torch's older exporter returns nothing

    def save(partial: Path) -> Callable[..., Tensor]:
        converted.save(partial, external_data=False)
        session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])

        def run(**inputs: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

        return run

    return _write_compared(module, path, save)


def _write_compared(module: RestorationModule, path: Path, save: Callable[[Path], Callable[..., Tensor]]) -> float:
    """Write a program, which gets its name once it has been compared with the module; returns their difference.

    Args:
        module: The module.
        path: The file.
        save: Writes the program to a path, and loads it from there.
    """
    differences: list[float] = []
    atomic_write(path, lambda partial: differences.append(_difference(module, save(partial))))
    return differences[0]


def _program(denoiser: Denoiser) -> torch.export.ExportedProgram:
    """The denoiser for any number of images of the training size."""
    example = denoiser.example(2)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(denoiser, (), example, dynamic_shapes={name: {0: batch} for name in example})


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


def describe_run(checkpoint: Path) -> tuple[str, dict[str, float]]:
    """What the run of a checkpoint was trained on, and its scores at that step, as far as they are known.

    Args:
        checkpoint: A file in the folder ``checkpoints`` of a run, beside config.yaml and TensorBoard's files. Nothing
            is known of one that lies elsewhere.
    """
    folder, data = checkpoint.absolute().parent.parent, ""
    if checkpoint.absolute().parent.name != "checkpoints":
        return data, {}
    if (folder / CONFIG).is_file():
        settings: Any = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {}
        part = settings.get("data") or {}
        name = str(part.get("class_path", "")).rpartition(".")[2]
        size = (part.get("init_args") or {}).get("size")
        data = f"{name}, {size} px" if name and size else name
    if not any(folder.glob("events.out.tfevents.*")):
        return data, {}
    # Here, because all other commands would import it too.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    step = read_checkpoint(checkpoint)["global_step"]
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("val/")]
    known = {tag: [event.value for event in events.Scalars(tag) if event.step <= step] for tag in tags}
    return data, {tag: values[-1] for tag, values in known.items() if values}
