"""The settings of ADM and GLIDE as published."""

from helpers.paper import Figures

ADM_DIFFUSION = {
    "model.degradation": "GaussianNoise",
    "model.degradation.steps": 1000,
    "model.denoiser": "ADMUNet",
    "model.denoiser.out_channels": 6,
    "model.parameterization": "LearnedVariance",
    "model.parameterization.base": "Eps",
    "model.loss": "HybridLoss",
    "model.clip_denoised": True,
    "model.optimizer": "AdamW",
    "model.optimizer.weight_decay": 0,
    "model.lr_scheduler": None,
    "trainer.gradient_clip_val": None,
    "trainer.callbacks.EMA.decay": 0.9999,
}
"""What ADM's trainer and OpenAI's others have (guided_diffusion/train_util.py, script_util.py)."""

RESPACED_250 = {
    "model.sampler": "DDPM",
    "model.sampler.steps": 250,
    "model.sampler.variance": "interpolated",
    "model.sampler.spacing": "RespacedSpacing",
}

TEXT = {"layers": 24, "max_length": 128, "tokenizer": "byte_pairs"}

CONDITIONAL: dict[str, Figures] = {
    "adm_imagenet128": {
        "openai/guided-diffusion: guided_diffusion/train_util.py": ADM_DIFFUSION,
        "README.md:56-57": {
            "model.degradation.schedule": "linear",
            "model.denoiser.width": 256,
            "model.denoiser.blocks": 2,
            "model.denoiser.attention": [4, 8, 16],
            "model.denoiser.heads": 4,
            "model.denoiser.head_channels": None,
            "trainer.precision": "16-mixed",
        },
        "guided_diffusion/script_util.py": {
            "model.denoiser.multipliers": [1, 1, 2, 3, 4],
            "model.denoiser.dropout": None,
            "model.conditioner.classes": 1000,
            "model.conditioner.dropout": 0,
        },
        "2105.05233, app. I": {
            "model.optimizer.lr": 1e-4,
            "data.batch_size": 256,
            "data.augmentation": ["RandomHorizontalFlip"],
            "data.size": 128,
            "trainer.max_steps": 4_360_000,
        },
        "guided_diffusion/respace.py:43-63": RESPACED_250,
        "evaluations/README.md; README.md": {
            "trainer.callbacks.Generation.images": 50_000,
            "trainer.callbacks.Generation.reference": "train",
        },
    },
    "adm_classifier_imagenet128": {
        "openai/guided-diffusion: README.md:160-161": {
            "model": "DegradedClassifier",
            "model.degradation.steps": 1000,
            "model.degradation.schedule": "linear",
            "model.network": "ADMClassifier",
            "model.network.width": 128,
            "model.network.blocks": 2,
            "model.network.attention": [4, 8, 16],
            "model.network.pool": "attention",
            "model.optimizer": "AdamW",
            "model.optimizer.lr": 3e-4,
            "model.optimizer.weight_decay": 0.05,
            "data.batch_size": 256,
            "trainer.max_steps": 300_000,
            "trainer.precision": "32-true",
        },
        "guided_diffusion/script_util.py": {
            "model.network.multipliers": [1, 1, 2, 3, 4],
            "model.network.head_channels": 64,
        },
        "scripts/classifier_train.py:144,170": {
            "model.lr_scheduler": "LinearLR",
            "model.lr_scheduler.start_factor": 1,
            "model.lr_scheduler.end_factor": 0,
            "model.lr_scheduler.total_iters": 300_000,
            "trainer.gradient_clip_val": None,
            "trainer.callbacks.EMA": None,
        },
        "guided_diffusion/image_datasets.py:146-166": {
            "data.size": 160,
            "data.augmentation": ["RandomResizedCrop", "RandomHorizontalFlip"],
            "data.augmentation.RandomResizedCrop.size": [128, 128],
            "data.augmentation.RandomResizedCrop.scale": [0.64, 1.0],  # .8 of the side
            "data.augmentation.RandomResizedCrop.ratio": [1.0, 1.0],
        },
    },
    "glide_64": {
        "openai/guided-diffusion: guided_diffusion/train_util.py": ADM_DIFFUSION,
        "2112.10741, sec. 4.1": {
            "model.degradation.schedule": "cosine",
            "model.denoiser.width": 512,
            "model.conditioner": "TextTransformer",
            **{f"model.conditioner.{name}": value for name, value in TEXT.items()},
            "model.conditioner.dim": 2048,
            "model.denoiser.token_dim": 2048,
            "data.batch_size": 2048,
            "trainer.precision": "16-mixed",
        },
        "openai/glide-text2im: glide_text2im/model_creation.py": {
            "model.denoiser.multipliers": [1, 2, 3, 4],
            "model.denoiser.blocks": 3,
            "model.denoiser.attention": [2, 4, 8],
            "model.denoiser.head_channels": 64,
            "model.denoiser.dropout": 0.1,
        },
        "2112.10741, sec. 4.2": {
            "model.conditioner.dropout": 0.2,
            "model.conditioner.dropout_from_step": 2_500_000,
        },
        "2112.10741, app. B.2": RESPACED_250,
        "2112.10741, table 2": {"model.guidance": "ClassifierFreeGuidance", "model.guidance.scale": 1.5},
    },
    "glide_upsample_256": {
        "openai/guided-diffusion: guided_diffusion/train_util.py": ADM_DIFFUSION,
        "2112.10741, sec. 4.1 and 4.2": {
            "model.denoiser.width": 384,
            "model.conditioner": "LowResolution",
            "model.conditioner.factor": 4,
            "model.conditioner.conditioner": "TextTransformer",
            **{f"model.conditioner.conditioner.{name}": value for name, value in TEXT.items()},
            "model.conditioner.conditioner.dim": 1024,
            "model.conditioner.conditioner.dropout": 0,
            "data.batch_size": 512,
            "trainer.max_steps": 1_600_000,
        },
        "openai/glide-text2im: glide_text2im/model_creation.py": {
            "model.degradation.schedule": "linear",
            "model.denoiser.channels": 6,
            "model.denoiser.multipliers": [1, 1, 2, 2, 4, 4],
            "model.denoiser.blocks": 2,
            "model.denoiser.attention": [8, 16, 32],
            "model.denoiser.dropout": 0.1,
            "model.guidance": None,
        },
        "glide_text2im/respace.py:39": {
            "model.sampler": "DDIM",
            "model.sampler.eta": None,
            "model.sampler.spacing": "SectionSpacing",
            "model.sampler.spacing.sections": [10, 10, 3, 2, 2],
            "model.sampler.spacing.skip": 2,
        },
        "notebooks/text2im.ipynb": {"model.prior.temperature": 0.997},
    },
}
