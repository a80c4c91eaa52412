"""Keyed random numbers: a generator is a function of what it is for, so that nothing depends on history or batching.

Training draws under the key (seed, rank, batch), evaluation and generation under (seed, image index): image i gets the
same draws for any batch size and on any number of devices, and a resumed run continues exactly with nothing to save.
"""

import hashlib
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from diffusion_lightning.types import Generators

SPREAD = 0x9E3779B1
"""2³² divided by the golden ratio, made odd: multiples of it modulo 2³² are all different and far apart."""


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a hash of the key: equal keys give equal streams, different keys independent ones.

    Raises:
        TypeError: A part of the key is neither a string nor an integer.
    """
    # Numpy's and torch's integers print unlike Python's, and must not give another stream.
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def image_generators(seed: int, indices: Iterable[int] | Tensor, purpose: str = "image") -> list[torch.Generator]:
    """One CPU generator for each image index; draws on the CPU are the same on every kind of device.

    Torch's CPU generator keeps 32 bits of a seed, so that hashes of 50,000 indices would have two alike in every fourth
    run. Here the index is spread over the 32 bits by an odd factor, which leaves different indices different.

    Args:
        seed: The seed of the run.
        indices: The images' positions in their data set or in the series to generate.
        purpose: What the draws are for; different purposes draw independently.
    """
    numbers = indices.tolist() if isinstance(indices, Tensor) else indices
    start = keyed_generator(seed, purpose).initial_seed()
    return [torch.Generator().manual_seed((start + operator.index(i) * SPREAD) % 2**32) for i in numbers]


def normal(shape: Sequence[int], generator: Generators = None, like: Tensor | None = None) -> Tensor:
    """N(0, 1) of a batch-first shape, with the dtype and device of ``like``."""
    return _draw(torch.randn, shape, generator, like)


def uniform(shape: Sequence[int], generator: Generators = None, like: Tensor | None = None) -> Tensor:
    """U[0, 1) of a batch-first shape, with the dtype and device of ``like``."""
    return _draw(torch.rand, shape, generator, like)


def _draw(draw, shape: Sequence[int], generator: Generators, like: Tensor | None) -> Tensor:
    device = like.device if like is not None else torch.device("cpu")
    # Low-precision generators differ from float32 ones: draw in float32 at least, then round.
    dtype = like.dtype if like is not None and like.dtype == torch.float64 else torch.float32
    if generator is None or isinstance(generator, torch.Generator):
        source = generator.device if generator is not None else device
        sample = draw(*shape, generator=generator, dtype=dtype, device=source)
    elif len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} images: give one generator, or one an image")
    else:
        rows = [draw(*shape[1:], generator=g, dtype=dtype, device=g.device) for g in generator]
        sample = torch.stack(rows) if rows else torch.empty(*shape, dtype=dtype)
    return sample.to(device=device, dtype=like.dtype if like is not None else dtype)
