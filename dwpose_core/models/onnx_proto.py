"""Reads .onnx files with numpy alone: just enough protobuf for nodes, constants, inputs and outputs.

Field numbers are those of onnx.proto (ONNX IR version 3 to 13); fields that do not matter here are skipped. Tensors
are views into the memory-mapped file, so a 134 MB model costs its pages only once they are used.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# TensorProto.DataType -> numpy; bfloat16 (16) is widened by hand.
DTYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}
FLOAT16, BFLOAT16 = 10, 16


@dataclass
class Node:
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    domain: str = ""


@dataclass
class Graph:
    """`inputs` and `outputs` map a name to its shape, None for a dynamic axis; weights are not among the inputs."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, list[int | None]] = field(default_factory=dict)
    outputs: dict[str, list[int | None]] = field(default_factory=dict)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:  # ten bytes; in a damaged file a number could be as long as the file
            raise ValueError("a number has more than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value): int for varints, memoryview for everything that has a length or fixed size."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + size > len(data):
            raise ValueError("the file ends early")
        yield number, data[at : at + size]
        at += size


def _signed(value: int) -> int:
    """Negative int64 are written as ten-byte varints of their two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _ints(value: int | memoryview) -> list[int]:
    """A repeated integer: one varint, or a packed run of them."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        item, at = _varint(value, at)
        found.append(_signed(item))
    return found


def _text(value: memoryview) -> str:
    return bytes(value).decode()


def _tensor(data: memoryview, folder: Path) -> tuple[str, np.ndarray]:
    dims: list[int] = []
    kind, name, raw, location = 1, "", None, {}
    typed: list[Any] = []  # values outside raw_data: floats, int32 (also float16 bits), int64
    for number, value in _fields(data):
        if number == 1:
            dims += _ints(value)
        elif number == 2:
            kind = value
        elif number == 4:
            typed += np.frombuffer(value, "<f4").tolist()
        elif number in (5, 7):
            typed += _ints(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = value
        elif number == 10:
            typed += np.frombuffer(value, "<f8").tolist()
        elif number == 13:
            entry = {n: _text(v) for n, v in _fields(value)}
            location[entry[1]] = entry.get(2, "")
    if kind not in DTYPES and kind != BFLOAT16:
        return name, np.empty(0)  # strings and 4- or 8-bit floats; a graph whose weights these are will not match
    stored = np.dtype(np.uint16 if kind == BFLOAT16 else DTYPES[kind]).newbyteorder("<")
    if location:
        raw = _external(location, folder)
    if raw is not None:
        array = np.frombuffer(raw, stored)
    elif kind in (FLOAT16, BFLOAT16):
        array = np.array(typed, np.uint16).view(stored)
    else:
        array = np.array(typed, stored)
    if kind == BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return name, array.reshape(dims)


def _external(location: dict[str, str], folder: Path) -> memoryview:
    """Data of a tensor kept in a second file beside the model."""
    path = (folder / location["location"]).resolve()
    if path.parent != folder.resolve():
        raise ValueError(f"its weights are said to be in {location['location']!r}, outside its own folder")
    if not path.is_file():
        raise ValueError(f"its weights are in a second file, {path.name}, which must lie beside it")
    offset = int(location.get("offset", 0))
    length = int(location.get("length", path.stat().st_size - offset))
    if offset + length > path.stat().st_size:
        raise ValueError(f"its second file {path.name} ends early")
    return memoryview(np.memmap(path, np.uint8, "r", offset, (length,)))


def _attribute(data: memoryview, folder: Path) -> tuple[str, Any]:
    name, found = "", None
    many: list[Any] = []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            (found,) = struct.unpack("<f", value)
        elif number == 3:
            found = _signed(value)
        elif number == 4:
            found = bytes(value)
        elif number == 5:
            found = _tensor(value, folder)[1]
        elif number == 7:
            many += np.frombuffer(value, "<f4").tolist()
        elif number == 8:
            many += _ints(value)
    return name, many or found


def _node(data: memoryview, folder: Path) -> Node:
    node = Node("", [], [], {})
    for number, value in _fields(data):
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 4:
            node.op = _text(value)
        elif number == 5:
            name, found = _attribute(value, folder)
            node.attributes[name] = found
        elif number == 7:
            node.domain = _text(value)
    return node


def _value_info(data: memoryview) -> tuple[str, list[int | None]]:
    """ValueInfoProto: name (1), type (2) > tensor_type (1) > shape (2) > dim (1) > dim_value (1)."""
    name, shape = "", []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensor_type = next((v for n, v in _fields(value) if n == 1), memoryview(b""))
            dims = next((v for n, v in _fields(tensor_type) if n == 2), memoryview(b""))
            shape = [next((v for n, v in _fields(d) if n == 1), None) for k, d in _fields(dims) if k == 1]
    return name, shape


def read_onnx(path: str | Path) -> Graph:
    """Parses an .onnx file.

    Raises:
        ValueError: where the file is cut, no ONNX model, or its second file with the weights is missing.
    """
    path = Path(path)
    graph = Graph()
    try:
        with open(path, "rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for number, value in _fields(data):
            if number != 7:  # ModelProto.graph
                continue
            for kind, item in _fields(value):
                if kind == 1:
                    graph.nodes.append(_node(item, path.parent))
                elif kind == 5:
                    name, array = _tensor(item, path.parent)
                    graph.constants[name] = array
                elif kind in (11, 12):
                    name, shape = _value_info(item)
                    (graph.inputs if kind == 11 else graph.outputs)[name] = shape
    except (ValueError, IndexError, TypeError, KeyError, struct.error) as error:
        raise ValueError(f"{path} is damaged or not an ONNX model ({error}); download it again") from error
    if not graph.nodes or not graph.outputs:
        raise ValueError(f"{path} is not an ONNX model, or it is damaged; download it again")
    # Old exporters list the weights among the inputs.
    graph.inputs = {name: shape for name, shape in graph.inputs.items() if name not in graph.constants}
    return graph
