"""`python -m segdcn` is `segdcn`."""

import sys

from segdcn.cli import main

sys.exit(main())
