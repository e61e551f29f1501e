"""`python -m eagerly` is the command `eagerly`."""

import sys

from eagerly.cli import main

sys.exit(main())
