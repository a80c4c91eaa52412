"""The settings of Cold Diffusion (2208.09392) as published, by its appendix and arpitbansal297's released code."""

from typing import Any

from helpers.paper import Figures

TRAINING = {
    "model.parameterization": "X0",
    "model.loss": "L1",
    "model.sampler": "Cold",
    "model.optimizer": "Adam",
    "model.optimizer.lr": 2e-5,
    "model.lr_scheduler": None,
    "data.batch_size": 32,
    "trainer.accumulate_grad_batches": 2,
    "trainer.max_steps": 700_000,
    "trainer.gradient_clip_val": None,
    "trainer.precision": "32-true",
    "trainer.callbacks.EMA.decay": 0.995,
    "trainer.callbacks.EMA.start_step": 2000,
    "trainer.callbacks.EMA.every_n_steps": 10,
}

MODEL2 = {
    "model.denoiser": "DDPMUNet",
    "model.denoiser.width": 128,
    "model.denoiser.multipliers": [1, 2, 2, 2],
    "model.denoiser.blocks": 2,
    "model.denoiser.attention": [2],
    "model.denoiser.heads": None,
    "model.denoiser.dropout": 0.1,
}

UNET = {
    "model.denoiser": "UNet",
    "model.denoiser.width": 64,
    "model.denoiser.multipliers": [1, 2, 4, 8],
    "model.denoiser.dropout": None,
}

NO_AUGMENTATION = {"data.augmentation": None}
PADDED = {
    "data.size": 32,
    "data.augmentation": ["RandomCrop", "RandomHorizontalFlip"],
    "data.augmentation.RandomCrop.size": [32, 32],
    "data.augmentation.RandomCrop.padding": 4,
}


def cropped(side: int, flip: bool = True) -> dict[str, Any]:
    """Random crops of images 1.12 times as large, and flips."""
    return {
        "data.size": int(1.12 * side),
        "data.crop": side,
        "data.augmentation": ["RandomCrop", "RandomHorizontalFlip"] if flip else ["RandomCrop"],
        "data.augmentation.RandomCrop.size": [side, side],
    }


def degradation(name: str, **arguments: Any) -> dict[str, Any]:
    """The figures of a degradation."""
    return {"model.degradation": name, **{f"model.degradation.{key}": value for key, value in arguments.items()}}


def experiment(folder: str, parts: dict[str, Any], own: dict[str, Any] | None = None, deep: bool = False) -> Figures:
    """An experiment of the folder ``*-diffusion-pytorch``, and what its own trainer has otherwise than the others."""
    network = {"Model2.py": MODEL2} if deep else {"Unet": UNET}
    sources = {"trainers": TRAINING, **network, "README.md's command and the trainer": parts | (own or {})}
    return {f"{folder}-diffusion-pytorch: {source}": figures for source, figures in sources.items()}


def blur(**arguments: Any) -> dict[str, Any]:
    """A blur by Gaussian kernels."""
    return degradation("GaussianBlur", **arguments)


FADE_32 = degradation(
    "Fade", steps=50, std=0.1, first_width=11, centre="random", colour="grey", quantize="truncate", released_centre=True
)
GENERATION_BLUR = blur(
    steps=300, kernel_size=27, std=0.01, schedule="exponential", padding="circular", final_mean=True,
    quantize="truncate", noise_floor=0.002,
)  # fmt: skip
COSINE = {"steps": 200, "schedule": "cosine"}
FACES = {"data.batch_size": 16, "data.size": 128, **NO_AUGMENTATION}  # of images above 64 px

COLD: dict[str, Figures] = {
    "blur_mnist": experiment(
        "deblurring",
        blur(steps=20, kernel_size=11, std=7, schedule="constant", padding="circular") | cropped(32, flip=False),
    ),
    "blur_cifar10": experiment(
        "deblurring", blur(steps=50, kernel_size=11, schedule="cifar", padding="reflect") | cropped(32), deep=True
    ),
    "blur_celeba": experiment(
        "deblurring",
        blur(steps=200, kernel_size=15, std=0.01, schedule="exponential", padding="reflect") | cropped(128),
    ),
    "inpaint_mnist": experiment("defading", FADE_32 | NO_AUGMENTATION),
    "inpaint_cifar10": experiment("defading", FADE_32 | PADDED, deep=True),
    "inpaint_celeba": experiment(
        "defading",
        degradation("Fade", steps=100, std=0.2, first_width=1, centre="image", colour="grey", released_centre=True)
        | cropped(128),
        {"data.batch_size": 100, "trainer.max_steps": 350_000},
    ),
    "pixelate_mnist": experiment("resolution", degradation("Pixelate", steps=3) | NO_AUGMENTATION),
    "pixelate_cifar10": experiment("resolution", degradation("Pixelate", steps=3) | cropped(32), deep=True),
    "pixelate_celeba": experiment("resolution", degradation("Pixelate", steps=4) | cropped(128)),
    "snow_cifar10": experiment(
        "snowification", degradation("Snow", level=3, steps=200, fix_brightness=True) | NO_AUGMENTATION
    ),
    "snow_celeba": experiment("snowification", degradation("Snow", level=4, steps=200, fix_brightness=True), FACES),
    "desaturate_cifar10": experiment("snowification", degradation("Desaturate", steps=20) | NO_AUGMENTATION),
    "desaturate_celeba": experiment("snowification", degradation("Desaturate", steps=20), FACES),
    "generate_noise_celeba": experiment("denoising", degradation("GaussianNoise", **COSINE) | cropped(128)),
    "generate_noise_afhq": experiment("denoising", degradation("GaussianNoise", **COSINE) | cropped(128)),
    "generate_blur_celeba": experiment("deblurring", GENERATION_BLUR | cropped(128)),
    "generate_blur_afhq": experiment("deblurring", GENERATION_BLUR | cropped(128)),
    "generate_animorphosis_celeba": experiment("demixing", degradation("Animorphosis", **COSINE) | cropped(128)),
    "generate_fade_celeba": experiment(
        "defading-generation",
        degradation("Fade", steps=750, std=0.05, first_width=1, centre="image", colour="random", reverse=True)
        | cropped(128),
    ),
}
