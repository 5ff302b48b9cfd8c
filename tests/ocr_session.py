"""PP-OCRv6_small and the angle classifier from RapidOCR's wheel, on a bare ONNX Runtime session."""

import importlib.util
from functools import cache
from pathlib import Path

from ort_session import OrtSession

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import OpenSession, Session
from immich_ml_cn.models.ocr import (
    TextDetector,
    TextOrientation,
    TextRecognizer,
    load_classifier,
    load_detector,
    load_recognizer,
)
from immich_ml_cn.settings import Settings


def open_session(source: Graph) -> OrtSession:
    return OrtSession(source, threads=0)


def open_parallel_session(source: Graph) -> Session:
    settings = Settings.from_env({"MACHINE_LEARNING_MODEL_INTRA_OP_THREADS": "2"})
    return CpuEngine(settings).open(source, "bulk", 0, parallel=True)


def bundled(name: str) -> Path:
    """One of the models inside RapidOCR's wheel."""
    spec = importlib.util.find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / f"{name}.onnx"


@cache
def detector() -> TextDetector:
    return load_detector(bundled("PP-OCRv6_det_small"), open_session)


@cache
def classifier(*, parallel: bool = False) -> TextOrientation:
    return load_classifier(bundled("ch_ppocr_mobile_v2.0_cls_mobile"), _opener(parallel))


@cache
def recognizer(*, parallel: bool = False) -> TextRecognizer:
    """As on a GPU, lines of one padded width in a batch; `parallel` as on a CPU, each line alone, several at a time."""
    return load_recognizer(bundled("PP-OCRv6_rec_small"), _opener(parallel))


def _opener(parallel: bool) -> OpenSession:
    return open_parallel_session if parallel else open_session
