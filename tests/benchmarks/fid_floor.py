"""The `fid_digits` of real digits: random training digits against the held-out ones, as many as are generated.

A small number of images biases a Fréchet distance upwards, so this is the score of a perfect generator.
"""

import argparse

import torch
from rich import get_console

from diffusion_lightning.data import Digits
from diffusion_lightning.metrics import DigitsClassifier, FrechetDistances


def main() -> None:
    """Print the distances of several random samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=360, help="digits in a sample (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5, help="number of random samples (default: %(default)s)")
    parser.add_argument("--cache", default="runs/cache", help="folder of the classifier (default: %(default)s)")
    options = parser.parse_args()
    features = DigitsClassifier()
    features.prepare(options.cache)
    data = Digits(size=16)
    train, held_out = (torch.cat(list(data.clean_images(split, 10_000))) for split in ("train", "val"))
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(options.samples):
        distance = FrechetDistances(features, ["real"])
        distance.update_real(held_out)
        distance.update("real", train[torch.randperm(len(train), generator=generator)[: options.images]])
        values.append(f"{distance.compute()['real']:.1f}")
    get_console().print(f"fid_digits of {options.images} random training digits: {', '.join(values)}")


if __name__ == "__main__":
    main()
