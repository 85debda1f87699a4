"""`python -m benchmark.registry`: the command, which may also read the data that entries name."""

import os
import sys

from benchmark.registry.commands import main
from benchmark.registry.entries import DatasetEntry


def check_data(entry: DatasetEntry) -> str | None:
    """Read data as a run would; return why a run could not use them, or None."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # before `datasets` is imported
    from benchmark.data import load_corpus
    from benchmark.failures import RunError

    try:
        load_corpus(entry)
    except RunError as error:
        return str(error).removeprefix(f"dataset {entry.name}: ")
    return None


if __name__ == "__main__":
    sys.exit(main(check_data=check_data))
