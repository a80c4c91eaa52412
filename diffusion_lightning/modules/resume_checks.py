"""Whether training can go on from a checkpoint: what was set, fitted and averaged in it must be what this run has.

Lightning restores the state of the optimizer and of its scheduler over the arguments of the command line, and a fitted
prior belongs to the degradation that it was fitted to. So other arguments are refused here, not ignored.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

REMEDY = "or start a new run from its weights by --weights instead of --ckpt_path"
LOOPS = {"fit": "fit_loop", "validate": "validate_loop", "test": "test_loop", "predict": "predict_loop"}
IMPLEMENTATION = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
"""Entries of an optimizer's groups that releases of torch have added: how it computes, and not what."""

MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"}
"""States of an optimizer that have the shape of the parameter."""

DEFAULT_OPTIMIZER = {
    "class_path": "torch.optim.AdamW",
    "init_args": {
        name: parameter.default
        for name, parameter in inspect.signature(torch.optim.AdamW).parameters.items()
        if parameter.default is not parameter.empty
    }
    | {"lr": 1e-3},
}


DEFAULT_PRIOR = {"class_path": "diffusion_lightning.priors.ChannelMeans", "init_args": {"components": 1}}


def check_checkpoint(module: LightningModule, checkpoint: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check, before Lightning restores it, that a checkpoint fits the trainer, and the run if training goes on.

    Args:
        module: The module, in its trainer.
        checkpoint: The checkpoint.
        defaults: The hyperparameters that training goes on with, and what None stands for in each of them.

    Raises:
        ValueError: It does not.
    """
    trainer, source = module.trainer, module.trainer.ckpt_path
    stage = str(trainer.state.fn.value) if trainer.state.fn is not None else ""
    if stage in LOOPS and "loops" in checkpoint:
        current = {LOOPS[stage]: getattr(trainer, LOOPS[stage]).state_dict()}
        if not _is_like(current, checkpoint["loops"]):
            raise ValueError(f"the loops in {source} are not as this release of Lightning writes them: it is damaged")
    _check_callbacks(trainer, checkpoint.get("callbacks", {}))
    if stage != "fit":
        return
    if missing := next((n for n in ("loops", "optimizer_states", "lr_schedulers") if n not in checkpoint), None):
        raise ValueError(f"{source} has no {missing}, so it cannot be resumed: give another .ckpt file, {REMEDY}")
    if "averaging_state" in checkpoint and not _averages(trainer):
        raise ValueError(
            f"the weights in {source} are an average (EMA), and this run has no EMA callback, without which training "
            f"would go on from the average: add --trainer.callbacks+=EMA, {REMEDY}"
        )
    saved = checkpoint.get("hyper_parameters", {})
    for name, default in defaults.items():
        if name in saved and name in module.hparams:
            pair = (value if value is not None else default for value in (saved[name], module.hparams[name]))
            if (found := _difference(name, *pair)) is not None:
                field, old, new = found
                raise ValueError(f"--model.{field}: {new}, but {source} was trained with {old}: give that, {REMEDY}")


def check_optimizers(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Check that the states of the optimizers and schedulers in a checkpoint are those of the trainer's classes.

    Raises:
        ValueError: They are not.
    """
    for kind, current, saved, fits in (
        ("optimizer", trainer.optimizers, checkpoint["optimizer_states"], fits_optimizer),
        (
            "lr_scheduler",
            [config.scheduler for config in trainer.lr_scheduler_configs],
            checkpoint["lr_schedulers"],
            lambda scheduler, state: _is_like(scheduler.state_dict(), state),
        ),
    ):
        if len(current) != len(saved):
            raise ValueError(
                f"{trainer.ckpt_path} has {len(saved)} {kind}(s), this run {len(current)}: give as many, {REMEDY}"
            )
        if wrong := next((own for own, state in zip(current, saved, strict=True) if not fits(own, state)), None):
            raise ValueError(
                f"the state of the {kind} in {trainer.ckpt_path} is not one of {type(wrong).__name__} for this "
                f"network: give the {kind} that it was trained with, {REMEDY}"
            )


def check_image_shape(images: Tensor, fitted: tuple[int, int, int]) -> None:
    """Check that images (B, C, H, W) have the shape (C, H, W) to which the prior was fitted.

    Raises:
        ValueError: They do not.
    """
    if tuple(images.shape[1:]) != fitted:
        now, before = (" × ".join(map(str, shape)) for shape in (images.shape[1:], fitted))
        raise ValueError(
            f"the data have images of {now} and the prior was fitted to {before}: give data of that size, {REMEDY}"
        )


def _averages(trainer: Trainer) -> bool:
    return any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _check_callbacks(trainer: Trainer, saved: Mapping[str, Any]) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        ours = type(callback).__module__.startswith(("lightning.", "diffusion_lightning."))
        if ours and not _is_like(callback.state_dict(), saved.get(callback.state_key) or callback.state_dict()):
            raise ValueError(
                f"the state of {type(callback).__name__} in {trainer.ckpt_path} is not as it writes it: the file is "
                "damaged, or of another release"
            )


def fits_optimizer(optimizer: Any, state: Any) -> bool:
    """Whether a state has the groups of the optimizer, with its options and as many parameters, and their state."""
    groups, entries = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or len(groups) != len(optimizer.param_groups) or not isinstance(entries, dict):
        return False
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        options = {name: value for name, value in own.items() if name not in ("params", "initial_lr", *IMPLEMENTATION)}
        if not isinstance(group, dict) or not isinstance(group.get("params"), list) or not _is_like(options, group):
            return False
        if group.keys() - {"params", "initial_lr", *IMPLEMENTATION} != options.keys():
            return False
        if len(group["params"]) != len(own["params"]):
            return False
    if not type(optimizer).__module__.startswith("torch.optim"):
        return True  # what others keep for each parameter is theirs
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    return entries.keys() <= parameters.keys() and all(
        isinstance(entry, dict)
        and entry.keys() == next(iter(entries.values())).keys()
        and all(isinstance(value, Tensor | bool | int | float | list | None) for value in entry.values())
        and all(
            isinstance(value, Tensor) and value.shape == parameters[index].shape
            for name, value in entry.items()
            if name in MOMENTS and value is not None
        )
        for index, entry in entries.items()
    )


def _is_like(current: Any, saved: Any) -> bool:
    """Whether a saved state has the entries of a current one, each of its kind."""
    if isinstance(current, dict):
        return isinstance(saved, dict) and all(k in saved and _is_like(value, saved[k]) for k, value in current.items())
    if isinstance(current, bool | int):
        return isinstance(saved, int)
    if isinstance(current, float):
        return isinstance(saved, int | float)
    if isinstance(current, str):
        return isinstance(saved, str | None)
    if isinstance(current, list | tuple):
        return isinstance(saved, list | tuple)
    return not isinstance(current, Tensor) or isinstance(saved, Tensor)


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first field in which two arguments differ, as (its name, old value, new value); None if they do not.

    Arguments that only one of them has are those of another release, or have their defaults.
    """
    if isinstance(old, dict) and isinstance(new, dict) and "class_path" in old and "class_path" in new:
        names = [str(spec["class_path"]).rpartition(".")[2] for spec in (old, new)]
        if names[0] != names[1]:
            return name, names[0], names[1]
        old, new = (spec.get("init_args") or {} for spec in (old, new))
        found = (_difference(f"{name}.{key}", old[key], value) for key, value in new.items() if key in old)
        return next((difference for difference in found if difference is not None), None)
    return None if _as_lists(old) == _as_lists(new) else (name, _short(old), _short(new))


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> Any:
    """The name of a class, else the value."""
    return value["class_path"].rpartition(".")[2] if isinstance(value, dict) and "class_path" in value else value
