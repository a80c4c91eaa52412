"""`import`: networks of diffusers give what its own schedulers give; what cannot be expressed or read is named."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from helpers.runs import CONFIGS, QUIET, fail, run
from torch import Tensor

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import DDIM, DDPM, Sampler

T, STEPS = 100, 10
PREDICTIONS = {"epsilon": "Eps", "sample": "X0", "v_prediction": "V"}


def network() -> UNet2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
        ).eval()


def save(folder: Path, scheduler: DDIMScheduler | DDPMScheduler) -> Path:
    DDIMPipeline(network(), DDIMScheduler()).save_pretrained(folder)
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def scheduler(kind: type = DDIMScheduler, **settings: object) -> DDIMScheduler | DDPMScheduler:
    common = {"num_train_timesteps": T, "timestep_spacing": "trailing", "clip_sample": False}
    return kind(**common | settings)


def imported(folder: Path) -> RestorationModule:
    run(folder.parent, "import", "--from", str(folder), "--output", str(folder.parent / "model.ckpt"))
    return load_frozen(folder.parent / "model.ckpt", RestorationModule)


def theirs(rule: DDIMScheduler | DDPMScheduler, x: Tensor, **arguments: object) -> Tensor:
    model = network()
    rule.set_timesteps(STEPS)
    with torch.no_grad():
        for k in rule.timesteps:
            x = rule.step(model(x, k).sample, k, x, **arguments).prev_sample
    return x


def ours(module: RestorationModule, x: Tensor, sampler: Sampler) -> Tensor:
    sampling = module.sampling.replace(sampler=sampler)
    with torch.no_grad():
        return module.sample_from(x, 1.0, {}, keyed_generator("steps"), sampling=sampling)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_of_an_imported_network_is_that_of_diffusers(prediction: str, schedule: str, tmp_path: Path) -> None:
    rule = scheduler(prediction_type=prediction, beta_schedule=schedule)
    module = imported(save(tmp_path / "pipeline", rule))
    assert type(module.parameterization).__name__ == PREDICTIONS[prediction]
    assert module.image_shape == (1, 8, 8)
    x = torch.randn(2, 1, 8, 8, generator=keyed_generator("start"))
    expected = theirs(rule, x)
    scale = expected.abs().max()
    torch.testing.assert_close(ours(module, x, DDIM(STEPS)) / scale, expected / scale, atol=1e-4, rtol=0)


def test_ddpm_of_an_imported_network_is_that_of_diffusers(tmp_path: Path) -> None:
    rule = scheduler(DDPMScheduler, prediction_type="sample", variance_type="fixed_small")
    module = imported(save(tmp_path / "pipeline", rule))
    assert type(module.sampling.sampler) is DDPM
    x = torch.randn(2, 1, 8, 8, generator=keyed_generator("start"))
    expected = theirs(rule, x, generator=keyed_generator("steps"))
    torch.testing.assert_close(ours(module, x, DDPM(STEPS)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("theirs", "ours"), [("fixed_small", "posterior"), ("fixed_large", "forward")])
def test_the_variance_of_ddpm_is_that_of_the_scheduler(theirs: str, ours: str, tmp_path: Path) -> None:
    sampler = imported(save(tmp_path / "pipeline", scheduler(DDPMScheduler, variance_type=theirs))).sampling.sampler
    assert isinstance(sampler, DDPM)
    assert sampler.variance == ours


@pytest.mark.parametrize("name", ["ScoreSdeVeScheduler", "FlowMatchEulerDiscreteScheduler", None])
def test_a_scheduler_of_another_diffusion_is_refused(
    name: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "pipeline", scheduler()) / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    failure = fail(tmp_path, capsys, "import", "--from", str(tmp_path / "pipeline"), "--output", "model.ckpt")
    assert "the scheduler" in failure.text
    assert "cannot be expressed" in failure.text


def test_an_imported_model_generates(tmp_path: Path) -> None:
    imported(save(tmp_path / "pipeline", scheduler(clip_sample=True)))
    run(tmp_path, "generate", "--ckpt_path=model.ckpt", "--number=2", "--steps=2", "--output=out", *QUIET[:1])
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2


def test_a_shared_folder_becomes_a_checkpoint_again(tmp_path: Path) -> None:
    tiny = ("--model.denoiser.width=8", "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET)
    run(tmp_path, "fit", f"--config={CONFIGS / 'debug.yaml'}", *tiny)
    checkpoint = tmp_path / "runs/debug/checkpoints/last.ckpt"
    before = load_frozen(checkpoint)
    before.save_pretrained(tmp_path / "shared")
    after = imported(tmp_path / "shared")
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"trained_betas": [0.1] * T}, "trained_betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"clip_sample": True, "clip_sample_range": 2.0}, "clip_sample_range"),
        ({"thresholding": True}, "thresholding"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_scheduler_that_cannot_be_expressed_is_refused(
    settings: dict[str, object], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "pipeline", scheduler(**settings))
    failure = fail(tmp_path, capsys, "import", "--from", str(folder), "--output", "model.ckpt")
    assert name in failure.text
    assert "cannot be expressed" in failure.text
    assert not (tmp_path / "model.ckpt").exists()


@pytest.mark.parametrize(
    "file", ["unet/config.json", "scheduler/scheduler_config.json", "unet/diffusion_pytorch_model.safetensors"]
)
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_file_that_cannot_be_read_is_named(
    file: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "pipeline", scheduler()) / file
    content = path.read_bytes()
    path.unlink() if fault == "missing" else path.write_bytes(content[: len(content) // 2])
    failure = fail(tmp_path, capsys, "import", "--from", str(tmp_path / "pipeline"), "--output", "model.ckpt")
    assert path.name in failure.text
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "only a UNet2DModel"),
        ({"num_class_embeds": 10}, "class labels"),
        ({"new_setting": 1}, "has no argument new_setting"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"out_channels": 2}, "other channels out"),
    ],
    ids=["another class", "class labels", "an unknown setting", "Fourier features", "other channels"],
)
def test_another_network_is_refused(
    config: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "pipeline", scheduler()) / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    failure = fail(tmp_path, capsys, "import", "--from", str(tmp_path / "pipeline"), "--output", "model.ckpt")
    assert message in failure.text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--from", "nowhere", "--output", "model.ckpt"], "there is no such folder"),
        (["--from", "empty", "--output", "model.ckpt"], "neither a folder"),
        (["--output", "model.ckpt"], "--from"),
        (["--from", "empty", "--output", "model.ckpt", "--size", "0"], "at least 1 pixel"),
    ],
    ids=["no folder", "an empty folder", "no source", "no size"],
)
def test_wrong_arguments_are_errors_on_one_line(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert message in fail(tmp_path, capsys, "import", *argv).text


def test_a_file_is_not_replaced_unless_it_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "pipeline", scheduler())
    (tmp_path / "model.ckpt").write_text("mine")
    failure = fail(tmp_path, capsys, "import", "--from", str(folder), "--output", "model.ckpt")
    assert "--overwrite true" in failure.text
    assert (tmp_path / "model.ckpt").read_text() == "mine"
