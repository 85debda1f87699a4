"""The options that say where runs are executed. A command line needs them: nothing heavy here."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Literal, get_args

Executor = Literal["local", "ray", "slurm"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)

_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_CLUSTERS = ("slurm", "local")


@dataclass(frozen=True)
class Shard:
    """The `index`-th, counted from 1, of `count` parts of a command's runs."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `check_engine_options` checks and `engine_of` takes."""
    group = parser.add_argument_group("on which machines (docs/scaling.md)")
    group.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="local: processes of this machine; ray, slurm: a cluster (extras of these names)",
    )
    group.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only the I-th of N parts of the runs, as 2/8; no timing and no report",
    )
    group.add_argument(
        "--gpus-per-run",
        type=_share,
        metavar="NUMBER",
        help="ray, slurm: GPUs of a run (default with ray: 1 where the cluster has any; else 0)",
    )
    group.add_argument(
        "--timing-node",
        metavar="KIND",
        help="ray, slurm: time on one whole node of this kind (a Ray resource, a Slurm constraint)",
    )
    group.add_argument(
        "--slurm",
        type=_settings,
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="passed to Slurm: partition=gpu,time=2:00:00,mem=16G; cluster=local: without Slurm",
    )


def check_engine_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a sentence where options do not go together; merge what `--slurm` was given."""
    options.slurm = {key: value for settings in options.slurm for key, value in settings.items()}
    executor = options.executor
    if options.shard is not None and executor != "local":
        parser.error(
            f"--shard {options.shard} goes with --executor local: {executor} hands out the runs "
            "itself"
        )
    if options.shard is not None and options.json:
        parser.error("--json tells what a report gave, and a shard writes none")
    if options.slurm and executor != "slurm":
        parser.error("--slurm needs --executor slurm")
    for name, value in (
        ("--gpus-per-run", options.gpus_per_run),
        ("--timing-node", options.timing_node),
    ):
        if value is not None and executor == "local":
            parser.error(f"{name} needs --executor ray or slurm")
    if executor == "slurm" and (options.gpus_per_run or 0) % 1:
        parser.error(f"--gpus-per-run {options.gpus_per_run:g}: Slurm gives whole GPUs")


def _shard(text: str) -> Shard:
    found = _SHARD.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no part of a whole; write it as 2/8")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.index <= shard.count:
        count = max(1, shard.count)
        raise argparse.ArgumentTypeError(
            f"there is no {text}: shards go from 1/{count} to {count}/{count}"
        )
    return shard


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1024 or (share > 1 and share % 1):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is neither a number of GPUs nor a fraction of one"
        )
    return share


def _settings(text: str) -> dict[str, str]:
    settings = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key, value = key.strip().replace("-", "_"), value.strip()
        if not equals or not key.isidentifier() or not value:
            raise argparse.ArgumentTypeError(f"{part[:40]!r} is not KEY=VALUE, as in partition=gpu")
        settings[key] = value
    if settings.get("cluster", "slurm") not in _CLUSTERS:
        raise argparse.ArgumentTypeError(
            f"cluster={settings['cluster'][:40]}: known are {', '.join(_CLUSTERS)}"
        )
    if "time" in settings and slurm_minutes(settings["time"]) is None:
        raise argparse.ArgumentTypeError(
            f"time={settings['time'][:40]}: write minutes, hours:minutes:seconds or "
            "days-hours:minutes:seconds"
        )
    return settings


def slurm_minutes(text: str) -> int | None:
    """Return a time limit as Slurm takes it in minutes, rounded up; None: it is none.

    >>> [slurm_minutes(text) for text in ("90", "10:30", "2:00:00", "1-12", "1-0:30", "soon")]
    [90, 11, 120, 2160, 1470, None]
    """
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    days, *rest = found.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # minutes[:seconds]
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    total = (int(days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds
    return -(-total // 60) or None
