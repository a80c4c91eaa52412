"""Conditioning: conditioners embed labels and captions for the network."""

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.conditioning.class_embedding import ClassEmbedding
from diffusion_lightning.conditioning.pretrained_text import PretrainedText
from diffusion_lightning.conditioning.text_transformer import TextTransformer

__all__ = ["ClassEmbedding", "ConditionEmbedding", "Conditioner", "PretrainedText", "TextTransformer"]
