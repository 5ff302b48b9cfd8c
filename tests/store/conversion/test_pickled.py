"""A pickle of tensors is read as data; a pickle of anything else is refused before it could do anything."""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
from torch_files import Raw, Tensor, call, encoded, name, pickled

from immich_ml_cn.store.conversion.pickled import MOST_BYTES, PickledTensor, RefusedPickle, Storage, read_pickle


def test_a_dictionary_of_tensors() -> None:
    state = {"a": Tensor("0", (2, 3), 6), "b": Tensor("1", (), 1, "float16"), "n": 7, "flag": True, "none": None}

    assert read_pickle(pickled({"state_dict": state})) == {
        "state_dict": {
            "a": PickledTensor(Storage("float32", "0", 6), 0, (2, 3), (3, 1)),
            "b": PickledTensor(Storage("float16", "1", 1), 0, (), ()),
            "n": 7,
            "flag": True,
            "none": None,
        }
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_python_s_own_pickles_of_plain_values(protocol: int) -> None:
    value = {
        "epoch": 3,
        "loss": 0.25,
        "names": ["a", "b"],
        "sizes": (1, 2, 3, 4),
        "long": 1 << 40,
        "text": "中文" * 200,
    }

    assert read_pickle(pickle.dumps(value, protocol)) == value


def test_an_ordered_dictionary_with_attributes() -> None:
    """PyTorch's state dict has one, ``_metadata``."""
    state: OrderedDict[str, object] = OrderedDict(a=1, b=2)
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]

    assert read_pickle(pickle.dumps(state, 2)) == {"a": 1, "b": 2}


def test_a_parameter_is_its_tensor() -> None:
    parameter = call(
        name("torch._utils", "_rebuild_parameter"), Tensor("0", (1,), 1), True, call(name("collections", "OrderedDict"))
    )

    assert read_pickle(pickled(parameter)) == PickledTensor(Storage("float32", "0", 1), 0, (1,), (1,))


class Evil:
    """Does what it says as soon as a pickle of it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._marker,)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_a_pickle_would_run_is_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "owned"
    data = pickle.dumps({"state_dict": Evil(marker)}, protocol)
    pickle.loads(data)
    assert marker.exists(), "it would do something"
    marker.unlink()

    with pytest.raises(RefusedPickle):
        read_pickle(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "load"),
        ("torch", "hub"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "defaultdict"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch", "UntypedStorage"),
    ],
)
def test_foreign_names_are_refused_by_name(module: str, attribute: str) -> None:
    for value in (name(module, attribute), call(name(module, attribute), "echo owned")):
        with pytest.raises(RefusedPickle, match="has no place among weights; nothing of it was run") as refused:
            read_pickle(pickled({"state_dict": value}))
        assert f"{module}.{attribute}" in str(refused.value)
    stacked = b"\x80\x04" + _short(module) + _short(attribute) + b"\x93."
    with pytest.raises(RefusedPickle, match="has no place among weights"):
        read_pickle(stacked)


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
ORDERED = name("collections", "OrderedDict")


@pytest.mark.parametrize(
    "value",
    [
        call(ORDERED, (("a", 1),)),
        call("os.system", "echo"),
        call(name("torch", "FloatStorage"), 1 << 20),
        call(REBUILD, "no storage", 0, (1,), (1,), False, None),
        call(REBUILD, 1),
        call(name("torch._utils", "_rebuild_parameter"), "no tensor", True, None),
        Raw(encoded(ORDERED) + encoded({"__setstate__": 1}) + b"b"),
        Raw(encoded(("module", "os", "x", "cpu", 1)) + b"Q"),
        Raw(encoded(("storage", name("torch", "FloatStorage"), 5, "cpu", 1)) + b"Q"),
        Raw(encoded(("storage", name("torch", "FloatStorage"), "0", "cpu", -1)) + b"Q"),
        Raw(b"]" + encoded(1) + b"s"),
        Raw(b"}(" + encoded((1, 2)) + encoded(3) + b"u"),
        Raw(b"}(" + encoded(1) + b"u"),
    ],
)
def test_known_names_in_unknown_ways_are_refused(value: object) -> None:
    with pytest.raises(RefusedPickle):
        read_pickle(pickled({"state_dict": value}))


@pytest.mark.parametrize(
    "code",
    [
        b"ios\nsystem\n",  # INST
        b"(cos\nsystem\no",  # OBJ
        b"c__main__\nEvil\n)\x81",  # NEWOBJ
        b"\x82\x01",  # EXT1: what a program has registered
        b"Pstorage\n",  # PERSID
        b"\x8f",  # EMPTY_SET
        b"B\x01\x00\x00\x00a",  # BINBYTES
        b"\x97",  # NEXT_BUFFER
    ],
)
def test_instructions_that_tensors_do_not_need_are_refused(code: bytes) -> None:
    with pytest.raises(RefusedPickle):
        read_pickle(b"\x80\x02" + code + b".")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"<html>not found</html>",
        b"\x80\x02}",
        b"\x80\x02(((((((",
        b"\x80\x02h\x05.",
        b"\x80\x02q\x00.",
        b"\x80\x02X\xff\xff\xff\xffa.",  # a text longer than the file
        b"\x80\x02\x8b\xff\xff\xff\x7fa.",  # a number longer than the file
        b"\x80\x02\x86.",
        b"\x80\x02t.",
    ],
)
def test_damage_is_a_sentence(data: bytes) -> None:
    with pytest.raises(RefusedPickle, match="its pickle"):
        read_pickle(data)


def test_a_memo_of_any_index_takes_no_memory() -> None:
    """Python's own unpickler makes room for all below it: 32 GB."""
    assert read_pickle(b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFFF) + b".") is None


def _held_twice(depth: int) -> Raw:
    """A tuple of two that are the same tuple of two, and so on: a few bytes each, 2 ** `depth` numbers written out."""
    return Raw(encoded((1,)) + b"q\x01h\x01\x86" * depth)


@pytest.mark.parametrize("place", range(4))
def test_what_would_be_written_out_for_ever_is_not_shown(place: int) -> None:
    storage = Raw(encoded(("storage", name("torch", "FloatStorage"), "0", "cpu", 6)) + b"Q")
    arguments: list[object] = [storage, 0, (6,), (1,)]
    arguments[place] = _held_twice(100)

    with pytest.raises(RefusedPickle):
        read_pickle(pickled({"t": call(REBUILD, *arguments, False, None)}))


def test_a_tensor_of_many_axes_is_refused() -> None:
    with pytest.raises(RefusedPickle, match="its pickle is damaged"):
        read_pickle(pickled({"t": Tensor("0", (1,) * 5000, 1)}))


def test_a_huge_pickle_is_not_even_looked_at() -> None:
    with pytest.raises(RefusedPickle, match="far more than names and shapes need"):
        read_pickle(bytes(MOST_BYTES + 1))
