"""`python -m benchmark.export`."""

import sys

from benchmark.export.command import main

sys.exit(main())
