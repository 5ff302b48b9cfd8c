"""Numbers of fields in the messages of an ONNX file (``onnx.proto``), those that we read or write."""

from enum import IntEnum


class Model(IntEnum):
    """``ModelProto``."""

    GRAPH = 7
    OPSET_IMPORT = 8


class Opset(IntEnum):
    """``OperatorSetIdProto``."""

    DOMAIN = 1
    VERSION = 2


class Graph(IntEnum):
    """``GraphProto``."""

    NODE = 1
    INITIALIZER = 5
    INPUT = 11
    OUTPUT = 12
    VALUE_INFO = 13
    QUANTIZATION_ANNOTATION = 14


class Node(IntEnum):
    """``NodeProto``."""

    INPUT = 1
    OUTPUT = 2
    NAME = 3
    OP_TYPE = 4
    ATTRIBUTE = 5


class Attribute(IntEnum):
    """``AttributeProto``."""

    NAME = 1
    I = 3  # noqa: E741 - its name
    T = 5
    G = 6
    INTS = 8
    GRAPHS = 11
    TYPE = 20


class AttributeType(IntEnum):
    """``AttributeProto.AttributeType``."""

    INT = 2
    INTS = 7


class Value(IntEnum):
    """``ValueInfoProto``."""

    NAME = 1
    TYPE = 2


class Type(IntEnum):
    """``TypeProto``."""

    TENSOR_TYPE = 1


class TensorType(IntEnum):
    """``TypeProto.Tensor``."""

    ELEM_TYPE = 1
    SHAPE = 2


class Shape(IntEnum):
    """``TensorShapeProto``."""

    DIM = 1


class Dimension(IntEnum):
    """``TensorShapeProto.Dimension``."""

    DIM_VALUE = 1
    DIM_PARAM = 2


class Tensor(IntEnum):
    """``TensorProto``."""

    DIMS = 1
    DATA_TYPE = 2
    INT64_DATA = 7
    NAME = 8
    RAW_DATA = 9
    EXTERNAL_DATA = 13
    DATA_LOCATION = 14


class Entry(IntEnum):
    """``StringStringEntryProto``."""

    KEY = 1
    VALUE = 2


class DataType(IntEnum):
    """``TensorProto.DataType``."""

    FLOAT = 1
    INT64 = 7


class DataLocation(IntEnum):
    """``TensorProto.DataLocation``."""

    EXTERNAL = 1
