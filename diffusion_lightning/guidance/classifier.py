"""Classifier guidance (ADM, 2105.05233, sec. 4): the gradient of a classifier of degraded images."""

from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import PredictFn, Prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.guidance.base import ConditionalDenoiser, Guidance


class ClassifierGuidance(Guidance):
    """x̂_0 + scale σ_t²/α_t ∇ log p(y | x_t), with the gradient of a classifier of x_t (2105.05233, eq. 12 for x̂_0).

    With the exact classifier the scale 1 turns an unconditional denoiser into the conditional one (Bayes' rule), larger
    scales sharpen, and 0 is no guidance. The denoiser may be conditional as well. Where α_t = 0 nothing is added.

    Args:
        classifier: The checkpoint of a ``DegradedClassifier`` that was trained on the same degradation. In Python, the
            module itself works too.
        scale: The guidance scale; ADM used 0.5 to 10.
        clip_first: Whether a model with ``clip_denoised`` clips x̂_0 before the gradient is added, as ADM does, and not
            the sum. Where the noise is strong the gradient leads far out of [-1, 1], and clipping the sum weakens it.
    """

    condition_keys = ("label",)

    def __init__(self, classifier: str | nn.Module, scale: float = 1.0, clip_first: bool = False) -> None:
        super().__init__(scale)
        self.classifier = classifier
        self.clip_first = clip_first
        self._classifier: Any = classifier if isinstance(classifier, nn.Module) else None

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z with Gaussian z.

        Raises:
            ValueError: It is not.
        """
        if not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"ClassifierGuidance needs a degradation α_t x + σ_t z with Gaussian z, unlike "
                f"{type(degradation).__name__}: use ClassifierFreeGuidance or Autoguidance"
            )

    def load(self, device: torch.device) -> None:
        """Load the classifier, once."""
        if self._classifier is None:
            self._classifier = load_frozen(str(self.classifier))
            if not (hasattr(self._classifier, "degradation") and hasattr(self._classifier, "network")):
                raise ValueError(
                    f"{self.classifier} holds a {type(self._classifier).__name__}: "
                    "give the checkpoint of a DegradedClassifier"
                )
        self._classifier.to(device)

    def guide(
        self, denoiser_for: ConditionalDenoiser, condition: Condition | None, degradation: Degradation
    ) -> PredictFn:
        """The guided denoiser; the denoiser itself without a label or at the scale 0."""
        denoise_fn = denoiser_for(condition)
        if condition is None or "label" not in condition or self.scale == 0:
            return denoise_fn
        self._check_same_noise(degradation)
        label = torch.as_tensor(condition["label"])

        def guided(x: Tensor, t: Tensor) -> Prediction:
            prediction = denoise_fn(x, t)
            alpha, sigma = degradation.alpha(t), degradation.sigma(t)
            weight = torch.where(alpha > 0, self.scale * sigma**2 / alpha, 0.0)
            return prediction._replace(x0=prediction.x0 + append_dims(weight, x) * self._log_prob_grad(x, t, label))

        return guided

    def _log_prob_grad(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """∇ log p(label | x_t), (B, C, H, W), with the labels repeated to B; 0 for images with the null label."""
        with torch.inference_mode(False), torch.enable_grad():
            x, t, label = x.detach().clone().requires_grad_(), t.clone(), label.to(x.device, copy=True)
            label = label.repeat(len(x) // len(label))
            log_prob = self._classifier(x, t).gather(1, label.clamp(min=0)[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(torch.where(label >= 0, log_prob, 0.0).sum(), x)
        return gradient

    def _check_same_noise(self, degradation: Degradation) -> None:
        t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
        other = self._classifier.degradation
        if not (
            other.is_gaussian_diffusion
            and torch.allclose(degradation.alpha(t), other.alpha(t))
            and torch.allclose(degradation.sigma(t), other.sigma(t))
        ):
            name = type(self.classifier).__name__ if isinstance(self.classifier, nn.Module) else self.classifier
            raise ValueError(
                f"the classifier {name} was trained on another degradation than the model: train it on the model's own"
            )
