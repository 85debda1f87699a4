"""`python -m benchmark.claim`."""

import sys

from benchmark.claim import main

sys.exit(main())
