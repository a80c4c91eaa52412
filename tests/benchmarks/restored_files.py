"""Time and peak memory of restoring 100 and 1,000 mixed files, of a run that finds all finished, and of a killed one.

A tenth of the files cannot be restored: they are empty, cut, text, or too large to decode. Names have spaces, other
scripts and up to 255 bytes. A run is killed when half of the files are written, and continued: its files must have the
bytes of a run that was not interrupted. The network is that of configs/debug.yaml: what is measured is the reading and
writing of files. The memory is the resident set of the process, most of which are the libraries.
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


def start(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    """Start a command."""
    words = [sys.executable, "-m", "diffusion_lightning", *argv, *QUIET]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def command(folder: Path, *argv: str) -> str:
    """Run a command, and describe its time and memory."""
    begun = time.perf_counter()
    _, _, usage = os.wait4(start(folder, *argv).pid, 0)
    seconds, processor = time.perf_counter() - begun, usage.ru_utime + usage.ru_stime
    return f"{seconds:.1f} s, processor time {processor:.1f} s, peak memory {usage.ru_maxrss / 1024:.0f} MiB"


def write_files(folder: Path, number: int) -> None:
    """Images of seven sizes and four modes; every tenth file is none."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["{:04d}", "{:04d} two words", "{:04d}фото", "{:04d}写真", "{:04d}" + "b" * 247]
    for i in range(number):
        path = folder / f"{names[i % 5].format(i)}.png"
        image = Image.fromarray(rng.integers(0, 256, (64 + 8 * (i % 7), 64, 4), dtype=np.uint8))
        image.convert(("L", "RGB", "RGBA", "LA")[i % 4]).save(path)
        if i % 10 == 3:
            content = path.read_bytes()
            path.write_bytes((b"", content[: len(content) // 2], b"no image", content)[i // 10 % 4])
            if i // 10 % 4 == 3:
                Image.new("1", (20000, 20000)).save(path)


def restored(folder: Path) -> dict[str, bytes]:
    """The restored files."""
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


with tempfile.TemporaryDirectory() as name:
    root = Path(name)
    command(root, "fit", "--config", str(CONFIG))
    for number in (100, 1000):
        write_files(root / f"in{number}", number)
        argv = ["restore", "--ckpt_path=runs/debug/checkpoints/last.ckpt", f"--input=in{number}", "--sampler=Direct"]
        for state in ("restored", "all finished"):
            measured = command(root, *argv, f"--output=out{number}")
            found = restored(root / f"out{number}")
            sys.stdout.write(f"{number:5} files, {len(found)} {state}: {measured}\n")
            sys.stdout.flush()
    process = start(root, *argv, "--output=killed")
    while len(restored(root / "killed")) < number // 2 and process.poll() is None:
        time.sleep(0.2)
    process.kill()
    process.wait()
    kept = len(restored(root / "killed"))
    measured = command(root, *argv, "--output=killed")
    same = restored(root / "killed") == found
    sys.stdout.write(f"killed after {kept} files and continued: {measured}; {'the same' if same else 'other'} bytes\n")
