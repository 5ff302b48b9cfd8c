"""The data in a PyTorch pickle, without unpickling it.

A pickle is a program. Python's own machine, restricted to whatever names, still calls what the program hands to it,
allocates what it asks for, and has been talked round before. The state dict of a model needs thirty of its seventy
instructions and three calls, so those are interpreted here, on plain values: a name is never looked up, and what it
would build is only described. Everything else is refused. `pickletools` decodes the instructions and runs none.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from immich_ml_cn.messages import tr

from .weights import MOST_AXES

MOST_BYTES: Final = 1 << 20
"""Of a pickle: that of the largest Chinese-CLIP has 0.1 MB, for the weights lie beside it. Each byte may make an object
of a hundred."""

DTYPES: Final[Mapping[str, str]] = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}
"""PyTorch's storage classes → the dtype of their elements."""

_ORDERED_DICT: Final = "collections.OrderedDict"
_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
_PARAMETER: Final = "torch._utils._rebuild_parameter"
_NAMES: Final = frozenset({_ORDERED_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in DTYPES)})


class RefusedPickle(ValueError):
    """The pickle holds something else than tensors in dictionaries; the message says what."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that lie in a file of their own.

    Attributes:
        key: the file's name.
        count: how many numbers of `dtype`.
    """

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """Where a tensor's numbers are.

    Attributes:
        offset: of its first number in the storage, in numbers.
        strides: in numbers, one for each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or function that the pickle names; it is never looked up."""

    path: str


def read_pickle(data: bytes) -> object:
    """What a pickle of tensors describes: None, bool, int, float, str, tuple, list, dict and `PickledTensor`.

    Raises:
        RefusedPickle: it holds anything else, or is no pickle.
    """
    if len(data) > MOST_BYTES:
        raise RefusedPickle(tr("its pickle has {count:,} bytes, far more than names and shapes need", count=len(data)))
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except RefusedPickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise RefusedPickle(tr("its pickle is damaged ({reason})", reason=error)) from error
    raise RefusedPickle(tr("its pickle ends too early"))


@dataclass(slots=True)
class _Machine:
    """The stack and the memo of a pickle that is being read."""

    stack: list[object] = field(default_factory=list)
    marks: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def step(self, opcode: str, argument: object) -> None:
        """Take one instruction."""
        if opcode in _IGNORED:
            return
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _TUPLES:
            self.stack.append(self._take(_TUPLES[opcode]))
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        else:
            raise RefusedPickle(
                tr("its pickle uses the instruction {opcode}, which no dictionary of tensors needs", opcode=opcode)
            )

    def pop(self) -> object:
        """Remove what is on top of the stack."""
        return self.stack.pop()

    def mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[object]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _take(self, count: int) -> tuple[object, ...]:
        if len(self.stack) < count:
            raise IndexError("its stack is empty")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, index: object) -> None:
        self.memo[len(self.memo) if index is None else _integer(index)] = self.stack[-1]

    def get(self, index: object) -> None:
        self.stack.append(self.memo[_integer(index)])

    def make_tuple(self, _: object) -> None:
        items = tuple(self._since_mark())
        self.stack.append(items)

    def make_list(self, _: object) -> None:
        self.stack.append([])

    def make_dict(self, _: object) -> None:
        self.stack.append({})

    def append(self, _: object) -> None:
        item = self.pop()
        _list(self.stack[-1]).append(item)

    def extend(self, _: object) -> None:
        items = self._since_mark()
        _list(self.stack[-1]).extend(items)

    def set_item(self, _: object) -> None:
        key, value = self._take(2)
        _dict(self.stack[-1])[_key(key)] = value

    def set_items(self, _: object) -> None:
        items = self._since_mark()
        target = _dict(self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def name(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self._name(module, name)

    def stacked_name(self, _: object) -> None:
        module, name = self._take(2)
        self._name(str(module), str(name))

    def _name(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        if path not in _NAMES:
            raise RefusedPickle(
                tr("it names {name!r}, which has no place among weights; nothing of it was run", name=path[:100])
            )
        self.stack.append(_Name(path))

    def storage(self, _: object) -> None:
        kind, of, key, _device, count = _tuple(self.pop(), 5)
        dtype = DTYPES.get(of.path.removeprefix("torch.")) if isinstance(of, _Name) else None
        if kind != "storage" or dtype is None or not isinstance(key, str):
            raise RefusedPickle(tr("it refers to something else than numbers beside the pickle"))
        self.stack.append(Storage(dtype, key, _integer(count)))

    def call(self, _: object) -> None:
        function, arguments = self._take(2)
        path = function.path if isinstance(function, _Name) else None
        if path == _ORDERED_DICT and arguments == ():
            self.stack.append({})
        elif path == _TENSOR:
            self.stack.append(_tensor(arguments))
        elif path == _PARAMETER and isinstance(tensor := _tuple(arguments, 3)[0], PickledTensor):
            self.stack.append(tensor)
        else:
            name = path or tr("what is no function")
            raise RefusedPickle(tr("it calls {name} in an unexpected way; nothing of it was run", name=name))

    def build(self, _: object) -> None:
        """The attributes of an ordered dictionary: PyTorch keeps the versions of the modules there."""
        self.pop()
        _dict(self.stack[-1])


_IGNORED: Final = frozenset({"PROTO", "FRAME"})
_CONSTANTS: Final[Mapping[str, object]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS: Final = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
_TUPLES: Final[Mapping[str, int]] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: Final[Mapping[str, Callable[[_Machine, object], None]]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_tuple,
    "EMPTY_LIST": _Machine.make_list,
    "EMPTY_DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}


def _tensor(arguments: object) -> PickledTensor:
    """(storage, offset, shape, strides, requires_grad, hooks and, in newer versions, metadata)."""
    storage, offset, shape, strides, *_ = _tuple(arguments, 6, 7)
    if not isinstance(storage, Storage):
        raise RefusedPickle(tr("a tensor has no numbers beside the pickle"))
    return PickledTensor(storage, _integer(offset), _integers(shape), _integers(strides))


def _integers(value: object) -> tuple[int, ...]:
    return tuple(map(_integer, _tuple(value, *range(MOST_AXES + 1))))


def _integer(value: object) -> int:
    # Never shown: a few hundred tuples that hold each other twice would be written out for ever.
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise TypeError(f"a {type(value).__name__} where a number of elements is expected")
    return value


def _tuple(value: object, *lengths: int) -> tuple[object, ...]:
    if not isinstance(value, tuple) or (lengths and len(value) not in lengths):
        raise TypeError("a tuple is missing")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _dict(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise TypeError("a dictionary is missing")
    return value


def _key(value: object) -> str | int:
    if not isinstance(value, str | int):
        raise TypeError("a dictionary's key is neither text nor a number")
    return value
