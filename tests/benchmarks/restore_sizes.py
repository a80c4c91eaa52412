"""Images per second, processor time and peak memory of `restore` for photographs of 256 to 8,192 pixels.

The network is that of configs/photo_blur.yaml after one training step, and the sampler is Direct: one evaluation of the
network, in tiles and of the whole image. Each row is a process of its own. Its times are those of reading, restoring
and writing: those of the command without those of an image of 16 px. Ten minutes of processor time, most of it for
8,192 px. Arguments are other sizes: python tests/benchmarks/restore_sizes.py 256 512
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

CONFIG = Path(__file__).parents[2] / "configs/photo_blur.yaml"
SIZES = [int(word) for word in sys.argv[1:]] or [256, 512, 1024, 2048, 4096, 8192]
LIMIT = 10 * 2**30
"""Bytes of address space, of which a process uses 3 GiB more than of memory."""


def command(folder: Path, *argv: str) -> tuple[int, np.ndarray, float]:
    """Run a command: its exit status, its seconds and processor seconds, and its peak memory in GiB."""
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusion_lightning", *argv, *quiet],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = np.array([time.perf_counter() - start, usage.ru_utime + usage.ru_stime])
    return status, seconds, usage.ru_maxrss / 2**20


def write_photographs(folder: Path, size: int, number: int) -> None:
    """Parts of a photograph that is repeated as often as necessary."""
    folder.mkdir()
    photograph = data.chelsea()
    repeats = (1 + size // photograph.shape[0], 1 + size // photograph.shape[1], 1)
    image = np.tile(photograph, repeats)[:size, :size]
    for i in range(number):
        Image.fromarray(np.roll(image, i, 0)).save(folder / f"{i}.png")


with tempfile.TemporaryDirectory() as name:
    root = Path(name)
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.callbacks=[]"]
    command(root, "fit", "--config", str(CONFIG), *short)

    def restore(size: int, number: int, tile: str) -> tuple[int, np.ndarray, float]:
        """Restore so many images of a size."""
        if not (root / f"{size}").exists():
            write_photographs(root / f"{size}", size, number)
        argv = ["--ckpt_path=runs/photo_blur/checkpoints/last.ckpt", f"--input={size}", f"--output={size}-{tile}"]
        # After one step of training, images would take many steps to become consistent.
        return command(root, "restore", *argv, "--sampler=Direct", "--consistent=false", f"--tile={tile}")

    _, idle, _ = restore(16, 1, "auto")
    sys.stdout.write(f"{'px':>5} {'tile':4} {'images/s':>9} {'CPU s/image':>12} {'GiB':>6}\n")
    for size in SIZES:
        number = max(1, 1024**2 // size**2)
        for tile in ("auto", "off"):
            status, seconds, memory = restore(size, number, tile)
            wall, processor = np.maximum(seconds - idle, 1e-9) / number
            text = f"{1 / wall:9.3g} {processor:12.3g} {memory:6.2f}"
            sys.stdout.write(f"{size:5} {tile:4} {text if status == 0 else '  does not fit'}\n")
            sys.stdout.flush()
