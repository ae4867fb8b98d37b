"""The ONNX reader against the onnx package: real files, exports, tensor types, second files, damage."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dwpose_core.models.onnx_proto import read_onnx
from dwpose_core.models.weights import load_pose
from tests.onnx_files import assert_same, network, write

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def attribute(value):
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value


def compare_with_package(path: Path) -> None:
    """Same nodes, attributes, weights, inputs and outputs as the onnx package sees."""
    graph, expected = read_onnx(path), onnx.load(str(path)).graph
    assert [(n.op, n.inputs, n.outputs, n.domain) for n in graph.nodes] == [
        (n.op_type, list(n.input), list(n.output), n.domain) for n in expected.node
    ]
    for node, other in zip(graph.nodes, expected.node, strict=True):
        wanted = {a.name: attribute(onnx.helper.get_attribute_value(a)) for a in other.attribute}
        assert node.attributes.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_array_equal(np.asarray(node.attributes[key]), np.asarray(value))
    assert graph.constants.keys() == {i.name for i in expected.initializer}
    for initializer in expected.initializer:
        array = onnx.numpy_helper.to_array(initializer, base_dir=str(path.parent))
        np.testing.assert_array_equal(
            graph.constants[initializer.name], array.astype(graph.constants[initializer.name].dtype)
        )
        assert graph.constants[initializer.name].shape == array.shape
    for found, infos in ((graph.inputs, expected.input), (graph.outputs, expected.output)):
        assert found == {
            i.name: [d.dim_value if d.HasField("dim_value") else None for d in i.type.tensor_type.shape.dim]
            for i in infos
            if i.name not in graph.constants
        }


def test_reader_on_real_file(shared):
    compare_with_package(shared / "data" / "yolox_nano.onnx")


def test_reader_on_an_export(tmp_path):
    path = write(
        network("debug"),
        tmp_path / "a.onnx",
        input_names=["input"],
        dynamic_axes={"input": {0: "batch"}},
        opset_version=17,
    )
    compare_with_package(path)
    assert read_onnx(path).inputs == {"input": [None, 3, 64, 64]}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
)
def test_reader_on_tensor_types(tmp_path, dtype, raw):
    name = {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    number = onnx.TensorProto.DataType.Value(name)
    values = [1, 0, 1, 1, 0, 0] if dtype in ("bool", "uint8") else [1, -2, 3, 100, -5, 0]
    if raw and dtype == "bfloat16":
        data = torch.tensor(values, dtype=torch.bfloat16).view(torch.int16).numpy().tobytes()
    else:
        data = np.array(values, "float32" if dtype == "bfloat16" else dtype).tobytes() if raw else values
    tensor = onnx.helper.make_tensor("w", number, [2, 3], data, raw=raw)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, "n"]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:], [tensor])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "a.onnx"))
    read = read_onnx(tmp_path / "a.onnx")
    np.testing.assert_array_equal(read.constants["w"].astype(np.float64), np.array(values, np.float64).reshape(2, 3))
    assert read.inputs == {"x": [1, None]}


def external(path: Path, location: str = "weights.bin") -> Path:
    """Moves the weights of an .onnx file into a second file."""
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_reader_on_a_second_file(tmp_path):
    model = network("debug")
    path = external(write(model, tmp_path / "a.onnx"))
    compare_with_package(path)
    assert_same(model, path)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"weights\.bin ends early"):
        read_onnx(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ValueError, match=r"weights\.bin, which must lie beside it"):
        read_onnx(path)


def test_second_file_must_be_in_the_same_folder(tmp_path):
    path = external(write(network("debug"), tmp_path / "a.onnx"))
    model = onnx.load(str(path), load_external_data=False)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    (tmp_path / "inner").mkdir()
    onnx.save(model, str(tmp_path / "inner" / "a.onnx"))
    with pytest.raises(ValueError, match="outside its own folder"):
        read_onnx(tmp_path / "inner" / "a.onnx")


@pytest.mark.parametrize("keep", [1, 100, 5000, -1, -3000])
def test_cut_file(tmp_path, keep):
    path = write(network("debug"), tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged"):
        read_onnx(path)


def test_a_number_that_does_not_end(tmp_path):
    """All ones, as a bad disk gives: read to its end, a number of the size of a model would take hours."""
    (tmp_path / "a.onnx").write_bytes(b"\xff" * 100 + b"\x01")
    with pytest.raises(ValueError, match=r"damaged .*a number has more than 64 bits"):
        read_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("seed", range(8))
def test_altered_file_never_raises_anything_else(tmp_path, seed):
    path = write(network("debug"), tmp_path / "a.onnx")
    data = bytearray(path.read_bytes())
    rng = random.Random(seed)
    for _ in range(50):
        data[rng.randrange(len(data))] = rng.randrange(256)
    for _ in range(20):  # headers and node names lie at the front and the back
        data[rng.randrange(4000)] = rng.randrange(256)
    path.write_bytes(data)
    try:
        load_pose(path)
    except ValueError:
        pass
