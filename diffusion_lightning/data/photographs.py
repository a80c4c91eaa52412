"""The colour photographs that scikit-image and scikit-learn ship, which need no download."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any

from diffusion_lightning.core.datasets import ImageDataset, ImageSample
from diffusion_lightning.core.images import read_image
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.patches import PatchDataset

FILES = {
    "astronaut": "data/astronaut.png",
    "chelsea": "data/chelsea.png",
    "china": "datasets/images/china.jpg",
    "coffee": "data/coffee.png",
    "flower": "datasets/images/flower.jpg",
    "hubble_deep_field": "data/hubble_deep_field.jpg",
    "ihc": "data/ihc.png",
    "motorcycle_left": "data/motorcycle_left.png",
    "motorcycle_right": "data/motorcycle_right.png",
    "retina": "data/retina.jpg",
    "rocket": "data/rocket.jpg",
}
"""Name and file of each photograph: those in ``datasets`` belong to scikit-learn, the others to scikit-image.

The other photographs of ``skimage.data`` are grey or are downloaded.
"""

STEREO_PAIR = {"motorcycle_left", "motorcycle_right"}


class PhotographsDataset(ImageDataset):
    """Whole colour photographs, of 300×451 to 1411×1411 pixels.

    Args:
        names: Their names, from ``FILES``.

    Raises:
        ValueError: A name is unknown.
    """

    channels = 3
    names: list[str]

    def __init__(self, names: Sequence[str]) -> None:
        if unknown := next((name for name in names if name not in FILES), None):
            raise ValueError(f"there is no photograph {unknown!r}: choose from {', '.join(FILES)}")
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> ImageSample:
        name = FILES[self.names[index]]
        package = "sklearn" if name.startswith("datasets/") else "skimage"
        with as_file(files(package) / name) as path:
            return ImageSample(read_image(path))


class Photographs(DegradationDataModule):
    """Patches of 11 colour photographs that scikit-image and scikit-learn ship; whole photographs are held out.

    They are astronaut, chelsea (a cat), china, coffee, flower, hubble_deep_field, ihc (stained tissue), motorcycle_left
    and motorcycle_right (one scene), retina and rocket. Validation uses fixed patches of the held-out ones.

    Args:
        size: Side or [height, width] of the patches.
        held_out: The names of the photographs that are held out.
        patches_per_image: Patches of each photograph; see ``PatchDataset``.
        scales: The scales of the patches of a photograph, in turn: 1 is full size, 0.5 half the height and width.
        **kwargs: The arguments of ``DegradationDataModule``.

    Raises:
        ValueError: A name is unknown, no photograph or every one is held out, or one of the stereo pair alone.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 48,
        held_out: Sequence[str] = ("chelsea", "china"),
        patches_per_image: int = 1024,
        scales: Sequence[float] = (1.0, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < len(PhotographsDataset(held_out)) < len(FILES):
            raise ValueError(
                f"held_out={list(held_out)}: hold out at least 1 of the {len(FILES)} photographs, and train on the rest"
            )
        if len(STEREO_PAIR & set(held_out)) == 1:
            raise ValueError(f"{' and '.join(sorted(STEREO_PAIR))} show one scene: hold out both or neither")
        self.size = size
        self.held_out = held_out
        self.patches_per_image = patches_per_image
        self.scales = scales

    def make_dataset(self, train: bool) -> ImageDataset:
        """Patches of the photographs to train on, or of the held-out ones."""
        names = [name for name in FILES if name not in self.held_out] if train else self.held_out
        # Held-out patches do not depend on the seed: runs are compared on the same ones.
        seed = self.seed if train else 0
        return PatchDataset(PhotographsDataset(names), self.size, self.patches_per_image, seed, scales=self.scales)
