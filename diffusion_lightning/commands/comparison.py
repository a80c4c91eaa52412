"""`restore --compare`: a page that shows each original beside its restored image."""

import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import torch

from diffusion_lightning.callbacks.writer import image_name
from diffusion_lightning.commands.restored_files import RestoredFiles
from diffusion_lightning.core.files import PROGRAM, check_outputs, is_own_image
from diffusion_lightning.core.images import atomic_write, read_image, remove_partial, save_image

GAP = 8
"""White pixels between the two images."""

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

    def begin(self) -> None:
        """Clear away what a killed run has left half-written."""
        if self.folder.is_dir():
            remove_partial(self.folder)

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


def _is_own_page(path: Path) -> bool:
    return path.read_bytes().startswith(_HEAD.encode())
