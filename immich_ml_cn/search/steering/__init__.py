"""Query vectors that put given photos first in an ordering by cosine."""

from .lift import Lifted, lift, most
from .photos import Photos
from .query_vector import Steered, places, steer
from .statistics import SAMPLE, Statistics

__all__ = ["SAMPLE", "Lifted", "Photos", "Statistics", "Steered", "lift", "most", "places", "steer"]
