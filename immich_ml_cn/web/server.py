"""The process: socket, uvicorn, signals, exit code. The only importer of uvicorn."""

import faulthandler
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import uvicorn

from immich_ml_cn import __version__
from immich_ml_cn.engines import Engine, EngineError, explain, select_engine
from immich_ml_cn.logs import redact_url
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics
from immich_ml_cn.service import Service
from immich_ml_cn.settings import INERT, PROVIDERS_OF_DEVICE, Settings
from immich_ml_cn.sources.clip_names import DEFAULT_ALIASES
from immich_ml_cn.store.checks import doubtful_models, unwritable

from .app import create_app
from .connection import HttpConnection
from .connection_limiter import BACKLOG, ConnectionLimiter, max_active_for

logger = logging.getLogger(__name__)

CLOSING_S: Final = 8
"""Seconds to close everything in, beyond those that requests have to finish; deployments kill after 10."""


def serve(settings: Settings, choose_engine: Callable[[Settings], Engine] = select_engine) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    0 after a drain on request, 1 when the server could not start or could never work again.
    """
    _announce(settings)
    try:
        engine = choose_engine(settings)
        listeners = [bind(settings.host, port) for port in _ports(settings)]
    except (EngineError, OSError) as error:
        logger.critical("%s", error)
        return 1
    logger.info("device: %s; why: %s", engine.description, explain(engine, settings))
    fatal = _FatalErrors(settings.shutdown_timeout_s)
    service = Service(settings, engine, on_fatal=fatal.report)
    server = _Server(
        uvicorn.Config(
            create_app(settings, service),
            loop="uvloop",
            http=cast(Any, _protocol(settings, service.metrics)),
            backlog=BACKLOG,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.http_keepalive_timeout_s,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        ),
        service,
        settings.shutdown_timeout_s,
    )
    fatal.server = server
    # uvicorn raises the signal again once it has drained: answered here, the process ends with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    with ExitStack() as sockets:
        for listener in listeners:
            sockets.enter_context(listener)
        server.run(sockets=listeners)
    code = int(fatal.reported or not (server.started or server.asked_to_stop))
    logger.info("stopped")
    if service.stuck or _busy_threads():
        # Native code on a daemon thread would abort an ordinary exit, which waits for all other threads.
        logging.shutdown()
        os._exit(code)
    return code


def _protocol(settings: Settings, metrics: Metrics) -> Callable[..., HttpConnection]:
    """What uvicorn makes a connection with."""
    return partial(
        HttpConnection,
        receive_timeout_s=settings.receive_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        limiter=ConnectionLimiter(max_active_for(settings.max_connections)),
        count=metrics.count_response,
    )


def _ports(settings: Settings) -> list[int]:
    """The ports to listen on, Immich's first."""
    other = settings.mt_photos_port
    return [settings.port] if other is None or 0 < other == settings.port else [settings.port, other]


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that nobody connects before the models are preloaded.

    ``::`` takes IPv4 as well; where there is no IPv6 it becomes ``0.0.0.0``.

    Raises:
        OSError: the address is taken or not ours; the message says which.
    """
    try:
        if host == "::" and not socket.has_dualstack_ipv6():
            host = "0.0.0.0"  # noqa: S104 - what the user asked for, without IPv6
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            tr("cannot listen on {host} port {port}: {reason}", host=host, port=port, reason=reason)
        ) from error
    return listener


class _Server(uvicorn.Server):
    """Says when the port is open, and can be stopped before it is."""

    def __init__(self, config: uvicorn.Config, service: Service, grace_s: float) -> None:
        super().__init__(config)
        self.asked_to_stop = False
        self._service = service
        self._grace_s = grace_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        _end_within(self._grace_s + CLOSING_S)
        self.asked_to_stop = True
        self._service.stop_preloading()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (sockets or ()) if self.started else ():
            host, port = listener.getsockname()[:2]
            logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        if self.started:
            self._service.listening()


class _FatalErrors:
    """Ends the process when it can never work again, so that whoever watches it starts it anew."""

    server: uvicorn.Server

    def __init__(self, grace_s: float) -> None:
        self.reported = False
        self._grace_s = grace_s

    def report(self, reason: str) -> None:
        """End the process because of `reason`; called from any thread."""
        if self.reported:
            return
        self.reported = True
        logger.critical("%s; the process ends so that it can be started again", reason)
        self.server.should_exit = True
        _end_within(self._grace_s + CLOSING_S)


def _end_within(seconds: float) -> None:
    """End the process with 1 after that time, whatever its threads do; where each was stands in the log."""
    faulthandler.dump_traceback_later(seconds, exit=True)


def _busy_threads() -> bool:
    """Whether a thread that an ordinary exit would wait for works on, after a second in which idle ones end."""
    deadline = time.monotonic() + 1
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in others)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A signal that has been answered."""


def _announce(settings: Settings) -> None:
    build = f" ({settings.source_ref})" if settings.source_ref else ""
    logger.info("immich-ml-cn %s%s, models in %s", __version__, build, settings.cache_folder)
    for variable in settings.inert:
        logger.info("%s is set but does nothing here: it is for %s", variable, INERT[variable])
    for remark in (*settings.remarks, *doubtful_models(settings)):
        logger.warning("%s", remark)
    if reason := unwritable(settings.cache_folder):
        logger.warning(
            "%s cannot be written (%s), so nothing can be fetched: give it to user %d, or set %s",
            settings.cache_folder,
            reason,
            os.getuid(),
            "MACHINE_LEARNING_CACHE_FOLDER",
        )
    if settings.clip_aliases:
        pairs = ", ".join(f"{name} → {model}" for name, model in settings.clip_aliases.items())
        logger.info("CLIP names answered by another model: %s", pairs)
    if settings.clip_aliases == DEFAULT_ALIASES:
        logger.info("photos that another model has indexed must be indexed again: Smart Search → All in Immich's jobs")
    _announce_stack(settings)


def _announce_stack(settings: Settings) -> None:
    """What replaces the services before us: MT Photos' API and forwarding."""
    if settings.mt_photos_key:
        clip, faces = settings.mt_photos_clip_model, settings.mt_photos_face_model
        logger.info("MT Photos' API is on: CLIP %s, faces %s", clip, faces)
    else:
        logger.info("MT Photos' API is off: it needs a key, API_AUTH_KEY")
    if settings.upstream:
        tasks = "".join(tr(", and {task}", task=task) for task in settings.forwarded_tasks)
        logger.info("forwarded to %s: what is not served here%s", redact_url(settings.upstream), tasks)
    elif settings.forwarded_tasks:
        logger.warning("MACHINE_LEARNING_FORWARD does nothing without IMMICH_API")
    if settings.device and settings.device not in PROVIDERS_OF_DEVICE:
        logger.info("DEVICE=%s does nothing here: known are %s", settings.device, ", ".join(PROVIDERS_OF_DEVICE))
    if settings.clip_download_root is not None:
        logger.info("Chinese-CLIP's checkpoints are looked for in %s", settings.clip_download_root)
