"""Text to image on emoji: how often a judge finds the caption that was asked for among ten; by chance, once in ten.

The judge is a small image–caption encoder that is trained here, on all emoji, and by no generator. Captions that the
generators were trained on are counted apart from held-out ones of known words, whose pictures they never saw.
"""

import argparse

import torch
from _contrastive import found_among_ten, trained_judge
from _trained import module
from rich.console import Console
from rich.progress import track
from rich.table import Table

from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.conditioning.tokenizers import split
from diffusion_lightning.data import Emoji

SIZE = 16


def main() -> None:
    """Train the judge, generate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["text_to_image", "text_to_image_cold"])
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0, 2.0, 4.0])
    parser.add_argument("--images", type=int, default=200, help="the most captions of each kind")
    options = parser.parse_args()
    data = Emoji(size=SIZE)
    pictures = {part: torch.cat(list(data.clean_images(part, 10_000))) for part in ("train", "val")}
    captions = {part: [str(text) for text in data.condition(part)["caption"]] for part in ("train", "val")}
    judge = trained_judge(torch.cat([pictures["train"], pictures["val"]]), captions["train"] + captions["val"])

    known = {word for caption in captions["train"] for word in split(caption)}
    combined = [i for i, caption in enumerate(captions["val"]) if known.issuperset(split(caption))]
    chosen = {
        "training captions": ("train", list(range(min(options.images, len(captions["train"]))))),
        "held out, of known words": ("val", combined[: options.images]),
    }
    table = Table("model", *(f"{kind} ({len(rows)})" for kind, (_, rows) in chosen.items()))
    real = [
        found_among_ten(judge, pictures[part][rows], [captions[part][i] for i in rows])
        for part, rows in chosen.values()
    ]
    table.add_row("the pictures themselves", *(f"{share:.0%}" for share in real))
    for name, scale in track([(name, scale) for name in options.models for scale in options.scales]):
        model = module(name)
        model.guidance = ClassifierFreeGuidance(scale)
        shares = []
        for part, rows in chosen.values():
            build_condition = [captions[part][i] for i in rows]
            batches = [
                model.generate(some, 0, condition={"caption": [build_condition[i] for i in some.tolist()]})
                for some in torch.arange(len(build_condition)).split(50)
            ]
            shares.append(found_among_ten(judge, torch.cat(batches).clamp(-1, 1), build_condition))
        table.add_row(f"{name}, scale {scale:g}", *(f"{share:.0%}" for share in shares))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
