"""One or more settings of every degradation, for the tests that hold for all of them: add a new degradation here."""

from collections.abc import Callable

from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.degradations import (
    Animorphosis,
    Bridge,
    Compose,
    Degradation,
    Desaturate,
    Fade,
    GaussianBlur,
    GaussianNoise,
    ImageNetC,
    Mask,
    Pixelate,
    Snow,
    Transform,
)
from diffusion_lightning.degradations.noise_schedules import VE, Cosine, FlowMatching, Karras, SubVP

BLUR = "kornia.filters.gaussian_blur2d"

DEGRADATIONS: dict[str, Callable[[], Degradation]] = {
    "cosine noise": lambda: GaussianNoise(steps=20),
    "linear noise": lambda: GaussianNoise(steps=25, schedule="linear"),
    "noise in one step": lambda: GaussianNoise(steps=1),
    "exploding noise": lambda: GaussianNoise(steps=12, schedule=VE(sigma_max=5.0)),
    "sub-VP noise": lambda: GaussianNoise(steps=10, schedule=SubVP()),
    "noise on a straight path": lambda: GaussianNoise(steps=8, schedule=FlowMatching()),
    "noise of EDM's levels": lambda: GaussianNoise(steps=9, schedule=Karras(sigma_max=5.0)),
    "circular blur": lambda: GaussianBlur(steps=20, kernel_size=5),
    "reflect blur": lambda: GaussianBlur(steps=12, kernel_size=3, schedule="cifar", padding="reflect"),
    "blur wider than the image": lambda: GaussianBlur(
        steps=6, kernel_size=27, std=1.5, schedule="incremental", padding="reflect"
    ),
    "blur to the mean": lambda: GaussianBlur(steps=8, kernel_size=5, std=1.0, schedule="constant", final_mean=True),
    "blur to the mean in one step": lambda: GaussianBlur(steps=1, kernel_size=3, final_mean=True),
    "warm blur": lambda: GaussianBlur(steps=10, kernel_size=5, noise=0.3, padding="reflect"),
    "blur with symmetry-breaking noise": lambda: GaussianBlur(steps=10, kernel_size=5, noise_floor=0.002),
    "pixelation": lambda: Pixelate(steps=3),
    "warm pixelation by means": lambda: Pixelate(steps=2, first_downsampling="mean", noise=0.2),
    "desaturation": lambda: Desaturate(steps=5, noise=0.1),
    "fading": lambda: Fade(steps=12, std=0.5),
    "fading from the border": lambda: Fade(steps=12, std=0.5, reverse=True),
    "fading about a random centre": lambda: Fade(steps=12, std=0.5, centre="random", noise_floor=0.002),
    "fading to a random colour": lambda: Fade(steps=12, std=0.5, colour="random"),
    "a mask": lambda: Mask(steps=5, noise=0.1),
    "pixelation, then desaturation": lambda: Compose(
        [Pixelate(steps=3), Desaturate(steps=5)], intervals=[(0.0, 0.5), (0.25, 1.0)], noise=0.1
    ),
    "blur with exploding noise": lambda: Compose([GaussianBlur(steps=8, kernel_size=5)], schedule=VE(sigma_max=5.0)),
    "blur and fading with cosine noise": lambda: Compose(
        [GaussianBlur(steps=8, kernel_size=5), Fade(steps=12, centre="random")], schedule=Cosine()
    ),
    "blur and fading at once": lambda: Compose([GaussianBlur(steps=8, kernel_size=5), Fade(steps=12, centre="random")]),
    "snow of ImageNet-C": lambda: Snow(severity=4.0, steps=20),
    "snow of the paper": lambda: Snow(level=2, steps=10),
    "warm snow in one step": lambda: Snow(level=4, steps=1, noise=0.1),
    # The corruptions for any size and any channels.
    "contrast of ImageNet-C": lambda: ImageNetC("contrast", steps=5),
    "warm fog of ImageNet-C": lambda: ImageNetC("fog", severity=2.5, steps=10, noise=0.1),
    "blur of ImageNet-C": lambda: ImageNetC("gaussian_blur", severity=4.0, steps=4),
    "noise of ImageNet-C": lambda: ImageNetC("gaussian_noise", severity=3.5, steps=20),
    "elastic transform of ImageNet-C": lambda: ImageNetC("elastic_transform", steps=5),
    "animorphosis": lambda: Animorphosis(DigitsDataset, steps=20),
    # Where σ decreases with t, the tests of noise do not hold; degradations/test_bridge.py tests every kind.
    "a bridge without noise": lambda: Bridge("bbdm", Fade(steps=4, centre="random"), steps=10, noise=0.0),
    "a bridge with noise at its end": lambda: Bridge(
        "irsde", Fade(steps=4, centre="random", noise=0.1), severity=0.5, steps=10, noise=0.3
    ),
    "a function that ramps": lambda: Transform(
        BLUR, {"sigma": [[0.0, 0.0], [2.0, 3.0]]}, None, {"kernel_size": [5, 3]}
    ),
    "a function that is blended in": lambda: Transform("torch.sinh", domain="signed", steps=4, noise=0.1),
    "a function of random arguments": lambda: Transform(
        "kornia.enhance.adjust_gamma", {"gamma": [1.0, 3.0]}, {"gain": [0.5, 0.8]}, steps=5
    ),
}


def cases(kind: Callable[[Degradation], bool] = lambda degradation: True) -> list[str]:
    """The names of the cases of one kind."""
    return [name for name, make in DEGRADATIONS.items() if kind(make())]
