"""`restore --compare` and `--reference`: originals beside restored images on a page, and scores against references."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import torch
from rich import get_console
from rich.table import Table
from torch import Tensor

from diffusion_lightning.callbacks.writer import image_name
from diffusion_lightning.commands.restored_files import RestoredFiles
from diffusion_lightning.core.files import PROGRAM, check_outputs, is_own_image
from diffusion_lightning.core.images import atomic_write, from_uint8, read_image, save_image, to_unit
from diffusion_lightning.data.folder import find_images
from diffusion_lightning.metrics.restoration import PSNR, ssim

GAP = 8
"""White pixels between the two images."""

MAX_ROWS = 20
"""Rows of a printed table, besides that of the means."""

_HEAD = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="generator" content="{PROGRAM}">
<title>Before and after</title>
<style>
body {{ font-family: sans-serif; margin: 2em; }}
figure {{ margin: 0 0 2em; }}
img {{ max-width: 100%; }}
</style>
<h1>Before | after</h1>
"""


class ComparisonPage:
    """A page of all restored images, each to the right of its original, in the folder OUTPUT_compare.

    Args:
        output: The folder of the restored images.
        number: How many originals there are.
        overwrite: Whether to replace files that this program did not write.

    Raises:
        ValueError: There are such files, and they must not be overwritten.
    """

    def __init__(self, output: Path, number: int, overwrite: bool = False) -> None:
        self.folder = comparison_folder(output)
        self.page = self.folder / "index.html"
        check_outputs([self.page], overwrite, is_own=_is_own_page)
        check_outputs(map(self.image, range(number)), overwrite, is_own=is_own_image)

    def image(self, index: int) -> Path:
        """The file that shows an image twice; numbered, as two originals may differ in their suffixes alone."""
        return self.folder / f"{image_name(index)}.png"

    def write(self, files: RestoredFiles, restored: Sequence[int]) -> None:
        """Write the page and its images, those with these indices."""
        figures = []
        for index in restored:
            before, after = read_image(files.paths[index]), read_image(files.targets[index])
            white = torch.full((3, before.shape[1], GAP), 255, dtype=torch.uint8)
            save_image(torch.cat([before, white, after], 2), self.image(index), sheet=True)
            name = files.labels[index].encode("utf-8", "replace").decode()
            source = quote(self.image(index).name)
            figures.append(f'<figure><img src="{source}" loading="lazy" alt="before and after">'
                           f"<figcaption>{html.escape(name)}</figcaption></figure>\n")  # fmt: skip
        text = _HEAD + "".join(figures) + "</html>\n"
        atomic_write(self.page, lambda path: path.write_text(text, encoding="utf-8"))


def comparison_folder(output: Path) -> Path:
    """The folder of the page."""
    return output.absolute().with_name(f"{output.absolute().name}_compare")


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


def score(files: RestoredFiles, restored: Sequence[int], references: Mapping[int, Path]) -> dict[int, list[float]]:
    """PSNR before and after, and SSIM before and after, of the restored images that have a reference of their size."""
    scores = {}
    for index in (index for index in restored if index in references):
        target = _unit(references[index])
        images = [_unit(files.paths[index]), _unit(files.targets[index])]
        if all(image.shape == target.shape for image in images) and min(target.shape[-2:]) >= 3:
            metrics = (PSNR().score, ssim)
            scores[index] = [float(metric(image, target)) for metric in metrics for image in images]
    return scores


def print_scores(files: RestoredFiles, scores: Mapping[int, Sequence[float]], expected: int) -> None:
    """Print the scores of the first images and the means of all."""
    table = Table("file", *(f"{name} {state}" for name in ("PSNR", "SSIM") for state in ("before", "after")))
    for index in list(scores)[:MAX_ROWS]:
        table.add_row(files.labels[index].encode("utf-8", "replace").decode(), *_texts(scores[index]))
    if scores:
        means = torch.tensor(list(scores.values()), dtype=torch.float64).mean(0).tolist()
        table.add_row(f"mean of {len(scores)}", *_texts(means))
        get_console().print(table, markup=False)
    if len(scores) < expected:
        text = f"{expected - len(scores)} restored image(s) have no reference of their name and size"
        get_console().print(text, soft_wrap=True)


def _texts(scores: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in scores[:2]] + [f"{value:.4f}" for value in scores[2:]]


def _unit(path: Path) -> Tensor:
    return to_unit(from_uint8(read_image(path)[None]))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _is_own_page(path: Path) -> bool:
    return path.read_bytes().startswith(_HEAD.encode())
