"""Every setting: its variable, default, unit and meaning. The only reader of the environment.

`Settings.from_env` is handed the environment once, at start; everything else is handed the frozen `Settings`. The
documented tables are held equal to this file by a test.
"""

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args

from . import setting_values as values
from .messages import Language, Message, language_for, tr
from .setting_values import PILLOWS_LIMIT, Doubtful, LogLevel, OpenVinoPrecision
from .sources import Preference
from .sources.clip_names import DEFAULT_ALIASES, parse_aliases

T = TypeVar("T")
Parse = Callable[[str], T]

Provider = Literal["auto", "cuda", "openvino", "cpu"]
OpenVinoDevice = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "fp32", "fp16", "int8"]
Preprocessing = Literal["exact", "fast"]
TextSearchMode = Literal["off", "prefix", "hybrid"]

INERT: Final[Mapping[str, str]] = {
    "MACHINE_LEARNING_ANN": "ARM NN acceleration",
    "MACHINE_LEARNING_ANN_FP16_TURBO": "ARM NN acceleration",
    "MACHINE_LEARNING_ANN_TUNING_LEVEL": "ARM NN acceleration",
    "MACHINE_LEARNING_RKNN": "Rockchip acceleration",
    "MACHINE_LEARNING_RKNN_THREADS": "Rockchip acceleration",
    "MACHINE_LEARNING_ROCM_PRECISION": "AMD ROCm",
    "MACHINE_LEARNING_TEST_FULL": "Immich's own tests",
    "IMMICH_ENV": "nothing, in Immich's service either",
}
"""Variables of Immich's service that are accepted and do nothing here, each with what it is for."""

PROVIDERS_OF_DEVICE: Final = ("cuda", "cpu")
"""Values of DEVICE that name a provider; Immich's own images set others too."""


NO_TELEMETRY: Final[Mapping[str, str]] = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Libraries that would report to their makers: ONNX Runtime 1.32 sends events and keeps a database of them in ~."""


ANY_CASE: Final = ("IMMICH_", "MACHINE_LEARNING_")
"""Beginnings of the variables whose case does not matter to Immich's own service."""

PREFIX: Final = "MACHINE_LEARNING_"
"""Of variables that nobody else has a use for."""

PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
"""Variables that the libraries read themselves, and that may hold a password."""


class SettingsError(ValueError):
    """A variable has a value that cannot be used; the message names the variable, the value and what is allowed.

    A value that may hold a secret is not named.
    """


def _setting(
    variable: str,
    default: Any,
    parse: Parse[Any],
    meaning: str,
    *,
    shown: str | None = None,
    aliases: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """A dataclass field that knows its variable.

    Args:
        shown: how the default is documented.
        secret: its value holds a secret or may hold one, such as an address with a password, and is never shown.
    """
    return field(
        default_factory=lambda: default,
        repr=not secret,
        metadata={
            "secret": secret,
            "variable": variable,
            "parse": parse,
            "meaning": meaning,
            "shown": shown,
            "aliases": aliases,
        },
    )


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """A variable as it was read, for people.

    Attributes:
        value: as text; None where it may hold a secret, or where the variable is unknown.
        source: where the value comes from; ``unknown`` for a variable that looks like ours and does nothing.
        default: what it is where nothing is set, "" for nothing.
        near: of an unknown variable the known one that may be meant.
    """

    variable: str
    value: str | None
    source: Literal["environment", "default", "unknown"]
    default: str = ""
    meaning: str = ""
    near: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings, one field per variable, as frozen values."""

    # --- Immich's own variables, with Immich's meaning ---
    host: str = _setting(
        "IMMICH_HOST", "::", values.host, "Address to listen on. The default takes IPv6 and IPv4.", shown="[::]"
    )
    port: int = _setting("IMMICH_PORT", 3003, values.port, "Port to listen on.")
    log_level: LogLevel = _setting(
        "IMMICH_LOG_LEVEL",
        "log",
        values.log_level,
        "How much is logged: verbose, debug, log, info, warn (also warning), error or critical (also fatal).",
    )
    no_color: bool = _setting("NO_COLOR", False, values.presence, "Logs without colours.", shown="false")
    source_ref: str = _setting(
        "IMMICH_SOURCE_REF", "", values.word, "Name of the build, shown at start; set by images."
    )
    model_ttl_s: float = _setting(
        "MACHINE_LEARNING_MODEL_TTL",
        300.0,
        values.seconds,
        "Seconds without use after which a model is unloaded. 0 or less: never.",
        shown="300",
    )
    model_ttl_poll_s: float = _setting(
        "MACHINE_LEARNING_MODEL_TTL_POLL_S",
        10.0,
        values.seconds,
        "Seconds between two looks for idle models. 0 or less: models are never unloaded.",
        shown="10",
    )
    cache_folder: Path = _setting(
        "MACHINE_LEARNING_CACHE_FOLDER",
        Path("~/.cache/immich_ml").expanduser(),
        values.own_folder,
        "Where the models are; images set it to /cache.",
        shown="~/.cache/immich_ml",
    )
    request_threads: int = _setting(
        "MACHINE_LEARNING_REQUEST_THREADS",
        os.cpu_count() or 1,
        values.integer,
        "Threads that decode images and prepare tensors. Less than 1 counts as 1: the event loop never decodes.",
        shown="CPU cores",
    )
    inter_op_threads: int = _setting(
        "MACHINE_LEARNING_MODEL_INTER_OP_THREADS",
        0,
        values.integer,
        "Operators of one model that may run in parallel. 0: 1.",
    )
    intra_op_threads: int = _setting(
        "MACHINE_LEARNING_MODEL_INTRA_OP_THREADS",
        0,
        values.integer,
        "Threads inside one operator. 0: the CPU's cores divided by the bulk lanes on a CPU, 1 on a GPU.",
    )
    workers: int = _setting(
        "MACHINE_LEARNING_WORKERS",
        1,
        values.positive,
        "Copies of each image model that work side by side in this one process. More than 1 pays with several GPUs.",
    )
    http_keepalive_timeout_s: int = _setting(
        "MACHINE_LEARNING_HTTP_KEEPALIVE_TIMEOUT_S",
        75,
        values.natural,
        "Seconds an idle connection stays open. Immich closes it after 2, before its own client does: a lost job.",
    )
    worker_timeout_s: int = _setting(
        "MACHINE_LEARNING_WORKER_TIMEOUT",
        300,
        values.at_least_one,
        "Seconds one batch may run before the process gives up and exits, so that it is started again.",
    )
    preload_clip_textual: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL",
        (),
        values.names,
        "Text models to load before the port opens and to keep.",
        shown="",
    )
    preload_clip_visual: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__CLIP__VISUAL",
        (),
        values.names,
        "Image models to load before the port opens and to keep.",
        shown="",
    )
    preload_face_detection: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__DETECTION",
        (),
        values.names,
        "The same for face detection.",
        shown="",
    )
    preload_face_recognition: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__RECOGNITION",
        (),
        values.names,
        "The same for face recognition.",
        shown="",
    )
    preload_ocr_detection: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__OCR__DETECTION", (), values.names, "The same for text detection.", shown=""
    )
    preload_ocr_recognition: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__OCR__RECOGNITION", (), values.names, "The same for text recognition.", shown=""
    )
    preload_ocr_max_resolution: int = _setting(
        "MACHINE_LEARNING_PRELOAD__OCR__MAX_RESOLUTION",
        736,
        values.at_least_one,
        "Side in pixels of the picture that a preloaded text detector is warmed up with.",
    )
    preload_clip: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__CLIP",
        (),
        values.names,
        "Old name (Immich 2): both components of a CLIP model.",
        shown="",
    )
    preload_faces: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION",
        (),
        values.names,
        "Old name (Immich 2): both components of a face model.",
        shown="",
    )
    device_ids: tuple[int, ...] = _setting(
        "MACHINE_LEARNING_DEVICE_IDS",
        (0,),
        values.device_ids,
        "GPUs to use, by number, separated by commas: one bulk lane on each.",
        shown="0",
    )
    max_batch_faces: int | None = _setting(
        "MACHINE_LEARNING_MAX_BATCH_SIZE__FACIAL_RECOGNITION",
        None,
        values.at_least_one,
        "Face crops embedded in one batch, over all requests. Always bounded: unset means 16.",
        shown="",
    )
    max_batch_ocr: int = _setting(
        "MACHINE_LEARNING_MAX_BATCH_SIZE__OCR",
        6,
        values.at_least_one,
        "Text lines recognised in one batch, over all requests. Not on a CPU: there each core takes a line.",
        aliases=("MACHINE_LEARNING_MAX_BATCH_SIZE__TEXT_RECOGNITION",),
    )
    model_arena: bool = _setting(
        "MACHINE_LEARNING_MODEL_ARENA",
        True,
        values.flag,
        "Whether memory is kept for the next run; false saves memory.",
        shown="true",
    )
    model_revision: str = _setting(
        "MACHINE_LEARNING_MODEL_REVISION",
        "main",
        values.revision,
        "Revision of Immich's own models; other than main adds a folder to the cache.",
    )
    model_organization: str = _setting(
        "MACHINE_LEARNING_MODEL_ORGANIZATION",
        "immich-app",
        values.revision,
        "Hugging Face organisation that Immich's own models come from.",
    )
    openvino_precision: OpenVinoPrecision = _setting(
        "MACHINE_LEARNING_OPENVINO_PRECISION",
        "f32",
        values.openvino_precision,
        "What OpenVINO computes in: FP32, FP16, BF16, or auto (the fastest that the device can: FP16 on graphics, BF16 "
        "on a CPU that has it). FP32 where the device cannot.",
        shown="FP32",
    )

    # --- ours ---
    provider: Provider = _setting(
        "MACHINE_LEARNING_PROVIDER",
        "auto",
        values.one_of(get_args(Provider)),
        "What runs the models: auto (CUDA if it works, else OpenVINO if it is installed, else the CPU), cuda or "
        "openvino (exit if it does not work) or cpu.",
    )
    openvino_device: OpenVinoDevice = _setting(
        "MACHINE_LEARNING_OPENVINO_DEVICE",
        "auto",
        values.one_of(get_args(OpenVinoDevice)),
        "Where OpenVINO computes: auto (on Intel graphics if there are any that work, else on the CPU), cpu or gpu.",
    )
    task_devices: Mapping[str, int] = _setting(
        "MACHINE_LEARNING_TASK_DEVICES",
        MappingProxyType({}),
        values.task_devices,
        "Tasks that keep to one of the GPUs of MACHINE_LEARNING_DEVICE_IDS, such as clip=0,ocr=1; the others use all.",
        shown="",
    )
    max_batch_clip: int | None = _setting(
        "MACHINE_LEARNING_MAX_BATCH_SIZE__CLIP",
        None,
        values.positive,
        "Images or texts embedded in one batch. Unset: 4 on a CPU, 16 on a GPU.",
        shown="",
    )
    max_request_bytes: int = _setting(
        "MACHINE_LEARNING_MAX_REQUEST_BYTES",
        134_217_728,
        values.positive,
        "Largest request body in bytes; above it the answer is 413.",
    )
    receive_timeout_s: float = _setting(
        "MACHINE_LEARNING_RECEIVE_TIMEOUT",
        120.0,
        values.waiting_time,
        "Seconds in which a request must have arrived, and as many for its header alone; above it the answer is 408 "
        "and the connection is closed.",
        shown="120",
    )
    send_timeout_s: float = _setting(
        "MACHINE_LEARNING_SEND_TIMEOUT",
        60.0,
        values.waiting_time,
        "Seconds in which a client must have read something of an answer that waits for it, before the connection is "
        "closed.",
        shown="60",
    )
    max_connections: int = _setting(
        "MACHINE_LEARNING_MAX_CONNECTIONS",
        4096,
        values.positive,
        "Connections at work at once; above it the answer is 503 with Retry-After. Of those that only wait, the one "
        "that has waited longest is closed when there are more. Less where the system allows fewer open files.",
    )
    max_fields: int = _setting(
        "MACHINE_LEARNING_MAX_FIELDS", 100, values.positive, "Fields of one form; above it the answer is 413."
    )
    max_text_bytes: int = _setting(
        "MACHINE_LEARNING_MAX_TEXT_BYTES",
        65_536,
        values.positive,
        "Largest text field of a form (entries, text) in bytes, and largest urlencoded body; above it the answer is "
        "413.",
    )
    max_image_pixels: int = _setting(
        "MACHINE_LEARNING_MAX_IMAGE_PIXELS",
        PILLOWS_LIMIT,
        values.pixels,
        "Largest image in pixels (width x height), checked before decoding; above it the answer is 413.",
    )
    max_decoded_bytes: int = _setting(
        "MACHINE_LEARNING_MAX_DECODED_BYTES",
        1_073_741_824,
        values.positive,
        "Memory for decoded images in bytes; requests beyond it wait.",
    )
    model_wait_s: float = _setting(
        "MACHINE_LEARNING_MODEL_WAIT",
        240.0,
        values.seconds,
        "Seconds a request waits for a model that is still being fetched or loaded, before the answer is 503.",
        shown="240",
    )
    prepack: bool = _setting(
        "MACHINE_LEARNING_PREPACK",
        True,
        values.flag,
        "Whether large models are also kept on disk as the CPU needs them: they take three times the disk, but load "
        "faster, and the system may take their memory back. Only with ONNX Runtime on the CPU.",
        shown="true",
    )
    max_bodies_bytes: int = _setting(
        "MACHINE_LEARNING_MAX_BODIES_BYTES",
        1_073_741_824,
        values.positive,
        "Memory for the bodies of all requests, which take twice their size, in bytes; above it the answer is 503.",
    )
    max_queue: int = _setting(
        "MACHINE_LEARNING_MAX_QUEUE",
        2048,
        values.positive,
        "Concurrent requests; above it the answer is 503 with Retry-After.",
    )
    shutdown_timeout_s: int = _setting(
        "MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S",
        30,
        values.positive,
        "Seconds that requests in flight have to finish after SIGTERM.",
    )
    api_key: str = _setting(
        "MACHINE_LEARNING_API_KEY",
        "",
        values.word,
        "Key that every request but /ping must bring: as header x-api-key or Authorization: Bearer, as ?key= in the "
        "address, or in the path as /key/KEY/predict. Unset, nobody is asked.",
        shown="",
        secret=True,
    )
    language: Language = _setting(
        "IMMICH_ML_CN_LANGUAGE",
        "en",
        values.language,
        "Language of the log and the command line: en or zh (Simplified Chinese). Unset, that of LC_ALL, LC_MESSAGES "
        "or LANG. HTTP, JSON and debug messages are always English.",
        shown="",
    )
    log_json: bool = _setting(
        "MACHINE_LEARNING_LOG_JSON", False, values.flag, "Logs as one JSON object per line.", shown="false"
    )
    root_path: str = _setting(
        "MACHINE_LEARNING_ROOT_PATH",
        "",
        values.root_path,
        "Sub-path that a reverse proxy passes on unstripped, e.g. /ml.",
        shown="",
    )
    clip_aliases: Mapping[str, str] = _setting(
        "MACHINE_LEARNING_CLIP_ALIASES",
        MappingProxyType(dict(DEFAULT_ALIASES)),
        parse_aliases,
        "Which model answers to which of Immich's CLIP names: name=model adds or replaces, name= switches one off, "
        "none first switches all off. A model may also be huggingface:owner/name, modelscope:owner/name or a folder "
        "(/models/mine) that holds a CLIP in Immich's layout.",
        shown="Chinese-CLIP",
    )
    clip_precision: Precision = _setting(
        "MACHINE_LEARNING_CLIP_PRECISION",
        "auto",
        values.one_of(get_args(Precision)),
        "Which files of a CLIP model are loaded: fp32, fp16, int8 (slow in OpenVINO), or auto (fp16 on a GPU, fp32 on "
        "a CPU). fp32 where there is no other.",
    )
    clip_preprocessing: Preprocessing = _setting(
        "MACHINE_LEARNING_CLIP_PREPROCESSING",
        "exact",
        values.one_of(get_args(Preprocessing)),
        "exact: every pixel counts, as the models were trained. fast: a JPEG that only CLIP looks at is decoded at a "
        "fraction of its size, but at least twice the model's. Searches find the same (cosine 0.999 and up), and "
        "photos indexed in either way go together.",
    )
    text_search: TextSearchMode = _setting(
        "MACHINE_LEARNING_TEXT_SEARCH",
        "prefix",
        values.one_of(get_args(TextSearchMode)),
        "Search for text in photos, in Immich's own search bar. prefix: a query such as ocr:发票 finds the photos with "
        "that text; the texts and embeddings of photos that pass through are kept in the cache folder for it. hybrid: "
        "so does a plain query whose words stand exactly in photos. off: nothing is kept.",
    )
    search_max_photos: int = _setting(
        "MACHINE_LEARNING_SEARCH_MAX_PHOTOS",
        500_000,
        values.positive,
        "Photos that are kept for it; those that were seen longest ago go first.",
    )
    model_source: Preference = _setting(
        "MACHINE_LEARNING_MODEL_SOURCE",
        Preference(),
        Preference.parse,
        "Where models are fetched from: auto (whichever answers, and where none does a public mirror of Hugging Face), "
        "or a comma list of huggingface, modelscope and github, each also as name=https://mirror; an address alone is "
        "a mirror of Hugging Face.",
        shown="auto",
        secret=True,
    )
    hf_endpoint: str = _setting(
        "HF_ENDPOINT", "", values.endpoint, "Hugging Face or a mirror of it.", shown="", secret=True
    )
    hf_token: str = _setting("HF_TOKEN", "", values.word, "Token sent to Hugging Face.", shown="", secret=True)
    keep_checkpoints: bool = _setting(
        "MACHINE_LEARNING_KEEP_CHECKPOINTS",
        False,
        values.flag,
        "Keep Chinese-CLIP's checkpoints once they are converted: another precision then needs no second download.",
        shown="false",
    )
    hf_hub_offline: bool = _setting(
        "HF_HUB_OFFLINE", False, values.flag, "Never connect: serve what is in the cache.", shown="false"
    )

    immich_url: str = _setting(
        "MACHINE_LEARNING_IMMICH_URL",
        "",
        values.address,
        "Immich's own address, such as http://immich-server:2283. Its search calls are answered here then, where a "
        "reverse proxy sends them: text search over the whole library. Unset, nothing of Immich's API is served.",
        shown="",
        secret=True,
    )
    immich_redis_url: str = _setting(
        "MACHINE_LEARNING_IMMICH_REDIS_URL",
        "",
        values.redis,
        "Immich's Redis, such as redis://immich_redis:6379: text and embedding of single photos can be made again.",
        shown="",
        secret=True,
    )

    # --- of the services before us: MT Photos AI and the gateway ---
    mt_photos_key: str = _setting(
        "API_AUTH_KEY",
        "",
        values.word,
        "Key that MT Photos sends as api-key. Its API is served where this is set, and is off where it is not.",
        shown="",
        aliases=("MT_PHOTOS_API_KEY",),
        secret=True,
    )
    mt_photos_port: int | None = _setting(
        "HTTP_PORT",
        None,
        values.port,
        "Another port to listen on, such as MT Photos AI's 8060; both ports serve everything.",
        shown="",
    )
    mt_photos_clip_model: str = _setting(
        "CLIP_MODEL",
        "ViT-B-16",
        values.word,
        "CLIP model of MT Photos' API, by cn-clip's name.",
    )
    clip_download_root: Path | None = _setting(
        "CLIP_DOWNLOAD_ROOT",
        None,
        values.folder,
        "Folder in which Chinese-CLIP's checkpoints are looked for before they are fetched. Nothing in it is changed.",
        shown="",
    )
    mt_photos_face_model: str = _setting(
        "RECOGNITION_MODEL", "buffalo_l", values.word, "Face model of MT Photos' API, for detection and recognition."
    )
    mt_photos_face_min_score: float = _setting(
        "DETECTION_THRESH", 0.65, values.score, "Least score of a face in MT Photos' API, from 0 to 1.", shown="0.65"
    )
    device: str = _setting(
        "DEVICE",
        "",
        values.device,
        "cuda or cpu: what MACHINE_LEARNING_PROVIDER is where that is not set. Anything else does nothing.",
        shown="",
    )
    upstream: str = _setting(
        "IMMICH_API",
        "",
        values.address,
        "Another server of Immich's protocol, for what is not served here; unset, that is refused.",
        shown="",
        secret=True,
    )
    forwarded_tasks: tuple[str, ...] = _setting(
        "MACHINE_LEARNING_FORWARD",
        (),
        values.tasks,
        "Tasks that IMMICH_API's server does although we could: a comma list of clip, facial-recognition and ocr.",
        shown="",
    )
    forward_timeout_s: float = _setting(
        "MACHINE_LEARNING_FORWARD_TIMEOUT_S",
        240.0,
        values.waiting_time,
        "Seconds that IMMICH_API's server has for one request, before the answer is 504.",
        shown="240",
    )
    forward_connect_timeout_s: float = _setting(
        "MACHINE_LEARNING_FORWARD_CONNECT_TIMEOUT_S",
        5.0,
        values.waiting_time,
        "Seconds that a connection to IMMICH_API's server may take to open, before the answer is 504.",
        shown="5",
    )
    inert: tuple[str, ...] = ()
    """Variables that were set but do nothing here."""
    remarks: tuple[Message, ...] = ()
    """What is probably not meant as it is set, each a sentence for the log."""
    proxies: tuple[str, ...] = field(default=(), repr=False)
    """The addresses of proxies, which the libraries read for themselves."""
    in_force: tuple[SettingInForce, ...] = field(default=(), repr=False, compare=False)
    """Every variable, in documentation order, then unknown ones."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from an environment.

        An empty variable counts as not set, as compose files produce them.

        Raises:
            SettingsError: a value that cannot be used.
        """
        environ = _as_meant(environ)
        read = {item.name: _read(item, environ) for item in setting_fields()}
        remarks = [value.remark for value in read.values() if isinstance(value, _Remarked)]
        given = {name: value.value if isinstance(value, _Remarked) else value for name, value in read.items()}
        if given["provider"] is MISSING and given["device"] in PROVIDERS_OF_DEVICE:
            given["provider"] = given["device"]
        if given["language"] is MISSING:
            given["language"] = locale_language(environ)
        settings = cls(
            **{name: value for name, value in given.items() if value is not MISSING},
            inert=tuple(name for name in INERT if environ.get(name, "") != ""),
            remarks=(*remarks, *map(_unknown_message, _unknown(environ))),
            in_force=tuple(_in_force(item, environ) for item in setting_fields()) + tuple(_unknown(environ)),
            proxies=tuple(dict.fromkeys(environ[name] for name in PROXIES if environ.get(name))),
        )
        _check_task_devices(settings)
        return settings


def _check_task_devices(settings: Settings) -> None:
    for task, device in settings.task_devices.items():
        if device not in settings.device_ids:
            used = ", ".join(map(str, settings.device_ids))
            raise SettingsError(
                tr(
                    "MACHINE_LEARNING_TASK_DEVICES puts {task} on GPU {device}, but MACHINE_LEARNING_DEVICE_IDS names "
                    "{used}",
                    task=task,
                    device=device,
                    used=used,
                )
            )


def locale_language(environ: Mapping[str, str] = os.environ) -> Language:
    """The language that an environment asks for, before and without its settings; English where it asks for another."""
    for variable in ("IMMICH_ML_CN_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if locale := environ.get(variable, ""):
            return language_for(locale) or "en"
    return "en"


def switch_telemetry_off(environ: MutableMapping[str, str] = os.environ) -> None:
    """Tell the libraries, before they are imported, to report nothing; what the user has set stays."""
    for variable, value in NO_TELEMETRY.items():
        environ.setdefault(variable, value)


def setting_fields() -> tuple[Field[Any], ...]:
    """The fields of `Settings` that have a variable, in documentation order."""
    return tuple(item for item in fields(Settings) if "variable" in item.metadata)


def _as_meant(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without quotes around its values, Immich's variables in upper case (those that are so win)."""
    renamed = {name.upper(): value for name, value in environ.items() if name.upper().startswith(ANY_CASE)}
    return {name: values.unquoted(value) for name, value in {**renamed, **environ}.items()}


@dataclass(frozen=True)
class _Remarked:
    value: Any
    remark: Message


def _read(item: Field[Any], environ: Mapping[str, str]) -> Any:
    """The value of a field, with a remark where there is one, MISSING where no variable is set."""
    for variable in (item.metadata["variable"], *item.metadata["aliases"]):
        value = environ.get(variable, "")
        if value == "":
            continue
        try:
            parsed = item.metadata["parse"](value)
        except ValueError as error:
            message = _cannot_be_used(variable, value, error, secret=item.metadata["secret"])
            raise SettingsError(message) from None
        return _Remarked(parsed.value, parsed.remark(variable)) if isinstance(parsed, Doubtful) else parsed
    return MISSING


def _cannot_be_used(variable: str, value: str, error: ValueError, *, secret: bool) -> Message:
    if secret or "@" in value:
        return tr(
            "{variable} cannot be used (its value may hold a password and is not shown): it must be {allowed}",
            variable=variable,
            allowed=error,
        )
    return tr(
        "{variable}={value!r} cannot be used: it must be {allowed}", variable=variable, value=value, allowed=error
    )


def _in_force(item: Field[Any], environ: Mapping[str, str]) -> SettingInForce:
    metadata = item.metadata
    default, meaning = default_text(item), metadata["meaning"]
    for variable in (metadata["variable"], *metadata["aliases"]):
        value = environ.get(variable, "")
        if value != "":
            hidden = metadata["secret"] or "@" in value
            return SettingInForce(variable, None if hidden else value, "environment", default, meaning)
    return SettingInForce(metadata["variable"], default, "default", default, meaning)


def default_text(item: Field[Any]) -> str:
    """A setting's default as it is documented; "" where nothing is set."""
    shown: str | None = item.metadata["shown"]
    return str(getattr(Settings(), item.name)) if shown is None else shown


def _unknown(environ: Mapping[str, str]) -> Iterator[SettingInForce]:
    """Variables that look like ours, but are none."""
    aliases = {alias for item in setting_fields() for alias in item.metadata["aliases"]}
    known = {item.metadata["variable"] for item in setting_fields()} | aliases | set(INERT)
    rests = [name.removeprefix(PREFIX) for name in known if name.startswith(PREFIX)]
    for name in sorted(environ.keys() - known):
        if name.startswith(PREFIX) and not _is_kubernetes(name, environ):
            near = get_close_matches(name.removeprefix(PREFIX), rests, n=1)
            yield SettingInForce(name, None, "unknown", near=PREFIX + near[0] if near else None)


def _unknown_message(setting: SettingInForce) -> Message:
    name, near = setting.variable, setting.near
    if near is None:
        return tr("{name} is not known and does nothing", name=name)
    return tr("{name} is not known and does nothing; is {near} meant?", name=name, near=near)


def _is_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable is one of those that Kubernetes sets for each Service of a namespace."""
    services = [host.removesuffix("_SERVICE_HOST") for host in environ if host.endswith("_SERVICE_HOST")]
    return any(name.startswith((f"{service}_SERVICE_", f"{service}_PORT")) for service in services)
