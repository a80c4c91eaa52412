"""The published time features against their formulas."""

import math

import pytest
import torch

from diffusion_lightning.networks.time_embedding import FourierEmbedding, SinusoidalEmbedding

TIMES = [0.0, 0.001, 0.3, 1.0]


def test_sinusoidal_features_are_the_transformer_s_of_a_thousand_steps():
    features = SinusoidalEmbedding(8, 16).encode(torch.tensor(TIMES))
    for row, t in zip(features, TIMES, strict=True):
        angles = [1000 * t / 10000 ** (index / 3) for index in range(4)]
        expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)


def test_fourier_features_are_of_the_log_of_the_noise_level():
    """With the range of ln σ as scale, features of t and of ln σ differ by a phase for each frequency."""
    embedding = FourierEmbedding(64, 16, time_scale=math.log(100 / 0.02))
    t = torch.tensor([0.1, 0.4, 0.9])
    sine, cosine = embedding.encode(t).double().chunk(2, 1)
    log_sigma = math.log(0.02) + t.double() * math.log(100 / 0.02)
    turns = 2 * math.pi * embedding.frequencies.double() * log_sigma[:, None]
    expected, phase = torch.polar(torch.ones_like(turns), turns), 2 * math.pi * embedding.frequencies * math.log(0.02)
    shifted = torch.complex(cosine, sine) * torch.polar(torch.ones(32), phase)
    torch.testing.assert_close(shifted, expected, atol=2e-3, rtol=0)


def test_fourier_frequencies_are_normal_and_fixed():
    embedding = FourierEmbedding(20_000, 1)
    assert embedding.frequencies.std() == pytest.approx(16, rel=0.03)
    assert abs(embedding.frequencies.mean()) < 0.5
    assert not embedding.frequencies.requires_grad
    assert "frequencies" in embedding.state_dict()


def test_half_precision_does_not_change_the_fourier_features():
    embedding, t = FourierEmbedding(32, 8, time_scale=8.5), torch.tensor(TIMES)
    expected = embedding.encode(t)
    assert torch.equal(embedding.bfloat16().encode(t), expected)
