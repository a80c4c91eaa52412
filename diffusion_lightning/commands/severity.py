"""The severity at which `restore` starts: a number, or estimated for every image."""

from collections.abc import Collection
from typing import Literal

import torch
from lightning.pytorch import Trainer

from diffusion_lightning.modules.restoration import RestorationModule

Severity = float | Literal["auto"]
"""The severity t of images, in [0, 1], or estimated."""


UNCERTAIN = 0.2
"""Standard deviation of an estimate that says little: without any knowledge of t it is 0.29."""


def choose_severity(severity: float | str | None, module: RestorationModule) -> Severity | list[float]:
    """The severity of a user's images, or several to choose from; by default estimated if the module can, else 1.

    Args:
        severity: What the user has chosen, if anything: a number, ``auto``, or numbers separated by commas.
        module: The trained module.

    Raises:
        ValueError: It is none of these, or to be estimated, and the module has no severity estimator.
    """
    if module.degradation.is_bridge:
        if severity not in (None, 1.0):
            raise ValueError(f"--severity {severity}: a Bridge starts at the degraded image, t = 1: leave it out")
        return 1.0
    has_estimator = module.severity_estimator is not None
    if severity is None:
        return "auto" if has_estimator else 1.0
    if severity == "auto":
        if not has_estimator:
            raise ValueError(
                "--severity auto: the checkpoint has no severity estimator: give a number, such as --severity 0.5, or "
                "train one with --model.severity_estimator SeverityEstimator"
            )
        return "auto"
    if not isinstance(severity, str):
        check_severity(severity)
        return severity
    try:
        severities = [float(part) for part in severity.split(",")]
    except ValueError:
        severities = []
    if not severities or not all(0 <= t <= 1 for t in severities):
        raise ValueError(
            f"--severity {severity}: give a number in [0, 1], auto, or several numbers, such as 0.2,0.4,0.6, for a "
            "sheet to choose from"
        )
    return severities[0] if len(severities) == 1 else severities


def check_severity(severity: float) -> None:
    """Check that a severity is in [0, 1].

    Raises:
        ValueError: It is not.
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"severity={severity}: choose a value in [0, 1]; 1 is the degradation's end")


def describe_severities(estimates: Collection[tuple[float, float]], trainer: Trainer) -> str:
    """``Estimated severity: t = 0.35 to 0.8, ± 0.03``: the range, and the mean uncertainty; for all ranks.

    What to do is added where the estimates are hardly more certain than none.

    Args:
        estimates: t and its standard deviation, of every image of this rank.
        trainer: The trainer.
    """
    device = trainer.strategy.root_device
    t, stds = torch.tensor([*estimates], dtype=torch.float64).reshape(-1, 2).T
    # A rank without images changes neither the range nor the sums.
    ends = torch.tensor([min(t.tolist(), default=2.0), -max(t.tolist(), default=-1.0)], device=device)
    sums = torch.tensor([float(stds.sum()), len(stds)], device=device)
    low, minus_high = trainer.strategy.reduce(ends, reduce_op="min").tolist()
    total, number = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
    if not number:
        return "No severity was estimated"
    span = " to ".join(dict.fromkeys([f"{low:.3g}", f"{-minus_high:.3g}"]))  # one number if they are equal
    std = total / number
    remedy = ", which is uncertain: compare several by --severity 0.25,0.5,1" if std > UNCERTAIN else ""
    return f"Estimated severity: t = {span}, ± {std:.2g}{remedy}"
