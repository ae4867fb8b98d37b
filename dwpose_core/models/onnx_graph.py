"""Weights out of an exported DWPose / RTMPose or YOLOX .onnx file, into the parameters of our torch modules.

Exporters rename tensors, fold BatchNorm into convolutions, transpose matrices and reorder nodes, so neither names nor
node order can be trusted. What stays is the data flow. Both graphs, the file's and the torch.fx trace of our module,
are walked the same way: depth first from the outputs, operands in order, each node once, after its operands. All
operations that join two branches with weights of their own are concatenations, whose operand order is fixed, so the
walk meets convolutions and linear layers in the same order in both.

The few parameters that are not layers (ScaleNorm gains, gamma and beta of the attention unit, the residual scale) are
found from the layer next to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .infer import pose_config, yolox_config
from .onnx_proto import Graph, Node, read_onnx
from .rtmcc import DWPose, PoseConfig
from .yolox import YOLOX, YOLOXConfig

# Operations that hand the same numbers on, whole or in part.
PASS_THROUGH = {
    "Identity", "Cast", "CastLike", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split",
    "SplitToSequence", "SequenceAt", "Slice", "Gather",
}  # fmt: skip
# Operations on constants that exporters leave in the graph when they do not fold them.
FOLDABLE = {
    "Identity", "Transpose", "Cast", "CastLike", "Gather", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Expand",
    "Shape",
}  # fmt: skip
# Activations our networks do not have: same layers, other function.
FOREIGN = {"LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Mish", "HardSwish", "Tanh", "Softmax", "Softplus"}


class _Flow:
    """The graph as data flow: who made a value, what is constant, in which order the walk meets the nodes."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.producer = {name: node for node in graph.nodes for name in node.outputs}
        self.consumers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.consumers.setdefault(name, []).append(node)
        self._constants: dict[str, np.ndarray | None] = dict(graph.constants)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of `name` where it does not depend on the input, else None."""
        if name not in self._constants:
            node = self.producer.get(name)
            # A name that is neither made nor stored is an input; data paths are cut at the first operand.
            self._constants[name] = None if node is None else self._fold(node)
        return self._constants[name]

    def _fold(self, node: Node) -> np.ndarray | None:
        get = node.attributes.get
        if node.op == "Constant":
            found = [v for k, v in node.attributes.items() if k in ("value", "value_float", "value_int", "value_ints")]
            return np.asarray(found[0]) if found else None
        if node.op not in FOLDABLE:
            return None
        inputs = []
        for i, name in enumerate(node.inputs):
            value = self.constant(name)
            if value is None and not (node.op == "CastLike" and i == 1):
                return None
            inputs.append(value)
        x = inputs[0]
        if node.op == "Transpose":
            return x.transpose(get("perm", range(x.ndim)[::-1]))
        if node.op == "Gather":
            return np.take(x, inputs[1], axis=get("axis", 0))
        if node.op == "Slice":
            starts, ends, *rest = (value.tolist() for value in inputs[1:])
            axes = rest[0] if rest else range(len(starts))
            steps = rest[1] if len(rest) > 1 else [1] * len(starts)
            cut = dict(zip(axes, map(slice, starts, ends, steps), strict=True))
            return x[tuple(cut.get(axis, cut.get(axis - x.ndim, slice(None))) for axis in range(x.ndim))]
        if node.op in ("Unsqueeze", "Squeeze"):
            axes = inputs[1].tolist() if len(inputs) > 1 else get("axes")
            change = np.expand_dims if node.op == "Unsqueeze" else np.squeeze
            return change(x, tuple(axes) if axes else None)
        if node.op == "Reshape":
            return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(inputs[1].tolist())])
        if node.op == "Expand":
            return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(inputs[1].tolist())))
        if node.op == "Shape":
            return np.array(x.shape[get("start", 0) : get("end")], np.int64)
        return x  # casts: everything becomes float32 in the end

    def walk(self, outputs: list[str], stop: Node | None = None) -> Iterator[Node]:
        """All nodes `outputs` depend on, operands before users, in operand order; not beyond `stop`."""
        seen = {id(stop)} if stop else set()
        stack = [iter([self.producer[name] for name in outputs])]
        path: list[Node] = []
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                if path:
                    yield path.pop()
            elif id(node) not in seen:
                seen.add(id(node))
                path.append(node)
                stack.append(self._operands(node))

    def _operands(self, node: Node) -> Iterator[Node]:
        for name in node.inputs:
            if name in self.producer and self.constant(name) is None:
                yield self.producer[name]

    def source(self, name: str) -> Node | None:
        """The node that computed `name`, looking through reshapes and casts."""
        node = self.producer.get(name)
        while node is not None and node.op in PASS_THROUGH:
            node = self.producer.get(node.inputs[0])
        return node

    def scaled(self, node: Node | None, op: str) -> tuple[np.ndarray, str] | None:
        """(constant, other operand) of a Mul or Add with one constant operand."""
        if node is None or node.op != op:
            return None
        for mine, other in (node.inputs, node.inputs[::-1]):
            if self.constant(mine) is not None:
                return self.constant(mine), other
        return None

    def layer(self, node: Node) -> np.ndarray | None:
        """Weight of a convolution (out, in/groups, k, k) or linear layer (out, in); None for other nodes."""
        if node.op == "Conv":
            return self.constant(node.inputs[1])
        if node.op not in ("MatMul", "Gemm"):
            return None
        weight = self.constant(node.inputs[1])
        if weight is None or weight.ndim != 2:
            return None
        return weight if node.attributes.get("transB") else weight.T


def module_order(model: nn.Module) -> list[str]:
    """Names of the convolutions and linear layers of `model` in the order of the walk."""
    graph = torch.fx.symbolic_trace(model).graph
    names: list[str] = []
    seen = set()
    stack = [iter([node for node in graph.nodes if node.op == "output"])]
    path: list[torch.fx.Node] = []
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            if path:
                done = path.pop()
                if done.op == "call_module" and isinstance(model.get_submodule(done.target), nn.Conv2d | nn.Linear):
                    names.append(done.target)
        elif node not in seen:
            seen.add(node)
            path.append(node)
            stack.append(iter(node.all_input_nodes))
    return names


def read_weights(path: str | Path) -> tuple[PoseConfig | YOLOXConfig, dict[str, torch.Tensor]]:
    """Network and state dict (float32, our names) of an exported pose network or YOLOX detector.

    Raises:
        ValueError: where the file is damaged or its graph is not one of these two families.
    """
    graph = read_onnx(path)
    flow = _Flow(graph)
    try:
        return _read(flow)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read into a torch module: {error}. Known are RTMPose / DWPose whole-body networks with "
            "the outputs simcc_x and simcc_y, and YOLOX as exported by its authors, in float32 or float16. Others, "
            'exports of yolox-cspnext among them, run as they are in ONNX Runtime (backend="onnx")'
        ) from error


def _read(flow: _Flow) -> tuple[PoseConfig | YOLOXConfig, dict[str, torch.Tensor]]:
    graph = flow.graph
    foreign = FOREIGN.intersection(node.op for node in graph.nodes)
    quantised = {n.op for n in graph.nodes if n.op.startswith(("QLinear", "Quantize", "Dequantize", "DynamicQuantize"))}
    if quantised:
        raise ValueError(f"it is quantised ({', '.join(sorted(quantised))})")
    if foreign:
        raise ValueError(f"it has activations of another family ({', '.join(sorted(foreign))})")
    # simcc_x before simcc_y, whatever order the file lists them in.
    nodes = list(flow.walk(sorted(graph.outputs, key=lambda name: name.startswith("simcc_y"))))
    layers = [(node, weight) for node in nodes if (weight := flow.layer(node)) is not None]
    if not layers or layers[0][0].op != "Conv":
        raise ValueError("it does not begin with a convolution")
    before = {node.op for node in nodes[: nodes.index(layers[0][0])]} & {"Mul", "Div", "Sub", "Add"}
    if before:
        raise ValueError("it normalises its input inside the graph")

    convs = [(node, weight) for node, weight in layers if node.op == "Conv"]
    size = next(iter(graph.inputs.values()), [])[2:]
    if convs[0][1].shape[1] == 12:
        config = yolox_config(
            stem=len(convs[0][1]),
            classes=len(convs[-1][1]),
            depthwise=any(node.attributes.get("group", 1) > 1 for node, _ in convs),
            convolutions=len(convs),
            input_size=tuple(size) if len(size) == 2 and all(size) else None,
        )
        model: nn.Module = _on_meta(YOLOX, config)
    else:
        linear = [weight for node, weight in layers if node.op != "Conv"]
        if len(graph.outputs) != 2 or len(linear) != 5 or convs[0][1].shape[1] != 3:
            raise ValueError(
                f"it has {len(graph.outputs)} outputs and {len(linear)} linear layers; a whole-body network has 2 and 5"
            )
        # One convolution of stride 2 opens the stem and each stage; blocks are counted by their depthwise convolution.
        blocks: list[int] = []
        for node, _ in convs[1:-1]:
            if node.attributes.get("strides", [1])[0] == 2:
                blocks.append(0)
            elif node.attributes.get("group", 1) > 1:
                blocks[-1] += 1
        mlp, uv, _, cls_x, cls_y = (weight.shape for weight in linear)
        config = pose_config(
            blocks=blocks,
            final=convs[-1][1].shape,
            tokens=mlp[0],
            shared=uv[0] - 4 * uv[1],
            bins=(cls_x[0], cls_y[0]),
        )
        if len(size) == 2 and all(size) and tuple(size) != config.input_size:
            raise ValueError(f"its input is {tuple(size)} (H, W) but its outputs are those of {config.input_size}")
        model = _on_meta(DWPose, config)

    names = module_order(model)
    if len(names) != len(layers):
        raise ValueError(f"it has {len(layers)} layers where {len(names)} are expected")
    state: dict[str, np.ndarray] = {}
    for name, (node, weight) in zip(names, layers, strict=True):
        _copy_layer(flow, node, weight, name, model, state)
    if isinstance(model, DWPose):
        heads = dict(zip(names, (node for node, _ in layers), strict=True))
        _copy_head(flow, heads, config, state)
    return config, {
        k: torch.from_numpy(np.array(v, np.int64 if v.dtype.kind == "i" else np.float32)) for k, v in state.items()
    }


def _on_meta(kind: type[nn.Module], config: PoseConfig | YOLOXConfig) -> nn.Module:
    with torch.device("meta"):
        return kind(config)


def _copy_layer(
    flow: _Flow, node: Node, weight: np.ndarray, name: str, model: nn.Module, state: dict[str, np.ndarray]
) -> None:
    """One convolution or linear layer, and the BatchNorm behind it, folded or not."""
    module = model.get_submodule(name)
    if weight.shape != tuple(module.weight.shape):
        raise ValueError(f"layer {name} has weights {weight.shape} where {tuple(module.weight.shape)} is expected")
    state[f"{name}.weight"] = weight
    if isinstance(module, nn.Linear):
        if node.op == "Gemm" and len(node.inputs) > 2 and np.any(flow.constant(node.inputs[2])):
            raise ValueError(f"layer {name} has a bias where none is expected")
        return
    attributes = node.attributes
    found = (attributes.get("strides", [1, 1]), attributes.get("group", 1), attributes.get("dilations", [1, 1]))
    if found != (list(module.stride), module.groups, [1, 1]):
        raise ValueError(f"layer {name} has (strides, groups, dilations) {found}")
    bias = np.zeros(len(weight), np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:  # exporters drop a bias that is all zero
        bias = flow.constant(node.inputs[2]).astype(np.float32)

    norm = getattr(model.get_submodule(name.rpartition(".")[0]), "bn", None)
    users = flow.consumers.get(node.outputs[0], [])
    has_norm = len(users) == 1 and users[0].op == "BatchNormalization"
    if norm is None:
        if has_norm:
            raise ValueError(f"layer {name} is followed by a BatchNormalization")
        state[f"{name}.bias"] = bias
        return
    prefix = name.rpartition(".")[0] + ".bn"
    if has_norm:
        scale, shift, mean, var = (flow.constant(i).astype(np.float32) for i in users[0].inputs[1:5])
        mean = mean - bias
        var = var + (users[0].attributes.get("epsilon", 1e-5) - norm.eps)
    else:
        # BatchNorm as an identity plus the folded bias: (x - 0) / sqrt(1 + eps) * sqrt(1 + eps) + bias.
        scale, shift = np.full_like(bias, (1 + norm.eps) ** 0.5), bias
        mean, var = np.zeros_like(bias), np.ones_like(bias)
    for key, value in (("weight", scale), ("bias", shift), ("running_mean", mean), ("running_var", var)):
        state[f"{prefix}.{key}"] = value
    state[f"{prefix}.num_batches_tracked"] = np.array(0, np.int64)


def _copy_head(flow: _Flow, layers: dict[str, Node], config: PoseConfig, state: dict[str, np.ndarray]) -> None:
    """The parameters of the head that are no layers."""
    for norm, linear in (("head.mlp.0", "head.mlp.1"), ("head.gau.ln", "head.gau.uv")):
        source = flow.source(layers[linear].inputs[0])
        gain = flow.scaled(source, "Mul")
        if gain is None and (source is None or source.op != "Div"):
            raise ValueError(f"no ScaleNorm before {linear}")
        gain = np.ones(1) if gain is None else gain[0]
        if gain.size != 1:
            raise ValueError(f"the gain of {norm} has {gain.size} values where 1 is expected")
        state[f"{norm}.g"] = gain.reshape(1)

    total = flow.source(layers["head.cls_x"].inputs[0])
    if total is None or total.op != "Add":
        raise ValueError("no residual sum before head.cls_x")
    branches = [flow.source(name) for name in total.inputs]
    if layers["head.gau.o"] not in branches:
        raise ValueError("head.gau.o does not end in the residual sum")
    (residual,) = (node for node in branches if node is not layers["head.gau.o"])
    scale = flow.scaled(residual, "Mul")
    state["head.gau.res_scale.scale"] = np.ones(config.tokens) if scale is None else scale[0].reshape(config.tokens)

    # Between uv and o: query and key are base * gamma + beta, as two rows at once or one after the other. The walk
    # meets the query first, because the attention weight is query @ key^T.
    found: dict[str, list[np.ndarray]] = {"Mul": [], "Add": []}
    for node in flow.walk([layers["head.gau.o"].inputs[0]], stop=layers["head.gau.uv"]):
        for op, values in found.items():
            operand = flow.scaled(node, op)
            if operand is not None and operand[0].size in (config.shared, 2 * config.shared):
                values.append(operand[0].reshape(-1, config.shared))
    for key, op in (("gamma", "Mul"), ("beta", "Add")):
        rows = np.concatenate(found[op]) if found[op] else np.empty((0, config.shared))
        if rows.shape != (2, config.shared):
            raise ValueError(f"{len(rows)} rows of head.gau.{key} where 2 are expected")
        state[f"head.gau.{key}"] = rows
