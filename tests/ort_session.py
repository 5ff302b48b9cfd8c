"""ONNX Runtime on the CPU as the models' session, without lanes or options of the product."""

from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from immich_ml_cn.engines.graphs.files import Graph, file_or_data
from immich_ml_cn.engines.session import TensorInfo

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OrtSession:
    """`immich_ml_cn.engines.session.Session`; records what it was fed.

    Attributes:
        source: the graph.
        ort: ONNX Runtime's session of it.
        runs: the inputs' shapes of each run.
        fed: the inputs of the last run.
    """

    def __init__(self, source: Graph, threads: int = 1) -> None:
        """
        Args:
            threads: 0 for as many as there are cores.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.source = source
        model = file_or_data(source)
        self.ort: Any = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
        self.runs: list[dict[str, tuple[int, ...]]] = []
        self.fed: dict[str, NDArray[Any]] = {}

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return tuple(map(_info, self.ort.get_inputs()))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return tuple(map(_info, self.ort.get_outputs()))

    @property
    def metadata(self) -> Mapping[str, str]:
        return dict(self.ort.get_modelmeta().custom_metadata_map)

    @property
    def batches(self) -> list[int]:
        """The batch size of each run."""
        return [next(iter(shapes.values()))[0] for shapes in self.runs]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.runs.append({name: array.shape for name, array in feeds.items()})
        self.fed = dict(feeds)
        outputs: list[NDArray[Any]] = self.ort.run(None, self.fed)
        return outputs


def _info(value: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorInfo(value.name, _DTYPES[value.type], shape)
