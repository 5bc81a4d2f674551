"""`python -m intaglio VERB`."""

import sys

from intaglio.cli import main

sys.exit(main())
