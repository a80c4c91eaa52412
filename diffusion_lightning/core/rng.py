"""Keyed random numbers: a generator depends on its key alone, not on history or batching.

Training uses the key (seed, rank, batch), evaluation and generation use (seed, image index): image i gets the same
random numbers for any batch size and any number of devices, and a resumed run needs no saved random state.
"""

import hashlib
import operator
import os
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from diffusion_lightning.core.types import Generators

GOLDEN_RATIO_32 = 0x9E3779B1
"""2³² divided by the golden ratio, rounded to an odd number: its multiples modulo 2³² are distinct and far apart."""


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a hash of the key: equal keys give equal streams, different keys independent ones.

    Raises:
        TypeError: A part of the key is neither a string nor an integer.
    """
    # NumPy's and torch's integers print unlike Python's, and must not give another stream.
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def per_image_generators(seed: int, indices: Iterable[int] | Tensor, stream: str = "image") -> list[torch.Generator]:
    """One CPU generator per image; its random numbers are the same for every kind of device.

    Torch's CPU generator keeps 32 bits of a seed, so hashes of 50,000 indices would collide in every fourth run. Here
    the index is multiplied by an odd constant modulo 2³², which keeps different indices different.

    Args:
        seed: The seed of the run.
        indices: The images' indices in their data set or in the series to generate.
        stream: The purpose of the random numbers; different streams are independent.
    """
    numbers = indices.tolist() if isinstance(indices, Tensor) else indices
    start = keyed_generator(seed, stream).initial_seed()
    return [torch.Generator().manual_seed((start + operator.index(i) * GOLDEN_RATIO_32) % 2**32) for i in numbers]


def normal(shape: Sequence[int], generator: Generators = None, like: Tensor | None = None) -> Tensor:
    """N(0, 1) of a batch-first shape, with the dtype and device of ``like``."""
    return _sample(torch.randn, shape, generator, like)


def uniform(shape: Sequence[int], generator: Generators = None, like: Tensor | None = None) -> Tensor:
    """U[0, 1) of a batch-first shape, with the dtype and device of ``like``."""
    return _sample(torch.rand, shape, generator, like)


def _sample(sample: Callable[..., Tensor], shape: Sequence[int], generator: Generators, like: Tensor | None) -> Tensor:
    device = like.device if like is not None else torch.device("cpu")
    # Low-precision generators differ from float32 ones: sample in float32 at least, then round.
    dtype = like.dtype if like is not None and like.dtype == torch.float64 else torch.float32
    if generator is None or isinstance(generator, torch.Generator):
        source = generator.device if generator is not None else device
        values = sample(*shape, generator=generator, dtype=dtype, device=source)
    elif len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} images: give one generator, or one per image")
    else:
        rows = [sample(*shape[1:], generator=g, dtype=dtype, device=g.device) for g in generator]
        values = torch.stack(rows) if rows else torch.empty(*shape, dtype=dtype)
    return values.to(device=device, dtype=like.dtype if like is not None else dtype)


def run_seed() -> int:
    """The seed of the run, as ``seed_everything`` set it; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
