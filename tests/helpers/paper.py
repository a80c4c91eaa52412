"""The files of configs/paper, and the scores that the papers print for each."""

from typing import Any

import yaml
from helpers.runs import CONFIGS

from diffusion_lightning import degradations
from diffusion_lightning.data.digits import DigitsDataset

PRINTED = {
    "blur_mnist": "438.59/.287/.287 4.69/.718/.154 5.10/.757/.142",
    "blur_cifar10": "298.60/.315/.136 80.08/.773/.075 83.69/.775/.071",
    "blur_celeba": "382.81/.254/.193 26.14/.568/.093 36.37/.607/.083",
    "inpaint_mnist": "108.48/.490/.262 1.61/.941/.068 2.24/.948/.060",
    "inpaint_cifar10": "40.83/.615/.143 8.92/.859/.068 9.97/.869/.063",
    "inpaint_celeba": "127.85/.663/.155 5.73/.917/.043 7.74/.922/.039",
    "pixelate_mnist": "368.56/.178/.231 4.33/.820/.115 4.05/.823/.114",
    "pixelate_cifar10": "358.99/.279/.146 152.76/.411/.155 169.94/.420/.152",
    "pixelate_celeba": "349.85/.335/.225 96.92/.381/.201 112.84/.400/.196",
    "snow_cifar10": "125.63/.419/.327 31.10/.838/.074",
    "snow_celeba": "398.31/.338/.283 27.09/.907/.033",
    "generate_noise_celeba": "59.91 23.11",
    "generate_noise_afhq": "25.62 20.59",
    "generate_blur_celeba": "49.45 97.00",
    "generate_blur_afhq": "54.68 93.05",
    "generate_animorphosis_celeba": "",
    "generate_fade_celeba": "",
    "desaturate_celeba": "",
    "desaturate_cifar10": "",
}
"""The files of Cold Diffusion and its scores: FID/SSIM/RMSE of degraded, sampled, direct; two FIDs for generation."""

PUBLISHED = {
    "ddpm_cifar10": ("2006.11239", "FID 3.17"),
    "ddim_cifar10": ("2010.02502", "FID 13.36 / 6.84 / 4.67 / 4.16 in 10 / 20 / 50 / 100 steps"),
    "improved_ddpm_cifar10": ("2102.09672", "NLL 3.17 bits per dimension and FID 3.19"),
    "ncsn_cifar10": ("1907.05600", "FID 25.32 (NCSN), 10.87 (NCSNv2"),
    "score_sde_ve_cifar10": ("2011.13456", "FID 2.20"),
    "score_sde_vp_cifar10": ("2011.13456", "FID 2.41"),
    "edm_cifar10": ("2206.00364", "FID 1.97"),
    "flow_cifar10": ("2210.02747", "FID 6.35 and 2.99 bits per dimension"),
}
"""The classical systems on CIFAR-10: each file, its paper, and its scores."""

CONDITIONAL = {
    "glide_64": ("2112.10741", "FID 12.24"),
    "glide_upsample_256": ("2112.10741", "FID 12.24"),
    "adm_imagenet128": ("2105.05233", "FID 5.91, and 2.97 with its classifier's guidance"),
    "adm_classifier_imagenet128": ("2105.05233", "FID 2.97 with it and 5.91 without"),
}
"""The conditional models: each file, its paper, and its scores."""


Figures = dict[str, dict[str, Any]]
"""The figures of a file: from a source, a file of the authors' repository or a part of the paper, to values by paths.

The path of a figure is that in ``figures``; None is what the file must leave out. A later source overrules.
"""


def settings(name: str) -> dict[str, Any]:
    """The parsed file."""
    return yaml.safe_load((CONFIGS / f"paper/{name}.yaml").read_text())


def figures(value: Any, path: str = "") -> dict[str, Any]:
    """The values of a parsed file by their paths.

    A class is its name, and its arguments are below it: ``model.sampler`` is DDIM and ``model.sampler.eta`` 0. A list
    of classes is the list of their names, and each is below it by its name.
    """
    if isinstance(value, dict) and "class_path" in value:
        short = value["class_path"].rpartition(".")[2]
        return {path: short} | figures(value.get("init_args", {}), path)
    if isinstance(value, dict):
        below = [figures(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()]
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        named = {item["class_path"].rpartition(".")[2]: item for item in value}
        below = [{path: list(named)}, *(figures(item, f"{path}.{name}") for name, item in named.items())]
    else:
        return {path: value}
    return {key: item for part in below for key, item in part.items()}


def header(name: str) -> str:
    """The comment at the beginning of the file, as one line."""
    lines = (CONFIGS / f"paper/{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


def degradation(name: str) -> Any:
    """The file's degradation; its animals, if it has any, are digits."""
    made = settings(name)["model"]["degradation"]
    arguments = made["init_args"] | ({"animals": DigitsDataset} if "animals" in made["init_args"] else {})
    return getattr(degradations, made["class_path"].rpartition(".")[2])(**arguments)


def side(name: str) -> int:
    """Side of the images in pixels."""
    return 32 if name.endswith(("mnist", "cifar10")) else 128


def channels(name: str) -> int:
    """Channels of the images."""
    return 1 if name.endswith("mnist") else 3
