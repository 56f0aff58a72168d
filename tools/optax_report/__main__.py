"""`python -m tools.optax_report`."""

import sys

from tools.optax_report.report import main

sys.exit(main())
