"""The part of ComfyUI the nodes stand on, as small as it can be: enough to build every schema and run every node.

`install` puts stub modules into sys.modules and imports this checkout as ComfyUI does, as a package of arbitrary name.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]


def _type(name: str) -> type:
    class Input:
        def __init__(self, id: str, display_name: str | None = None, optional: bool = False, **options: Any):
            self.id, self.optional, self.options = id, optional, options
            self.io_type = name

    class Output:
        def __init__(self, id: str | None = None, display_name: str | None = None, **options: Any):
            self.id, self.options, self.io_type = id, options, name
            self.display_name = display_name

    return type(name, (), {"io_type": name, "Input": Input, "Output": Output})


class MultiType:
    class Input:
        def __init__(
            self, id: str, types: list[type], display_name: str | None = None, optional: bool = False, **options
        ):
            self.id, self.optional, self.options = id, optional, options
            self.io_type = ",".join(kind.io_type for kind in types)


@dataclasses.dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list
    outputs: list
    hidden: list = dataclasses.field(default_factory=list)
    description: str = ""
    search_aliases: list = dataclasses.field(default_factory=list)
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args: Any, ui: dict | None = None):
        self.args, self.ui = args, ui

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    hidden = types.SimpleNamespace(unique_id="7")


class Interrupted(Exception):
    pass


class OutOfMemory(Exception):
    pass


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.detached = False

    def detach(self, unpatch_all: bool = True):
        self.detached = True
        return self.model


class PreviewImage:
    def __init__(self, image, cls=None):
        self.count = len(image)

    def as_dict(self) -> dict:
        return {"images": [{"filename": f"{number}.png"} for number in range(self.count)], "animated": (False,)}


def install(home: Path) -> types.SimpleNamespace:
    """Stub modules over folders under `home`; returns what tests look at: the package, texts, previews, hooks."""
    seen = types.SimpleNamespace(texts=[], progress=[], hooks=[], loaded=[], interrupt=False, replacements=[])
    types_ = {name: _type(name.upper()) for name in ("Image", "Mask", "Latent", "Int", "Float", "Boolean", "String")}
    combo = _type("COMBO")
    io = types.SimpleNamespace(
        **types_,
        Combo=combo,
        MultiType=MultiType,
        Custom=_type,
        Schema=Schema,
        NodeOutput=NodeOutput,
        ComfyNode=ComfyNode,
        Hidden=types.SimpleNamespace(unique_id="UNIQUE_ID"),
        NodeReplace=lambda **fields: fields,
    )

    class API:
        async def register(self, replacement):
            seen.replacements.append(replacement)

        @property
        def node_replacement(self):
            return self

    class ProgressBar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            seen.progress.append((value, total, preview))

    def throw_if_interrupted():
        if seen.interrupt:
            raise Interrupted

    server = types.SimpleNamespace(
        send_progress_text=lambda text, node_id: seen.texts.append((node_id, text)),
        add_on_prompt_handler=seen.hooks.append,
    )
    cpu = torch.device("cpu")
    management = {
        "get_torch_device": lambda: cpu,
        "free_memory": lambda *_: None,
        "unet_offload_device": lambda: cpu,
        "intermediate_device": lambda: cpu,
        "intermediate_dtype": lambda: torch.float32,
        "should_use_fp16": lambda device: False,
        "is_device_cpu": lambda device: True,
        "load_models_gpu": lambda models, **options: seen.loaded.append((models, options)),
        "throw_exception_if_processing_interrupted": throw_if_interrupted,
        "soft_empty_cache": lambda: None,
        "InterruptProcessingException": Interrupted,
        "OOM_EXCEPTION": OutOfMemory,
    }
    modules = {
        "comfy": {},
        "comfy.model_management": management,
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy_api": {},
        "comfy_api.v0_0_2": {
            "io": io,
            "ui": types.SimpleNamespace(PreviewImage=PreviewImage),
            "ComfyExtension": object,
            "ComfyAPI": API,
        },
        "folder_paths": _folder_paths(home),
        "server": {"PromptServer": types.SimpleNamespace(instance=server)},
        "nodes": {"NODE_CLASS_MAPPINGS": {}},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    seen.package = import_pack("custom_nodes_x_some-folder name")
    return seen


def import_pack(name: str) -> types.ModuleType:
    """This checkout as a package, the way ComfyUI imports a folder of custom_nodes."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _folder_paths(home: Path) -> dict:
    registry: dict[str, tuple[list[str], set[str]]] = {"custom_nodes": ([str(home / "custom_nodes")], set())}

    def files(key):
        paths, suffixes = registry[key]
        found = set()
        for folder in map(Path, paths):
            found |= {
                str(file.relative_to(folder)) for file in folder.rglob("*") if not suffixes or file.suffix in suffixes
            }
        return sorted(found)

    def full_path(key, name):
        return next((str(Path(folder) / name) for folder in registry[key][0] if (Path(folder) / name).is_file()), None)

    def save_path(prefix, folder, width=0, height=0):
        prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
        target = Path(folder) / os.path.dirname(prefix)
        target.mkdir(parents=True, exist_ok=True)
        return str(target), os.path.basename(prefix), 1, os.path.dirname(prefix), prefix

    for name in ("input", "output", "models/dwpose", "models/detection"):
        (home / name).mkdir(parents=True, exist_ok=True)
    return {
        "base_path": str(home),
        "models_dir": str(home / "models"),
        "folder_names_and_paths": registry,
        "add_model_folder_path": lambda key, path: registry.setdefault(key, ([], set()))[0].append(path),
        "get_folder_paths": lambda key: list(registry[key][0]),
        "get_filename_list": files,
        "get_full_path": full_path,
        "get_input_directory": lambda: str(home / "input"),
        "get_output_directory": lambda: str(home / "output"),
        "get_save_image_path": save_path,
    }


def widgets(schema: Schema) -> dict[str, Any]:
    """Default values of the inputs that have some."""
    values = {}
    for item in schema.inputs:
        if "default" in item.options:
            values[item.id] = item.options["default"]
    return values


def run(comfy, node_id: str, **inputs):
    """Execute a node with its defaults and `inputs`."""
    node = comfy.nodes[node_id]
    return node.execute(**{**widgets(node.define_schema()), **inputs})


def figure(x: float = 100.0, scale: float = 1.0, face: bool = True) -> dict:
    """A standing person of a POSE_KEYPOINT, shoulders at x, 80."""
    body = np.array(
        [[0, -30], [0, 0], [-20, 0], [-25, 40], [-28, 75], [20, 0], [25, 40], [28, 75], [-12, 70], [-13, 120],
         [-14, 170], [12, 70], [13, 120], [14, 170], [-5, -35], [5, -35], [-10, -32], [10, -32]], float
    )  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 70)
    circle = np.stack([12 * np.cos(angle), 15 * np.sin(angle) - 30], axis=1)
    hand = np.stack([np.linspace(0, 8, 21), np.linspace(75, 95, 21)], axis=1)

    def flat(points: np.ndarray, seen: float = 1.0) -> list[float]:
        points = points * scale + (x, 80)
        return np.concatenate([points, np.full((len(points), 1), seen)], axis=1).ravel().tolist()

    return {
        "pose_keypoints_2d": flat(body),
        "face_keypoints_2d": flat(circle) if face else [0.0] * 210,
        "hand_left_keypoints_2d": flat(hand + np.array([28, 0])),
        "hand_right_keypoints_2d": flat(hand * (-1, 1) - np.array([28, 0])),
        "foot_keypoints_2d": flat(
            np.array([[20, 178], [24, 177], [12, 176], [-20, 178], [-24, 177], [-12, 176]], float)
        ),
    }


def clip(*people_of_frames: list[dict], size: tuple[int, int] = (300, 400)) -> list[dict]:
    height, width = size
    return [{"people": people, "canvas_height": height, "canvas_width": width} for people in people_of_frames]


def xs(keypoints: list[dict]) -> list[list[float]]:
    """x of everyone's neck, frame by frame."""
    return [[person["pose_keypoints_2d"][3] for person in frame["people"]] for frame in keypoints]
