"""Data modules: one file per source, with its data set and its data module. ``base.py`` has their interface."""

from diffusion_lightning.data.augmentation import NonLeakyAugmentation
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.digits import Digits, DigitsDataset
from diffusion_lightning.data.emoji import Emoji, EmojiDataset
from diffusion_lightning.data.faces import AFHQ, CelebA
from diffusion_lightning.data.folder import FolderDataset, ImageFolder, find_images
from diffusion_lightning.data.paired_folder import PairedDataset, PairedFolder
from diffusion_lightning.data.photographs import Photographs, PhotographsDataset
from diffusion_lightning.data.torchvision_datasets import CIFAR10, MNIST, FashionMNIST, VisionDataset

__all__ = [
    "AFHQ",
    "CIFAR10",
    "MNIST",
    "CelebA",
    "DegradationDataModule",
    "Digits",
    "DigitsDataset",
    "Emoji",
    "EmojiDataset",
    "FashionMNIST",
    "FolderDataset",
    "ImageFolder",
    "NonLeakyAugmentation",
    "PairedDataset",
    "PairedFolder",
    "Photographs",
    "PhotographsDataset",
    "VisionDataset",
    "degrade",
    "find_images",
]
