"""imagecorruptions fed with the very draws that ImageNetC holds in params, so that the two can be compared exactly."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from helpers import imagecorruptions_source
from PIL import Image
from scipy.stats import poisson


def package(picture, name, severity, params):
    """The package's corruption, not cut to 8 bits, of a uint8 (H, W, 3): float64 (H, W, 3) in 0 … 255."""
    functions, numpy = imagecorruptions_source.load()
    numpy.random = FED[name](params, picture.shape) if name in FED else SimpleNamespace()
    without_intel = opencv_without_intel() if name == "spatter" else nullcontext()
    with np.errstate(all="ignore"), without_intel:
        result = np.asarray(functions[name](Image.fromarray(picture), severity), dtype=np.float64)
    # Where nothing is spattered, spatter divides 0 by 0; ours leaves the image as it is.
    return np.where(np.isnan(result), picture, result)


@contextmanager
def opencv_without_intel():
    """OpenCV's own code, in whose place its wheels for x86 run Intel's IPP here and there, with other roundings."""
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(used)


def pixels(field):
    """(C, H, W) as the package has it."""
    return field.permute(1, 2, 0).numpy()


def one_by_one(*fields):
    """A ``uniform(low, high, …)`` that takes these U[0, 1) one after another."""
    queue = iter(fields)
    return lambda low, high, *_, **__: low + (high - low) * next(queue)


def noise(params, shape):
    return SimpleNamespace(normal=lambda size, scale: scale * pixels(params["normal"]))


def shot(params, shape):
    return SimpleNamespace(poisson=lambda mean: poisson.ppf(pixels(params["uniform"]), mean))


def impulse(params, shape):
    uniform = pixels(params["uniform"])
    draws = iter([2 * np.minimum(uniform, 1 - uniform), uniform])  # whether a value flips, and which way

    class Fed(np.random.Generator):
        def random(self, size=None):
            return next(draws)

    return SimpleNamespace(randint=lambda below: Fed(np.random.PCG64()))


def fog(params, shape):
    uniform, step, parts = params["uniform"].numpy(), params["uniform"].shape[-1], []
    while step >= 2:
        odd, even = slice(step // 2, None, step), slice(0, None, step)
        parts += [uniform[odd, odd], uniform[even, odd], uniform[odd, even]]
        step //= 2
    return SimpleNamespace(uniform=one_by_one(*parts))


def frost(params, shape):
    share = iter(params["crop"].tolist())
    return SimpleNamespace(randint=lambda low, high=None: int(next(share) * (low if high is None else high)))


def snow(params, shape):
    """The field of the middle half, in one of the size of the image; the rest must not matter."""
    height, width = shape[:2]
    flakes = params["flakes"][0].numpy()
    field = np.full((height, width), 1e6)
    top, left = (height - flakes.shape[0]) // 2, (width - flakes.shape[1]) // 2
    field[top : top + flakes.shape[0], left : left + flakes.shape[1]] = flakes
    return SimpleNamespace(
        normal=lambda size, loc, scale: loc + scale * field, uniform=one_by_one(params["direction"].item())
    )


def motion(params, shape):
    return SimpleNamespace(uniform=one_by_one(params["direction"].item()))


def elastic(params, shape):
    return SimpleNamespace(uniform=one_by_one(*params["uniform"].numpy()))


def glass(params, shape):
    field, state = params["shuffle"].numpy(), {}

    def randint(low, high, size):
        """In the package's order: pass by pass, rows from below, columns from the right."""
        if not state:
            state["order"] = iter(
                (turn, h, w)
                for turn in range(len(field))
                for h in range(shape[0] - high, high, -1)
                for w in range(shape[1] - high, high, -1)
            )
        turn, h, w = next(state["order"])
        return np.floor(field[turn, :, h, w] * (high - low)).astype(int) + low

    return SimpleNamespace(randint=randint)


def liquid(params, shape):
    return SimpleNamespace(normal=lambda size, loc, scale: loc + scale * params["liquid"][0].numpy())


FED = {
    "gaussian_noise": noise,
    "speckle_noise": noise,
    "shot_noise": shot,
    "impulse_noise": impulse,
    "fog": fog,
    "frost": frost,
    "snow": snow,
    "motion_blur": motion,
    "elastic_transform": elastic,
    "glass_blur": glass,
    "spatter": liquid,
}


def row(params, i):
    """The draws of image i, float64."""
    return {name: value[i].to(torch.float64) for name, value in params.items()}
