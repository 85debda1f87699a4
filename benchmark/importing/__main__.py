"""`python -m benchmark.importing`."""

import sys

from benchmark.importing.command import main

sys.exit(main())
