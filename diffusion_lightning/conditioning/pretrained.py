"""Captions as a condition by a frozen text encoder of the transformers library: CLIP's, T5's or a sentence encoder."""

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from diffusion_lightning.conditioning.base import Conditioner, Told
from diffusion_lightning.conditions import Condition

REMEMBERED = 2 * 1024**3
"""Bytes of embeddings that are kept: some 40,000 captions of 32 tokens for an encoder of width 384."""


class PretrainedText(Conditioner):
    """The hidden states of a pretrained encoder, which is not trained, saved or averaged.

    Its width is the network's ``token_dim`` and ``condition_dim``: 384 for MiniLM, 512 or 768 for CLIP, 512 to 4096 for
    T5. Each caption is encoded once and its embedding kept in main memory. The vector is what the encoder pools (CLIP),
    else the mean of its tokens; tokens past a caption's end are zeros. The empty caption stands for nothing told.
    Needs the extra ``text``.

    Args:
        name: A folder with the encoder and its tokenizer, or a name on the Hugging Face hub, as
            openai/clip-vit-base-patch32 or google-t5/t5-small, which is downloaded once.
        length: Tokens heard of a caption.
        dropout: The share of training images whose caption is not told.
    """

    heeds = ("caption",)

    def __init__(self, name: str, length: int = 32, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        if length < 1:
            raise ValueError(f"length={length}: hear at least 1 token")
        self.name = name
        self.length = length
        # No buffers and no submodule: neither an optimizer nor EMA, a checkpoint or a pickle sees the encoder.
        self._shared = _Encoder(name, length)
        self._place: Tensor
        self.register_buffer("_place", torch.empty(0), persistent=False)  # follows the module to its device

    def fit(self, condition: Condition) -> None:
        """Load the encoder, so that a missing one is refused before training, as data without captions are."""
        super().fit(condition)
        self._shared.load()

    def check(self, condition: Condition) -> None:
        """Warn of captions that are longer than what is heard."""
        for text in dict.fromkeys(map(str, self.heard(condition)["caption"])):
            if (tokens := self._shared.count(text)) > self.length:
                short = text if len(text) <= 60 else f"{text[:57]}..."
                warnings.warn(f"{short!r} has {tokens} tokens: the model hears the first {self.length}", stacklevel=2)

    def forward(self, condition: Condition) -> Told:
        """The vector (B, D) and the tokens (B, length, D) of the captions."""
        vectors, tokens = self._shared.embed([str(text) for text in condition["caption"]], self._place.device)
        return Told(vectors.to(self._place.device), tokens.to(self._place.device))


class _Encoder:
    """The encoder and what it has said; copies and pickles of it are the same name, not the same weights."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length
        self.model: Any = None
        self.tokenizer: Any = None
        self.known: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Encoder":
        return self

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return _Encoder, (self.name, self.length)

    def load(self) -> None:
        """Read the encoder and its tokenizer.

        Raises:
            ValueError: The library is missing, or there is no such encoder here or on the hub.
        """
        if self.model is not None:
            return
        try:
            from transformers import AutoConfig, AutoModel, AutoTokenizer
        except ImportError as error:
            raise ValueError("PretrainedText needs transformers: pip install 'diffusion-lightning[text]'") from error
        try:
            config = AutoConfig.from_pretrained(self.name)
            kind = _text_model(config.model_type) or AutoModel
            with torch.inference_mode(False):
                self.model = kind.from_pretrained(self.name).eval().requires_grad_(False)
            self.tokenizer = AutoTokenizer.from_pretrained(self.name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"there is no text encoder {self.name} here, and it cannot be downloaded: give a folder with one, or "
                "a name on the Hugging Face hub where there is a network"
            ) from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        self.load()
        return len(self.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def embed(self, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Vectors (B, D) and tokens (B, length, D), on the CPU; of texts seen before from memory."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self.known]
        if fresh:
            self.load()
            with torch.inference_mode(False):
                for start in range(0, len(fresh), 64):
                    self._encode(fresh[start : start + 64], device)
        found = [self.known[text] for text in texts]
        each = 4 * (found[0][0].numel() + found[0][1].numel())
        while len(self.known) * each > REMEMBERED:
            self.known.popitem(last=False)
        return torch.stack([vector for vector, _ in found]), torch.stack([tokens for _, tokens in found])

    def _encode(self, texts: list[str], device: torch.device) -> None:
        words = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(device)
        said = self.model.to(device)(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
        mask = words["attention_mask"][..., None].to(said.last_hidden_state.dtype)
        tokens = said.last_hidden_state * mask
        pooled = getattr(said, "pooler_output", None) if self.model.config.model_type.startswith("clip") else None
        vectors = tokens.sum(1) / mask.sum(1).clamp(min=1) if pooled is None else pooled
        for text, vector, row in zip(texts, vectors.float().cpu(), tokens.float().cpu(), strict=True):
            self.known[text] = (vector.clone(), row.clone())


def _text_model(kind: str) -> Any:
    """The class of the text half of a model of two, or None where the whole is an encoder."""
    import transformers

    return {
        "clip": transformers.CLIPTextModel,
        "clip_text_model": transformers.CLIPTextModel,
        "t5": transformers.T5EncoderModel,
    }.get(kind)
