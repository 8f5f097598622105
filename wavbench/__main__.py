"""``python -m wavbench`` and the command ``wavbench``."""

import sys

from benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
