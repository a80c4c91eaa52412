"""Animorphosis: noise whose z is the image of an animal; the animals are opened when the first is sampled."""

import copy

import pytest
import torch
from helpers.keyed_params import keyed_params

from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.core.images import from_uint8, save_image
from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.data.folder import FolderDataset
from diffusion_lightning.degradations import Animorphosis, GaussianNoise
from diffusion_lightning.samplers import DDPM


def animals(number=7, channels=3, size=(6, 5)):
    generator = torch.Generator().manual_seed(3)
    return InMemoryImages(torch.randint(256, (number, channels, *size), generator=generator, dtype=torch.uint8))


def images(number=5, channels=3, size=(6, 5)):
    return torch.rand(number, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_is_gaussian_noise_s_degradation_with_animals_as_noise(schedule):
    degradation, noise = Animorphosis(animals, steps=30, schedule=schedule), GaussianNoise(30, schedule)
    x, t = images(), torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0])
    params = keyed_params(degradation, x)
    assert torch.equal(degradation(x, t, params), noise(x, t, params))
    assert not degradation.gaussian_noise
    assert degradation.has_unknown_params


def test_z_is_an_image_of_the_second_data_set_and_every_one_is_sampled():
    degradation = Animorphosis(animals)
    z = keyed_params(degradation, images(200))["noise"]
    stored = from_uint8(animals().images)
    same = (z[:, None] == stored).all(4).all(3).all(2)
    assert (same.sum(1) == 1).all()
    assert same.any(0).all()


def test_the_end_is_nearly_the_animal():
    degradation = Animorphosis(animals)
    x = images()
    params = keyed_params(degradation, x)
    assert (degradation(x, torch.ones(5), params) - params["noise"]).abs().max() < 0.02


def test_animals_get_the_images_size_and_grey_ones_their_channels():
    z = keyed_params(Animorphosis(lambda: animals(channels=1)), images(channels=3, size=(9, 12)))["noise"]
    assert z.shape == (5, 3, 9, 12)
    assert torch.equal(z[:, 0], z[:, 2])
    with pytest.raises(ValueError, match=r"the animals have 3 channels and the images 1.*init_args\.animals"):
        keyed_params(Animorphosis(animals), images(channels=1))


def test_the_animals_are_opened_once_when_the_first_is_sampled():
    opened = []
    degradation = Animorphosis(lambda: opened.append(1) or animals())
    duplicate = copy.deepcopy(degradation)
    x = images()
    degradation(x, torch.ones(5), {"noise": x})
    assert not opened
    for _ in range(3):
        keyed_params(degradation, x)
    assert len(opened) == 1
    keyed_params(duplicate, x)
    assert len(opened) == 2


def test_at_most_max_animals_are_held_evenly_spaced():
    degradation = Animorphosis(DigitsDataset, max_animals=10)
    held = degradation.animals_like(images(channels=1, size=(16, 16)))
    assert len(held) == 10
    assert torch.equal(held[1], DigitsDataset()[144].image)
    assert len(Animorphosis(animals, max_animals=7).animals_like(images())) == 7


def test_animals_of_several_sizes_are_read_from_a_folder(tmp_path):
    for i, size in enumerate([(6, 6), (4, 9)]):
        save_image(torch.full((3, *size), 100 * i, dtype=torch.uint8), tmp_path / f"{i}.png")
    held = Animorphosis(lambda: FolderDataset(tmp_path, None)).animals_like(images())
    assert held.flatten(1).unique(dim=1).tolist() == [[0], [100]]


@pytest.mark.parametrize("open_animals", [lambda root: FolderDataset(root / "none", 8), lambda root: animals(0)])
def test_missing_animals_raise_one_line_that_names_the_flag(tmp_path, open_animals):
    degradation = Animorphosis(lambda: open_animals(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be read: .*--model\.degradation\.init_args\.animals") as caught:
        keyed_params(degradation, images())
    assert "\n" not in str(caught.value)


def test_samplers_that_add_gaussian_noise_reject_animals():
    with pytest.raises(ValueError):  # noqa: PT011  # the message is tested with the sampler
        DDPM().check(Animorphosis(animals))


def test_a_max_animals_below_one_is_rejected():
    with pytest.raises(ValueError, match="max_animals=0"):
        Animorphosis(animals, max_animals=0)
