"""A machine-learning server for Immich that understands Chinese."""

from typing import Final

__version__: Final = "0.1.0"
