"""Data modules: one class a source. ``base.py`` makes the triples; a new source only says where its pictures are."""

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.embedded import Digits
from diffusion_lightning.data.folder import ImageFolder
from diffusion_lightning.data.vision import CIFAR10, MNIST, FashionMNIST

__all__ = ["CIFAR10", "MNIST", "DegradationDataModule", "Digits", "FashionMNIST", "ImageFolder", "degrade"]
