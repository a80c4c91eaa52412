"""The training objective: parameterization, loss, weight of each time, distribution of the training times."""

from diffusion_lightning.objectives.hybrid_loss import HybridLoss, VariationalBound
from diffusion_lightning.objectives.learned_variance import LearnedVariance
from diffusion_lightning.objectives.loss_weights import LossWeight, PowerWeight, SNRWeight
from diffusion_lightning.objectives.losses import L1, L2, Huber, RestorationLoss, SoftScoreMatching
from diffusion_lightning.objectives.parameterizations import (
    EDM,
    X0,
    Eps,
    Parameterization,
    Residual,
    Scalings,
    Score,
    V,
    Velocity,
)
from diffusion_lightning.objectives.time_samplers import (
    ImportanceSampledSteps,
    LogNormalNoiseLevel,
    TimeSampler,
    UniformSteps,
    UniformTime,
)

__all__ = [
    "EDM",
    "L1",
    "L2",
    "X0",
    "Eps",
    "Huber",
    "HybridLoss",
    "ImportanceSampledSteps",
    "LearnedVariance",
    "LogNormalNoiseLevel",
    "LossWeight",
    "Parameterization",
    "PowerWeight",
    "Residual",
    "RestorationLoss",
    "SNRWeight",
    "Scalings",
    "Score",
    "SoftScoreMatching",
    "TimeSampler",
    "UniformSteps",
    "UniformTime",
    "V",
    "VariationalBound",
    "Velocity",
]
