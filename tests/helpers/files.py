"""Small files in the formats of the public data sets, which are then read without a download."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from diffusion_lightning.core.images import save_image

Parts = dict[str, np.ndarray]
"""The arrays of the parts ``train`` and ``t10k``."""

RNG = np.random.default_rng(0)
GREY: Parts = {
    part: RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8) for part, count in (("train", 12), ("t10k", 5))
}
DIGITS: Parts = {part: RNG.integers(0, 10, len(images), dtype=np.uint8) for part, images in GREY.items()}


def write_idx(root: Path, name: str, images: Parts = GREY, labels: Parts = DIGITS) -> Path:
    """The four files of MNIST: a magic number, the sizes, the bytes, all big-endian."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part in images:
        count = len(images[part])
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images[part].tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels[part].tobytes())
    return folder


def compress_idx(folder: Path, target: Path) -> Path:
    """Move the four files to another folder as Debian's package has them, each compressed by gzip."""
    target.mkdir()
    for path in list(folder.iterdir()):
        (target / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return target


def write_cifar(root: Path) -> Tensor:
    """The seven pickles of CIFAR-10: rows of 3072 bytes, red plane first."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    planes = RNG.integers(0, 256, (6, 2, 3072), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps({"data": planes[i], "labels": [i, 9 - i]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return torch.from_numpy(planes).reshape(6, 2, 3, 32, 32)


def accept_any_checksum(patch: pytest.MonkeyPatch) -> None:
    """CIFAR-10's files are known by their MD5; without one torchvision asks only that they exist."""
    cifar = torchvision.datasets.CIFAR10
    for attribute in ("train_list", "test_list"):
        patch.setattr(cifar, attribute, [[name, None] for name, _ in getattr(cifar, attribute)])
    patch.setattr(cifar, "meta", cifar.meta | {"md5": None})


def write_photographs(root: Path, side: int = 40) -> None:
    """The folders of CelebA-HQ, without a partition, and of AFHQ."""
    names = [f"celeba/img_align_celeba/{i:05d}.png" for i in range(12)]
    names += [f"afhq/{part}/{kind}/{i}.png" for part in ("train", "val") for kind in ("cat", "dog") for i in range(3)]
    for name in names:
        save_image(torch.from_numpy(RNG.integers(0, 256, (3, side, side), dtype=np.uint8)), root / name)
