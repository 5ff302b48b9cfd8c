"""InsightFace: Immich's exports on Hugging Face, and the packs on GitHub the exports were made of."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from .kinds import BASES, Archive, HubSnapshot, Kind, Member, RemoteFile, Source
from .tasks import Component

_SCRFD_10G = ("5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91", 16_923_827)
_SCRFD_2_5G = ("041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9", 3_292_009)
_SCRFD_500M = ("5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a", 2_524_817)
_W600K_R50 = ("4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43", 174_383_860)
_W600K_MBF = ("9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f", 13_616_099)
_GLINTR100 = ("4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf", 260_665_334)
_DETECTION = PurePosixPath("detection/model.onnx")
_RECOGNITION = PurePosixPath("recognition/model.onnx")


def _pack(name: str, sha256: str, size: int, *members: Member) -> Archive:
    url = f"{BASES[Kind.GITHUB]}/deepinsight/insightface/releases/download/v0.7/{name}.zip"
    return Archive(url, members, sha256, size)


INSIGHTFACE: Mapping[str, Archive] = {
    "antelopev2": _pack(
        "antelopev2",
        "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        360_662_982,
        Member("antelopev2/scrfd_10g_bnkps.onnx", _DETECTION, *_SCRFD_10G),
        Member("antelopev2/glintr100.onnx", _RECOGNITION, *_GLINTR100),
    ),
    "buffalo_s": _pack(
        "buffalo_s",
        "d85a87f503f691807cd8bb97128bdf7a0660326cd9cd02657127fa978bab8b5e",
        127_607_557,
        Member("det_500m.onnx", _DETECTION, *_SCRFD_500M),
        Member("w600k_mbf.onnx", _RECOGNITION, *_W600K_MBF),
    ),
    "buffalo_m": _pack(
        "buffalo_m",
        "d98264bd8f2dc75cbc2ddce2a14e636e02bb857b3051c234b737bf3b614edca9",
        275_951_529,
        Member("det_2.5g.onnx", _DETECTION, *_SCRFD_2_5G),
        Member("w600k_r50.onnx", _RECOGNITION, *_W600K_R50),
    ),
    "buffalo_l": _pack(
        "buffalo_l",
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        288_621_354,
        Member("det_10g.onnx", _DETECTION, *_SCRFD_10G),
        Member("w600k_r50.onnx", _RECOGNITION, *_W600K_R50),
    ),
}


_PLAIN = "public-data/insightface/resolve/33c1063c49c785b7652d3fd529f86fa4f149392b/models/buffalo_l"
"""The files of one pack, unpacked, on Hugging Face: what they must be is known before anybody is asked."""


def _plain_files(pack: Archive, component: Component | None) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(member.path, f"{BASES[Kind.HUGGINGFACE]}/{_PLAIN}/{member.name}", member.sha256, member.size)
        for member in pack.members
        if component in (member.path.parts[0], None)
    )


def insightface(model: str, component: Component | None, organization: str, revision: str) -> tuple[Source, ...]:
    """Where the halves of a pack are; another revision than Immich's ``main`` is had from Hugging Face only.

    GitHub brings both components even when one is asked for: they share one big archive.
    """
    pack = INSIGHTFACE[model]
    paths = tuple(member.path for member in pack.members if component in (member.path.parts[0], None))
    allow = tuple(f"{path.parts[0]}/*" for path in paths)
    hub = Source(Kind.HUGGINGFACE, HubSnapshot(f"{organization}/{model}", revision, allow, paths))
    if revision != "main":
        return (hub,)
    plain = (Source(Kind.HUGGINGFACE, _plain_files(pack, component)),) if model == "buffalo_l" else ()
    return (hub, Source(Kind.GITHUB, pack), *plain)
