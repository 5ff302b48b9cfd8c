"""PP-OCRv6_small and the angle classifier from RapidOCR's wheel, on a bare ONNX Runtime session."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.engines.graphs.files import Graph, file_or_data
from immich_ml_cn.engines.session import OpenSession, Session, TensorInfo
from immich_ml_cn.models.ocr import (
    TextDetector,
    TextOrientation,
    TextRecognizer,
    load_classifier,
    load_detector,
    load_recognizer,
)
from immich_ml_cn.settings import Settings

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


@dataclass(frozen=True)
class OrtSession:
    """`immich_ml_cn.engines.session.Session` without lanes or options."""

    ort: Any

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return tuple(_info(value) for value in self.ort.get_inputs())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return tuple(_info(value) for value in self.ort.get_outputs())

    @property
    def metadata(self) -> Mapping[str, str]:
        metadata: dict[str, str] = self.ort.get_modelmeta().custom_metadata_map
        return metadata

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self.ort.run(None, dict(feeds))
        return outputs


def open_session(source: Graph) -> OrtSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = file_or_data(source)
    return OrtSession(onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options))


def open_parallel_session(source: Graph) -> Session:
    settings = Settings.from_env({"MACHINE_LEARNING_MODEL_INTRA_OP_THREADS": "2"})
    return CpuEngine(settings).open(source, "bulk", 0, parallel=True)


def bundled(name: str) -> Path:
    """One of the models inside RapidOCR's wheel."""
    spec = importlib.util.find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / f"{name}.onnx"


def _info(value: Any) -> TensorInfo:
    shape = tuple(side if isinstance(side, int) else None for side in value.shape)
    return TensorInfo(value.name, _DTYPES[value.type], shape)


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
