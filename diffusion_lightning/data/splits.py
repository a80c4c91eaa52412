"""Train and validation splits by a hash of names: no random state, the same on every machine and in every release."""

import hashlib
from collections.abc import Sequence
from typing import Literal

Split = Literal["all", "train", "validation"]
"""All images of a source, or one of its two parts."""


def hash_to_unit(key: str) -> float:
    """A uniform number in [0, 1) that depends on the key alone (BLAKE2b)."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def validation_mask(keys: Sequence[str], fraction: float) -> list[bool]:
    """Which keys belong to the validation part: those whose hash is below the fraction.

    This does not depend on the other keys, so adding files moves none from one part to the other. There is one
    exception, for small sets: if no key, or every key, were in the validation part, the one nearest to the fraction
    changes sides (given at least two keys, and a fraction that is not 0).

    Args:
        keys: Distinct names.
        fraction: Expected fraction of the validation part, in [0, 1).

    Raises:
        ValueError: The fraction is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction must be in [0, 1), got {fraction}")
    hashes = [hash_to_unit(key) for key in keys]
    mask = [value < fraction for value in hashes]
    if len(keys) > 1 and fraction > 0 and len(set(mask)) == 1:
        nearest = min(range(len(keys)), key=lambda i: abs(hashes[i] - fraction))
        mask[nearest] = not mask[nearest]
    return mask
