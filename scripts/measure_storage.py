"""What a file system takes for what a sweep does to it: `python scripts/measure_storage.py FOLDER`.

Measures in a new folder below FOLDER, which is removed afterwards, with the functions that runs
use. Prints the table of docs/scaling.md, "Shared file systems". Run it on a node that will work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmark.records import RunFolder, fsync_path, try_claim, write_text

SMALL_WRITES = 36
"""Files and folders that a run of two epochs makes durable, the shared cache's included: counted as
half of its calls of fsync, for each is followed by one of its folder."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="on the file system that results will be on")
    parser.add_argument("--rounds", type=int, default=50, help="of each measurement")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".measure-") as name:
        folder = Path(name)
        kib4, mib10 = "x" * 4096, b"x" * (10 << 20)
        rows = [
            ("write 4 KiB, no fsync", lambda n: (folder / f"plain-{n}").write_text(kib4)),
            ("write 4 KiB, fsync, rename, fsync of the folder", lambda n: _atomic(folder, n, kib4)),
            ("write 10 MiB and fsync", lambda n: _large(folder / f"large-{n % 3}", mib10)),
            ("claim a run and let go", lambda n: _claim(folder / f"run-{n}")),
            ("heartbeat of a claim", lambda n: os.utime(folder / "plain-0")),
            ("look for a record that is not there", lambda n: (folder / f"none-{n}").exists()),
        ]
        print("| what | median ms | 90th percentile ms |\n| --- | --- | --- |")
        medians = {}
        for what, act in rows:
            medians[what], high = _measured(act, options.rounds)
            print(f"| {what} | {medians[what]:.2f} | {high:.2f} |")
        whole = SMALL_WRITES * medians[rows[1][0]] / 1000
        print(f"\nA small run's {SMALL_WRITES} durable writes take {whole:.2f} s.")
        print(f"The file system's clock is {_clock_ahead(folder):+.2f} s ahead of this machine's.")


def _measured(act: Callable[[int], object], rounds: int) -> tuple[float, float]:
    """Return the median and the 90th percentile of the milliseconds that `act` takes."""
    taken = []
    for number in range(rounds):
        start = time.perf_counter()
        act(number)
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=10)[-1]


def _atomic(folder: Path, number: int, text: str) -> None:
    write_text(folder / f"atomic-{number}", text)


def _large(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    fsync_path(path)


def _claim(path: Path) -> None:
    claim = try_claim(RunFolder(path))
    assert claim is not None
    claim.release()


def _clock_ahead(folder: Path) -> float:
    path = folder / "clock"
    path.write_text("")
    os.utime(path)  # the server's time, where there is one
    return path.stat().st_mtime - time.time()


if __name__ == "__main__":
    main()
