"""``python -m loadtest``: the release gate."""

import sys

from loadtest.gate import main

sys.exit(main())
