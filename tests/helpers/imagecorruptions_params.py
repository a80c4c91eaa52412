"""imagecorruptions with the random parameters of ImageNetC in place of its random numbers: results are comparable."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from helpers import imagecorruptions_source
from PIL import Image
from scipy.stats import poisson
from torch import Tensor

from diffusion_lightning.core.types import Params


def corrupt_with_params(
    image: np.ndarray, name: str, severity: int, params: Params, spatter_with_ipp: bool = False
) -> np.ndarray:
    """The result of imagecorruptions before truncation to 8 bits: float64 (H, W, 3) in 0 … 255.

    Args:
        image: RGB, uint8 (H, W, 3).
        name: The corruption.
        severity: An integer, 1 … 5.
        params: The random parameters of this image, without the batch axis (``params_of``).
        spatter_with_ipp: Whether OpenCV may use Intel's IPP for spatter.
    """
    functions, numpy = imagecorruptions_source.load()
    numpy.random = NUMPY_RANDOM[name](params, image.shape) if name in NUMPY_RANDOM else SimpleNamespace()
    ipp = opencv_ipp(spatter_with_ipp) if name == "spatter" else nullcontext()
    with np.errstate(all="ignore"), ipp:
        result = np.asarray(functions[name](Image.fromarray(image), severity), dtype=np.float64)
    # Without any spatter, imagecorruptions divides 0 by 0; ImageNetC returns the image.
    return np.where(np.isnan(result), image, result)


@contextmanager
def opencv_ipp(enabled: bool) -> Iterator[None]:
    """Let OpenCV use Intel's IPP or not.

    Its wheels for x86 use IPP for some functions by default, which then round differently from OpenCV's own code.
    """
    default = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(enabled)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(default)


def params_of(params: Params, i: int) -> Params:
    """The random parameters of image i, without the batch axis, float64."""
    return {name: value[i].to(torch.float64) for name, value in params.items()}


# Below: for each corruption, the functions of ``numpy.random`` that it calls, which return the given parameters.


def channels_last(values: Tensor) -> np.ndarray:
    """(C, H, W) → (H, W, C)."""
    return values.permute(1, 2, 0).numpy()


def uniform_in_order(*values):
    """A ``uniform(low, high, …)`` that returns these U[0, 1), scaled, one per call."""
    remaining = iter(values)
    return lambda low, high, *_, **__: low + (high - low) * next(remaining)


def normal_noise(params, shape):
    return SimpleNamespace(normal=lambda size, scale: scale * channels_last(params["normal"]))


def shot_noise(params, shape):
    return SimpleNamespace(poisson=lambda mean: poisson.ppf(channels_last(params["uniform"]), mean))


def impulse_noise(params, shape):
    uniform = channels_last(params["uniform"])
    calls = iter([2 * np.minimum(uniform, 1 - uniform), uniform])  # which values are flipped, and which to white

    class GivenGenerator(np.random.Generator):
        def random(self, size=None):
            return next(calls)

    return SimpleNamespace(randint=lambda high: GivenGenerator(np.random.PCG64()))


def fog(params, shape):
    uniform, step, parts = params["uniform"].numpy(), params["uniform"].shape[-1], []
    while step >= 2:
        odd, even = slice(step // 2, None, step), slice(0, None, step)
        parts += [uniform[odd, odd], uniform[even, odd], uniform[odd, even]]
        step //= 2
    return SimpleNamespace(uniform=uniform_in_order(*parts))


def frost(params, shape):
    fractions = iter(params["crop"].tolist())
    return SimpleNamespace(randint=lambda low, high=None: int(next(fractions) * (low if high is None else high)))


def snow(params, shape):
    """A field of the image's size with the flakes in the middle half; the rest must not matter."""
    height, width = shape[:2]
    flakes = params["flakes"][0].numpy()
    field = np.full((height, width), 1e6)
    top, left = (height - flakes.shape[0]) // 2, (width - flakes.shape[1]) // 2
    field[top : top + flakes.shape[0], left : left + flakes.shape[1]] = flakes
    return SimpleNamespace(
        normal=lambda size, loc, scale: loc + scale * field, uniform=uniform_in_order(params["direction"].item())
    )


def motion_blur(params, shape):
    return SimpleNamespace(uniform=uniform_in_order(params["direction"].item()))


def elastic_transform(params, shape):
    return SimpleNamespace(uniform=uniform_in_order(*params["uniform"].numpy()))


def glass_blur(params, shape):
    shuffle, state = params["shuffle"].numpy(), {}

    def randint(low, high, size):
        """In imagecorruptions' order: passes, then rows from the last one, then columns from the last one."""
        if not state:
            state["order"] = iter(
                (turn, h, w)
                for turn in range(len(shuffle))
                for h in range(shape[0] - high, high, -1)
                for w in range(shape[1] - high, high, -1)
            )
        turn, h, w = next(state["order"])
        return np.floor(shuffle[turn, :, h, w] * (high - low)).astype(int) + low

    return SimpleNamespace(randint=randint)


def spatter(params, shape):
    return SimpleNamespace(normal=lambda size, loc, scale: loc + scale * params["liquid"][0].numpy())


NUMPY_RANDOM = {
    "gaussian_noise": normal_noise,
    "speckle_noise": normal_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "fog": fog,
    "frost": frost,
    "snow": snow,
    "motion_blur": motion_blur,
    "elastic_transform": elastic_transform,
    "glass_blur": glass_blur,
    "spatter": spatter,
}
"""Functions (params, shape of the image) → a replacement of ``numpy.random``."""
