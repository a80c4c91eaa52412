"""What is fitted to the data before training: the prior and the conditioner, on rank zero, and then broadcast."""

from typing import Any

from lightning.pytorch import Trainer

from diffusion_lightning.conditioning.base import Conditioner
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.modules.resume_checks import check_image_shape
from diffusion_lightning.priors.base import Prior


def fit_parts(trainer: Trainer, prior: Prior, conditioner: Conditioner | None, degradation: Degradation) -> None:
    """Fit the prior and the conditioner to the data, unless they are fitted.

    Raises:
        ValueError: There is no data module with images, or the prior was fitted to images of another size.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if conditioner is not None and not conditioner.state and hasattr(data, "condition"):
        if trainer.is_global_zero:
            conditioner.fit(data.condition("train"))
        conditioner.state = trainer.strategy.broadcast(conditioner.state)
    if prior.fitted:
        if hasattr(data, "clean_images"):
            channels, height, width = prior.state["shape"].tolist()
            check_image_shape(next(iter(data.clean_images("train", 1))), (channels, height, width))
        return
    if not hasattr(data, "clean_images"):
        raise ValueError("the prior is fitted to data: use a DegradationDataModule, or call prior.fit before fit")
    if trainer.is_global_zero:
        images = data.degraded_images if degradation.needs_pairs else data.clean_images
        prior.fit(images(prior.split, prior.max_images), degradation)
    prior.state = trainer.strategy.broadcast(prior.state)
