"""Time and peak memory of restoring 100 and 1,000 files, a tenth of them empty, and of a run that finds all finished.

The network is that of configs/debug.yaml: what is measured is the reading and writing of files.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = Path(__file__).parents[2] / "configs/debug.yaml"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def command(folder: Path, *argv: str) -> tuple[float, float]:
    """Run a command: its seconds, and its peak memory in MiB."""
    start = time.perf_counter()
    words = [sys.executable, "-m", "diffusion_lightning", *argv, *QUIET]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def write_files(folder: Path, number: int) -> None:
    """Images of seven sizes, every tenth file empty."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / f"{i:04d}.png"
        if i % 10 == 3:
            path.write_bytes(b"")
        else:
            Image.fromarray(rng.integers(0, 256, (64 + 8 * (i % 7), 64, 3), dtype=np.uint8)).save(path)


with tempfile.TemporaryDirectory() as name:
    root = Path(name)
    command(root, "fit", "--config", str(CONFIG))
    for number in (100, 1000):
        write_files(root / f"in{number}", number)
        argv = ["restore", "--ckpt_path=runs/debug/checkpoints/last.ckpt", f"--input=in{number}"]
        argv += [f"--output=out{number}", "--sampler=Direct"]
        for state in ("restored", "all finished"):
            seconds, memory = command(root, *argv)
            found = len(list((root / f"out{number}").glob("*.png")))
            sys.stdout.write(f"{number:5} files, {found} {state}: {seconds:.1f} s, peak memory {memory:.0f} MiB\n")
