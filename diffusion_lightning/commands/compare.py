"""`compare`: several samplers on one checkpoint, as a table and a plot."""

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn

from diffusion_lightning.callbacks.base import EvaluationCallback
from diffusion_lightning.callbacks.sampler_comparison import SamplerComparison
from diffusion_lightning.modules.restoration import as_restoration_module
from diffusion_lightning.samplers import DDPM, ProbabilityFlow, Sampler


def compare(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    features: nn.Module,
    samplers: list[Sampler] | None = None,
    steps: list[int] | None = None,
    ckpt_path: str | None = None,
    output: str = "compared",
    images: int = 256,
    batch_size: int = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Compare samplers on one checkpoint: Fréchet distance against network evaluations, as a table and a plot.

    Args:
        trainer: The trainer.
        model: The model.
        datamodule: The data, with whose held-out images the generated ones are compared.
        features: The network of the Fréchet distance, such as DigitsClassifier or InceptionV3.
        samplers: The samplers, one --samplers+=NAME for each, such as --samplers+=Heun; if there is none,
            ProbabilityFlow and, where it is defined, DDPM.
        steps: The numbers of sampling steps, as a list such as '[5, 10, 20]'; 5, 10, 20 and 50 by default.
        ckpt_path: The checkpoint, a .ckpt file that `fit` wrote.
        output: Folder for the table and the plot.
        images: Images to generate with each sampler.
        batch_size: Images generated at once per device.
        seed: Random seed: image i starts from the same x_1 for every sampler.
        overwrite: Whether to replace a table or plot that this program did not write.

    Example:
        diffusion-lightning compare --config configs/ddpm.yaml --ckpt_path runs/ddpm/checkpoints/last.ckpt
            --features DigitsClassifier --samplers+=DDPM --samplers+=Heun --steps '[5, 10, 20]'
    """
    module = as_restoration_module(model)
    default: list[Sampler] = [ProbabilityFlow()]
    if module.degradation.is_gaussian_diffusion or module.degradation.is_bridge:
        default.append(DDPM())
    samplers = samplers or default
    for sampler in samplers:
        sampler.check(module.degradation)
    numbers = steps or [5, 10, 20, 50]
    comparison = SamplerComparison(samplers, numbers, features, output, images, batch_size, seed, overwrite)
    others: list[Callback] = [c for c in trainer.callbacks if not isinstance(c, EvaluationCallback)]  # type: ignore[attr-defined]
    trainer.callbacks = [*others, comparison]  # type: ignore[attr-defined]
    trainer.validate(module, datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)
