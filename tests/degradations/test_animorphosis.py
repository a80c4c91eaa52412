"""Animorphosis: noise whose z is an animal, opened when the first is drawn."""

import copy

import pytest
import torch

from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.data.folder import FolderDataset
from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.degradations import Animorphosis, GaussianNoise
from diffusion_lightning.core.images import from_uint8, save_image
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.samplers import DDPM


def pictures(number=7, channels=3, size=(6, 5)):
    generator = torch.Generator().manual_seed(3)
    return InMemoryImages(torch.randint(256, (number, channels, *size), generator=generator, dtype=torch.uint8))


def images(number=5, channels=3, size=(6, 5)):
    return torch.rand(number, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(degradation, x, seed=0):
    return degradation.sample_params(x, per_image_generators(seed, range(len(x))))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_is_the_noise_degradation_with_animals_for_noise(schedule):
    degradation, noise = Animorphosis(pictures, steps=30, schedule=schedule), GaussianNoise(30, schedule)
    x, t = images(), torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0])
    params = drawn(degradation, x)
    assert torch.equal(degradation(x, t, params), noise(x, t, params))
    assert not degradation.gaussian_noise
    assert degradation.has_unknown_params


def test_z_is_a_picture_of_the_second_data_set_and_all_of_them_come_up():
    degradation = Animorphosis(pictures)
    z = drawn(degradation, images(200))["noise"]
    stored = from_uint8(pictures().images)
    same = (z[:, None] == stored).all(4).all(3).all(2)
    assert (same.sum(1) == 1).all()
    assert same.any(0).all()


def test_at_the_end_hardly_anything_but_the_animal_is_left():
    degradation = Animorphosis(pictures)
    x = images()
    params = drawn(degradation, x)
    assert (degradation(x, torch.ones(5), params) - params["noise"]).abs().max() < 0.02


def test_animals_take_the_images_size_and_grey_ones_any_number_of_channels():
    z = drawn(Animorphosis(lambda: pictures(channels=1)), images(channels=3, size=(9, 12)))["noise"]
    assert z.shape == (5, 3, 9, 12)
    assert torch.equal(z[:, 0], z[:, 2])
    with pytest.raises(ValueError, match=r"the animals have 3 channels and the images 1.*init_args\.animals"):
        drawn(Animorphosis(pictures), images(channels=1))


def test_the_animals_are_opened_once_and_not_before_the_first_is_drawn():
    opened = []
    degradation = Animorphosis(lambda: opened.append(1) or pictures())
    twin = copy.deepcopy(degradation)
    x = images()
    degradation(x, torch.ones(5), {"noise": x})
    assert not opened
    for _ in range(3):
        drawn(degradation, x)
    assert len(opened) == 1
    drawn(twin, x)
    assert len(opened) == 2


def test_no_more_animals_are_held_than_asked_for():
    degradation = Animorphosis(DigitsDataset, number=10)
    held = degradation.pictures(images(channels=1, size=(16, 16)))
    assert len(held) == 10
    assert torch.equal(held[1], DigitsDataset()[144].image)
    assert len(Animorphosis(pictures, number=7).pictures(images())) == 7


def test_animals_of_several_sizes_are_read_from_a_folder(tmp_path):
    for i, size in enumerate([(6, 6), (4, 9)]):
        save_image(torch.full((3, *size), 100 * i, dtype=torch.uint8), tmp_path / f"{i}.png")
    held = Animorphosis(lambda: FolderDataset(tmp_path, None)).pictures(images())
    assert held.flatten(1).unique(dim=1).tolist() == [[0], [100]]


@pytest.mark.parametrize("animals", [lambda root: FolderDataset(root / "none", 8), lambda root: pictures(0)])
def test_missing_animals_are_one_line_that_names_the_flag(tmp_path, animals):
    degradation = Animorphosis(lambda: animals(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be read: .*--model\.degradation\.init_args\.animals") as caught:
        drawn(degradation, images())
    assert "\n" not in str(caught.value)


def test_samplers_that_add_gaussian_noise_refuse_animals():
    with pytest.raises(ValueError):  # noqa: PT011  # the sampler's own words are tested with the sampler
        DDPM().check(Animorphosis(pictures))


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="number=0"):
        Animorphosis(pictures, number=0)
