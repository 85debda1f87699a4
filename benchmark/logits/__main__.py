"""`python -m benchmark.logits`."""

import sys

from benchmark.logits.command import main

sys.exit(main())
