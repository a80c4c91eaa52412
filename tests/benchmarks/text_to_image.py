"""Text to image on emoji: how often an encoder finds an image's own caption among ten; chance is 10 %.

The small image–text encoder is trained here, on all emoji, and used in no generator. Captions that the generators were
trained on are counted apart from held-out captions of known words.
"""

import argparse

import torch
from _contrastive import retrieval_accuracy, train_encoder
from _trained import restoration_module
from rich.console import Console
from rich.progress import track
from rich.table import Table

from diffusion_lightning.conditioning.tokenizers import normalize_words
from diffusion_lightning.data import Emoji
from diffusion_lightning.guidance import ClassifierFreeGuidance

SIZE = 16


def main() -> None:
    """Train the encoder, generate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["text_to_image", "text_to_image_cold"])
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0, 2.0, 4.0])
    parser.add_argument("--images", type=int, default=200, help="maximum number of captions of each kind")
    options = parser.parse_args()
    data = Emoji(size=SIZE)
    images = {split: torch.cat(list(data.clean_images(split, 10_000))) for split in ("train", "val")}
    captions = {split: [str(text) for text in data.condition(split)["caption"]] for split in ("train", "val")}
    encoder = train_encoder(torch.cat([images["train"], images["val"]]), captions["train"] + captions["val"])

    known = {word for caption in captions["train"] for word in normalize_words(caption)}
    of_known_words = [i for i, caption in enumerate(captions["val"]) if known.issuperset(normalize_words(caption))]
    chosen = {
        "training captions": ("train", list(range(min(options.images, len(captions["train"]))))),
        "held-out captions of known words": ("val", of_known_words[: options.images]),
    }
    table = Table("model", *(f"{kind} ({len(rows)})" for kind, (_, rows) in chosen.items()))
    real = [
        retrieval_accuracy(encoder, images[split][rows], [captions[split][i] for i in rows])
        for split, rows in chosen.values()
    ]
    table.add_row("the real images", *(f"{accuracy:.0%}" for accuracy in real))
    for name, scale in track([(name, scale) for name in options.models for scale in options.scales]):
        model = restoration_module(name)
        sampling = model.sampling.replace(guidance=ClassifierFreeGuidance(scale), seed=0)
        accuracies = []
        for split, rows in chosen.values():
            prompts = [captions[split][i] for i in rows]
            batches = [
                model.generate(indices, {"caption": [prompts[i] for i in indices.tolist()]}, sampling)
                for indices in torch.arange(len(prompts)).split(50)
            ]
            accuracies.append(retrieval_accuracy(encoder, torch.cat(batches).clamp(-1, 1), prompts))
        table.add_row(f"{name}, scale {scale:g}", *(f"{accuracy:.0%}" for accuracy in accuracies))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
