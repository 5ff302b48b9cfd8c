"""The kinds of places models come from, and what can be had there."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TypeAlias


class Kind(StrEnum):
    """The places models are fetched from."""

    HUGGINGFACE = "huggingface"
    MODELSCOPE = "modelscope"
    GITHUB = "github"


BASES: Mapping[Kind, str] = {
    Kind.HUGGINGFACE: "https://huggingface.co",
    Kind.MODELSCOPE: "https://www.modelscope.cn",
    Kind.GITHUB: "https://github.com",
}
"""What every address of a kind begins with; a mirror takes its place."""

MIRRORS: Mapping[Kind, str] = {Kind.HUGGINGFACE: "https://hf-mirror.com"}
"""Public mirrors, open where the kind's own host is blocked. Others run them: checksums guard what they bring."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at an address of its own.

    Attributes:
        path: where it lands, relative to the model's folder.
        sha256: 64 lower-case hex digits, None where nobody published one.
        size: bytes, None where unknown.
    """

    path: PurePosixPath
    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive.

    Attributes:
        name: its exact name inside the archive.
        path: where it lands, relative to the model's folder.
    """

    name: str
    path: PurePosixPath
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip of which only `members` are unpacked."""

    url: str
    members: tuple[Member, ...]
    sha256: str | None = None
    size: int | None = None

    @property
    def file(self) -> PurePosixPath:
        """The name of the file itself."""
        return PurePosixPath(self.url.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """Files of a Hugging Face repository, landing under their names there.

    Attributes:
        allow, ignore: shell patterns on the names (``*`` also matches ``/``).
        required: the files without which the model cannot be loaded.
        pinned: name → sha256 that the hub has to promise, where we know it from elsewhere.
    """

    repo: str
    revision: str
    allow: tuple[str, ...]
    required: tuple[PurePosixPath, ...]
    ignore: tuple[str, ...] = ("*.armnn", "*/fp16/*", "*rknpu*")
    pinned: tuple[tuple[str, str], ...] = ()


Content: TypeAlias = tuple[RemoteFile, ...] | Archive | HubSnapshot


@dataclass(frozen=True, slots=True)
class Source:
    """One place that has all files of a model (or of one component of it).

    Attributes:
        third_party: neither the model's authors nor Immich publish there, and nobody else knows its checksums.
    """

    kind: Kind
    content: Content
    third_party: bool = False

    @property
    def required(self) -> tuple[PurePosixPath, ...]:
        """The files that make the model loadable, relative to its folder."""
        match self.content:
            case HubSnapshot(required=required):
                return required
            case Archive(members=members):
                return tuple(member.path for member in members)
            case files:
                return tuple(file.path for file in files)


def modelscope(repo: str, name: str) -> str:
    """The address of a file of a ModelScope repository."""
    return f"{BASES[Kind.MODELSCOPE]}/models/{repo}/resolve/master/{name}"
