"""The settings of the classical models on CIFAR-10 as published, for ``helpers.published``."""

from helpers.paper import Figures

OF_50000 = {
    "trainer.callbacks.Generation.images": 50_000,
    "trainer.callbacks.Generation.reference": "train",
    "trainer.callbacks.Generation.features": "InceptionV3",
}
"""FID as most papers have it."""

EPS_MSE = {"model.parameterization": "Eps", "model.loss": "L2", "model.loss.weight": "SNRWeight"}
"""The mean squared error of ε."""

FLIPS = {"data.augmentation": ["RandomHorizontalFlip"]}

DDPM_TRAINING: Figures = {
    "hojonathanho/diffusion: scripts/run_cifar.py:39": {
        "model.denoiser": "DDPMUNet",
        "model.denoiser.width": 128,
        "model.denoiser.multipliers": [1, 2, 2, 2],
        "model.denoiser.blocks": 2,
        "model.denoiser.attention": [2],
    },
    "diffusion_tf/models/unet.py:66-84": {"model.denoiser.heads": None, "model.denoiser.head_channels": None},
    "scripts/run_cifar.py:134-137": {
        "model.degradation": "GaussianNoise",
        "model.degradation.steps": 1000,
        "model.degradation.schedule": "linear",
        **EPS_MSE,
        "model.denoiser.dropout": 0.1,
        "model.optimizer": "Adam",
        "model.optimizer.lr": 2e-4,
        "model.lr_scheduler": "LinearLR",
        "model.lr_scheduler.start_factor": 1 / 5000,
        "model.lr_scheduler.total_iters": 5000,
        "data.batch_size": 128,
        **FLIPS,
        "trainer.gradient_clip_val": 1.0,
    },
    "2006.11239, app. B; tpu_utils.py:89-103": {
        "trainer.max_steps": 800_000,
        "trainer.callbacks.EMA.decay": 0.9999,
    },
}
"""The model of DDPM and DDIM on CIFAR-10."""

IMPROVED_DDPM: Figures = {
    "openai/improved-diffusion: README.md, CIFAR-10 with L_hybrid": {
        "model.degradation.steps": 4000,
        "model.degradation.schedule": "cosine",
        "model.denoiser.width": 128,
        "model.denoiser.blocks": 3,
        "model.denoiser.dropout": 0.3,
        "model.denoiser.out_channels": 6,
        "model.optimizer.lr": 1e-4,
        "data.batch_size": 128,
        "trainer.max_steps": 500_000,
    },
    "improved_diffusion/script_util.py": {
        "model.denoiser.multipliers": [1, 2, 2, 2],
        "model.denoiser.attention": [2, 4],
        "model.denoiser.heads": 4,
        "model.denoiser.modulation": "scale_shift",
        "model.parameterization": "LearnedVariance",
        "model.parameterization.base": "Eps",
        "model.loss": "HybridLoss",
    },
    "improved_diffusion/image_datasets.py:77-106": {"data.augmentation": None},
    "improved_diffusion/train_util.py": {
        "model.optimizer": "AdamW",
        "model.optimizer.weight_decay": 0,
        "model.lr_scheduler": None,
        "trainer.gradient_clip_val": None,
        "trainer.callbacks.EMA.decay": 0.9999,
    },
    "2102.09672, table 2": {
        "model.sampler": "DDPM",
        "model.sampler.steps": None,
        **OF_50000,
        "trainer.callbacks.Likelihood.method": "vlb",
    },
}

SCORE_SDE_TRAINING: Figures = {
    "yang-song/score_sde_pytorch: configs/default_cifar10_configs.py": {
        "model.degradation.steps": 1000,
        **EPS_MSE,
        "model.denoiser.dropout": 0.1,
        "model.optimizer": "Adam",
        "model.optimizer.lr": 2e-4,
        "model.lr_scheduler.start_factor": 1 / 5000,
        "model.lr_scheduler.total_iters": 5000,
        "data.batch_size": 128,
        **FLIPS,
        **OF_50000,
    },
    "configs/v[ep]/cifar10_*_deep_continuous.py": {
        "model.denoiser.width": 128,
        "model.denoiser.multipliers": [1, 2, 2, 2],
        "model.denoiser.blocks": 8,
        "model.denoiser.attention": [2],
        "model.denoiser.heads": None,
        "model.time_sampler": "UniformTime",
        "trainer.max_steps": 950_000,
    },
}

NCSN: Figures = {
    "ermongroup/ncsnv2: configs/cifar10.yml": {
        "model.degradation.steps": 232,
        "model.degradation.schedule.sigma_max": 2 * 50,
        "model.degradation.schedule.sigma_min": 2 * 0.01,
        "model.optimizer": "Adam",
        "model.optimizer.lr": 1e-4,
        "model.sampler": "AnnealedLangevin",
        "model.sampler.corrector_steps": 5,
        "model.sampler.rate": 6.2e-6 / 0.01**2,
        "data.batch_size": 128,
        **FLIPS,
        "trainer.max_steps": 300_000,
        "trainer.callbacks.EMA.decay": 0.999,
        **OF_50000,
        "trainer.callbacks.Generation.images": 10_000,
    },
    "runners/ncsn_runner.py": {**EPS_MSE, "model.lr_scheduler": None, "trainer.gradient_clip_val": None},
}

EDM: Figures = {
    "NVlabs/edm: train.py:41-55": {
        "model.optimizer": "Adam",
        "model.optimizer.lr": 1e-3,
        "model.denoiser.dropout": 0.13,
        "data.batch_size": 512,
        "data.augmentation": ["NonLeakyAugmentation"],
        "data.augmentation.NonLeakyAugmentation.probability": 0.12,
        "model.conditioner": "AugmentationLabels",
        "trainer.max_steps": round(200e6 / 512),
        "trainer.callbacks.EMA.decay": 0.5 ** (512 / 0.5e6),
    },
    "train.py:116-118, training/networks.py:229-313": {
        "model.denoiser": "DDPMpp",
        "model.denoiser.width": 128,
        "model.denoiser.multipliers": [2, 2, 2],
        "model.denoiser.blocks": 4,
        "model.denoiser.attention": [2],
    },
    "training/loss.py": {
        "model.parameterization": "EDM",
        "model.parameterization.sigma_data": 0.5,
        "model.loss.weight.shift": 1 / 0.5**2,
        "model.time_sampler": "LogNormalNoiseLevel",
    },
    "training/training_loop.py:129-139": {
        "model.lr_scheduler.start_factor": 512 / 10e6,
        "model.lr_scheduler.total_iters": round(10e6 / 512),
        "model.optimizer.eps": 1e-8 / 3072,  # the loss is a sum over 3072 values
        "trainer.gradient_clip_val": None,
    },
    "generate.py:25-60; 2206.00364, table 2": {
        "model.degradation.schedule": "Karras",
        "model.sampler": "Heun",
        "model.sampler.steps": 18,
        "model.sampler.spacing": "KarrasSpacing",
        **OF_50000,
    },
}

FLOW: Figures = {
    "2210.02747, table 3": {
        "model.denoiser": "ADMUNet",
        "model.denoiser.width": 256,
        "model.denoiser.multipliers": [1, 2, 2, 2],
        "model.denoiser.blocks": 2,
        "model.denoiser.attention": [2],
        "model.denoiser.head_channels": None,
        "model.denoiser.dropout": 0,
        "model.optimizer": "Adam",
        "model.optimizer.lr": 5e-4,
        "data.batch_size": 256,
        "trainer.max_steps": 391_000,
    },
    "2210.02747, app. E": {
        "model.lr_scheduler": "OneCycleLR",
        "model.lr_scheduler.max_lr": 5e-4,
        "model.lr_scheduler.total_steps": 391_000,
        "model.lr_scheduler.pct_start": 45 / 391,
        "model.lr_scheduler.anneal_strategy": "linear",
        "model.lr_scheduler.cycle_momentum": False,
        "model.lr_scheduler.div_factor": 5e-4 / 1e-8,
        "model.lr_scheduler.final_div_factor": 1,
        "model.sampler": "AdaptiveODE",
        "model.sampler.rtol": 1e-5,
        "model.sampler.atol": 1e-5,
    },
    "2210.02747, table 4": {
        **OF_50000,
        "trainer.callbacks.Likelihood.dequantizations": 50,
        "trainer.callbacks.Likelihood.solver": "dopri5",
    },
}

CIFAR10: dict[str, Figures] = {
    "ddpm_cifar10": {
        **DDPM_TRAINING,
        "scripts/run_cifar.py:136": {"model.sampler": "DDPM", "model.sampler.variance": "forward"},
        "scripts/run_cifar.py:118": {"model.sampler.steps": None, "model.clip_denoised": True, **OF_50000},
    },
    "ddim_cifar10": {
        **DDPM_TRAINING,
        "ermongroup/ddim: runners/diffusion.py:346-353": {
            "model.sampler": "DDIM",
            "model.sampler.eta": 0,
            "model.sampler.spacing": "QuadraticSpacing",
            "model.sampler.spacing.start": 0.8,
            "model.clip_denoised": None,
        },
        "2010.02502, table 1": {"model.sampler.steps": 50, **OF_50000},
    },
    "improved_ddpm_cifar10": IMPROVED_DDPM,
    "ncsn_cifar10": NCSN,
    "score_sde_ve_cifar10": {
        **SCORE_SDE_TRAINING,
        "configs/ve/cifar10_ncsnpp_deep_continuous.py": {
            "model.denoiser": "NCSNpp",
            "model.degradation.schedule.sigma_min": 2 * 0.01,
            "model.degradation.schedule.sigma_max": 2 * 50,
            "model.sampler": "PredictorCorrector",
            "model.sampler.predictor": "ReverseDiffusion",
            "model.sampler.snr": 0.16,
            "trainer.callbacks.EMA.decay": 0.999,
        },
        "losses.py:71": {"trainer.gradient_clip_val": 1 / 1536, "model.optimizer.eps": 1e-8 / 1536},
    },
    "score_sde_vp_cifar10": {
        **SCORE_SDE_TRAINING,
        "configs/vp/cifar10_ddpmpp_deep_continuous.py": {
            "model.denoiser": "DDPMpp",
            "model.degradation.schedule": "VP",
            "model.sampler": "EulerMaruyama",
            "trainer.gradient_clip_val": 1.0,
            "trainer.callbacks.EMA.decay": 0.9999,
        },
    },
    "edm_cifar10": EDM,
    "flow_cifar10": FLOW,
}
