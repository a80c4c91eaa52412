"""One or more settings of every degradation, for the tests that hold for all of them: add a new degradation here."""

from collections.abc import Callable

from diffusion_lightning.degradations import Degradation, GaussianBlur, GaussianNoise

DEGRADATIONS: dict[str, Callable[[], Degradation]] = {
    "cosine noise": lambda: GaussianNoise(steps=20),
    "linear noise": lambda: GaussianNoise(steps=25, schedule="linear"),
    "noise in one step": lambda: GaussianNoise(steps=1),
    "circular blur": lambda: GaussianBlur(steps=20, kernel_size=5),
    "reflect blur": lambda: GaussianBlur(steps=12, kernel_size=3, schedule="cifar", padding="reflect"),
    "blur wider than the image": lambda: GaussianBlur(
        steps=6, kernel_size=27, std=1.5, schedule="incremental", padding="reflect"
    ),
    "blur to the mean": lambda: GaussianBlur(steps=8, kernel_size=5, std=1.0, schedule="constant", final_mean=True),
    "blur to the mean in one step": lambda: GaussianBlur(steps=1, kernel_size=3, final_mean=True),
    "warm blur": lambda: GaussianBlur(steps=10, kernel_size=5, noise=0.3, padding="reflect"),
    "blur with symmetry-breaking noise": lambda: GaussianBlur(steps=10, kernel_size=5, noise_floor=0.002),
}


def cases(kind: Callable[[Degradation], bool] = lambda degradation: True) -> list[str]:
    """The names of the cases of one kind."""
    return [name for name, make in DEGRADATIONS.items() if kind(make())]
