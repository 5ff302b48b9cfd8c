"""Hugging Face through its own library: what a repository holds, where, and with which token.

The library lists the files with size and checksum, builds their addresses and headers and lends its HTTP client, so
endpoint, token, proxies and offline mode behave as everywhere else. The bytes go through `transfer` on that client:
`hf_hub_download` (2.4) throws a cut file away, cannot be stopped, and checks no sha256.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from immich_ml_cn.messages import tr
from immich_ml_cn.sources import HubSnapshot, Kind

from .failure import SourceFailed
from .options import FetchOptions
from .partial_file import Expected
from .transfer import Address, refused, unreachable

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit."""

    path: PurePosixPath
    address: Address
    expected: Expected


def hub_client() -> "httpx2.Client":
    """The library's own HTTP client. It is shared: never close it."""
    from huggingface_hub import get_session

    return get_session()


def list_files(snapshot: HubSnapshot, options: FetchOptions) -> tuple[HubFile, ...]:
    """The files of a snapshot, pinned to the commit the revision means now.

    Raises:
        SourceFailed: unreachable, refused, unknown, or without a file the model needs.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    endpoint = options.base(Kind.HUGGINGFACE)
    siblings, commit = _ask(HfApi(endpoint=endpoint, token=options.token), snapshot, options)
    headers = build_hf_headers(token=options.token, library_name="immich-ml-cn")
    files = tuple(
        HubFile(
            PurePosixPath(sibling.rfilename),
            Address(
                hf_hub_url(snapshot.repo, sibling.rfilename, revision=commit, endpoint=endpoint),
                headers,
            ),
            _expected(sibling),
        )
        for sibling in siblings
        if _wanted(sibling.rfilename, snapshot)
    )
    _check(files, snapshot)
    return files


def _ask(api: "HfApi", snapshot: HubSnapshot, options: FetchOptions) -> tuple[Sequence["RepoSibling"], str]:
    """The repository's files and its commit."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = api.model_info(
            snapshot.repo,
            revision=snapshot.revision,
            files_metadata=True,
            timeout=options.connect_timeout_s,
        )
    except HfHubHTTPError as error:
        raise refused(error.response.status_code, error.response.headers) from error
    except OfflineModeIsEnabled as error:
        raise SourceFailed(tr("is switched off by HF_HUB_OFFLINE"), answered=False) from error
    except httpx2.TransportError as error:
        raise SourceFailed(unreachable(error, options), reached=False) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise SourceFailed(tr("does not answer like Hugging Face ({reason})", reason=error)) from error
    if info.sha is None or info.siblings is None:
        raise SourceFailed(tr("does not answer like Hugging Face (no list of files)"))
    return info.siblings, info.sha


def _expected(sibling: "RepoSibling") -> Expected:
    if sibling.lfs is not None:
        return Expected(sibling.lfs.size, sibling.lfs.sha256)
    return Expected(sibling.size, None, sibling.blob_id)


def _wanted(name: str, snapshot: HubSnapshot) -> bool:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return False
    if any(fnmatch(name, pattern) for pattern in snapshot.ignore):
        return False
    return any(fnmatch(name, pattern) for pattern in snapshot.allow)


def _check(files: tuple[HubFile, ...], snapshot: HubSnapshot) -> None:
    found = {file.path: file for file in files}
    missing = [path for path in snapshot.required if path not in found]
    if missing:
        raise SourceFailed(tr("has {repository} without {file}", repository=snapshot.repo, file=missing[0]))
    for name, sha256 in snapshot.pinned:
        if found[PurePosixPath(name)].expected.sha256 != sha256:
            raise SourceFailed(tr("offers another {file} than the official one", file=name))
