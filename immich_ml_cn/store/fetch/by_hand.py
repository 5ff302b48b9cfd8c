"""What a person has to do who brings a model's files from elsewhere: which address goes where."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from immich_ml_cn.messages import listing, tr
from immich_ml_cn.sources import BASES, Archive, HubSnapshot, Kind, Source


def steps(sources: Sequence[Source], folder: Path, missing: Iterable[PurePosixPath]) -> str:
    """``https://… → /cache/…`` for each missing file, from the first source that has all of them."""
    wanted = tuple(missing)
    addresses = next((found for found in map(_addresses, sources) if found.keys() >= set(wanted)), {})
    return listing(", ", (_step(addresses.get(path), folder / path) for path in wanted))


def _step(address: str | None, target: Path) -> str:
    return str(target) if address is None else tr("{address} → {target}", address=address, target=target)


def _addresses(source: Source) -> dict[PurePosixPath, str]:
    """Target → where it is; inside an archive, its name there comes first."""
    return dict(_pairs(source))


def _pairs(source: Source) -> Iterator[tuple[PurePosixPath, str]]:
    match source.content:
        case HubSnapshot(repo=repo, revision=revision, required=required):
            base = f"{BASES[Kind.HUGGINGFACE]}/{repo}/resolve/{revision}"
            yield from ((path, f"{base}/{path}") for path in required)
        case Archive(url=url, members=members):
            yield from ((member.path, tr("{name} in {archive}", name=member.name, archive=url)) for member in members)
        case files:
            yield from ((file.path, file.url) for file in files)
