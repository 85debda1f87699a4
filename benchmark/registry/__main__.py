"""`python -m benchmark.registry`."""

import sys

from benchmark.registry.commands import main

sys.exit(main())
