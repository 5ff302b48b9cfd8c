"""Bringing models into the cache: resumed, checked, placed by atomic rename, from the first source that can.

`fetch_model` is all most callers need. Importing this package costs nothing: what is heavy is imported when a fetch
begins.
"""

from .checksums import FileCheck, State, check_files
from .failure import Cancelled, DiskFailed, SourceFailed
from .host_health import HostHealth
from .model import FetchReport, fetch_model, missing_files
from .options import FetchOptions
from .progress import (
    FileProgress,
    MultiProgress,
    NullProgress,
    Progress,
    ProgressBar,
    ProgressLog,
    ProgressState,
    display_progress,
)
from .quarantine import quarantine, times_quarantined

__all__ = [
    "Cancelled",
    "DiskFailed",
    "FetchOptions",
    "FetchReport",
    "FileCheck",
    "FileProgress",
    "HostHealth",
    "MultiProgress",
    "NullProgress",
    "Progress",
    "ProgressBar",
    "ProgressLog",
    "ProgressState",
    "SourceFailed",
    "State",
    "check_files",
    "display_progress",
    "fetch_model",
    "missing_files",
    "quarantine",
    "times_quarantined",
]
