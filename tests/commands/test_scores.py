"""restore --reference: PSNR, SSIM, LPIPS and FID against references, with stand-ins for weights that are downloaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import QUIET, Corner, run, write_images
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

from diffusion_lightning.commands import scores
from diffusion_lightning.commands.scores import ReferenceScores
from diffusion_lightning.core.images import from_uint8, read_image, to_unit
from diffusion_lightning.metrics.fid import WEIGHTS

pytest_plugins = ["helpers.runs", "helpers.weights"]


class Inception(Corner):
    """Four pixels as the features of FID, with weights at hand."""

    def weights_file(self) -> Path:
        return Path(__file__)

    def prepare(self) -> None:
        self.requires_grad_(False)


def files(folder: Path, size: tuple[int, int], number: int = 1) -> Any:
    """References that are the originals themselves, and restored images that are others."""
    paths, targets = (write_images(folder / name, number, size) for name in ("in", "out"))
    for path in targets:
        Image.fromarray(np.asarray(Image.open(path)) // 3 + 60).save(path)
    return SimpleNamespace(paths=paths, targets=targets, labels=[path.name for path in paths])


@pytest.mark.parametrize("size", [(700, 20), (300, 9), (7, 300), (266, 12), (267, 12)])
def test_large_images_are_scored_by_parts_as_by_scikit_image(tmp_path: Path, size: tuple[int, int]) -> None:
    found = files(tmp_path, size)
    score = ReferenceScores(found, {0: found.paths[0]}, torch.device("cpu"))
    score.add(0)
    target, image = (np.asarray(Image.open(path)) for path in (found.paths[0], found.targets[0]))
    assert score.of[0].psnr[1] == pytest.approx(peak_signal_noise_ratio(target, image), abs=1e-4)
    if min(size) >= 11:
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
        assert score.of[0].ssim[1] == pytest.approx(structural_similarity(target, image, **settings), abs=1e-5)
    assert score.of[0].ssim[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("alexnet")
def test_lpips_and_fid_are_computed_where_their_weights_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scores, "InceptionV3", Inception)
    found = files(tmp_path, (40, 36), number=6)
    score = ReferenceScores(found, dict(enumerate(found.paths)), torch.device("cpu"))
    for index in range(6):
        score.add(index)
        pair = (to_unit(from_uint8(read_image(paths[index])[None])) for paths in (found.targets, found.paths))
        expected = float(learned_perceptual_image_patch_similarity(*pair, "alex", normalize=True))
        assert expected > 0.01
        assert score.of[index].lpips == pytest.approx((0, expected), rel=1e-4)
        assert score.of[index].after()["lpips"] == f"{score.of[index].lpips[1]:.6f}"
    score.print(6)
    printed = capsys.readouterr().out
    assert printed.count("LPIPS") == 2
    assert "FID of 6 images: 0.0 before, " in printed
    assert "FID of 6 images: 0.0 before, 0.0" not in printed
    assert "Left out" not in printed


def test_without_weights_the_rest_is_scored_and_the_line_says_why(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    write_images(tmp_path / "in", 2, size=(32, 32))
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--reference=in", *QUIET)
    printed = capsys.readouterr().out
    folder = tmp_path / "home/hub/checkpoints"
    assert (
        f"Left out without the weights of their networks: LPIPS (no {folder}/alexnet-owt-7be5be79.pth), "
        f"FID (no {folder}/{WEIGHTS})" in printed
    )
    assert printed.count("LPIPS") == 1
    table = (tmp_path / "out/results.csv").read_text().splitlines()
    assert table[0].endswith(",psnr,ssim,lpips")
    assert all(line.endswith(",") and line.split(",")[-2] for line in table[1:])


def test_the_reference_weights_are_those_that_torch_fidelity_downloads() -> None:
    import torch_fidelity.feature_extractor_inceptionv3 as inceptionv3

    assert inceptionv3.URL_INCEPTION_V3.rpartition("/")[2] == WEIGHTS
