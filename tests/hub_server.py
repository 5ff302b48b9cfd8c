"""A local server that behaves like the places models come from, well and badly.

`Site` serves any path; `hub` adds a repository as Hugging Face shows it, with big files redirected to another host.
"""

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


@dataclass
class Page:
    """What one path answers, and how it misbehaves.

    Attributes:
        status: answered instead of the data for the first `bad_answers` requests (None: for all).
        cut_at: share of the file after which the connection breaks, for the first `cuts` requests.
        trickle: (bytes, seconds between them) instead of full speed.
        stall_after: bytes after which nothing more comes, though the connection stays.
        gate: what the second half waits for.
        ranges: whether Range is honoured.
        range_slip: bytes before the asked one at which an answer to a Range begins.
    """

    data: bytes = b""
    status: int = 200
    bad_answers: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: float | None = None
    cuts: int = 1_000_000
    trickle: tuple[int, float] | None = None
    stall_after: int | None = None
    gate: threading.Event | None = None
    ranges: bool = True
    range_slip: int = 0
    etag: str | None = None


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def start(self) -> int | None:
        """First byte asked for, None without a Range."""
        value = self.headers.get("range")
        return None if value is None else int(value.removeprefix("bytes=").rstrip("-"))


class Site:
    """The pages of a running server and the requests it got."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.other_host = f"http://localhost:{port}"
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.sent = 0
        self.closing = threading.Event()

    def add(self, path: str, page: Page) -> str:
        """Serve a page; its whole address."""
        self.pages[path] = page
        return self.base + path

    def gets(self, path: str) -> list[Request]:
        """The GET requests for one path, in order."""
        return [r for r in self.requests if r.path == path and r.method == "GET"]

    def downloads(self, page: Page) -> list[int | None]:
        """Where each download of a file in LFS began, None for those from its first byte."""
        return [request.start for request in self.gets(f"/cdn/{hashlib.sha256(page.data).hexdigest()}")]

    def hub(self, repo: str, files: Mapping[str, Page], *, revision: str = "main") -> str:
        """Serve a repository like Hugging Face; its commit. Files from 1,000 bytes on are in LFS."""
        commit = hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()
        siblings = [self._sibling(repo, commit, name, page) for name, page in files.items()]
        info = {"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        self.add(f"/api/models/{repo}/revision/{revision}", Page(json.dumps(info).encode()))
        tree = [_tree_entry(sibling) for sibling in siblings]
        self.add(f"/api/models/{repo}/tree/{commit}", Page(json.dumps(tree).encode()))
        return commit

    def _sibling(self, repo: str, commit: str, name: str, page: Page) -> dict[str, object]:
        sha256 = hashlib.sha256(page.data).hexdigest()
        blob = hashlib.sha1(b"blob %d\0" % len(page.data) + page.data).hexdigest()
        entry: dict[str, object] = {"rfilename": name, "size": len(page.data), "blobId": blob}
        resolve = f"/{repo}/resolve/{commit}/{name}"
        if len(page.data) < 1000:
            page.etag = f'"{blob}"'
            page.headers["X-Repo-Commit"] = commit
            self.add(resolve, page)
            return entry
        self.add(f"/cdn/{sha256}", page)
        headers = {
            "Location": f"{self.other_host}/cdn/{sha256}",
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(page.data)),
        }
        self.add(resolve, Page(status=302, headers=headers))
        return {**entry, "lfs": {"sha256": sha256, "size": len(page.data), "pointerSize": 134}}


def files_in(folder: Path) -> set[str]:
    """Every file below a folder, but for locks and the record of checksums."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)) for path in paths if path.suffix != ".lock" and path.name != ".checksums.json"
    }


def _tree_entry(sibling: Mapping[str, object]) -> dict[str, object]:
    entry = {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"]}
    lfs = sibling.get("lfs")
    if isinstance(lfs, dict):
        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return entry


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip with these members, whatever their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@contextmanager
def running() -> Iterator[Site]:
    """A site on a free port of 127.0.0.1."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    Handler.site = site = Site(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: ClassVar[Site]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.site.requests.append(Request(self.command, path, headers))
        page = self.site.pages.get(path, Page(status=404, bad_answers=None))
        if page.status != 200 and (page.bad_answers is None or page.bad_answers > 0):
            if page.bad_answers is not None:
                page.bad_answers -= 1
            self._head(page.status, {**page.headers, "Content-Length": "0"})
            return
        start = self._start(page)
        if start >= len(page.data) > 0:
            self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(page.data)}"})
            return
        self._head(206 if start else 200, self._describe(page, start))
        if body:
            try:
                self._send(page, page.data[start:])
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    def _start(self, page: Page) -> int:
        wanted = self.headers.get("Range")
        if wanted is None or not page.ranges or self.headers.get("If-Range", page.etag) != page.etag:
            return 0
        return int(wanted.removeprefix("bytes=").rstrip("-")) - page.range_slip

    def _describe(self, page: Page, start: int) -> dict[str, str]:
        headers = {**page.headers, "Content-Length": str(len(page.data) - start)}
        if page.etag is not None:
            headers["ETag"] = page.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(page.data) - 1}/{len(page.data)}"
        return headers

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, page: Page, data: bytes) -> None:
        if page.cut_at is not None and page.cuts > 0:
            page.cuts -= 1
            self._write(data[: int(len(page.data) * page.cut_at)])
            self.close_connection = True
        elif page.stall_after is not None:
            self._write(data[: page.stall_after])
            self.site.closing.wait(10)
            self.close_connection = True
        elif page.trickle is not None:
            self._trickle(data, *page.trickle)
        elif page.gate is not None:
            second_half = len(page.data) // 2
            self._write(data[:-second_half])
            page.gate.wait(60)
            self._write(data[-second_half:])
        else:
            self._write(data)

    def _trickle(self, data: bytes, size: int, seconds: float) -> None:
        for begin in range(0, len(data), size):
            self._write(data[begin : begin + size])
            time.sleep(seconds)
            if self.site.closing.is_set():
                return

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.site.sent += len(data)
