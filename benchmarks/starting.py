"""How long a translation with millions of sentence pairs takes to its first step, and how much memory, twice.

    python benchmarks/starting.py [--pairs 3000000] [--pairs 40000 --pairs 3000000]

Pairs are synthetic: words drawn by Zipf's law, as long as sentences are, in a TSV file. The translation script takes a
step of a tiny model on them with an empty cache, and again with what that start has left. Seconds are those that it
prints, from the start of the process to the end of the first step; memory is the process's peak until then, without
what it maps from files, and with it. Encoding processes are processes of their own and not counted.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--model.width",
    "32",
    "--model.feedforward-width",
    "64",
    "--model.num-heads",
    "2",
    "--model.num-encoder-layers",
    "1",
    "--model.num-decoder-layers",
    "1",
    "--vocabulary",
    "None",
    "--vocab-size",
    "2000",
    "--max-texts",
    "100000",
    "--max-length",
    "64",
    "--tokens-per-batch",
    "4096",
    "--updates",
    "3",
    "--optimization.warmup",
    "1",
    "--validate-every",
    "3",
]


def write_pairs(path: Path, number: int) -> None:
    """Writes pairs in blocks, the same for the same number."""
    generator = np.random.default_rng(1)
    words = np.array([f"w{index:x}" for index in range(30_000)])
    shares = 1 / np.arange(1, len(words) + 1)
    upto = np.cumsum(shares / shares.sum())
    with path.open("w", encoding="utf-8") as file:
        for begin in range(0, number, 20_000):
            pairs = min(20_000, number - begin)
            lengths = np.clip(generator.lognormal(2.6, 0.5, (2, pairs)), 2, 50).astype(int)
            drawn = iter(words[np.searchsorted(upto, generator.random(lengths.sum()))].tolist())
            for source, target in lengths.T.tolist():
                left = " ".join(next(drawn) for _ in range(source))
                file.write(f"{left}\t{' '.join(next(drawn) for _ in range(target))}\n")


def start(pairs: Path, run: Path, cache: Path) -> tuple[float, int, int]:
    """Trains one step, and returns the seconds to its end and the peaks of memory in MiB: own, and with maps."""
    command = [sys.executable, str(ROOT / "experiments" / "translation.py"), "phrasebook", *TINY]
    command += ["--train", str(pairs), "--run", str(run), "--text-cache", str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    printed, peaks = [], [0, 0]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        threading.Thread(target=watch, args=(process.pid, peaks), daemon=True).start()
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            if found := re.search(r"first step done ([\d.]+) s", line):
                process.terminate()
                return float(found[1]), peaks[0] >> 10, peaks[1] >> 10
    raise SystemExit("".join(printed))


def watch(process: int, peaks: list[int]) -> None:
    """Keeps the largest sizes of a process, in KiB, until it ends: of its own memory, and with what it maps."""
    while True:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            return
        for place, name in enumerate(("RssAnon", "VmHWM")):
            if found := re.search(rf"^{name}:\s+(\d+)", status, flags=re.MULTILINE):
                peaks[place] = max(peaks[place], int(found[1]))
        time.sleep(0.02)


def main() -> None:
    """Prints a line for each start."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, action="append")
    options = parser.parse_args()
    for number in options.pairs or [3_000_000]:
        with tempfile.TemporaryDirectory(prefix="lmx-starting-") as name:
            folder = Path(name)
            write_pairs(folder / "pairs.tsv", number)
            size = (folder / "pairs.tsv").stat().st_size / 1e6
            print(f"{number:,} pairs, {size:,.0f} MB of text")
            for which in ("first", "second"):
                seconds, own, whole = start(folder / "pairs.tsv", folder / which, folder / "cache")
                print(
                    f"  {which} start: first step after {seconds:.1f} s, peak {own:,} MiB, with mapped files {whole:,}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
