"""The files of `restore`: where each restored image is written, which are finished, and what became of each."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from diffusion_lightning.callbacks.writer import BatchWriter
from diffusion_lightning.commands.inputs import UserImages
from diffusion_lightning.commands.posterior import method_name
from diffusion_lightning.commands.results import FAILED, Result, ResultsTable
from diffusion_lightning.core.encoding import FileFormat, ImageWriteError
from diffusion_lightning.core.files import check_outputs, is_special, written_request
from diffusion_lightning.core.finite import check_finite
from diffusion_lightning.core.images import ImageReadError, atomic_write, remove_partial
from diffusion_lightning.core.originals import Original
from diffusion_lightning.core.state import describe_state
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.modules.restoration import RestorationModule, as_restoration_module


class RestoredFiles:
    """Where the restored images are written, which of them are finished, and what became of each.

    A restored file holds a hash of what it was made from: the bytes of the original, the model, and how it samples. As
    files are written under another name and renamed, one with the right hash is finished.

    Args:
        paths: The originals.
        names: The name of each restored file in the folder, without its suffix.
        source: The file or folder in which the originals lie.
        output: The folder.
        file_format: How they are written.
        settings: All else that the restored images depend on; see ``fingerprint``.
        overwrite: Whether to restore finished images again, and to replace files that this program did not write.

    Attributes:
        targets: The restored files.
        labels: The names of the originals for messages and tables: their paths within the folder.

    Raises:
        ValueError: The output is a file, or a name is too long or that of a file that must not be overwritten.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        source: Path,
        output: Path,
        file_format: FileFormat,
        settings: str,
        overwrite: bool = False,
    ) -> None:
        file_format.check()
        if output.is_file():
            raise ValueError(f"--output {output} is a file: name a folder")
        self.paths = paths
        self.output = output
        self.targets = [output / f"{n}{file_format.suffix(path)}" for n, path in zip(names, paths, strict=True)]
        self.labels = [path.name if source.is_file() else path.relative_to(source).as_posix() for path in paths]
        self.file_format = file_format
        self.overwrite = overwrite
        self.table = ResultsTable(output, overwrite)
        self._settings = f"{settings} {file_format}"
        self._requests: dict[int, str] = {}
        check_outputs(self.targets, overwrite)

    def begin(self) -> None:
        """Clear away what a killed run has left half-written."""
        for folder in {target.parent for target in self.targets}:
            remove_partial(folder)
        self.table.begin()

    def request(self, index: int) -> str:
        """The hash of all that a restored image depends on."""
        if index in self._requests:
            return self._requests[index]
        digest = hashlib.blake2b(self._settings.encode(), digest_size=16)
        with self.paths[index].open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return self._requests.setdefault(index, digest.hexdigest())

    def is_finished(self, index: int) -> bool:
        """Whether the restored file is there, made from this original and in this way."""
        if self.overwrite or is_special(self.paths[index]):
            return False
        written = written_request(self.targets[index])
        return written is not None and written == self.request(index)

    def write(self, index: int, image: Tensor, original: Original, result: Result, unchanged: bool = False) -> None:
        """Write a restored image, unless it is finished, and its row.

        Args:
            index: Its number.
            image: The image, float (C, H, W) in [-1, 1].
            original: The file that it was made from.
            result: The row, without the name and the size.
            unchanged: Whether the image is the original itself, because its severity is 0.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        target = self.targets[index]
        check_finite(image, f"the sampled image {target.name}")
        if self.is_finished(index):
            return
        content = self.encode(index, image, original, unchanged)
        if content is None:
            return
        atomic_write(target, lambda partial: partial.write_bytes(content))
        height, width = image.shape[-2:]
        self.table.append(result._replace(file=self.labels[index], size=f"{width}x{height}"))

    def encode(self, index: int, image: Tensor, original: Original, unchanged: bool = False) -> bytes | None:
        """The bytes of a restored file, see ``write``; None if the format cannot hold the image, which is reported."""
        target = self.targets[index]
        kind = target.suffix, self.request(index)
        try:
            if unchanged:
                return self.file_format.encode_unchanged(original, *kind, self.paths[index])
            return self.file_format.encode(original.put_back(image.detach().float().cpu()), original, *kind)
        except ImageWriteError as error:
            self.fail(index, f"{self.paths[index]} cannot be written as {target.name}: {error}")
            return None

    def fail(self, index: int, error: ImageReadError | str) -> None:
        """Report a file that cannot be restored.

        Raises:
            ImageReadError: It is the only one.
        """
        leave_out(error, len(self.paths))
        self.table.append(Result(self.labels[index], status=f"{FAILED}: {error}"))

    def results(self) -> list[Result]:
        """What became of each file; of one that was finished before, and has no row, only its name."""
        rows = self.table.read()
        return [rows.get(label, Result(label)) for label in self.labels]

    def finish(self, results: Sequence[Result]) -> None:
        """Put the table in order, with these rows of the files."""
        self.table.write((self.table.read() | {result.file: result for result in results}).values())


class RestorationWriter(BatchWriter):
    """Writes the restored images of each batch; every rank writes its own.

    Args:
        files: Where they are written.
        inputs: Where they come from.
    """

    def __init__(self, files: RestoredFiles, inputs: UserImages) -> None:
        super().__init__()
        self.files = files
        self.inputs = inputs
        self._start = 0.0

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Take the time."""
        self._start = time.perf_counter()

    def write_batch(self, module: LightningModule, images: Tensor, batch: RestorationBatch) -> None:
        """Write each image, and its row."""
        assert batch.index is not None
        sampling = as_restoration_module(module).sampling
        how = {"seed": str(sampling.seed), "method": method_name(sampling.posterior)}
        for image, index, t in zip(images, batch.index.tolist(), batch.t.tolist(), strict=True):
            row = self.row(index, t, len(images))._replace(**how)
            self.files.write(index, image, self.inputs.originals.pop(index), row, t == 0)

    def row(self, index: int, t: float, images: int) -> Result:
        """The row of an image of the severity t in a batch of so many, without name, size, seed and method."""
        seconds = (time.perf_counter() - self._start) / images
        row = Result("", severity=f"{t:.4g}", seconds=f"{seconds:.3g}")
        if index not in self.inputs.estimates:
            return row
        estimate, std = self.inputs.estimates[index]
        return row._replace(estimated_severity=f"{estimate:.4f}", severity_std=f"{std:.4f}")


def leave_out(error: ImageReadError | str, files: int) -> None:
    """Print that one of so many files cannot be restored.

    Raises:
        ImageReadError: It is the only one.
    """
    if files == 1:
        raise error if isinstance(error, ImageReadError) else ImageReadError(error)
    sys.stderr.write(f"left out: {error}\n")


def fingerprint(module: RestorationModule, **settings: object) -> str:
    """A hash of a module's weights and settings, of how it samples, and of further settings; equal in every process."""
    sampling = module.sampling
    parts: list[object] = [sampling.sampler, sampling.guidance, sampling.seed, sampling.tiling, settings]
    parts += [sampling.fidelity, sampling.consistent, type(module.parameterization).__name__, module.clip_denoised]
    described = [describe_state(part) for part in (module.state_dict(), module.degradation, sampling.posterior)]
    text = json.dumps([dict(module.hparams), *map(str, parts), *described], default=str, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
