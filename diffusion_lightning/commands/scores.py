"""`restore --reference`: how near the files before and after their restoration are to clean references."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from rich import get_console
from rich.table import Table
from torch import Tensor

from diffusion_lightning.commands.restored_files import RestoredFiles
from diffusion_lightning.core.images import ImageReadError, from_uint8, read_image, to_unit
from diffusion_lightning.data.folder import find_images
from diffusion_lightning.metrics.fid import FrechetDistances, InceptionV3
from diffusion_lightning.metrics.lpips import MIN_SIDES, LPIPSNetwork
from diffusion_lightning.metrics.restoration import MAX_PSNR, ssim

MAX_ROWS = 20
"""Rows of a printed table, besides that of the means."""

STRIP, BORDER = 256, 5
"""Rows of an image that are scored at once, and those beside them that the window of SSIM covers."""

MAX_LPIPS_PIXELS = 2**25
"""The largest image that is given an LPIPS, which takes about 100 bytes of memory per pixel."""

STATES = ("before", "after")


class Scores(NamedTuple):
    """Of an image before and after its restoration: PSNR in dB, SSIM, and LPIPS, NaN where that is not computed."""

    psnr: tuple[float, float]
    ssim: tuple[float, float]
    lpips: tuple[float, float]

    def after(self) -> dict[str, str]:
        """Those after the restoration, as in ``results.csv``."""
        psnr, ssim, lpips = (pair[1] for pair in self)
        return {"psnr": f"{psnr:.4f}", "ssim": f"{ssim:.6f}", "lpips": "" if math.isnan(lpips) else f"{lpips:.6f}"}


class ReferenceScores:
    """The scores of restored files that have a reference of their size.

    LPIPS and FID are computed where the weights of their networks are in torch hub's cache; nothing is downloaded.

    Args:
        files: The restored files.
        references: Their references, by the number of the file.
        device: Where LPIPS and FID are computed.

    Attributes:
        of: The scores of each file by its number.
    """

    def __init__(self, files: RestoredFiles, references: Mapping[int, Path], device: torch.device) -> None:
        self.files = files
        self.references = references
        self.of: dict[int, Scores] = {}
        self._device = device
        lpips, inception = LPIPSNetwork("alex"), InceptionV3()
        self._missing = {
            name: network.weights_file()
            for name, network in (("LPIPS", lpips), ("FID", inception))
            if not network.weights_file().is_file()
        }
        self._lpips = None if "LPIPS" in self._missing else lpips
        self._distances: FrechetDistances | None = None
        if "FID" not in self._missing:
            inception.prepare()
            self._distances = FrechetDistances(inception, [*STATES]).to(device)

    def add(self, index: int) -> None:
        """Score a file, if it has a reference of its size."""
        if index not in self.references:
            return
        try:
            target = read_image(self.references[index])
        except ImageReadError as error:
            _print(f"left out: {error}")
            return
        images = [read_image(paths[index]) for paths in (self.files.paths, self.files.targets)]
        if any(image.shape != target.shape for image in images) or min(target.shape[-2:]) < 3:
            return
        before, after = (
            (_psnr(image, target), _ssim(image, target), self._perceptual(image, target)) for image in images
        )
        self.of[index] = Scores(*zip(before, after, strict=True))
        if self._distances is not None:
            self._distances.update_real(from_uint8(target[None]).to(self._device))
            for state, image in zip(STATES, images, strict=True):
                self._distances.update(state, from_uint8(image[None]).to(self._device))

    def print(self, expected: int) -> None:
        """Print the scores of the first files, the means and the FID of all, and what is left out.

        Args:
            expected: The number of restored files.
        """
        names = [name for name in Scores._fields if name != "lpips" or self._lpips is not None]
        table = Table("file", *(f"{name.upper()} {state}" for name in names for state in STATES))
        rows = {index: [value for name in names for value in getattr(self.of[index], name)] for index in self.of}
        for index in list(rows)[:MAX_ROWS]:
            label = self.files.labels[index].encode("utf-8", "replace").decode()
            table.add_row(label, *_texts(rows[index]))
        if rows:
            means = torch.tensor(list(rows.values()), dtype=torch.float64).nanmean(0).tolist()
            table.add_row(f"mean of {len(rows)}", *_texts(means))
            get_console().print(table, markup=False)
        if self._distances is not None and len(rows) > 1:
            before, after = (float(value) for value in self._distances.compute().values())
            _print(f"FID of {len(rows)} images: {before:.1f} before, {after:.1f} after")
        if len(rows) < expected:
            _print(f"{expected - len(rows)} restored image(s) have no reference of their name and size")
        if self._missing:
            places = ", ".join(f"{name} (no {path})" for name, path in self._missing.items())
            _print(f"Left out without the weights of their networks: {places}")

    def _perceptual(self, image: Tensor, target: Tensor) -> float:
        """LPIPS; NaN without weights, and for an image that is too small or too large for it."""
        height, width = target.shape[-2:]
        if self._lpips is None or min(height, width) < MIN_SIDES["alex"] or height * width > MAX_LPIPS_PIXELS:
            return math.nan
        with torch.inference_mode():
            return float(self._lpips(*(to_unit(from_uint8(x[None])).to(self._device) for x in (image, target))))


def find_references(reference: Path, files: RestoredFiles) -> dict[int, Path]:
    """The references of originals, by their number: of the same path in the folder, or one with another suffix.

    Args:
        reference: A folder; or a file, if there is one original.
        files: The originals.

    Raises:
        FileNotFoundError: The folder is missing, has no images, or none of these names.
    """
    if reference.is_file() and len(files.paths) == 1:
        return {0: reference}
    if not reference.is_dir():
        what = f"is a file, and there are {len(files.paths)} images" if reference.is_file() else "is missing"
        raise FileNotFoundError(f"--reference {reference} {what}: name the folder of their originals")
    found = {path.relative_to(reference).as_posix(): path for path in find_images(reference)}
    by_stem = {_stem(name): path for name, path in found.items()}
    pairs = {i: found.get(label, by_stem.get(_stem(label))) for i, label in enumerate(files.labels)}
    references = {index: path for index, path in pairs.items() if path is not None}
    if not references:
        raise FileNotFoundError(
            f"--reference {reference} has no image with the name of one to restore, such as {files.labels[0]}: "
            "name the folder of their originals"
        )
    return references


def _psnr(image: Tensor, target: Tensor) -> float:
    """PSNR of two images (C, H, W), uint8."""
    error = _mean_over_strips(lambda a, b: float((a - b).square().mean()), image, target, border=0)
    return min(MAX_PSNR, -10 * math.log10(max(error, 1e-12)))


def _ssim(image: Tensor, target: Tensor) -> float:
    """SSIM of two images (C, H, W), uint8."""
    return _mean_over_strips(lambda a, b: float(ssim(a, b)), image, target, BORDER)


def _mean_over_strips(score: Callable[[Tensor, Tensor], float], image: Tensor, target: Tensor, border: int) -> float:
    """The score of a whole image, in the memory of a few rows.

    Args:
        score: From two images (1, C, H, W) in [0, 1] to a mean over the rows that are ``border`` away from the ends.
        image: (C, H, W), uint8.
        target: Likewise.
        border: See ``score``.
    """
    height, width = image.shape[-2:]
    inner = height - 2 * border
    if min(height, width) <= 2 * border:  # smaller than the window, which is a smaller one then
        return score(*(to_unit(from_uint8(x[None])) for x in (image, target)))
    total = 0.0
    for start in range(0, inner, STRIP):
        rows = min(STRIP, inner - start)
        strips = (x[None, :, start : start + rows + 2 * border] for x in (image, target))
        total += rows * score(*(to_unit(from_uint8(strip)) for strip in strips))
    return total / inner


def _texts(scores: list[float]) -> list[str]:
    """PSNR to 0.01 dB, the others to 0.0001; – for none."""
    return ["–" if math.isnan(x) else f"{x:.2f}" if i < 2 else f"{x:.4f}" for i, x in enumerate(scores)]


def _print(text: str) -> None:
    get_console().print(text, soft_wrap=True, markup=False, highlight=False)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
