"""The time of a training step with a rollout, over that of one without: the network, data and batch of snow.yaml.

Run ``python tests/benchmarks/rollout.py``, about a minute of processor time. Each round times all settings in turn, on
one thread, by the time of this process, and the median of the rounds counts.
"""

import statistics
import time
from types import SimpleNamespace

import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console
from rich.table import Table

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.degradations import Snow
from diffusion_lightning.modules import Rollout
from diffusion_lightning.networks import UNet
from diffusion_lightning.objectives.parameterizations import Residual

BATCH, ROUNDS = 64, 15
SETTINGS = {"without": None} | {
    f"share {share:g}, {steps} steps, {groups} groups": Rollout(share, steps, groups=groups)
    for share, steps, groups in ((0.5, 2, 8), (0.8, 2, 8), (0.8, 2, 1), (0.8, 1, 8), (0.8, 4, 8))
}


def seconds(module: RestorationModule, optimizer: torch.optim.Optimizer, number: int) -> float:
    """Processor time of the training step of one batch."""
    module.trainer.fit_loop.total_batch_idx = number
    images = DigitsDataset(train=True, size=16)
    clean = from_uint8(torch.stack([images[index].image for index in range(BATCH)]))
    generator = torch.Generator().manual_seed(number)
    t = module.time_sampler.sample(BATCH, module.degradation, generator)
    batch = degrade(module.degradation, clean, t, generator)
    start = time.process_time()
    optimizer.zero_grad()
    module.training_step(batch, 0).backward()
    optimizer.step()
    return time.process_time() - start


def main() -> None:
    """Measure, and print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UNet(channels=1, width=24, multipliers=[1, 2, 2], blocks=2)
    module = RestorationModule(Snow(level=3, steps=20), network, Residual())
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        current_epoch=0, global_rank=0, fit_loop=SimpleNamespace(), precision_plugin=Precision()
    )
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for number in range(-1, ROUNDS):
        for name, module.rollout in SETTINGS.items():
            if (measured := seconds(module, optimizer, number)) and number >= 0:
                times[name].append(measured)
    medians = {name: statistics.median(values) for name, values in times.items()}
    table = Table(title=f"Training step of {BATCH} × 1×16×16, one thread")
    for heading in ("rollout", "ms", "time / without"):
        table.add_column(heading, justify="left" if heading == "rollout" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{1000 * value:.0f}", f"{value / medians['without']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
