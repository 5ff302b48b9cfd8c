"""`immich-ml-cn doctor`: looks at the device, the libraries, the cache and the sources, and says what to do."""

import argparse
import importlib.metadata
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from immich_ml_cn import __version__
from immich_ml_cn.engines import EngineError, select_engine, usable_cores
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.kinds import BASES, Kind

REACH_TIMEOUT_S: Final = 5.0
"""Seconds that a source has to answer."""

ENOUGH_BYTES: Final = 5_000_000_000
"""Free disk that a few models need: Chinese-CLIP L/14 alone has 1.6 GB."""

ROOMY_BYTES: Final = 2_000_000_000
"""Memory that the models an unchanged Immich asks for take, all at once."""

LIBRARIES: Final = ("starlette", "uvicorn", "numpy", "pillow", "opencv-python-headless", "tokenizers", "rapidocr")


class Verdict(StrEnum):
    """How a look turned out; only `BAD` makes the command fail."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """What a look found; `advice` is what to do, "" where there is nothing to do."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser("doctor", help="check device, libraries, cache and sources, and say what to do")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(command=_examine)


def _examine(settings: Settings, options: argparse.Namespace) -> int:
    findings = list(examine(settings))
    if options.json:
        _print(json.dumps({"version": __version__, "findings": [asdict(f) for f in findings]}, ensure_ascii=False))
    for finding in findings if not options.json else ():
        _print(f"{finding.verdict.value:4}  {finding.subject}: {finding.found}")
        if finding.advice:
            _print(f"      → {finding.advice}")
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


def examine(settings: Settings, reach: Callable[[str], str] | None = None) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Args:
        reach: tells why an address cannot be reached, "" where it can; the real one by default.
    """
    yield _device(settings)
    yield _libraries()
    yield _memory()
    yield _cache(settings)
    yield _disk(settings)
    yield from _sources(settings, reach or unreachable)
    yield _door(settings)


def _device(settings: Settings) -> Finding:
    try:
        engine = select_engine(settings)
    except EngineError as error:
        return Finding("device", Verdict.BAD, str(error), "fix the driver, or set MACHINE_LEARNING_PROVIDER=auto")
    if not engine.on_gpu and _has_gpu_runtime() and settings.provider != "cpu":
        advice = "run `nvidia-smi` here; in Docker pass the GPU to the container (--gpus all)"
        return Finding("device", Verdict.BAD, f"{engine.description}, although the GPU build is installed", advice)
    return Finding("device", Verdict.GOOD, engine.description)


def _has_gpu_runtime() -> bool:
    return bool(_version("onnxruntime-gpu"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _libraries() -> Finding:
    versions = {name: _version(name) for name in LIBRARIES}
    missing = [name for name, version in versions.items() if not version]
    if missing:
        return Finding("libraries", Verdict.BAD, f"missing: {', '.join(missing)}", "install the package anew")
    return Finding("libraries", Verdict.GOOD, ", ".join(f"{name} {version}" for name, version in versions.items()))


def _memory() -> Finding:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{usable_cores()} cores, {whole / 1e9:.1f} GB"
    if whole < ROOMY_BYTES:
        return Finding("computer", Verdict.NOTE, found, "lower MACHINE_LEARNING_MODEL_TTL, or choose smaller models")
    return Finding("computer", Verdict.GOOD, found)


def _cache(settings: Settings) -> Finding:
    folder = settings.cache_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            "cache",
            Verdict.BAD,
            f"{folder} cannot be written: {error.strerror}",
            f"give it to user {os.getuid()} (chown -R {os.getuid()} …), or set MACHINE_LEARNING_CACHE_FOLDER",
        )
    models = sum(1 for _ in folder.glob("*/*/*/model.onnx"))
    return Finding("cache", Verdict.GOOD, f"{folder} can be written, {models} model files")


def _disk(settings: Settings) -> Finding:
    folder = _existing(settings.cache_folder)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", Verdict.BAD, f"{folder} cannot be looked at: {error.strerror}")
    found = f"{free / 1e9:.1f} GB free"
    if free < ENOUGH_BYTES:
        return Finding("disk", Verdict.NOTE, found, "a large CLIP model needs up to 5 GB; `immich-ml-cn models remove`")
    return Finding("disk", Verdict.GOOD, found)


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))


def _sources(settings: Settings, reach: Callable[[str], str]) -> Iterator[Finding]:
    if settings.hf_hub_offline:
        yield Finding("sources", Verdict.NOTE, "HF_HUB_OFFLINE is set: nothing is fetched")
        return
    addresses = _addresses(settings)
    with ThreadPoolExecutor(len(addresses)) as pool:
        reasons = list(pool.map(reach, addresses.values()))
    for (name, address), reason in zip(addresses.items(), reasons, strict=True):
        found = f"{address} answers" if not reason else f"{address}: {reason}"
        yield Finding(f"source {name}", Verdict.NOTE if reason else Verdict.GOOD, found)
    if all(reasons):
        advice = "set HTTPS_PROXY or MACHINE_LEARNING_MODEL_SOURCE; models already in the cache are served all the same"
        yield Finding("sources", Verdict.NOTE, "none can be reached: missing models cannot be fetched", advice)


def _addresses(settings: Settings) -> dict[str, str]:
    addresses = {kind.value: base for kind, base in {**BASES, **settings.model_source.bases}.items()}
    if settings.hf_endpoint:
        addresses[Kind.HUGGINGFACE.value] = settings.hf_endpoint
    return addresses


def unreachable(address: str) -> str:
    """Why an address gives no answer within `REACH_TIMEOUT_S`, "" where it gives one, whichever."""
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"user-agent": "immich-ml-cn"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S):  # noqa: S310 - addresses of the settings
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)


def _door(settings: Settings) -> Finding:
    if settings.api_key:
        return Finding("access", Verdict.GOOD, "a key is needed for everything but /ping")
    return Finding(
        "access",
        Verdict.NOTE,
        f"whoever reaches {settings.host} port {settings.port} may use this server",
        "keep the port inside your network, or set MACHINE_LEARNING_API_KEY",
    )


def _print(line: str) -> None:
    print(line)  # noqa: T201 - the command's answer
