"""Train and validation splits keyed by names: no random state, the same on every machine and for every release."""

import hashlib
from collections.abc import Sequence


def position(key: str) -> float:
    """A uniform number in [0, 1) that depends on the key alone (BLAKE2b)."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def held_out(keys: Sequence[str], fraction: float) -> list[bool]:
    """Which keys are held out for validation: those whose position is below the fraction.

    Whether a key is held out does not depend on the others, so adding files moves none across. The one exception
    keeps small sets usable: where no key, or every key, would be held out, the one nearest to the fraction changes
    sides (given two keys at least, and a fraction that is not 0).

    Args:
        keys: distinct names.
        fraction: share to hold out, in [0, 1).

    Raises:
        ValueError: the fraction is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction must be in [0, 1), got {fraction}")
    positions = [position(key) for key in keys]
    chosen = [place < fraction for place in positions]
    if len(keys) > 1 and fraction > 0 and len(set(chosen)) == 1:
        nearest = min(range(len(keys)), key=lambda i: abs(positions[i] - fraction))
        chosen[nearest] = not chosen[nearest]
    return chosen
