"""R10, in Python: None and NaN get one line like that of any other wrong number, in every constructor."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from helpers.runs import Stored, blur, tiny_module

from diffusion_lightning.callbacks import Generation, RestorationMetrics
from diffusion_lightning.conditioning import ClassEmbedding
from diffusion_lightning.data import Digits
from diffusion_lightning.degradations import Fade, GaussianBlur, GaussianNoise, Pixelate, Snow
from diffusion_lightning.degradations.noise_schedules import Karras
from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.objectives.losses import Huber
from diffusion_lightning.objectives.parameterizations import EDM
from diffusion_lightning.priors import ChannelMeans
from diffusion_lightning.samplers import DDIM, Heun


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (GaussianBlur, "std"),
        (GaussianBlur, "kernel_size"),
        (GaussianBlur, "noise"),
        (GaussianNoise, "steps"),
        (Snow, "noise"),
        (Fade, "steps"),
        (Pixelate, "noise"),
        (Karras, "sigma_max"),
        (Huber, "delta"),
        (EDM, "sigma_data"),
        (ChannelMeans, "components"),
        (ClassEmbedding, "classes"),
        (ClassifierFreeGuidance, "scale"),
        (DDIM, "eta"),
        (Heun, "churn"),
        (Digits, "batch_size"),
        (Digits, "num_workers"),
        (Generation, "images"),
        (RestorationMetrics, "every_n_validations"),
        (tiny_module, "clip_denoised"),
        (tiny_module, "denoiser"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_none_or_nan_for_an_argument_is_named(build: Callable[..., Any], name: str, value: float | None) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value}|{name} must be.*{value}"):
        build(**{name: value})


def test_none_is_for_arguments_whose_type_allows_it() -> None:
    assert DDIM(steps=None).steps is None
    assert tiny_module(loss=None, conditioner=None).conditioner is None
    assert Digits(seed=None, crop=None).crop is None


def test_objects_that_check_their_arguments_can_be_copied() -> None:
    for part in (blur(), Karras(), Huber(), EDM(), ChannelMeans(), Stored(), tiny_module(), Generation(images=2)):
        assert type(copy.deepcopy(part)) is type(part)
    assert pickle.loads(pickle.dumps(Huber(delta=0.5))).delta == 0.5
