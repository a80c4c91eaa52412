"""What a run's precision must not change: the times, and the results of other libraries' functions.

Under Lightning's precision ``bf16-true`` torch's default dtype is bfloat16, in which t = 0.999 is 1 and a coordinate of
257 is 256. So every tensor that the package makes from numbers names its dtype: float32, or float64 for tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def times_like(x: Tensor, t: float) -> Tensor:
    """The time t for each of the images x (B, ...): (B,), float32, or float64 for images in double precision."""
    return torch.full((len(x),), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


@contextmanager
def float32_default() -> Iterator[None]:
    """Torch's usual default dtype, for functions of other libraries that make tensors from numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
