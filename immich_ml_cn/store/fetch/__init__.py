"""Bringing models into the cache: resumed, checked, placed by atomic rename, from the first source that can.

`fetch_model` is all most callers need. Importing this package costs nothing: what is heavy is imported when a fetch
begins.
"""

from .aside import set_aside, times_set_aside
from .checksums import FileCheck, State, check_files
from .failure import Cancelled, DiskFailed
from .memory import Memory
from .model import FetchReport, fetch_model, missing_files
from .options import FetchOptions
from .progress import Arrival, Bar, LogLines, Progress, Several, Silent, Tally, show_on

__all__ = [
    "Arrival",
    "Bar",
    "Cancelled",
    "DiskFailed",
    "FetchOptions",
    "FetchReport",
    "FileCheck",
    "LogLines",
    "Memory",
    "Progress",
    "Several",
    "Silent",
    "State",
    "Tally",
    "check_files",
    "fetch_model",
    "missing_files",
    "set_aside",
    "show_on",
    "times_set_aside",
]
