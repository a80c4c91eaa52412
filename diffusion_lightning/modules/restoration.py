"""The LightningModule of the package: it trains the denoiser by the restoration loss, and samples from t = 1 to 0."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import GenerationBatch, Generators, Params, PredictFn, Prediction, RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.guidance.base import Guidance, guided_denoiser
from diffusion_lightning.modules.adaptive_times import AdaptsTimes
from diffusion_lightning.modules.fitting import fit_parts
from diffusion_lightning.modules.restoring import restore_each
from diffusion_lightning.modules.resume_checks import DEFAULT_PRIOR
from diffusion_lightning.modules.rollout import Rollout, evaluating
from diffusion_lightning.modules.sampling import SamplingConfig, step_generators
from diffusion_lightning.modules.severity import EstimatesSeverity
from diffusion_lightning.objectives.losses import L1, RestorationLoss
from diffusion_lightning.objectives.parameterizations import X0, Parameterization
from diffusion_lightning.objectives.time_samplers import TimeSampler, UniformSteps
from diffusion_lightning.priors.base import Prior
from diffusion_lightning.priors.default import default_prior
from diffusion_lightning.samplers.base import Sampler
from diffusion_lightning.samplers.ddim import ProbabilityFlow
from diffusion_lightning.samplers.tiling import TiledDenoiser


class RestorationModule(AdaptsTimes, EstimatesSeverity):
    """Trains a denoiser to undo a degradation, and samples with it.

    Args:
        degradation: How x_t is made from x_0.
        denoiser: The network F(x_t, t); its output has the shape of the images. See ``networks.Network``.
        parameterization: What the network predicts; x_0 by default.
        loss: The restoration loss; L1 by default.
        sampler: How to sample from t = 1 to 0; the probability flow with the degradation's own steps by default.
        prior: The distribution of x_1; a Gaussian on the channel means by default, of a bridge held-out images.
        time_sampler: Distribution of the training times t; t = k/T with uniform k by default.
        conditioner: Embeds labels or captions for the denoiser; None trains an unconditional model.
        guidance: How strongly sampling follows the condition; None for the denoiser as it was trained.
        clip_denoised: Whether sampling clamps every x̂_0 to [-1, 1], as DDPM's code does: where α_t is small, small
            errors of ε are large errors of x̂_0.
        optimizer: Built with the trainable parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default. ``CosineDecay``
            is as long as the run. ReduceLROnPlateau is stepped after each validation instead.
        severity_estimator: Estimates the severity of images for ``restore``; trained along, it changes no other weight.
        rollout: Trains on some images x_t that the sampler makes, too; on exact ones only if None.

    Attributes:
        sampling: The sampler, the guidance and the seed that ``predict_step`` uses.
    """

    kept_when_resuming: ClassVar[dict[str, Any]] = EstimatesSeverity.kept_when_resuming | {"prior": DEFAULT_PRIOR}

    def __init__(
        self,
        degradation: Degradation,
        denoiser: nn.Module,
        parameterization: Parameterization | None = None,
        loss: RestorationLoss | None = None,
        sampler: Sampler | None = None,
        prior: Prior | None = None,
        time_sampler: TimeSampler | None = None,
        conditioner: Conditioner | None = None,
        guidance: Guidance | None = None,
        clip_denoised: bool = False,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        severity_estimator: nn.Module | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, severity_estimator)
        self.degradation = degradation
        self.denoiser = denoiser
        self.parameterization = parameterization or X0()
        self.loss = loss or L1()
        self.prior = prior or default_prior(degradation)
        self.time_sampler = time_sampler or UniformSteps()
        self.conditioner = conditioner
        self.clip_denoised = clip_denoised
        self.rollout = rollout
        self.sampling = SamplingConfig(sampler or ProbabilityFlow(), guidance)
        for part in (self.parameterization, self.loss, self.sampling.sampler, self.prior, self.time_sampler):
            part.check(degradation)
        self.parameterization.check_network(denoiser, 1 + (conditioner.concatenated if conditioner else 0))
        for chosen in (self.loss, self.sampling.sampler):
            chosen.check_variance(self.parameterization.predicts_variance)
        self.sampling.sampler.times(degradation)  # whose spacing refuses a grid that it does not fit
        if guidance is not None:
            guidance.check(degradation)

    def forward(self, x: Tensor, t: Tensor, embedding: ConditionEmbedding | None = None) -> Tensor | Prediction:
        """``predict_x0`` as a tensor, or as a ``Prediction`` if the parameterization predicts the variance."""
        prediction = self.predict_x0(x, t, embedding)
        return prediction.x0 if prediction.log_variance is None else prediction

    def predict_x0(self, x: Tensor, t: Tensor, embedding: ConditionEmbedding | None = None) -> Prediction:
        """x̂_0, and its log variance if the parameterization predicts it.

        Args:
            x: The images x_t, (B, C, H, W).
            t: Their times, (B,).
            embedding: The embedded condition, of B images or of one for all. A conditional model uses the null
                condition if it is None.
        """
        scalings = self.parameterization.scalings(self.degradation, t)
        with self._autocast():
            scaled = (append_dims(scalings.c_in, x) * x).to(self._network_dtype(x))
            if self.conditioner is None:  # the network may take no condition at all
                output = self.denoiser(scaled, scalings.c_noise)
            else:
                embedding = self.conditioner.encode(None) if embedding is None else embedding
                output = embedding.apply(self.denoiser, scaled, scalings.c_noise)
        with torch.autocast(x.device.type, enabled=False):
            output = output.to(torch.promote_types(x.dtype, torch.float32))
            return self.parameterization.to_x0(self.degradation, x, t, output, scalings)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images.

        Raises:
            ValueError: The module has not been trained by `fit`, which fits its prior to the images.
        """
        if "shape" not in self.prior.state:
            raise ValueError("the model has no fitted prior, so its image shape is unknown: train it by `fit`")
        channels, height, width = self.prior.state["shape"].tolist()
        return channels, height, width

    def conditional_denoiser(self, condition: Condition | None) -> PredictFn:
        """The denoiser (x_t, t) → ``Prediction`` with this condition, embedded once; without one, unconditional."""
        with torch.inference_mode(False), torch.no_grad(), self._autocast():  # likelihoods differentiate in x_t
            embedding = self._embed_condition(condition)
        return lambda x, t: self.predict_x0(x, t, embedding)

    def denoise_fn(self, condition: Condition | None = None, sampling: SamplingConfig | None = None) -> PredictFn:
        """The denoiser that samplers call: conditional, guided, clipped if ``clip_denoised`` is set, and tiled.

        Args:
            condition: The condition of the images.
            sampling: Has the guidance and the tiling; the module's own ``sampling`` if None.
        """
        sampling = sampling or self.sampling
        if sampling.guidance is not None:
            sampling.guidance.load(self.device)
        denoise_fn = guided_denoiser(
            sampling.guidance, self.conditional_denoiser, condition, self.degradation, self.clip_denoised
        )
        # Last: the networks of the guidance are evaluated on tiles, too.
        return denoise_fn if sampling.tiling is None else TiledDenoiser(denoise_fn, sampling.tiling, sampling.on_tiles)

    def sample_from(
        self,
        x: Tensor,
        t_start: float = 1.0,
        params: Params | None = None,
        generator: Generators = None,
        condition: Condition | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Tensor:
        """Sample from the images x (B, C, H, W) at ``t_start`` to t = 0, for generation and restoration.

        Args:
            x: The images x_t at ``t_start``.
            t_start: Their severity, in (0, 1].
            params: The random parameters of the degradation, as far as they are known.
            generator: For samplers that add noise.
            condition: The condition of the images.
            sampling: How to sample; the module's own ``sampling`` if None. Its seed is not used here.
        """
        sampling = sampling or self.sampling
        denoise_fn = self.denoise_fn(condition, sampling)
        return sampling.sample(denoise_fn, self.degradation, x, params, generator, t_start)

    def sample_prior(self, indices: Iterable[int] | Tensor, seed: int) -> tuple[Tensor, Params]:
        """x_1 and its random parameters: image i is the same in any batch and on any number of devices."""
        return self.prior.sample(self.degradation, per_image_generators(seed, indices, "generation"), self.device)

    def generate(
        self,
        indices: Iterable[int] | Tensor,
        condition: Condition | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Tensor:
        """Generate the images of these indices from the prior.

        Args:
            indices: The numbers of the images.
            condition: Their condition.
            sampling: How to sample, and the seed; the module's own ``sampling`` if None.
        """
        sampling = sampling or self.sampling
        x, params = self.sample_prior(indices, sampling.seed)
        return self.sample_from(x, 1.0, params, step_generators(sampling.seed, indices), condition, sampling)

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """The restoration loss of a batch."""
        batch = self.roll_out(batch)
        loss = self.training_loss(self.predict_training_batch(batch), batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.t))
        return loss

    def roll_out(self, batch: RestorationBatch) -> RestorationBatch:
        """A training batch, some of whose x_t the sampler has made if the module has a ``Rollout``."""
        if self.rollout is None or self.current_epoch < self.rollout.from_epoch:
            return batch
        with evaluating(self):
            parts = self.denoise_fn, self.degradation, self.sampling.sampler, self.time_sampler
            batch = self.rollout(batch, *parts, self.batch_key())
        torch.clear_autocast_cache()  # torch 2.6 would reuse the weights that were cast without a gradient
        return batch

    def predict_training_batch(self, batch: RestorationBatch) -> Prediction:
        """The prediction of x_0 for a training batch, a fraction of whose conditions is dropped."""
        condition = batch.condition
        if self.conditioner is not None:
            generator = keyed_generator(*self.batch_key(), "condition")
            condition = self.conditioner.randomize(condition, generator, self.trainer.global_step)
        return self.predict_x0(batch.degraded, batch.t, self._embed_condition(condition))

    def training_loss(self, prediction: Prediction, batch: RestorationBatch) -> Tensor:
        """The mean restoration loss of a prediction."""
        losses = self.loss(prediction, batch.clean, batch.t, self.degradation, batch.params)
        return self.time_sampler.reweight(losses, batch.t, self.degradation).mean()

    def validation_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The restoration loss of held-out images, each at its own fixed t."""
        self._log_loss("val", batch)

    def test_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The restoration loss of the test images."""
        self._log_loss("test", batch)

    def predict_step(
        self, batch: RestorationBatch | GenerationBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Generate the images of a ``GenerationBatch``, or restore ``batch.degraded``, each from its own t."""
        if isinstance(batch, GenerationBatch):
            return self.generate(batch.index, batch.condition)
        generators = None if batch.index is None else step_generators(self.sampling.seed, batch.index)
        return restore_each(self.sample_from, self.degradation, batch, generators, self.sampling)

    def on_fit_start(self) -> None:
        """Fit the prior and the conditioner to the data on rank zero, unless they are fitted, and broadcast them."""
        super().on_fit_start()
        fit_parts(self.trainer, self.prior, self.conditioner, self.degradation)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the fitted prior and conditioner."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["prior"] = self.prior.state
        if self.conditioner is not None:
            checkpoint["conditioner"] = self.conditioner.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the fitted prior and conditioner."""
        super().on_load_checkpoint(checkpoint)
        self.prior.restore(checkpoint.get("prior", {}))
        if self.conditioner is not None:
            self.conditioner.state = checkpoint.get("conditioner", {})

    def _log_loss(self, stage: str, batch: RestorationBatch) -> None:
        prediction = self.predict_x0(batch.degraded, batch.t, self._embed_condition(batch.condition))
        losses = self.loss(prediction, batch.clean, batch.t, self.degradation, batch.params)
        self.log_held_out(f"{stage}/loss", losses, batch.index)
        self.log_severity_error(stage, batch)

    def _embed_condition(self, condition: Condition | None) -> ConditionEmbedding | None:
        """The embedded condition; None for a model without a conditioner, which ignores conditions."""
        return None if self.conditioner is None else self.conditioner.encode(condition)

    def _network_dtype(self, x: Tensor) -> torch.dtype:
        return next((p.dtype for p in self.denoiser.parameters() if p.is_floating_point()), x.dtype)

    def _autocast(self) -> Any:
        """The trainer's autocast for the network: callback hooks run outside it."""
        return self._trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()


def as_restoration_module(module: LightningModule) -> RestorationModule:
    """The module, if it is a RestorationModule.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(module, RestorationModule):
        raise ValueError(f"this command or callback needs a RestorationModule, got {type(module).__name__}")
    return module
