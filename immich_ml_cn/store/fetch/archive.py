"""Taking the wanted members out of a zip, by their exact names and to places the table gives."""

import zipfile
from pathlib import Path

from immich_ml_cn.messages import tr
from immich_ml_cn.sources import Member

from .failure import SourceFailed, writing
from .monitor import TransferMonitor
from .partial_file import Expected, Fetched, PartialFile

_CHUNK = 1 << 20


def unpack(archive: Path, member: Member, part: Path, monitor: TransferMonitor) -> Fetched:
    """Unpack one member, checked like a file from the network.

    Args:
        part: where its bytes go, ending in ``.part``.

    Raises:
        SourceFailed: no zip, no such member, or wrong bytes.
        DiskFailed: the disk does not take it.
        Cancelled: nobody waits for it any more.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return _unpack(opened, member, part, monitor)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise SourceFailed(tr("sent a broken archive ({reason})", reason=error)) from error


def _unpack(opened: zipfile.ZipFile, member: Member, part: Path, monitor: TransferMonitor) -> Fetched:
    try:
        info = opened.getinfo(member.name)
    except KeyError:
        raise SourceFailed(tr("sent an archive without {name}", name=member.name)) from None
    with writing(part):
        part.unlink(missing_ok=True)
    expected = Expected(member.size or info.file_size, member.sha256)
    name = f"{member.path} from {Path(member.name).name}"
    with PartialFile(part, name, expected, monitor) as target, opened.open(info) as packed:
        monitor.progress.start(name, 0, expected.size)
        monitor.start_window()
        try:
            while chunk := packed.read(_CHUNK):
                target.write(chunk)
            return target.finish()
        finally:
            monitor.progress.finish()
