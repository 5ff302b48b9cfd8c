"""Every setting: its variable, default and meaning. The only reader of the environment.

`Settings.from_env` is handed the environment once, at start; everything else is handed the frozen `Settings`. The text
below a field is the setting's meaning in the documented tables, which are written from this file.
"""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from immich_ml_cn.messages import Language, Message, tr
from immich_ml_cn.sources.clip_names import DEFAULT_ALIASES
from immich_ml_cn.sources.preference import Preference
from immich_ml_cn.sources.tasks import ModelTask

from . import addresses, values
from .aliases import parse_aliases
from .environment import INERT, PROVIDERS_OF_DEVICE, PROXIES, as_meant, locale_language, remark_on, unknown
from .values import PILLOWS_LIMIT, LogLevel, OpenVinoPrecision
from .variables import SettingInForce, SettingsError, Variable, attribute_docstrings, setting

__all__ = ["INERT", "PROVIDERS_OF_DEVICE", "LogLevel", "OpenVinoPrecision", "Settings", "SettingsError"]

Provider = Literal["auto", "cuda", "openvino", "cpu"]
OpenVinoDevice = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "fp32", "fp16", "int8"]
Preprocessing = Literal["exact", "fast"]
TextSearchMode = Literal["off", "prefix", "hybrid"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings, one field per variable, as frozen values."""

    # --- Immich's own variables, with Immich's meaning ---
    host: str = setting("IMMICH_HOST", "::", values.host, shown="[::]")
    """Address to listen on. The default takes IPv6 and IPv4."""
    port: int = setting("IMMICH_PORT", 3003, values.port)
    """Port to listen on."""
    log_level: LogLevel = setting("IMMICH_LOG_LEVEL", "log", values.log_level)
    """How much is logged: verbose, debug, log, info, warn (also warning), error or critical (also fatal)."""
    no_color: bool = setting("NO_COLOR", False, values.presence)
    """Logs without colours."""
    source_ref: str = setting("IMMICH_SOURCE_REF", "", values.word)
    """Name of the build, shown at start; set by images."""
    model_ttl_s: float = setting("MACHINE_LEARNING_MODEL_TTL", 300.0, values.seconds)
    """Seconds without use after which a model is unloaded. 0 or less: never."""
    model_ttl_poll_s: float = setting("MACHINE_LEARNING_MODEL_TTL_POLL_S", 10.0, values.seconds)
    """Seconds between two looks for idle models. 0 or less: models are never unloaded."""
    cache_folder: Path = setting(
        "MACHINE_LEARNING_CACHE_FOLDER",
        Path("~/.cache/immich_ml").expanduser(),
        values.own_folder,
        shown="~/.cache/immich_ml",
    )
    """Where the models are; images set it to /cache."""
    request_threads: int = setting(
        "MACHINE_LEARNING_REQUEST_THREADS", os.cpu_count() or 1, values.integer, shown="CPU cores"
    )
    """Threads that decode images and prepare tensors. Less than 1 counts as 1: the event loop never decodes."""
    inter_op_threads: int = setting("MACHINE_LEARNING_MODEL_INTER_OP_THREADS", 0, values.integer)
    """Operators of one model that may run in parallel. 0: 1."""
    intra_op_threads: int = setting("MACHINE_LEARNING_MODEL_INTRA_OP_THREADS", 0, values.integer)
    """Threads inside one operator. 0: the CPU's cores divided by the bulk lanes on a CPU, 1 on a GPU."""
    workers: int = setting("MACHINE_LEARNING_WORKERS", 1, values.positive)
    """Copies of each image model that work side by side in this one process. More than 1 pays with several GPUs."""
    http_keepalive_timeout_s: int = setting("MACHINE_LEARNING_HTTP_KEEPALIVE_TIMEOUT_S", 75, values.natural)
    """Seconds an idle connection stays open. Immich closes it after 2, before its own client does: a lost job."""
    worker_timeout_s: int = setting("MACHINE_LEARNING_WORKER_TIMEOUT", 300, values.at_least_one)
    """Seconds one batch may run before the process gives up and exits, so that it is started again."""
    preload_clip_textual: tuple[str, ...] = setting("MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL", (), values.names)
    """Text models to load before the port opens and to keep."""
    preload_clip_visual: tuple[str, ...] = setting("MACHINE_LEARNING_PRELOAD__CLIP__VISUAL", (), values.names)
    """Image models to load before the port opens and to keep."""
    preload_face_detection: tuple[str, ...] = setting(
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__DETECTION", (), values.names
    )
    """The same for face detection."""
    preload_face_recognition: tuple[str, ...] = setting(
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__RECOGNITION", (), values.names
    )
    """The same for face recognition."""
    preload_ocr_detection: tuple[str, ...] = setting("MACHINE_LEARNING_PRELOAD__OCR__DETECTION", (), values.names)
    """The same for text detection."""
    preload_ocr_recognition: tuple[str, ...] = setting("MACHINE_LEARNING_PRELOAD__OCR__RECOGNITION", (), values.names)
    """The same for text recognition."""
    preload_ocr_max_resolution: int = setting("MACHINE_LEARNING_PRELOAD__OCR__MAX_RESOLUTION", 736, values.at_least_one)
    """Side in pixels of the picture that a preloaded text detector is warmed up with."""
    preload_clip: tuple[str, ...] = setting("MACHINE_LEARNING_PRELOAD__CLIP", (), values.names)
    """Old name (Immich 2): both components of a CLIP model."""
    preload_faces: tuple[str, ...] = setting("MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION", (), values.names)
    """Old name (Immich 2): both components of a face model."""
    device_ids: tuple[int, ...] = setting("MACHINE_LEARNING_DEVICE_IDS", (0,), values.device_ids)
    """GPUs to use, by number, separated by commas: one bulk lane on each."""
    max_batch_faces: int | None = setting(
        "MACHINE_LEARNING_MAX_BATCH_SIZE__FACIAL_RECOGNITION", None, values.at_least_one
    )
    """Face crops embedded in one batch, over all requests. Always bounded: unset means 16."""
    max_batch_ocr: int = setting(
        "MACHINE_LEARNING_MAX_BATCH_SIZE__OCR",
        6,
        values.at_least_one,
        aliases=("MACHINE_LEARNING_MAX_BATCH_SIZE__TEXT_RECOGNITION",),
    )
    """Text lines recognised in one batch, over all requests. Not on a CPU: there each core takes a line."""
    model_arena: bool = setting("MACHINE_LEARNING_MODEL_ARENA", True, values.flag)
    """Whether memory is kept for the next run; false saves memory."""
    model_revision: str = setting("MACHINE_LEARNING_MODEL_REVISION", "main", values.revision)
    """Revision of Immich's own models; other than main adds a folder to the cache."""
    model_organization: str = setting("MACHINE_LEARNING_MODEL_ORGANIZATION", "immich-app", values.revision)
    """Hugging Face organisation that Immich's own models come from."""
    openvino_precision: OpenVinoPrecision = setting(
        "MACHINE_LEARNING_OPENVINO_PRECISION", "f32", values.openvino_precision, shown="FP32"
    )
    """What OpenVINO computes in: FP32, FP16, BF16, or auto (the fastest that the device can: FP16 on graphics, BF16 on
    a CPU that has it). FP32 where the device cannot."""

    # --- ours ---
    provider: Provider = setting("MACHINE_LEARNING_PROVIDER", "auto", values.one_of(Provider))
    """What runs the models: auto (CUDA if it works, else OpenVINO if it is installed, else the CPU), cuda or openvino
    (exit if it does not work) or cpu."""
    openvino_device: OpenVinoDevice = setting("MACHINE_LEARNING_OPENVINO_DEVICE", "auto", values.one_of(OpenVinoDevice))
    """Where OpenVINO computes: auto (on Intel graphics if there are any that work, else on the CPU), cpu or gpu."""
    task_devices: Mapping[ModelTask, int] = setting(
        "MACHINE_LEARNING_TASK_DEVICES", MappingProxyType({}), values.task_devices, shown=""
    )
    """Tasks that keep to one of the GPUs of MACHINE_LEARNING_DEVICE_IDS, such as clip=0,ocr=1; the others use all."""
    max_batch_clip: int | None = setting("MACHINE_LEARNING_MAX_BATCH_SIZE__CLIP", None, values.positive)
    """Images or texts embedded in one batch. Unset: 4 on a CPU, 16 on a GPU."""
    max_request_bytes: int = setting("MACHINE_LEARNING_MAX_REQUEST_BYTES", 134_217_728, values.positive)
    """Largest request body in bytes; above it the answer is 413."""
    receive_timeout_s: float = setting("MACHINE_LEARNING_RECEIVE_TIMEOUT", 120.0, values.waiting_time)
    """Seconds in which a request must have arrived, and as many for its header alone; above it the answer is 408 and
    the connection is closed."""
    send_timeout_s: float = setting("MACHINE_LEARNING_SEND_TIMEOUT", 60.0, values.waiting_time)
    """Seconds in which a client must have read something of an answer that waits for it, before the connection is
    closed."""
    max_connections: int = setting("MACHINE_LEARNING_MAX_CONNECTIONS", 4096, values.positive)
    """Connections at work at once; above it the answer is 503 with Retry-After. Of those that only wait, the one that
    has waited longest is closed when there are more. Less where the system allows fewer open files."""
    max_fields: int = setting("MACHINE_LEARNING_MAX_FIELDS", 100, values.positive)
    """Fields of one form; above it the answer is 413."""
    max_text_bytes: int = setting("MACHINE_LEARNING_MAX_TEXT_BYTES", 65_536, values.positive)
    """Largest text field of a form (entries, text) in bytes, and largest urlencoded body; above it the answer is
    413."""
    max_image_pixels: int = setting("MACHINE_LEARNING_MAX_IMAGE_PIXELS", PILLOWS_LIMIT, values.pixels)
    """Largest image in pixels (width x height), checked before decoding; above it the answer is 413."""
    max_decoded_bytes: int = setting("MACHINE_LEARNING_MAX_DECODED_BYTES", 1_073_741_824, values.positive)
    """Memory for decoded images in bytes; requests beyond it wait."""
    model_wait_s: float = setting("MACHINE_LEARNING_MODEL_WAIT", 240.0, values.seconds)
    """Seconds a request waits for a model that is still being fetched or loaded, before the answer is 503."""
    prepack: bool = setting("MACHINE_LEARNING_PREPACK", True, values.flag)
    """Whether large models are also kept on disk as the CPU needs them: they take three times the disk, but load
    faster, and the system may take their memory back. Only with ONNX Runtime on the CPU."""
    warm_start: bool = setting("MACHINE_LEARNING_WARM_START", True, values.flag)
    """Whether libraries are imported, and the models that the last run used are loaded, once the port is open and
    nobody asks; at the very first start those that are here and the only ones of their kind. Models are not loaded
    where less than 1 GB of memory is free. false: all of it waits for the first request, and an idle server takes 50 MB
    less."""
    max_bodies_bytes: int = setting("MACHINE_LEARNING_MAX_BODIES_BYTES", 1_073_741_824, values.positive)
    """Memory for the bodies of all requests, which take twice their size, in bytes; above it the answer is 503."""
    max_queue: int = setting("MACHINE_LEARNING_MAX_QUEUE", 2048, values.positive)
    """Concurrent requests; above it the answer is 503 with Retry-After."""
    shutdown_timeout_s: int = setting("MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S", 30, values.positive)
    """Seconds that requests in flight have to finish after SIGTERM."""
    api_key: str = setting("MACHINE_LEARNING_API_KEY", "", values.word, secret=True)
    """Key that every request but /ping must bring: as header x-api-key or Authorization: Bearer, as ?key= in the
    address, or in the path as /key/KEY/predict. Unset, nobody is asked."""
    language: Language = setting("IMMICH_ML_CN_LANGUAGE", "en", values.language, shown="")
    """Language of the log and the command line: en or zh (Simplified Chinese). Unset, that of LC_ALL, LC_MESSAGES or
    LANG. HTTP, JSON and debug messages are always English."""
    log_json: bool = setting("MACHINE_LEARNING_LOG_JSON", False, values.flag)
    """Logs as one JSON object per line."""
    root_path: str = setting("MACHINE_LEARNING_ROOT_PATH", "", values.root_path)
    """Sub-path that a reverse proxy passes on unstripped, e.g. /ml."""
    clip_aliases: Mapping[str, str] = setting(
        "MACHINE_LEARNING_CLIP_ALIASES", MappingProxyType(dict(DEFAULT_ALIASES)), parse_aliases, shown="Chinese-CLIP"
    )
    """Which model answers to which of Immich's CLIP names: name=model adds or replaces, name= switches one off, none
    first switches all off. A model may also be huggingface:owner/name, modelscope:owner/name or a folder (/models/mine)
    that holds a CLIP in Immich's layout."""
    clip_precision: Precision = setting("MACHINE_LEARNING_CLIP_PRECISION", "auto", values.one_of(Precision))
    """Which files of a CLIP model are loaded: fp32, fp16, int8 (slow in OpenVINO), or auto (fp16 on a GPU, fp32 on a
    CPU). fp32 where there is no other."""
    clip_preprocessing: Preprocessing = setting(
        "MACHINE_LEARNING_CLIP_PREPROCESSING", "exact", values.one_of(Preprocessing)
    )
    """exact: every pixel counts, as the models were trained. fast: a JPEG that only CLIP looks at is decoded at a
    fraction of its size, but at least twice the model's. Searches find the same (cosine 0.999 and up), and photos
    indexed in either way go together."""
    text_search: TextSearchMode = setting("MACHINE_LEARNING_TEXT_SEARCH", "prefix", values.one_of(TextSearchMode))
    """Search for text in photos, in Immich's own search bar. prefix: a query such as ocr:发票 finds the photos with
    that text; the texts and embeddings of photos that pass through are kept in the cache folder for it. hybrid: so does
    a plain query whose words stand exactly in photos. off: nothing is kept."""
    search_max_photos: int = setting("MACHINE_LEARNING_SEARCH_MAX_PHOTOS", 500_000, values.positive)
    """Photos that are kept for it; those that were seen longest ago go first."""
    model_source: Preference = setting(
        "MACHINE_LEARNING_MODEL_SOURCE", Preference(), addresses.parse_preference, shown="auto", secret=True
    )
    """Where models are fetched from: auto (whichever answers, and where none does a public mirror of Hugging Face), or
    a comma list of huggingface, modelscope and github, each also as name=https://mirror; an address alone is a mirror
    of Hugging Face."""
    hf_endpoint: str = setting("HF_ENDPOINT", "", addresses.endpoint, secret=True)
    """Hugging Face or a mirror of it."""
    hf_token: str = setting("HF_TOKEN", "", values.word, secret=True)
    """Token sent to Hugging Face."""
    keep_checkpoints: bool = setting("MACHINE_LEARNING_KEEP_CHECKPOINTS", False, values.flag)
    """Keep Chinese-CLIP's checkpoints once they are converted: another precision then needs no second download."""
    hf_hub_offline: bool = setting("HF_HUB_OFFLINE", False, values.flag)
    """Never connect: serve what is in the cache."""
    immich_url: str = setting("MACHINE_LEARNING_IMMICH_URL", "", addresses.address, secret=True)
    """Immich's own address, such as http://immich-server:2283. Its search calls are answered here then, where a reverse
    proxy sends them: text search over the whole library. Unset, nothing of Immich's API is served."""
    immich_redis_url: str = setting("MACHINE_LEARNING_IMMICH_REDIS_URL", "", addresses.redis, secret=True)
    """Immich's Redis, such as redis://immich_redis:6379: text and embedding of single photos can be made again."""

    # --- of the services before us: MT Photos AI and the gateway ---
    mt_photos_key: str = setting("API_AUTH_KEY", "", values.word, aliases=("MT_PHOTOS_API_KEY",), secret=True)
    """Key that MT Photos sends as api-key. Its API is served where this is set, and is off where it is not."""
    mt_photos_port: int | None = setting("HTTP_PORT", None, values.port)
    """Another port to listen on, such as MT Photos AI's 8060; both ports serve everything."""
    mt_photos_clip_model: str = setting("CLIP_MODEL", "ViT-B-16", values.word)
    """CLIP model of MT Photos' API, by cn-clip's name."""
    clip_download_root: Path | None = setting("CLIP_DOWNLOAD_ROOT", None, values.folder)
    """Folder in which Chinese-CLIP's checkpoints are looked for before they are fetched. Nothing in it is changed."""
    mt_photos_face_model: str = setting("RECOGNITION_MODEL", "buffalo_l", values.word)
    """Face model of MT Photos' API, for detection and recognition."""
    mt_photos_face_min_score: float = setting("DETECTION_THRESH", 0.65, values.score)
    """Least score of a face in MT Photos' API, from 0 to 1."""
    device: str = setting("DEVICE", "", values.device)
    """cuda or cpu: what MACHINE_LEARNING_PROVIDER is where that is not set. Anything else does nothing."""
    upstream: str = setting("IMMICH_API", "", addresses.address, secret=True)
    """Another server of Immich's protocol, for what is not served here; unset, that is refused."""
    forwarded_tasks: tuple[ModelTask, ...] = setting("MACHINE_LEARNING_FORWARD", (), values.tasks)
    """Tasks that IMMICH_API's server does although we could: a comma list of clip, facial-recognition and ocr."""
    forward_timeout_s: float = setting("MACHINE_LEARNING_FORWARD_TIMEOUT_S", 240.0, values.waiting_time)
    """Seconds that IMMICH_API's server has for one request, before the answer is 504."""
    forward_connect_timeout_s: float = setting("MACHINE_LEARNING_FORWARD_CONNECT_TIMEOUT_S", 5.0, values.waiting_time)
    """Seconds that a connection to IMMICH_API's server may take to open, before the answer is 504."""

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
        environ = as_meant(environ)
        read = {name: variable.read(environ) for name, variable in variables().items()}
        given = {name: value for name, (value, _) in read.items() if value is not MISSING}
        if "provider" not in given and given.get("device") in PROVIDERS_OF_DEVICE:
            given["provider"] = given["device"]
        given.setdefault("language", locale_language(environ))
        known = [name for variable in variables().values() for name in (variable.name, *variable.aliases)]
        strays = tuple(unknown(environ, (*known, *INERT)))
        settings = cls(
            **given,
            inert=tuple(name for name in INERT if environ.get(name)),
            remarks=(*(remark for _, remark in read.values() if remark is not None), *map(remark_on, strays)),
            in_force=(*(variable.in_force(environ) for variable in variables().values()), *strays),
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


def variables() -> Mapping[str, Variable[Any]]:
    """Field of `Settings` → the variable that it is read from, in documentation order."""
    return {item.name: item.metadata["variable"] for item in fields(Settings) if "variable" in item.metadata}


@cache
def meanings() -> Mapping[str, str]:
    """Variable → its meaning, for people."""
    texts = attribute_docstrings(Settings)
    return {variable.name: texts[name] for name, variable in variables().items()}
