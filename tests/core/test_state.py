"""The description of an object's state tells apart all that computes differently, and nothing else."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from diffusion_lightning.core.state import describe_state
from diffusion_lightning.degradations import Compose, Desaturate, GaussianBlur, GaussianNoise, Pixelate, Transform
from diffusion_lightning.degradations.noise_schedules import VE
from diffusion_lightning.inverse import MMPS

BUILDS = {
    "a blur": lambda: GaussianBlur(std=0.5, schedule="constant"),
    "a stronger blur": lambda: GaussianBlur(std=3.0, schedule="constant"),
    "a composition": lambda: Compose([Desaturate(), Pixelate()]),
    "its intervals": lambda: Compose([Desaturate(), Pixelate()], [(0.0, 0.5), (0.5, 1.0)]),
    "its parts": lambda: Compose([Desaturate(), Pixelate(steps=2)]),
    "its order": lambda: Compose([Pixelate(), Desaturate()]),
    "a schedule": lambda: GaussianNoise(schedule=VE(sigma_max=20.0)),
    "another schedule": lambda: GaussianNoise(schedule=VE(sigma_max=30.0)),
    "a function": lambda: Transform(torch.tanh),
    "another function": lambda: Transform(torch.sin),
    "a method": lambda: MMPS(Pixelate()),
    "another noise": lambda: MMPS(Pixelate(), noise=1e-15),
    "a tensor": lambda: [torch.arange(2000.0)],
    "other values": lambda: [torch.arange(2000.0).flip(0)],
    "an array": lambda: np.arange(2000),
    "another array": lambda: np.arange(2000)[::-1],
    "an argument": lambda: functools.partial(torch.clamp, min=0),
    "another argument": lambda: functools.partial(torch.clamp, min=1),
    "sets": lambda: {"b", "a"},
}


def test_different_objects_have_different_descriptions():
    described = {name: describe_state(build()) for name, build in BUILDS.items()}
    equal = [pair for pair in itertools.combinations(described, 2) if described[pair[0]] == described[pair[1]]]
    assert not equal


@pytest.mark.parametrize("name", BUILDS)
def test_equal_objects_have_equal_descriptions(name):
    text = describe_state(BUILDS[name]())
    assert text == describe_state(BUILDS[name]())
    assert "0x" not in text, "an address differs between processes"


def test_use_and_training_do_not_change_it():
    blur = GaussianBlur()
    before = describe_state(blur)
    blur.eval()(torch.zeros(1, 3, 8, 8), torch.ones(1), {})
    assert describe_state(blur) == before
    layer = nn.Linear(2, 2)
    before = describe_state(layer)
    with torch.no_grad():
        layer.weight[0, 0] += 1e-3
    assert describe_state(layer) != before, "parameters are state"
