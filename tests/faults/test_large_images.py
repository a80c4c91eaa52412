"""A photograph much larger than the training images is restored in tiles: F22, and a few photographs train: F23."""

import re
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.conditional_modules import conditional_module
from helpers.runs import DEBUG, QUIET, Stored, Tiny, blur, fail, pixels_of, run, tiny_module, write_images
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.base import SamplingProgress
from diffusion_lightning.commands.inputs import UserImages
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.conditioning import ClassEmbedding, ConditionEmbedding
from diffusion_lightning.core.images import from_uint8, read_image, to_uint8
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.guidance import Autoguidance, ClassifierFreeGuidance, Guidance
from diffusion_lightning.modules import choose_tiling, restoring
from diffusion_lightning.networks import Adapter, UNet
from diffusion_lightning.networks.attention import Attention
from diffusion_lightning.samplers import Cold, Direct, Heun, Step, TiledDenoiser, TileProgress, Tiling

pytest_plugins = ["helpers.runs"]

TRAINED = (3, 64, 64)


def network(**settings: object) -> UNet:
    return UNet(**{"width": 8, "multipliers": [1, 2, 2], "blocks": 1} | settings)


def attended(side: int) -> list[tuple[int, int]]:
    """(images, positions that attend to each other) of every call of the attention for an image of side × side px.

    On the meta device, which computes shapes alone.
    """
    unet, calls = network().to("meta"), []
    for module in unet.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _, args: calls.append((len(args[0]), args[0][0, 0].numel())))
    tiling = choose_tiling(unet, TRAINED)
    assert tiling is not None
    TiledDenoiser(unet, tiling)(torch.zeros(1, 3, side, side, device="meta"), torch.ones(1, device="meta"))
    return calls


@pytest.mark.parametrize("side", [512, 1024])
def test_attention_is_between_as_many_pixels_as_in_training(side: int) -> None:
    calls = attended(side)
    assert {positions for _, positions in calls} == {(64 // 4) ** 2}
    assert max(images for images, _ in calls) * 64**2 <= 256**2


def test_the_cost_of_attention_grows_with_the_area_of_the_photograph() -> None:
    cost = [sum(images * positions**2 for images, positions in attended(side)) for side in (512, 1024)]
    assert cost[1] / cost[0] == pytest.approx(4, rel=0.1)  # 16 as a whole


@pytest.mark.parametrize(
    ("unet", "shape", "expected"),
    [
        (network(), (3, 64, 64), Tiling(64, 16, 4, 128**2)),
        (network(), (3, 18, 30), Tiling(32, 8, 4, 128**2)),
        (network(), (3, 256, 192), Tiling(256, 64, 4, 256 * 192)),
        (network(multipliers=[1]), (1, 16, 16), Tiling(16, 4, 1, 128**2)),
        (network(attention=[]), (3, 64, 64), Tiling(512, 64, 4, 512**2)),
        (Adapter(Tiny()), (1, 28, 28), Tiling(64, 16, 32, 128**2)),
    ],
    ids=["attention", "oblong", "large training images", "one level", "no attention", "another library's network"],
)
def test_tiles_suit_the_network(unet: nn.Module, shape: tuple[int, int, int], expected: Tiling) -> None:
    assert choose_tiling(unet, shape) == expected
    assert choose_tiling(unet, shape, "off") is None


def test_tiles_of_a_chosen_size_are_multiples_of_the_downsampling_factor() -> None:
    assert choose_tiling(network(), TRAINED, 30) == Tiling(32, 8, 4)
    with pytest.raises(ValueError, match="tile=0: give the side of the tiles in pixels, auto, or off"):
        choose_tiling(network(), TRAINED, 0)


def test_restore_tiles_a_photograph_and_says_so(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "in", 2, size=(141, 150), mode="L")[0]
    write_images(tmp_path / "in/small", 1, size=(20, 30), mode="L")
    argv = ["restore", "--ckpt_path", checkpoint, "--input=in", "--sampler=Cold", *QUIET]
    run(tmp_path, *argv, "--output=auto")
    lines = [line for line in capsys.readouterr().out.splitlines() if "tiles" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"image of 150×141 px: \d+ tiles of 8 px, overlap 2", lines[0])
    module = RestorationModule.load_from_checkpoint(checkpoint).eval()
    x = from_uint8(read_image(source, 1))[None]
    sampling = module.sampling.replace(sampler=Cold(), tiling=Tiling(8, 2, 2))
    expected = to_uint8(module.sample_from(x, sampling=sampling))[0, 0].numpy()
    assert np.abs(pixels_of(tmp_path / "auto" / source.name) - expected).max() <= 1
    assert pixels_of(tmp_path / "auto/small/image_00.png").shape == (20, 30)


def test_restore_in_tiles_or_as_a_whole_as_the_user_chooses(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "in", 1, size=(40, 50), mode="L")[0]
    module = RestorationModule.load_from_checkpoint(checkpoint).eval()
    x = from_uint8(read_image(source, 1))[None]
    for tile, tiling in (("off", None), ("16", Tiling(16, 4, 2)), ("15", Tiling(16, 4, 2))):
        run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output", tile, "--tile", tile, *QUIET)
        assert ("12 tiles of 16 px" in capsys.readouterr().out) == (tiling is not None)
        expected = module.sample_from(x, sampling=module.sampling.replace(tiling=tiling))
        assert np.abs(pixels_of(tmp_path / tile / source.name) - to_uint8(expected)[0, 0].numpy()).max() <= 1


@pytest.mark.parametrize("tile", ["0", "-8", "large", "1.5", "[8, 8]"])
def test_a_wrong_tile_is_one_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], tile: str
) -> None:
    write_images(tmp_path / "in", 1)
    ended = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=in", f"--tile={tile}", *QUIET)
    assert ended.status in (1, 2)
    (line,) = ended.errors
    assert "tile" in line
    assert "Traceback" not in ended.text
    assert not (tmp_path / "restored").exists()


class Cramped(RestorationModule):
    """x̂_0 = x/2, with memory for 32 × 32 pixels."""

    def predict_x0(self, x: Tensor, t: Tensor, embedding: ConditionEmbedding | None = None) -> Prediction:
        if x[:, 0].numel() > 32 * 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Prediction(x / 2)


def test_restore_halves_the_tiles_when_memory_runs_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path / "in", 1, size=(60, 100), mode="L")[0]
    module = Cramped(blur(), network(channels=1, attention=[]), sampler=Direct())
    module.prior.fit(Stored(4).clean_images("train", 4), module.degradation)
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    with pytest.warns(UserWarning, match="out of memory: an image of 100×60 is denoised in tiles of 24 px"):
        trainer.restore(module, str(source), output=str(tmp_path / "out"))
    assert "tiles of 24 px" in capsys.readouterr().out
    expected = to_uint8(from_uint8(read_image(source, 1)) / 2)[0].numpy()
    assert np.array_equal(pixels_of(tmp_path / "out" / source.name), expected)


def test_large_photographs_of_one_size_are_restored_one_by_one(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "large", 3, size=(1024, 600)) + write_images(tmp_path / "small", 20)
    inputs = UserImages(paths, 3, 1.0, batch_size=16)
    assert [len(index) for _, index in inputs.batches(range(len(paths)))] == [1, 1, 1, 16, 4]


@pytest.mark.parametrize("sampler", [Cold(2), Heun(2)], ids=str)
def test_the_progress_bar_moves_with_every_tile(sampler: Cold | Heun) -> None:
    bar = Progress(disable=True)
    progress = SamplingProgress(bar, total=4, nfe_per_step=sampler.nfe_per_step, talks=False)
    found = []
    x = torch.zeros(2, 1, 40, 50)
    for t in (1.0, 0.5):
        for _ in range(sampler.nfe_per_step):
            for done in (6, 12):
                progress.on_tiles(TileProgress(2, 40, 50, Tiling(16, 4), done, 12))
                found.append(bar.tasks[0].completed)
        progress.on_step(Step(t, x, x))
    progress.on_step(Step(0.0, x, x))
    assert bar.tasks[0].completed == 4
    part = 1 / sampler.nfe_per_step
    assert found == pytest.approx([part * (i + 1) for i in range(4 * sampler.nfe_per_step)])


def test_the_progress_bar_ends_at_the_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    update = Progress.update
    monkeypatch.setattr(
        Progress, "update", lambda *args, **values: (ends.append(values["completed"]), update(*args, **values))
    )
    module = tiny_module(denoiser=network(channels=1), sampler=Cold(3))
    module.prior.fit(Stored(4).clean_images("train", 4), module.degradation)
    write_images(tmp_path / "in", 2, size=(40, 50), mode="L")
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.restore(module, str(tmp_path / "in"), output=str(tmp_path / "out"), tile=16)
    assert ends == [2, 2, 4, 4, 6, 6, 6]  # after the tiles of both images, after the step, and after the batch


class LocalConditional(Tiny):
    """``Tiny`` plus the images times a function of the pooled embedding: the same in a tile as in the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = nn.Linear(4, 1)

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        assert pooled is not None
        return super().forward(x, t) + x * append_dims(self.pooled(pooled)[:, 0], x)


def local_module(seed: int) -> RestorationModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return conditional_module(denoiser=LocalConditional(), conditioner=ClassEmbedding(3, 4))


@pytest.mark.parametrize(
    "guidance",
    [None, ClassifierFreeGuidance(3.0), Autoguidance(local_module(1), 2.0)],
    ids=["no guidance", "classifier-free guidance", "autoguidance"],
)
@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [1]], ids=["a label each", "one label for all"])
def test_each_image_keeps_its_condition_in_all_its_tiles(guidance: Guidance | None, labels: list[int]) -> None:
    module = local_module(0)
    whole = module.sampling.replace(sampler=Cold(3), guidance=guidance)
    x = torch.rand(4, 1, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = [
        module.sample_from(x, condition={"label": torch.tensor(numbers)}, sampling=sampling)
        for numbers in (labels, [0, 0, 0, 0])
        for sampling in (whole, whole.replace(tiling=Tiling(24, 8)))
    ]
    assert (results[0] - results[1]).abs().max() < 1e-5
    assert (results[0] - results[2]).abs().max() > 1e-3  # the condition matters


def test_six_photographs_train_for_many_steps_on_patches(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 6, size=(60, 75))
    argv = ["fit", "--config", DEBUG, "--data=ImageFolder", "--data.root=photos", "--data.size=16", *QUIET]
    argv += ["--data.batch_size=32", "--data.patches_per_image=64", "--model.denoiser.channels=3"]
    argv += ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.val_check_interval=10"]
    argv += ["--trainer.callbacks=[]", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true"]
    run(tmp_path, *argv)
    (path,) = tmp_path.rglob("last.ckpt")
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 10  # 5 training images × 64 patches / 32
    assert saved["prior"]["shape"].tolist() == [3, 16, 16]


def test_an_epoch_of_one_short_batch_gives_advice_once(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 6, size=(20, 20))
    argv = ["fit", "--config", DEBUG, "--data=ImageFolder", "--data.root=photos", "--data.size=8", *QUIET]
    argv += ["--model.denoiser.channels=3", "--trainer.max_steps=2", "--trainer.callbacks=[]"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, *argv, "--data.batch_size=32", "--trainer.val_check_interval=1")
    advice = [str(w.message) for w in caught if "patches_per_image" in str(w.message)]
    assert advice == [
        "an epoch is one step: photos has 5 training images, fewer than batch_size=32; "
        "crop many patches of each by --data.patches_per_image 64"
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, *argv, "--data.batch_size=4", "--trainer.val_check_interval=1")
    assert not [w for w in caught if "patches_per_image" in str(w.message)]


def test_the_progress_bar_counts_images_and_those_left_out() -> None:
    bar = Progress(disable=True)
    progress = SamplingProgress(bar, total=12, nfe_per_step=1, talks=False, steps=3)
    found = [bar.tasks[0].description]
    progress.skip(1)
    found.append(bar.tasks[0].description)
    x = torch.zeros(2, 1, 8, 8)
    for t in (1.0, 0.5, 0.25):
        progress.on_step(Step(t, x, x))
        found.append(bar.tasks[0].description)
    assert found == [f"{n} of 4 images" for n in (0, 1, 1, 2, 3)]
    assert bar.tasks[0].completed == 9


class WholeImages(TorchDispatchMode):
    """Counts the floating point images of a shape (C, H, W) that are in memory, at most; views of one are one."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape, self.most = shape, 0
        self.alive: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if isinstance(result, Tensor) and result.is_floating_point() and result.shape[-3:] == self.shape:
            self.alive.append(weakref.ref(result))
            held = [x for reference in self.alive if (x := reference()) is not None]
            self.alive = [weakref.ref(x) for x in held]
            whole = {x.data_ptr() for x in held if x.untyped_storage().nbytes() >= x.numel() * x.element_size()}
            self.most = max(self.most, len(whole))
        return result


def test_restoring_in_one_step_holds_a_large_image_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As x_t and as x̂_0: no copy is made for the conversions, for the noise of x_t, or for the file."""
    monkeypatch.setattr(restoring, "MAX_CONSISTENT_PIXELS", 300 * 300)
    module = tiny_module(denoiser=network(channels=3), degradation=blur(noise_floor=0.01), sampler=Direct())
    module.prior.fit(Stored(4, (3, 8, 8)).clean_images("train", 4), module.degradation)
    write_images(tmp_path / "in", 1, size=(320, 288))
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with WholeImages(3, 320, 288) as images:
        trainer.restore(module, str(tmp_path / "in"), output=str(tmp_path / "out"), tile=64)
    assert pixels_of(tmp_path / "out/image_00.png").shape == (320, 288, 3)
    assert images.most == 2
