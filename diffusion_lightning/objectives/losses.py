"""The restoration loss w(t)·‖x̂_0 − x_0‖: the norm, and the weight of each time."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.types import Params, Prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.objectives.loss_weights import LossWeight


class RestorationLoss(ChecksArguments, ABC):
    """w(t)·|x̂_0 − x_0| of each image, averaged over its values.

    Args:
        weight: The weight of each time; 1 if None.
    """

    trains_variance: bool = False
    """Whether the loss trains the variance that a network predicts, and so needs one that does."""

    def __init__(self, weight: LossWeight | None = None) -> None:
        self.weight = weight

    @abstractmethod
    def elementwise(self, x0_pred: Tensor, target: Tensor) -> Tensor:
        """The loss of each value, without the weight."""

    def check(self, degradation: Degradation) -> None:
        """Check that the loss is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """
        if self.weight is not None:
            self.weight.check(degradation)

    def check_variance(self, predicted: bool) -> None:
        """Check that a predicted variance is trained, and that a loss that trains one gets one.

        Raises:
            ValueError: The loss and the parameterization do not fit together.
        """
        name = type(self).__name__
        if predicted and not self.trains_variance:
            raise ValueError(
                f"{name} would leave the variance that LearnedVariance predicts untrained: use HybridLoss, or the base "
                "parameterization alone"
            )
        if self.trains_variance and not predicted:
            raise ValueError(
                f"{name} needs a network that predicts its variance: use the LearnedVariance parameterization and "
                "twice as many out_channels, or the L2 loss with SNRWeight"
            )

    def __call__(
        self,
        prediction: Prediction,
        target: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image.

        Args:
            prediction: The prediction of x_0, images (B, C, H, W).
            target: x_0, (B, C, H, W).
            t: The times, (B,).
            degradation: The degradation of the images.
            params: Its random parameters, for losses that compare degraded images.

        Returns:
            (B,).
        """
        per_image = self.elementwise(prediction.x0, target).flatten(1).mean(1)
        return per_image if self.weight is None else self.weight(degradation, t) * per_image


class L1(RestorationLoss):
    """Absolute error, the loss of Cold Diffusion; its minimizer is the median of the possible images."""

    def elementwise(self, x0_pred: Tensor, target: Tensor) -> Tensor:
        """|x̂_0 − x_0|."""
        return (x0_pred - target).abs()


class L2(RestorationLoss):
    """Squared error; its minimizer is the posterior mean E[x_0 | x_t], which sampling from a distribution needs."""

    def elementwise(self, x0_pred: Tensor, target: Tensor) -> Tensor:
        """(x̂_0 − x_0)²."""
        return (x0_pred - target) ** 2


class Huber(RestorationLoss):
    """Squared error below ``delta`` and absolute error above it.

    Args:
        delta: The threshold between the two, in units of images in [-1, 1].
        weight: The weight of each time; 1 if None.
    """

    def __init__(self, delta: float = 0.1, weight: LossWeight | None = None) -> None:
        super().__init__(weight)
        if delta <= 0:
            raise ValueError(f"delta={delta}: the Huber loss's threshold must be positive")
        self.delta = delta

    def elementwise(self, x0_pred: Tensor, target: Tensor) -> Tensor:
        """Torch's Huber loss."""
        return F.huber_loss(x0_pred, target, reduction="none", delta=self.delta)


class SoftScoreMatching(L2):
    """The squared error of the degraded images, ‖D_t(x̂_0) − D_t(x_0)‖² (Soft Diffusion, 2209.05442, eq. 12).

    For a linear degradation this is ‖D_t(x̂_0 − x_0)‖², in which errors that D_t removes have no weight.

    Args:
        weight: The weight of each time; 1 if None.
    """

    def __call__(
        self,
        prediction: Prediction,
        target: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image (B,); both images are degraded with the same random parameters."""
        predicted, true = (degradation.operator(image, t, params or {}) for image in (prediction.x0, target))
        return super().__call__(Prediction(predicted), true, t, degradation, params)
