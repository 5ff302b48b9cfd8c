"""What ONNX Runtime and CUDA say of a failure decides what is done about it; in the words that these libraries use."""

import pytest

from immich_ml_cn.engines.device_errors import is_of_device, is_out_of_memory, is_poisoned

MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
    "AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824",
    "BFCArena::AllocateRawInternal(size_t, bool) Available memory of 1024 is smaller than requested bytes of 4194304",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; file=cuda.cc ; line=47 ; expr=cudaMalloc(&p, size);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    "[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc",
)
POISONED = (
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x ; file=cuda_call.cc",
    "CUDA failure 719: unspecified launch failure ; GPU=0",
    "CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered",
    "CUDA failure 710: device-side assert triggered ; GPU=0",
    "CUDA failure 999: unknown error ; GPU=0",
    "CUDA failure 46: all CUDA-capable devices are busy or unavailable ; GPU=0",
)
DEVICE = (
    "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=x",
    "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDA failure 209: no kernel image is available for execution on the device",
)
NEITHER = (
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices",
    "poisoned by [3]",
    "unknown error",
    "the picture shows 700 cats",
    "",
)


@pytest.mark.parametrize("message", MEMORY)
def test_too_little_memory(message: str) -> None:
    error = RuntimeError(message)
    assert (is_out_of_memory(error), is_poisoned(error), is_of_device(error)) == (True, False, False)


def test_pythons_own_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError())


@pytest.mark.parametrize("message", POISONED)
def test_a_device_that_is_lost(message: str) -> None:
    error = RuntimeError(message)
    assert (is_out_of_memory(error), is_poisoned(error), is_of_device(error)) == (False, True, True)


@pytest.mark.parametrize("message", DEVICE)
def test_a_device_that_failed_once(message: str) -> None:
    error = RuntimeError(message)
    assert (is_out_of_memory(error), is_poisoned(error), is_of_device(error)) == (False, False, True)


@pytest.mark.parametrize("message", NEITHER)
def test_a_failure_of_the_model_or_its_input(message: str) -> None:
    error = RuntimeError(message)
    assert not any((is_out_of_memory(error), is_poisoned(error), is_of_device(error)))
