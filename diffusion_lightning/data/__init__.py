"""Data modules: one class a source. ``base.py`` makes the triples; a new source only says where its pictures are."""

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.embedded import Digits
from diffusion_lightning.data.emoji import Emoji
from diffusion_lightning.data.faces import AFHQ, CelebA
from diffusion_lightning.data.folder import ImageFolder
from diffusion_lightning.data.vision import CIFAR10, MNIST, FashionMNIST

__all__ = [
    "AFHQ",
    "CIFAR10",
    "MNIST",
    "CelebA",
    "DegradationDataModule",
    "Digits",
    "Emoji",
    "FashionMNIST",
    "ImageFolder",
    "degrade",
]
