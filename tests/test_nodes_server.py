"""The shipped graphs in a real ComfyUI server on the CPU.

Runs where COMFY_SRC names a ComfyUI checkout and COMFY_PYTHON a Python with its requirements. The graphs with a
ControlNet need checkpoints of gigabytes; of those the server checks everything up to the missing files.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
LOCAL = [name for name in NAMES if "ControlNet" not in name]
# A pack that says how many bytes of tensors and how many of our networks' modules are alive in the server.
PROBE = """
import gc, torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}

@PromptServer.instance.routes.get("/alive")
async def alive(request):
    gc.collect()
    objects = [o for o in gc.get_objects() if isinstance(o, (torch.Tensor, torch.nn.Module))]
    modules = [o for o in objects if isinstance(o, torch.nn.Module)]
    tensors = [o for o in objects if isinstance(o, torch.Tensor)]
    tensors += [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.device.type == "cpu"}
    ours = [m for m in modules if "dwpose_core" in type(m).__module__]
    return web.json_response({"bytes": sum(sizes.values()), "modules": len(ours)})
"""
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.slow,
    pytest.mark.skipif("COMFY_SRC" not in os.environ, reason="COMFY_SRC names no ComfyUI checkout"),
]


class Server:
    def __init__(self, home: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.home = home
        for name in ("models", "custom_nodes", "input/pictures", "output", "temp", "user"):
            (home / name).mkdir(parents=True)
        os.symlink(ROOT, home / "custom_nodes" / "dwpose-pack")
        (home / "custom_nodes" / "alive").mkdir()
        (home / "custom_nodes" / "alive" / "__init__.py").write_text(PROBE)
        command = [os.environ.get("COMFY_PYTHON", "python"), str(Path(os.environ["COMFY_SRC"]) / "main.py"), "--cpu"]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(home)]
        command += ["--database-url", f"sqlite:///{home}/comfyui.db", "--disable-auto-launch"]
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(home / "pyc"), "HF_HUB_OFFLINE": "1"}
        self.log = home / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        for _ in range(480):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{self.log.read_text()[-3000:]}")
            try:
                self.info = self.get("/object_info")
                return
            except urllib.error.URLError:
                time.sleep(0.5)
        raise RuntimeError("the server did not come up in 240 s")

    def get(self, path: str):
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        with OPENER.open(self.url + urllib.parse.quote(path), timeout=60) as answer:
            return answer.read()

    def post(self, path: str, data: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with OPENER.open(request, timeout=60) as answer:
            body = answer.read()
            return json.loads(body) if body else {}

    def start(self, prompt: dict) -> str:
        return self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})["prompt_id"]

    def finish(self, prompt_id: str, seconds: float = 300) -> dict:
        end = time.time() + seconds
        while time.time() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry["status"].get("status_str"):
                return entry
            time.sleep(0.05)
        raise TimeoutError(prompt_id)

    def run(self, prompt: dict) -> dict:
        entry = self.finish(self.start(prompt))
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        return entry


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfy"))
    inputs = running.home / "input"
    photo = cv2.imread(str(ROOT / "docs" / "images" / "astronaut.jpg"))
    cv2.imwrite(str(inputs / "example.png"), photo)
    for number in range(2):
        cv2.imwrite(str(inputs / "pictures" / f"{number}.png"), photo[: 400 + 50 * number])
    writer = cv2.VideoWriter(str(inputs / "input.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 12, (320, 320))
    for shift in range(8):
        writer.write(cv2.resize(np.roll(photo, 8 * shift, axis=1), (320, 320)))
    writer.release()
    yield running
    running.process.terminate()
    running.process.wait(30)
    shutil.rmtree(running.home)


def prompt(name: str) -> dict:
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())


def cached(entry: dict) -> list[str]:
    return sorted(
        key for kind, data in entry["status"]["messages"] if kind == "execution_cached" for key in data["nodes"]
    )


@pytest.mark.parametrize("name", [*LOCAL, "DWPose 9 - Original graph"])
def test_graph_runs_to_the_end(server, name):
    entry = server.run(prompt(name))
    saving = [key for key, node in prompt(name).items() if node["class_type"].startswith(("Save", "DWPoseSave"))]
    assert saving and all(entry["outputs"][key] for key in saving)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(LOCAL)))
def test_controlnet_graph_lacks_nothing_but_its_checkpoints(server, name):
    answer = server.post("/prompt", {"prompt": prompt(name)})  # the pose map has an output of its own, which runs
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert {error["extra_info"]["input_name"] for error in errors} == {"ckpt_name", "control_net_name"}
    assert server.finish(answer["prompt_id"])["outputs"]["5"]["images"]


def test_everything_beside_the_code_is_served(server):
    (folder,) = [name for name in server.get("/workflow_templates") if "dwpose" in name]
    assert sorted(server.get("/workflow_templates")[folder]) == NAMES
    for name in NAMES:
        assert server.get(f"/api/workflow_templates/{folder}/{name}.json")["nodes"]
        assert server.read(f"/api/workflow_templates/{folder}/{name}.jpg")
    own = [name for name in server.info if name.startswith("DWPose")]
    for name in own:
        assert b"## Inputs" in server.read(f"/extensions/{folder}/docs/{name}.md")
    if "DWPoseEstimate" in server.info and "search_aliases" in server.info["DWPoseEstimate"]:  # cores with blueprints
        blueprints = [entry["name"] for entry in server.get("/global_subgraphs").values()]
        assert {path.stem for path in (ROOT / "subgraphs").glob("*.json")} <= set(blueprints)
    texts = server.get("/i18n")
    assert all(set(own) <= set(texts[language]["nodeDefs"]) for language in ("en", "zh", "de", "ru"))


def test_a_cached_run_does_nothing_and_a_changed_widget_only_what_follows(server):
    graph = prompt("DWPose 1 - Image to pose map")
    server.run(graph)
    assert cached(server.run(graph)) == sorted(graph)
    graph["5"]["inputs"]["opacity"] = 0.31
    assert cached(server.run(graph)) == ["1", "2", "3", "4"]


def test_interrupt_stops_a_long_run_within_two_seconds(server):
    graph = {key: node for key, node in prompt("DWPose 1 - Image to pose map").items() if key in ("1", "2", "3", "4")}
    graph["9"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 300}}
    graph["3"]["inputs"]["image"] = ["9", 0]
    prompt_id = server.start(graph)
    time.sleep(3)
    assert len(server.get("/queue")["queue_running"]) == 1
    start = time.time()
    server.post("/interrupt", {})
    kind, details = server.finish(prompt_id)["status"]["messages"][-1]
    assert kind == "execution_interrupted"
    assert details["timestamp"] / 1000 - start < 2, "when it stopped; the history says so later on a busy machine"


def test_free_lets_go_and_the_next_run_loads_again(server):
    for name in ("DWPose 1 - Image to pose map", "DWPose 9 - Migrated from controlnet_aux"):
        server.run(prompt(name))
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(2)
    for name in ("DWPose 1 - Image to pose map", "DWPose 9 - Migrated from controlnet_aux"):
        graph = prompt(name)
        kept = cached(server.run(graph))
        assert not [key for key in kept if graph[key]["class_type"].startswith("DWPose")]
    assert server.process.poll() is None


def resident(process: int) -> float:
    """MiB of memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of the server is read from /proc")
def test_free_gives_the_memory_of_large_networks_back(server):
    from dwpose_core.models import create_detector, create_model
    from dwpose_core.models.weights import save_safetensors

    folders = {"pose": server.home / "models" / "dwpose", "detector": server.home / "models" / "detection"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    save_safetensors(create_model("dwpose-l-384"), folders["pose"] / "dw-large.safetensors")
    save_safetensors(create_detector("yolox-l"), folders["detector"] / "yolox_large.safetensors")
    graph = {key: node for key, node in prompt("DWPose 1 - Image to pose map").items() if key in ("1", "2", "3", "4")}
    graph["1"]["inputs"] |= {"pose": "dw-large.safetensors", "detector": "yolox_large.safetensors"}
    server.run(graph)
    alive, used = server.get("/alive"), resident(server.process.pid)
    assert alive["modules"] > 200 and alive["bytes"] > 330e6
    server.post("/free", {"unload_models": True, "free_memory": True})
    end = time.time() + 20
    while resident(server.process.pid) > used - 300 and time.time() < end:  # MiB; glibc keeps it without our help
        time.sleep(0.2)
    alive = server.get("/alive")
    assert alive["modules"] == 0 and alive["bytes"] < 10e6
    assert resident(server.process.pid) < used - 300
