"""The photographs of scikit-image and scikit-learn: whole ones held out by name, patches of the others to train on."""

import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
import yaml
from helpers.runs import CONFIGS, QUIET, fail, run, write_images
from sklearn.datasets import load_sample_image
from torch import Tensor

from diffusion_lightning.data import Photographs, PhotographsDataset
from diffusion_lightning.data.photographs import FILES

WHOLE = {name: PhotographsDataset([name])[0].image for name in FILES}


def positions(photograph: Tensor, patch: Tensor) -> list[list[int]]:
    """Where the patch is in the photograph: (top, left) of every exact occurrence."""
    height, width = patch.shape[1:]
    corners = (photograph == patch[:, :1, :1]).all(dim=0)[: 1 - height, : 1 - width].nonzero().tolist()
    return [[i, j] for i, j in corners if torch.equal(photograph[:, i : i + height, j : j + width], patch)]


def test_the_photographs_are_those_of_the_two_libraries() -> None:
    left, right, _ = skimage.data.stereo_motorcycle()
    expected = {
        "motorcycle_left": left,
        "motorcycle_right": right,
        "ihc": skimage.data.immunohistochemistry(),
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    for name, image in WHOLE.items():
        array = expected[name] if name in expected else getattr(skimage.data, name)()
        difference = (image.int() - torch.tensor(array).permute(2, 0, 1).int()).abs()
        # The file of the rocket has a colour profile, which scikit-image does not apply.
        assert (difference.double().mean() < 10) if name == "rocket" else not difference.any(), name


def test_importing_the_package_does_not_import_the_two_libraries() -> None:
    code = "import diffusion_lightning.data, sys; print([m for m in ('skimage', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("held_out", [("chelsea", "china"), ("rocket",)], ids=["by default", "by name"])
def test_held_out_photographs_are_in_no_training_patch(held_out: tuple[str, ...]) -> None:
    data = Photographs(size=16, held_out=held_out, patches_per_image=3, scales=[1], seed=0)
    train, val = data.dataset("train"), data.dataset("val")
    names = [name for name in FILES if name not in held_out]
    assert (train.whole.names, val.whole.names) == (names, list(held_out))
    assert (len(train), len(val)) == (3 * len(names), 3 * len(held_out))
    for images, sources in ((train, names), (val, list(held_out))):
        for i in range(len(images)):
            patch = images[i].image
            assert positions(WHOLE[sources[i % len(sources)]], patch)
            if patch.float().std() > 10:  # a patch of the night sky is in every photograph of the sky
                others = [name for name in FILES if name not in sources]
                assert not any(positions(WHOLE[name], patch) for name in others)


def test_whole_held_out_photographs_are_at_hand() -> None:
    whole = Photographs().dataset("val").whole
    assert [whole[i].image.shape for i in range(len(whole))] == [(3, 300, 451), (3, 427, 640)]
    assert torch.equal(whole[1].image, WHOLE["china"])


@pytest.mark.parametrize("size", [48, (16, 40)], ids=str)
def test_patches_are_uint8_and_of_the_chosen_size(size: int | tuple[int, int]) -> None:
    data = Photographs(size=size, patches_per_image=2)
    height_width = size if isinstance(size, tuple) else (size, size)
    for split in ("train", "val"):
        images = data.dataset(split)
        assert {(item.image.dtype, tuple(item.image.shape)) for item in images} == {(torch.uint8, (3, *height_width))}


def test_every_second_patch_is_of_half_the_scale() -> None:
    images = Photographs(size=32, held_out=["flower"], patches_per_image=4, seed=0).dataset("train")
    found = [bool(positions(WHOLE[images.whole.names[0]], images[10 * number].image)) for number in range(4)]
    assert found == [True, False, True, False]


def test_training_patches_depend_on_the_seed_and_held_out_ones_do_not() -> None:
    first, again, other = (Photographs(size=16, patches_per_image=2, seed=seed) for seed in (0, 0, 1))
    for split, same in (("train", False), ("val", True)):
        patches = [torch.stack([item.image for item in data.dataset(split)]) for data in (first, again, other)]
        assert torch.equal(patches[0], patches[1])
        assert torch.equal(patches[0], patches[2]) == same


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (["cat"], "there is no photograph 'cat': choose from astronaut, chelsea"),
        ([], "hold out at least 1 of the 11"),
        (list(FILES), "hold out at least 1 of the 11"),
        (["motorcycle_left"], "motorcycle_left and motorcycle_right show one scene"),
    ],
    ids=["unknown", "none", "all", "one of a stereo pair"],
)
def test_a_wrong_choice_is_rejected_with_the_remedy(held_out: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Photographs(held_out=held_out)


def test_an_unknown_photograph_is_one_line_on_the_command_line(tmp_path: Path, capsys) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", CONFIGS / "photo_blur.yaml", "--data.held_out=[cat]")
    assert len(failure.errors) == 1
    assert "'cat': choose from astronaut" in failure.errors[0]


@pytest.mark.parametrize("number", [1, 6])
def test_a_few_own_photographs_train_with_the_settings_of_the_config(tmp_path: Path, number: int) -> None:
    """`--data ImageFolder` keeps the settings that both have, and leaves out the names of photographs."""
    write_images(tmp_path / "my", number + 1, (60, 70))
    settings = ["--data.held_out=[rocket]", "--data=ImageFolder", "--data.root=my"]
    limits = ["--trainer.limit_train_batches=2", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    run(tmp_path, "fit", "--config", CONFIGS / "photo_blur.yaml", *settings, *limits, *QUIET)
    saved = yaml.safe_load((tmp_path / "runs/photo_blur/config.yaml").read_text())["data"]
    own = yaml.safe_load((CONFIGS / "photo_blur.yaml").read_text())["data"]["init_args"]
    assert saved["class_path"] == "diffusion_lightning.data.ImageFolder"
    assert {key: saved["init_args"][key] for key in own if key != "augmentation"} == {
        key: value for key, value in own.items() if key != "augmentation"
    }
    assert len(saved["init_args"]["augmentation"]) == len(own["augmentation"])
    assert "held_out" not in saved["init_args"]
    last = torch.load(tmp_path / "runs/photo_blur/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 2
