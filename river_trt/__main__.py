"""`python -m river_trt` is `river-trt`."""

import sys

from river_trt.cli.main import main

sys.exit(main())
