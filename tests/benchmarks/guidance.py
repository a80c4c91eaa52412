"""Class-conditional digits: how many show the digit that was asked for, and their `fid_digits`, against the scale.

The judge is a support vector machine on the pixels (scikit-learn), trained on the training digits and never used in
the training of a generator. Checkpoints of the configs that are missing are trained first.
"""

import argparse
from pathlib import Path

import torch
from _trained import classifier, module
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.svm import SVC
from torch import Tensor

from diffusion_lightning import RestorationModule
from diffusion_lightning.guidance import ClassifierFreeGuidance, ClassifierGuidance, Guidance
from diffusion_lightning.data import Digits
from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.metrics import DigitsClassifier, FrechetDistances

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
CLASSIFIER_SCALES = (1.0, 2.0, 4.0)


def generate(model: RestorationModule, guidance: Guidance | None, labels: Tensor | None, number: int) -> Tensor:
    """Images 0, 1, … of a model, image i of the label i."""
    model.guidance = guidance
    batches = []
    for indices in torch.arange(number).split(100):
        told = None if labels is None else {"label": labels[indices]}
        batches.append(model.generate(indices, 0, condition=told))
    return torch.cat(batches)


def main() -> None:
    """Measure, print the table, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--plot", metavar="FILE", help="where to write the curves, a PNG")
    options = parser.parse_args()
    data = Digits(size=16)
    train, held_out = (torch.cat(list(data.clean_images(split, 10_000))) for split in ("train", "val"))
    answers = {split: data.condition(split)["label"] for split in ("train", "val")}
    judge = SVC().fit(train.flatten(1), answers["train"])
    features = DigitsClassifier()
    features.prepare("runs/cache")
    distance = FrechetDistances(features, ["generated"])

    labels = torch.arange(options.images) % 10
    told, free = module("class_conditional"), module("flow")
    rules: list[tuple[str, RestorationModule, Guidance | None, bool]] = [
        ("flow.yaml: no labels", free, None, False),
        ("told nothing", told, None, False),
        *((f"told, scale {scale:g}", told, ClassifierFreeGuidance(scale), True) for scale in SCALES),
        *(
            (f"flow.yaml, classifier, scale {scale:g}", free, ClassifierGuidance(classifier(), scale), True)
            for scale in CLASSIFIER_SCALES
        ),
    ]
    table = Table("model", "shows the digit asked for", f"fid_digits of {options.images}")
    curve = []
    for name, model, guidance, build_condition in track(rules):
        images = generate(model, guidance, labels if build_condition else None, options.images)
        seen = torch.as_tensor(judge.predict((to_uint8(images) / 127.5 - 1).flatten(1)))
        distance.reset()
        distance.update_real(held_out)
        distance.update("generated", images)
        agreement = (seen == labels).double().mean().item() if build_condition else None
        score = distance.compute()["generated"].item()
        table.add_row(name, "" if agreement is None else f"{agreement:.1%}", f"{score:.1f}")
        if isinstance(guidance, ClassifierFreeGuidance) and agreement is not None:
            curve.append((guidance.scale, agreement, score))
    right = (torch.as_tensor(judge.predict(held_out.flatten(1))) == answers["val"]).double().mean()
    Console(width=120).print(table, f"The judge is right about {right:.1%} of the held-out digits.")
    if options.plot:
        plot(curve, options.plot)


def plot(curve: list[tuple[float, float, float]], file: str) -> None:
    """Agreement and distance against the scale."""
    from matplotlib.figure import Figure

    scales, agreements, distances = zip(*curve, strict=True)
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    left.plot(scales, [100 * value for value in agreements], "o-", color="tab:blue")
    right.plot(scales, distances, "s-", color="tab:red")
    left.set_xlabel("scale of guidance")
    left.set_ylabel("% that show the digit asked for", color="tab:blue")
    right.set_ylabel("fid_digits", color="tab:red")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
