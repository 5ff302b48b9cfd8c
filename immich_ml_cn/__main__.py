"""`python -m immich_ml_cn` starts the server, as Immich's container starts its own."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
