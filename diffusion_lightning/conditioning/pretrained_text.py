"""Captions as a condition: a frozen text encoder of the transformers library (CLIP, T5 or a sentence encoder)."""

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.core.conditions import Condition

CACHE_BYTES = 2 * 1024**3
"""Size of the cache of embeddings in bytes: some 40,000 captions of 32 tokens for an encoder of width 384."""


class PretrainedText(Conditioner):
    """The hidden states of a pretrained text encoder, which is neither trained, nor saved, nor averaged.

    Its width is the network's ``token_dim`` and ``condition_dim``: 384 for MiniLM, 512 or 768 for CLIP, 512 to 4096 for
    T5. Each caption is encoded once and its embedding cached in main memory. The pooled embedding is the encoder's own
    (CLIP), else the mean over the tokens; tokens after the end of a caption are zeros. The empty caption is the null
    condition. Needs the extra ``text``.

    Args:
        name: A folder with the encoder and its tokenizer, or a name on the Hugging Face hub such as
            openai/clip-vit-base-patch32 or google-t5/t5-small, which is downloaded once.
        max_length: Number of tokens to which a caption is truncated.
        dropout: The fraction of training images whose caption is replaced by the empty caption.
        dropout_from_step: The optimizer step with which that begins.
    """

    condition_keys = ("caption",)

    def __init__(self, name: str, max_length: int = 32, dropout: float = 0.1, dropout_from_step: int = 0) -> None:
        super().__init__(dropout, dropout_from_step)
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: choose at least 1 token")
        self.name = name
        self.max_length = max_length
        # No buffers and no submodule: optimizers, EMA, checkpoints and pickles must not contain the encoder.
        self._encoder = _Encoder(name, max_length)
        self._device_tracker: Tensor  # follows the module to its device
        self.register_buffer("_device_tracker", torch.empty(0, dtype=torch.float32), persistent=False)

    def fit(self, condition: Condition) -> None:
        """Load the encoder, so that a missing one raises an error before training.

        Raises:
            ValueError: The data have no captions, or the encoder cannot be loaded.
        """
        super().fit(condition)
        self._encoder.load()

    def check(self, condition: Condition) -> None:
        """Warn about captions that are truncated."""
        for text in dict.fromkeys(map(str, self.select_inputs(condition)["caption"])):
            if (tokens := self._encoder.num_tokens(text)) > self.max_length:
                short = text if len(text) <= 60 else f"{text[:57]}..."
                warnings.warn(f"{short!r} has {tokens} tokens and is truncated to {self.max_length}", stacklevel=2)

    def forward(self, condition: Condition) -> ConditionEmbedding:
        """The pooled embedding (B, D) and the tokens (B, max_length, D) of the captions."""
        texts = [str(text) for text in condition["caption"]]
        pooled, tokens = self._encoder.embed(texts, self._device_tracker.device)
        return ConditionEmbedding(pooled.to(self._device_tracker.device), tokens.to(self._device_tracker.device))


class _Encoder:
    """A lazily loaded encoder with a cache of embeddings. Copies and pickles keep the name, not the weights."""

    def __init__(self, name: str, max_length: int) -> None:
        self.name, self.max_length = name, max_length
        self.model: Any = None
        self.tokenizer: Any = None
        self.cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Encoder":
        return self

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return _Encoder, (self.name, self.max_length)

    def load(self) -> None:
        """Load the encoder and its tokenizer.

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
            config = AutoConfig.from_pretrained(self.name, trust_remote_code=False)
            kind = _text_model(config.model_type) or AutoModel
            with torch.inference_mode(False):
                self.model = kind.from_pretrained(self.name, trust_remote_code=False).eval().requires_grad_(False)
            self.tokenizer = AutoTokenizer.from_pretrained(self.name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"there is no text encoder {self.name} here, and it cannot be downloaded: give a folder with one, or, "
                "with internet access, a name on the Hugging Face hub"
            ) from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def num_tokens(self, text: str) -> int:
        """Number of tokens of a text before truncation."""
        self.load()
        return len(self.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def embed(self, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Pooled embeddings (B, D) and tokens (B, max_length, D), on the CPU; cached texts are not encoded again."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self.cache]
        if fresh:
            self.load()
            with torch.inference_mode(False):
                for start in range(0, len(fresh), 64):
                    self._encode(fresh[start : start + 64], device)
        found = [self.cache[text] for text in texts]
        bytes_each = 4 * (found[0][0].numel() + found[0][1].numel())
        while len(self.cache) * bytes_each > CACHE_BYTES:
            self.cache.popitem(last=False)
        return torch.stack([pooled for pooled, _ in found]), torch.stack([tokens for _, tokens in found])

    def _encode(self, texts: list[str], device: torch.device) -> None:
        inputs = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(device)
        outputs = self.model.to(device)(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        mask = inputs["attention_mask"][..., None].to(outputs.last_hidden_state.dtype)
        tokens = outputs.last_hidden_state * mask
        is_clip = self.model.config.model_type.startswith("clip")
        pooled = getattr(outputs, "pooler_output", None) if is_clip else None
        pooled = tokens.sum(1) / mask.sum(1).clamp(min=1) if pooled is None else pooled
        for text, vector, row in zip(texts, pooled.float().cpu(), tokens.float().cpu(), strict=True):
            self.cache[text] = (vector.clone(), row.clone())


def _text_model(model_type: str) -> Any:
    """The class of the text half of a two-part model, or None if the whole model is an encoder."""
    import transformers

    return {
        "clip": transformers.CLIPTextModel,
        "clip_text_model": transformers.CLIPTextModel,
        "t5": transformers.T5EncoderModel,
    }.get(model_type)
