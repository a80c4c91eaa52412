"""Patches: cropped at full resolution, the same ones for any order, worker and run, decoded once within a budget."""

import pickle
from collections import Counter
from pathlib import Path

import pytest
import skimage.data
import torch
from helpers.runs import write_images
from torch import Tensor
from torch.utils.data import DataLoader

from diffusion_lightning.core.datasets import ImageDataset, ImageSample
from diffusion_lightning.core.images import save_image
from diffusion_lightning.data import ImageFolder
from diffusion_lightning.data.patches import PatchDataset


class Photographs(ImageDataset):
    """Images of these heights and widths; a pixel's three values are the image's number, its row and its column."""

    channels = 3

    def __init__(self, *shapes: tuple[int, int]) -> None:
        self.shapes = shapes
        self.classes = ["even", "odd"]
        self.labels = torch.arange(len(shapes)) % 2
        self.captions = [f"photograph {i}" for i in range(len(shapes))]
        self.decoded: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> ImageSample:
        self.decoded[index] += 1
        height, width = self.shapes[index]
        rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
        columns = torch.arange(width, dtype=torch.uint8).expand(height, width)
        image = torch.stack([torch.full_like(rows, index), rows, columns])
        return ImageSample(image, index % 2, f"photograph {index}")


def position(image: Tensor) -> tuple[int, ...]:
    """(image, top, left)."""
    return tuple(image[:, 0, 0].tolist())


def test_patches_are_cropped_at_full_resolution_from_everywhere():
    dataset = PatchDataset(Photographs((40, 200), (100, 60)), (16, 24), 300)
    assert len(dataset) == 600
    tops, lefts = set(), set()
    for i in range(len(dataset)):
        image = dataset[i].image
        number, top, left = position(image)
        assert number == i % 2
        height, width = dataset.images.shapes[number]
        expected = torch.stack(
            torch.meshgrid(torch.arange(top, top + 16), torch.arange(left, left + 24), indexing="ij")
        )
        assert torch.equal(image[1:].long(), expected)
        assert top + 16 <= height
        assert left + 24 <= width
        if number == 0:
            tops.add(top)
            lefts.add(left)
    assert tops == set(range(25))
    assert (min(lefts), max(lefts)) == (0, 176)


def test_a_position_depends_on_the_seed_and_the_item_alone():
    make = lambda seed=0: PatchDataset(Photographs((90, 80), (70, 90)), 16, 20, seed)  # noqa: E731
    first, second = make(), make()
    positions = [position(first[i].image) for i in range(40)]
    assert positions == [position(second[i].image) for i in reversed(range(40))][::-1]
    assert positions == [position(first[i].image) for i in range(40)]  # the next epoch
    assert len(set(positions)) > 35
    assert sum(a == b for a, b in zip(positions, [position(make(1)[i].image) for i in range(40)], strict=True)) < 5


def test_worker_processes_crop_the_same_patches():
    dataset = PatchDataset(Photographs((90, 80), (70, 90)), 16, 8)
    with_workers = torch.cat([batch[0] for batch in DataLoader(dataset, 5, num_workers=2, collate_fn=stack)])
    assert torch.equal(with_workers, torch.stack([dataset[i].image for i in range(16)]))


def stack(samples: list[ImageSample]) -> tuple[Tensor]:
    return (torch.stack([sample.image for sample in samples]),)


def test_patches_have_the_label_and_the_caption_of_their_image():
    dataset = PatchDataset(Photographs(*[(20, 20)] * 3), 8, 4)
    assert dataset.classes == ["even", "odd"]
    condition = dataset.condition(range(12))
    for i in range(12):
        _, label, caption = dataset[i]
        assert (label, caption) == (i % 3 % 2, f"photograph {i % 3}")
        assert (condition["label"][i], condition["caption"][i]) == (label, caption)


@pytest.mark.parametrize("shape", [(10, 40), (40, 10), (10, 12), (1, 1), (31, 33)], ids=str)
def test_images_smaller_than_a_patch_are_enlarged_to_cover_it(shape):
    dataset = PatchDataset(Photographs(shape), 32, 6)
    assert {tuple(dataset[i].image.shape) for i in range(6)} == {(3, 32, 32)}
    sides = dataset._decoded[0].image.shape[1:]
    assert min(sides) == 32
    assert max(sides) / min(sides) == pytest.approx(max(shape) / min(shape), rel=0.05)


def test_each_image_is_decoded_once():
    images = Photographs(*[(50, 50)] * 5)
    dataset = PatchDataset(images, 8, 10)
    for i in torch.randperm(50).tolist():
        assert dataset[i].image.is_contiguous()
    assert images.decoded == dict.fromkeys(range(5), 1)


def test_the_images_used_last_are_kept_within_the_budget():
    images = Photographs(*[(50, 50)] * 4)
    dataset = PatchDataset(images, 8, 3, memory=2 * 3 * 50 * 50)
    for i in (0, 1, 0, 1, 2, 1, 3, 1, 0):
        assert position(dataset[i].image)[0] == i
        assert sum(sample.image.nbytes for sample in dataset._decoded.values()) <= 2 * 3 * 50 * 50
    assert images.decoded == {0: 2, 1: 1, 2: 1, 3: 1}


def test_an_image_larger_than_the_budget_is_still_cropped():
    images = Photographs((50, 50))
    dataset = PatchDataset(images, 8, 3, memory=100)
    assert [dataset[i].image.shape for i in range(3)] == [(3, 8, 8)] * 3
    assert images.decoded[0] == 3
    assert not dataset._decoded


@pytest.mark.parametrize("patches", [40, 5], ids=["many of each", "few of each"])
def test_of_many_large_images_few_are_cropped_at_a_time_and_all_in_turn(patches):
    """The budget holds 12 of the 60 images; in a free order nearly every patch would decode one."""
    images = Photographs(*[(50, 50)] * 60)
    dataset = PatchDataset(images, 8, patches, memory=12 * 3 * 50 * 50)
    shuffled = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    order = dataset.arrange(shuffled)
    assert sorted(order) == list(range(len(dataset)))
    for i in order:
        assert position(dataset[i].image)[0] == i % 60
    assert set(images.decoded.values()) == {-(-patches // 16)}
    batches = [len({i % 60 for i in order[first : first + 16]}) for first in range(0, len(order), 16)]
    assert sum(batches) / len(batches) > 7
    assert len({i % 60 for i in order[: 60 * min(16, patches)]}) == 60, "all images are read before any is read again"


def test_a_few_images_keep_the_shuffled_order():
    dataset = PatchDataset(Photographs(*[(50, 50)] * 12), 8, 4)
    shuffled = torch.randperm(48).tolist()
    assert dataset.arrange(shuffled) == shuffled


def test_two_epochs_of_many_images_differ_and_each_has_every_patch(tmp_path):
    write_images(tmp_path, 30, (20, 20))
    data = ImageFolder(str(tmp_path), size=8, patches_per_image=20, batch_size=4, seed=0)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 1):
        loader.sampler.set_epoch(epoch)
        epochs.append(list(loader.sampler))
    number = len(data.dataset("train"))
    assert epochs[0] != epochs[1] == epochs[2]
    assert [len(set(epoch)) for epoch in epochs] == [number // 4 * 4] * 3


def test_worker_processes_do_not_get_the_decoded_images():
    dataset = PatchDataset(Photographs((200, 200)), 8, 3)
    patch = dataset[1].image
    data = pickle.dumps(dataset)
    assert len(data) < 10_000
    assert torch.equal(pickle.loads(data)[1].image, patch)


@pytest.mark.parametrize("number", [0, -3])
def test_no_patches_are_rejected_with_the_remedy(number):
    with pytest.raises(ValueError, match=rf"patches_per_image={number}: crop at least 1 patch of each image"):
        PatchDataset(Photographs((20, 20)), 8, number)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three photographs of scikit-image in a folder for each."""
    for name in ("astronaut", "chelsea", "coffee"):
        image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)
        for part in range(2):
            save_image(image[:, :, part * 150 : part * 150 + 200], tmp_path / name / f"{part}.png")
    return tmp_path


def test_a_folder_of_photographs_gives_patches_of_them(photographs):
    data = ImageFolder(str(photographs), size=32, patches_per_image=10, seed=0)
    whole = ImageFolder(str(photographs), size=32, seed=0)
    for split in ("train", "val"):
        images = data.dataset(split)
        assert len(images) == 10 * len(whole.dataset(split))
        assert data.classes == ["astronaut", "chelsea", "coffee"]
        path = whole.dataset(split).paths[0]
        photograph = torch.from_numpy(getattr(skimage.data, path.parent.name)()).permute(2, 0, 1)
        patch = images[len(whole.dataset(split))].image  # the second of the first image
        corners = (photograph == patch[:, :1, :1]).all(dim=0).nonzero().tolist()
        assert any(torch.equal(photograph[:, top : top + 32, left : left + 32], patch) for top, left in corners)
        assert data.classes[images[0].label] == path.parent.name


def test_held_out_patches_do_not_depend_on_the_seed(photographs):
    runs = [ImageFolder(str(photographs), size=32, patches_per_image=4, seed=seed) for seed in (0, 1)]
    patches = {
        split: [torch.stack([s.image for s in run.dataset(split)]) for run in runs] for split in ("train", "val")
    }
    assert torch.equal(*patches["val"])
    assert not torch.equal(*patches["train"])


@pytest.mark.parametrize("number", [None, 0])
def test_without_patches_whole_images_are_shrunk(photographs, number):
    data = ImageFolder(str(photographs), size=32, patches_per_image=number)
    assert len(data.dataset("train")) + len(data.dataset("val")) == 6
    assert data.dataset("train")[0].image.shape == (3, 32, 32)


def test_patches_alternate_between_the_scales():
    """In these images a pixel's second value is its row and its third its column."""
    dataset = PatchDataset(Photographs((100, 120)), (16, 20), 30, scales=[1, 0.5, 0.25])
    for number in range(30):
        step = (1, 2, 4)[number % 3]
        image = dataset[number].image.double()
        assert image.shape == (3, 16, 20)
        for axis, size in ((1, 16), (2, 20)):
            inner = image[axis].mean(2 - axis)[3:-3]  # antialiasing lacks what lies beyond the border
            assert (inner.diff() - step).abs().max() <= 1  # rounded to levels
            assert (inner[-1] - inner[0]).item() == pytest.approx(step * (size - 7), abs=1)


@pytest.mark.parametrize("shape", [(20, 90), (17, 17), (5, 40)], ids=str)
def test_an_image_too_small_for_a_scale_is_shrunk_less(shape):
    dataset = PatchDataset(Photographs(shape), 16, 4, scales=[0.25])
    assert {tuple(dataset[i].image.shape) for i in range(4)} == {(3, 16, 16)}


@pytest.mark.parametrize("scales", [[], [0.0], [1, 2], [-0.5]], ids=str)
def test_scales_outside_their_range_are_rejected_with_the_remedy(scales):
    with pytest.raises(ValueError, match="give one or more in"):
        PatchDataset(Photographs((20, 20)), 8, 1, scales=scales)


def test_a_folder_of_photographs_gives_patches_at_several_scales(photographs):
    data = ImageFolder(str(photographs), size=32, patches_per_image=2, scales=[0.5], seed=0)
    whole, patches = data.dataset("train").whole, data.dataset("train")
    full = whole[0].image
    corners = (full == patches[0].image[:, :1, :1]).all(dim=0).nonzero().tolist()
    assert not any(torch.equal(full[:, i : i + 32, j : j + 32], patches[0].image) for i, j in corners)
    assert patches[0].image.shape == (3, 32, 32)
