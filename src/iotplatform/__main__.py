"""`python -m iotplatform`."""

import sys

from iotplatform.cli import main

sys.exit(main())
