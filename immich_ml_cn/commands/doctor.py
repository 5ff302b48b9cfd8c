"""`immich-ml-cn doctor`: looks at the device, the libraries, the cache and the sources, and says what to do."""

import argparse
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from immich_ml_cn import __version__
from immich_ml_cn.engines import EngineError, select_engine, usable_cores
from immich_ml_cn.engines.packages import version
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import Translator, said_by, tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.kinds import BASES, Kind
from immich_ml_cn.store.checks import doubtful_models, unwritable
from immich_ml_cn.store.downloader import fetch_options

from .console import Console
from .local_server import LocalServer

REACH_TIMEOUT_S: Final = 5.0
"""Seconds that a source has to answer."""

ENOUGH_BYTES: Final = 5_000_000_000
"""Free disk that a few models need: Chinese-CLIP L/14 alone has 1.6 GB."""

ROOMY_BYTES: Final = 2_000_000_000
"""Memory that the models an unchanged Immich asks for take, all at once."""

LIBRARIES: Final = ("starlette", "uvicorn", "numpy", "pillow", "opencv-python-headless", "tokenizers", "rapidocr")

IMMICHS_NAME: Final = "immich-machine-learning"
"""What Immich's server calls this one unless its settings say otherwise."""


class Verdict(StrEnum):
    """How a look turned out; only `BAD` makes the command fail."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


_MARKS = {Verdict.GOOD: tr("good"), Verdict.NOTE: tr("note"), Verdict.BAD: tr("bad")}


@dataclass(frozen=True)
class Finding:
    """What a look found; `advice` is what to do, "" where there is nothing to do, `paste` the command that does it."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""
    paste: str = ""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", say: Translator) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser(
        "doctor", help=say(tr("check device, libraries, cache, sources and the way from Immich, and say what to do"))
    )
    parser.add_argument("--json", action="store_true", help="JSON")
    parser.set_defaults(command=_examine)


def _examine(settings: Settings, options: argparse.Namespace) -> int:
    console = Console(settings)
    findings = list(examine(settings))
    if options.json:
        console.json({"version": __version__, "findings": [asdict(finding) for finding in findings]})
    for finding in findings if not options.json else ():
        _print(console, finding)
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


def _print(console: Console, finding: Finding) -> None:
    mark = console.say(_MARKS[finding.verdict])
    console.print(f"{mark:4}  {console.say(finding.subject)}: {console.say(finding.found)}")
    if finding.advice:
        console.print(f"      → {console.say(finding.advice)}")
    if finding.paste:
        console.print(f"        {finding.paste}")


def examine(settings: Settings, reach: Callable[[str], str] | None = None) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Args:
        reach: tells why an address cannot be reached, "" where it can; the real one by default.
    """
    yield _device(settings)
    yield _libraries()
    yield _memory()
    yield from _doubts(settings)
    yield _cache(settings)
    yield _disk(settings)
    yield from _sources(settings, reach or unreachable)
    yield from _route(settings)
    yield _door(settings)


def _device(settings: Settings) -> Finding:
    subject = tr("device")
    try:
        engine = select_engine(settings)
    except EngineError as error:
        advice = tr("fix the driver, or let the server choose")
        return Finding(subject, Verdict.BAD, said_by(error), advice, _set("MACHINE_LEARNING_PROVIDER=auto"))
    if not engine.on_gpu and version("onnxruntime-gpu") and settings.provider != "cpu":
        found = tr("{device}, although the GPU build is installed", device=engine.description)
        advice = tr("look at the driver; in Docker the container needs the GPU (the cuda override file has it)")
        return Finding(subject, Verdict.BAD, found, advice, "nvidia-smi")
    return Finding(subject, Verdict.GOOD, engine.description)


def _libraries() -> Finding:
    subject = tr("libraries")
    versions = {name: version(name) for name in LIBRARIES}
    missing = [name for name, found in versions.items() if not found]
    if missing:
        found = tr("missing: {names}", names=", ".join(missing))
        return Finding(subject, Verdict.BAD, found, tr("install the package anew"), "scripts/environment cpu")
    return Finding(subject, Verdict.GOOD, ", ".join(f"{name} {found}" for name, found in versions.items()))


def _memory() -> Finding:
    subject = tr("computer")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = tr("{cores} cores, {memory:.1f} GB", cores=usable_cores(), memory=whole / 1e9)
    if whole < ROOMY_BYTES:
        advice = tr("let models go sooner, or choose smaller ones")
        return Finding(subject, Verdict.NOTE, found, advice, _set("MACHINE_LEARNING_MODEL_TTL=60"))
    return Finding(subject, Verdict.GOOD, found)


def _doubts(settings: Settings) -> Iterator[Finding]:
    for remark in (*settings.remarks, *doubtful_models(settings)):
        yield Finding(tr("settings"), Verdict.NOTE, remark)


def _cache(settings: Settings) -> Finding:
    subject = tr("cache")
    folder = settings.cache_folder
    if reason := unwritable(folder):
        found = tr("{folder} cannot be written: {reason}", folder=folder, reason=reason)
        advice = tr("give it to user {user}, or set MACHINE_LEARNING_CACHE_FOLDER", user=os.getuid())
        return Finding(subject, Verdict.BAD, found, advice, _as_root(f"chown -R {os.getuid()} {folder}"))
    found = tr("{folder} can be written, {count} model files", folder=folder, count=_model_files(settings))
    return Finding(subject, Verdict.GOOD, found)


def _model_files(settings: Settings) -> int:
    return sum(1 for _ in settings.cache_folder.glob("*/*/*/model.onnx"))


def _disk(settings: Settings) -> Finding:
    subject = tr("disk")
    folder = _existing(settings.cache_folder)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        found = tr("{folder} cannot be looked at: {reason}", folder=folder, reason=error.strerror)
        return Finding(subject, Verdict.BAD, found)
    found = tr("{free:.1f} GB free", free=free / 1e9)
    if free < ENOUGH_BYTES:
        advice = tr("a large CLIP model needs up to 5 GB; see what can go")
        return Finding(subject, Verdict.NOTE, found, advice, "immich-ml-cn models list")
    return Finding(subject, Verdict.GOOD, found)


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))


# --- where models come from ---


def _sources(settings: Settings, reach: Callable[[str], str]) -> Iterator[Finding]:
    if settings.hf_hub_offline:
        yield _nothing_comes(settings, tr("HF_HUB_OFFLINE is set: nothing is fetched"), "HF_HUB_OFFLINE=0")
        return
    addresses = _addresses(settings)
    with ThreadPoolExecutor(len(addresses)) as pool:
        reasons = list(pool.map(reach, addresses.values()))
    for (name, address), reason in zip(addresses.items(), reasons, strict=True):
        found = tr("{address}: {reason}", address=redact_url(address), reason=reason or tr("answers"))
        yield Finding(tr("source {name}", name=name), Verdict.NOTE if reason else Verdict.GOOD, found)
    if all(reasons):
        chosen = fetch_options(settings).last_resort() is None
        cure = "MACHINE_LEARNING_MODEL_SOURCE=auto" if chosen else "HTTPS_PROXY=http://<proxy>:<port>"
        yield _nothing_comes(settings, tr("none can be reached: missing models cannot be fetched"), cure)


def _nothing_comes(settings: Settings, found: str, cure: str) -> Finding:
    """What it means that nothing can be fetched: a problem where nothing is here either."""
    if _model_files(settings):
        advice = tr("models already in the cache are served all the same")
        return Finding(tr("sources"), Verdict.NOTE, found, advice)
    advice = tr("only the bundled text recognition can be served: connect, name a proxy (HTTPS_PROXY) or a mirror")
    return Finding(tr("sources"), Verdict.BAD, found, advice, _set(cure))


def _addresses(settings: Settings) -> dict[str, str]:
    addresses = {kind.value: base for kind, base in {**BASES, **settings.model_source.bases}.items()}
    if settings.hf_endpoint:
        addresses[Kind.HUGGINGFACE.value] = settings.hf_endpoint
    if mirrored := fetch_options(settings).last_resort():
        addresses["mirror"] = mirrored.base(Kind.HUGGINGFACE)
    return addresses


def unreachable(address: str) -> str:
    """Why an address gives no answer within `REACH_TIMEOUT_S`, "" where it gives one, whichever."""
    import httpx2  # only here: other commands start without it

    try:
        httpx2.head(address, headers={"user-agent": "immich-ml-cn"}, timeout=REACH_TIMEOUT_S)
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError, ValueError) as error:  # ImportError: a SOCKS proxy
        return str(error) or type(error).__name__
    return ""


# --- the way from Immich ---


def _route(settings: Settings) -> Iterator[Finding]:
    subject = tr("the way from Immich")
    if settings.host in {"127.0.0.1", "localhost", "::1"}:
        found = tr("IMMICH_HOST={host}: only this machine itself can connect", host=settings.host)
        advice = tr("listen on all addresses, unless Immich runs here outside of a container")
        yield Finding(subject, Verdict.NOTE, found, advice, _set("IMMICH_HOST=[::]"))
    elif not LocalServer(settings).answers():
        found = tr("no server answers on port {port}", port=settings.port)
        yield Finding(subject, Verdict.NOTE, found, tr("start it"), "immich-ml-cn serve")
    else:
        yield Finding(subject, Verdict.GOOD, _way_in(settings))


def _way_in(settings: Settings) -> str:
    """What has to stand in Immich as the URL."""
    own = _own_address()
    if own and own in _resolved(IMMICHS_NAME):
        return tr("Immich's usual address http://{name}:{port} leads here", name=IMMICHS_NAME, port=settings.port)
    return tr("in Immich: Machine Learning → URL → http://{host}:{port}", host=own or "…", port=settings.port)


def _own_address() -> str:
    """The address by which this machine goes out, "" where it has none; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def _resolved(name: str) -> set[str]:
    try:
        return {str(address[4][0]) for address in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def _door(settings: Settings) -> Finding:
    subject = tr("access")
    if settings.api_key:
        return Finding(subject, Verdict.GOOD, tr("a key is needed for everything but /ping"))
    return Finding(
        subject,
        Verdict.NOTE,
        tr("whoever reaches {host} port {port} may use this server", host=settings.host, port=settings.port),
        tr("keep the port inside your network, or set MACHINE_LEARNING_API_KEY"),
    )


# --- what can be pasted ---


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _set(assignment: str) -> str:
    """The command that gives a setting to the server, beside Immich's compose file or for this user."""
    if _in_container():
        return f"echo '{assignment}' >> .env && docker compose up -d"
    return f"{assignment} scripts/serve"


def _as_root(command: str) -> str:
    return f"docker exec --user root immich_machine_learning {command}" if _in_container() else f"sudo {command}"
