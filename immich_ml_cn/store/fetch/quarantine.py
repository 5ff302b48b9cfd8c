"""Quarantine for model files that cannot be loaded: renamed, never deleted."""

from pathlib import Path

from .failure import writing


def quarantine(path: Path) -> Path:
    """Rename a file that cannot be loaded to ``<name>.broken-<n>``, so that it can be fetched again.

    Returns:
        Its new place; the message to the user should name it.

    Raises:
        DiskFailed: the folder cannot be written.
    """
    target = path.with_name(f"{path.name}.broken-{times_quarantined(path) + 1}")
    with writing(path):
        path.rename(target)
    return target


def times_quarantined(path: Path) -> int:
    """How often a file was quarantined; fetching the same bytes again after the first time is of little use."""
    numbers = (other.suffix.removeprefix(".broken-") for other in _quarantined(path))
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _quarantined(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.broken-*"))
