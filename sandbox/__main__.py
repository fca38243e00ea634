"""`python -m sandbox`."""

import sys

from sandbox.run import main

if __name__ == "__main__":
    sys.exit(main())
