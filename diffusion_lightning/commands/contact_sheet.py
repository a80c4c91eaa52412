"""`restore --severity 0.2,0.4,0.6`: each image restored from several severities side by side, to choose from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from rich import get_console
from torch import Tensor

from diffusion_lightning.callbacks.writer import ImageWriter
from diffusion_lightning.commands.base import PredictingTrainer
from diffusion_lightning.commands.inputs import Outcome, UserImages
from diffusion_lightning.commands.restored_files import leave_out
from diffusion_lightning.core.finite import check_finite
from diffusion_lightning.core.images import ImageReadError, save_image
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.core.visualization import labelled_grid
from diffusion_lightning.modules.restoration import RestorationModule


class _SeveralSeverities(UserImages):
    """Every image is a batch of its own: as often as there are severities, and with the same noise."""

    def __init__(
        self,
        paths: Sequence[Path],
        channels: int,
        severities: Sequence[float],
        first_frame: bool,
        outcome: Outcome,
    ) -> None:
        super().__init__(paths, channels, max(severities), 1, first_frame, outcome)
        self.severities = severities

    def steps(self, module: RestorationModule) -> int:
        """The sampling steps from all severities."""
        times = (module.sampling.sampler.times(module.degradation, t) for t in self.severities if t > 0)
        return sum(len(of_one) - 1 for of_one in times)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """The image as x_t for every t."""
        self.originals.pop(int(batch[1][0]))  # a sheet keeps none of what it holds beside the image
        one = super().on_after_batch_transfer(batch, dataloader_idx)
        number = len(self.severities)
        x, t = one.degraded.expand(number, -1, -1, -1), torch.tensor(self.severities).to(one.t)
        return RestorationBatch(x, x, t, None, {}, batch[1].expand(number))


class _Unreadable:
    """Counts those of so many files that cannot be read. Every sheet is written again."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.number = 0

    def is_finished(self, index: int) -> bool:
        return False

    def fail(self, index: int, error: ImageReadError) -> None:
        leave_out(error, self.files)
        self.number += 1


class _ContactSheetWriter(ImageWriter):
    def write_batch(self, module: LightningModule, images: Tensor, batch: RestorationBatch) -> None:
        """Write the image and its restorations in one row."""
        assert batch.index is not None
        assert self.names is not None
        name = self.names[int(batch.index[0])]
        check_finite(images, f"the contact sheet {name}.png")
        labels = ["input", *(f"t = {t:.3g}" for t in batch.t.tolist())]
        sheet = labelled_grid([torch.cat([batch.degraded[:1], images])], labels)
        save_image(sheet, self._folder(module.trainer) / f"{name}.png", sheet=True)


def refuse_for_sheets(**flags: bool) -> None:
    """Refuse flags of single restored images.

    Args:
        **flags: The name of each, and whether it was given.

    Raises:
        ValueError: One was.
    """
    if given := [name for name, is_given in flags.items() if is_given]:
        raise ValueError(
            f"{', '.join(given)}: not for sheets of several severities, which are PNG files: choose a severity from "
            "them first"
        )


def write_contact_sheets(
    trainer: PredictingTrainer,
    module: RestorationModule,
    paths: Sequence[Path],
    names: Sequence[str],
    severities: Sequence[float],
    output: str,
    first_frame: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Restore every image from several severities, and write the results side by side as NAME-severities.png.

    Args:
        trainer: The trainer.
        module: The trained module.
        paths: The images.
        names: Their names in the output folder, without suffix.
        severities: The severities t, in [0, 1].
        output: The output folder.
        first_frame: Whether to read the first frame of files that have several, which cannot be read if not.
        overwrite: Whether to replace files that this program did not write.

    Returns:
        The paths of the sheets.

    Raises:
        ValueError: Some files cannot be read; the others have their sheets.
    """
    writer = _ContactSheetWriter(output, [f"{name}-severities" for name in names], overwrite)
    unreadable = _Unreadable(len(paths))
    inputs = _SeveralSeverities(paths, module.image_shape[0], severities, first_frame, unreadable)
    trainer.sample_to_files(module, inputs, writer)
    number = torch.tensor(unreadable.number, device=trainer.strategy.root_device)
    failed = int(trainer.strategy.reduce(number, reduce_op="sum"))
    if trainer.is_global_zero:
        text = f"{len(paths) - failed} contact sheet(s) are in {output}: choose a severity, and give it by --severity"
        get_console().print(text, soft_wrap=True)
        if failed:
            raise ValueError(f"{failed} of {len(paths)} file(s) could not be read: they are named above")
    return [Path(output, f"{name}-severities.png") for name in names]
