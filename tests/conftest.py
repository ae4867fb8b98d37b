"""Shared fixtures. The reference folder (goldens, photographs) stands beside the checkout where CI has it; a user's
checkout has none, and the tests that need it skip with a reason."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

# Modules that the stub of ComfyUI takes the place of.
STUBBED = ("comfy", "comfy_api", "folder_paths", "server", "nodes", "custom_nodes_x_some-folder name")
SHARED = Path(__file__).resolve().parents[2] / "shared"

# The suite is many small networks: threads cost more than they bring, and one thread makes sums reproducible.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden numbers and test photographs."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("no reference folder (golden numbers, photographs) beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def assets(shared) -> Path:
    """The folder of packed body assets."""
    pytest.importorskip("scipy", reason="the body model needs scipy")
    folder = shared / "assets" / "synth"
    if not (folder / "base.npz").is_file():
        pytest.skip("no packed body assets in the reference folder")
    return folder


@pytest.fixture(scope="session")
def body_model(assets):
    """The `BodyModel` of the packed assets."""
    from training.synthetic.body import BodyModel

    return BodyModel(assets)


@pytest.fixture(scope="session")
def egl() -> None:
    """Skips where OpenGL cannot render offscreen."""
    moderngl = pytest.importorskip("moderngl", reason="rendering needs moderngl")
    try:
        moderngl.create_context(standalone=True, backend="egl").release()
    except Exception as error:  # whatever the driver raises
        pytest.skip(f"no EGL to render with: {error}")


@pytest.fixture(scope="session")
def fill(shared):
    """The reference module `fill_weights`: weights and inputs as a function of their names."""
    spec = importlib.util.spec_from_file_location("fill_weights", shared / "golden" / "fill_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def layers():
    """Drawn people as layers, where no renderer is needed."""
    from tests.synthetic_tools import drawn_layers

    return drawn_layers()


@pytest.fixture(scope="module")
def around():
    """Backgrounds and things to go with `layers`."""
    from tests.synthetic_tools import plain_surroundings

    return plain_surroundings()


@pytest.fixture(scope="module")
def comfy_server(tmp_path_factory):
    """The pack in a stub of ComfyUI, with tiny random networks in models/dwpose and models/detection."""
    from tests import comfy_stub as stub

    before = set(sys.modules)
    shadowed = {name: module for name, module in sys.modules.items() if name.split(".")[0] in STUBBED}
    for name in shadowed:
        del sys.modules[name]
    home = tmp_path_factory.mktemp("comfy")
    seen = stub.install(home)
    seen.home = home
    extension = asyncio.run(seen.package.comfy_entrypoint())
    asyncio.run(extension.on_load())
    seen.nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    core = f"{seen.package.__name__}.dwpose_core"
    models, weights = (
        sys.modules[core + name] if core + name in sys.modules else __import__(core + name, fromlist="x")
        for name in (".models", ".models.weights")
    )
    torch.manual_seed(0)
    seen.pose_file = home / "models" / "dwpose" / "dw-debug.safetensors"
    seen.detector_file = home / "models" / "detection" / "yolox_nano.safetensors"
    weights.save_safetensors(models.create_model("debug"), seen.pose_file)
    weights.save_safetensors(models.create_detector("yolox-nano"), seen.detector_file)
    yield seen
    for name in set(sys.modules) - before:
        if name.split(".")[0] in STUBBED:
            del sys.modules[name]
    sys.modules.update(shadowed)


@pytest.fixture
def comfy(comfy_server):
    """See `comfy_server`; nothing said, shown or loaded yet."""
    comfy_server.texts.clear(), comfy_server.progress.clear(), comfy_server.loaded.clear()
    comfy_server.interrupt = False
    return comfy_server
