"""CLIP models of anybody, in Immich's layout: an address instead of a name of the tables."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from .clip import immich_clip
from .kinds import BASES, Kind, RemoteFile, Source
from .tasks import Component

_ADDRESS = re.compile(
    r"(?P<hub>huggingface|modelscope):(?P<owner>[\w-][\w.-]*)/(?P<name>[\w-][\w.-]*)(@(?P<revision>[\w.-]+))?"
)
_FILES = {
    "visual": ("visual/model.onnx", "visual/preprocess_cfg.json"),
    "textual": ("textual/model.onnx", "textual/tokenizer.json", "textual/tokenizer_config.json", "config.json"),
}


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on a hub that holds a CLIP in Immich's layout."""

    hub: Kind
    owner: str
    name: str
    revision: str | None

    @classmethod
    def parse(cls, address: str) -> "Repository | None":
        """Read ``huggingface:owner/name[@revision]`` or ``modelscope:owner/name[@revision]``; None for all else."""
        match = _ADDRESS.fullmatch(address)
        return None if match is None else cls(Kind(match["hub"]), match["owner"], match["name"], match["revision"])

    @property
    def folder(self) -> PurePosixPath:
        """Where it lies, relative to the cache."""
        return PurePosixPath("clip", f"{self.owner}__{self.name}")

    def sources(self, component: Component | None) -> tuple[Source, ...]:
        """The repository itself, or what one component needs of it."""
        repo = f"{self.owner}/{self.name}"
        if self.hub is Kind.HUGGINGFACE:
            return (immich_clip(repo, self.revision or "main", component),)
        base = f"{BASES[Kind.MODELSCOPE]}/models/{repo}/resolve/{self.revision or 'master'}"
        names = [name for each, files in _FILES.items() if component in (each, None) for name in files]
        return (Source(self.hub, tuple(RemoteFile(PurePosixPath(name), f"{base}/{name}") for name in names)),)
