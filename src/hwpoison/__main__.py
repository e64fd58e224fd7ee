"""``python -m hwpoison`` is the command ``hwpoison``."""

import sys

from .cli.app import main

sys.exit(main())
