"""Class-conditional digits: how many show the digit of their label, and their `fid_digits`, at several guidance scales.

The images are classified by a support vector machine on the pixels (scikit-learn), trained on the training digits and
never used in the training of a generator. Checkpoints of the configs that are missing are trained first.
"""

import argparse
from pathlib import Path

import torch
from _trained import checkpoint, restoration_module
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.svm import SVC
from torch import Tensor

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.data import Digits
from diffusion_lightning.guidance import ClassifierFreeGuidance, ClassifierGuidance, Guidance
from diffusion_lightning.metrics import DigitsClassifier, FrechetDistances

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
CLASSIFIER_SCALES = (1.0, 2.0, 4.0)


def generate(model: RestorationModule, guidance: Guidance | None, labels: Tensor | None, number: int) -> Tensor:
    """Images 0, 1, … of a model, image i with the label i."""
    sampling = model.sampling.replace(guidance=guidance, seed=0)
    batches = []
    for indices in torch.arange(number).split(100):
        condition = None if labels is None else {"label": labels[indices]}
        batches.append(model.generate(indices, condition, sampling))
    return torch.cat(batches)


def main() -> None:
    """Measure, print the table, and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="images of each setting (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="where to write the curves, a PNG")
    options = parser.parse_args()
    data = Digits(size=16)
    train, held_out = (torch.cat(list(data.clean_images(split, 10_000))) for split in ("train", "val"))
    answers = {split: data.condition(split)["label"] for split in ("train", "val")}
    classifier = SVC().fit(train.flatten(1), answers["train"])
    features = DigitsClassifier()
    features.prepare("runs/cache")
    distance = FrechetDistances(features, ["generated"])

    labels = torch.arange(options.images) % 10
    conditional, flow = restoration_module("class_conditional"), restoration_module("flow")
    degraded_classifier = checkpoint("classifier")
    settings: list[tuple[str, RestorationModule, Guidance | None, bool]] = [
        ("flow.yaml: no labels", flow, None, False),
        ("null label", conditional, None, False),
        *(
            (f"classifier-free guidance, scale {scale:g}", conditional, ClassifierFreeGuidance(scale), True)
            for scale in SCALES
        ),
        *(
            (
                f"flow.yaml, classifier guidance, scale {scale:g}",
                flow,
                ClassifierGuidance(degraded_classifier, scale),
                True,
            )
            for scale in CLASSIFIER_SCALES
        ),
    ]
    table = Table("model", "shows the digit of its label", f"fid_digits of {options.images}")
    curve = []
    for name, model, guidance, with_labels in track(settings):
        images = generate(model, guidance, labels if with_labels else None, options.images)
        predicted = torch.as_tensor(classifier.predict((to_uint8(images) / 127.5 - 1).flatten(1)))
        distance.reset()
        distance.update_real(held_out)
        distance.update("generated", images)
        accuracy = (predicted == labels).double().mean().item() if with_labels else None
        fid = distance.compute()["generated"].item()
        table.add_row(name, "" if accuracy is None else f"{accuracy:.1%}", f"{fid:.1f}")
        if isinstance(guidance, ClassifierFreeGuidance) and accuracy is not None:
            curve.append((guidance.scale, accuracy, fid))
    correct = (torch.as_tensor(classifier.predict(held_out.flatten(1))) == answers["val"]).double().mean()
    Console(width=120).print(table, f"The accuracy of the classifier on the held-out digits is {correct:.1%}.")
    if options.plot:
        plot(curve, options.plot)


def plot(curve: list[tuple[float, float, float]], file: str) -> None:
    """Accuracy and distance against the scale."""
    from matplotlib.figure import Figure

    scales, accuracies, distances = zip(*curve, strict=True)
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    left.plot(scales, [100 * value for value in accuracies], "o-", color="tab:blue")
    right.plot(scales, distances, "s-", color="tab:red")
    left.set_xlabel("guidance scale")
    left.set_ylabel("% that show the digit of their label", color="tab:blue")
    right.set_ylabel("fid_digits", color="tab:red")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
