"""`python -m serving`."""

import sys

from serving.process import start

if __name__ == "__main__":
    sys.exit(start("serving.main"))
