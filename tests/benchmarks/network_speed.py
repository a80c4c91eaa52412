"""The training step of our U-Net against those of two libraries at equal size, as a fraction of the machine's peak.

The fraction is the step's floating-point operations, by torch's FlopCounterMode, over its time, over the rate of a 3×3
convolution of 64 channels (forward and backward, 32×32) in the same run. Each round times all networks in turn, and the
median of the rounds counts, so that other load on the machine affects all equally; on a shared machine,
`--threads 1 --clock cpu` counts the time of this process alone. Needs `pip install 'diffusion-lightning[bench]'`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from _network_training import digits, train
from _networks import NETWORKS, SIZES, build, parameters
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OURS = next(iter(NETWORKS))


def seconds(function: Callable[[], None], clock: Callable[[], float]) -> float:
    """Time of one call."""
    start = clock()
    function()
    return clock() - start


def operations(function: Callable[[], None]) -> int:
    """Floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def training_step(network: nn.Module, batch_size: int, side: int) -> Callable[[], None]:
    """Forward, mean L1 loss, backward and AdamW."""
    x, t = torch.randn(batch_size, 3, side, side), torch.rand(batch_size)
    target = torch.randn_like(x)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (network(x, t) - target).abs().mean().backward()
        optimizer.step()

    return step


def convolution(memory_format: torch.memory_format) -> Callable[[], None]:
    """Forward and backward of the convolution whose rate is the machine's peak."""
    layer = nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(32, 64, 32, 32).to(memory_format=memory_format).requires_grad_()
    gradient = torch.randn_like(x)

    def step() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(gradient)

    return step


def measure(size: str, batch_size: int, side: int, rounds: int, clock: Callable[[], float]) -> Table:
    """Time all networks in turn."""
    peaks = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    networks = build(channels=3, size=size)
    steps = {name: training_step(network, batch_size, side) for name, network in networks.items()}
    steps |= {name: convolution(memory_format) for name, memory_format in peaks.items()}
    for step in steps.values():
        step()
    counts = {name: operations(step) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, clock))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rates = {name: counts[name] / medians[name] for name in steps}

    peak_rates = ", ".join(f"{rates[name] / 1e9:.0f} GFLOP/s {name}" for name in peaks)
    table = Table(title=f"Training step in ms, {batch_size} × 3×{side}×{side}, float32; peak: {peak_rates}")
    for heading in ("network", "parameters", "ms", "GFLOP", *(f"fraction of {name}" for name in peaks), "time / ours"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, network in networks.items():
        table.add_row(
            name,
            f"{parameters(network):,}",
            f"{1000 * medians[name]:.0f}",
            f"{counts[name] / 1e9:.1f}",
            *(f"{rates[name] / rates[peak]:.0%}" for peak in peaks),
            f"{medians[name] / medians[OURS]:.2f}",
        )
    return table


def compare_training(
    size: str, batch_size: int, minutes: float, learning_rate: float, clock: Callable[[], float]
) -> Table:
    """Train all networks for the same minutes."""
    torch.manual_seed(0)
    runs = train(build(channels=1, size=size), minutes, batch_size, learning_rate, clock)
    _, held_out = digits()
    table = Table(title=f"Deblurring digits at 16×16, {minutes:g} minutes each, batches of {batch_size}")
    for heading in ("network", "steps", "held-out L1", "loss / ours"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    losses = {name: run.loss(held_out) for name, run in runs.items()}
    for name, run in runs.items():
        table.add_row(name, str(run.steps), f"{losses[name]:.4f}", f"{losses[name] / losses[OURS]:.2f}")
    return table


def main() -> None:
    """Parse the arguments, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="size of the networks (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a batch (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="side of the timed images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--train-minutes", type=float, default=0.0, help="also train each for this time (default: no)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="for --train-minutes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="which time counts (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(measure(arguments.size, arguments.batch_size, arguments.side, arguments.rounds, clock))
    if arguments.train_minutes:
        with console.status("training"):
            table = compare_training(
                arguments.size, arguments.batch_size, arguments.train_minutes, arguments.learning_rate, clock
            )
        console.print(table)


if __name__ == "__main__":
    main()
