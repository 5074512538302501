"""`python -m cli` is `dsv4-chat`."""

import sys

from cli.app import main

sys.exit(main())
