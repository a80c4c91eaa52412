"""Pictures as uint8, with labels and captions where they exist; one file per source."""

from diffusion_lightning.datasets.base import Picture, PictureDataset, StoredPictures
from diffusion_lightning.datasets.digits import DigitsDataset
from diffusion_lightning.datasets.emoji import EmojiDataset
from diffusion_lightning.datasets.folder import FolderDataset, find_pictures
from diffusion_lightning.datasets.vision import VisionDataset

__all__ = [
    "DigitsDataset",
    "EmojiDataset",
    "FolderDataset",
    "Picture",
    "PictureDataset",
    "StoredPictures",
    "VisionDataset",
    "find_pictures",
]
