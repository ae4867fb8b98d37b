"""The pack as a whole against a stub of ComfyUI: schemas, and the graphs, locales and pages that fit them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from dwpose_core import __version__
from tests import comfy_stub as stub

LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es", "ru")
STEMS = sorted(path.stem for path in (stub.ROOT / "workflows").glob("*.json"))


def test_importing_the_pack_outside_comfyui_does_nothing():
    before = set(sys.modules)
    pack = stub.import_pack("a_pack_outside_comfyui")
    assert set(sys.modules) - before == {"a_pack_outside_comfyui"}
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")  # it would switch comfy_entrypoint off
    assert (stub.ROOT / pack.WEB_DIRECTORY).is_dir()


def test_a_server_starts_without_opencv(tmp_path):
    """It takes its time to import, and its absence is for the node that runs to tell."""
    program = f"""
import asyncio, pathlib, sys
sys.modules["cv2"] = None
from tests import comfy_stub as stub
extension = asyncio.run(stub.install(pathlib.Path({str(tmp_path)!r})).package.comfy_entrypoint())
asyncio.run(extension.on_load())
assert all(node.define_schema() for node in asyncio.run(extension.get_node_list()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=stub.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_schemas_are_complete(comfy):
    for node_id, node in comfy.nodes.items():
        schema = node.define_schema()
        assert node_id.startswith("DWPose") and schema.category == "DWPose" and schema.description
        assert schema.search_aliases
        names = [item.id for item in (*schema.inputs, *schema.outputs)]
        assert len(names) == len(set(names)), "an id twice"  # ComfyUI refuses such a node
        for item in (*schema.inputs, *schema.outputs):
            assert item.options.get("tooltip"), f"{node_id}.{item.id} has no tooltip"
        for item in schema.inputs:
            if item.io_type == "COMBO":
                assert item.options["default"] in item.options["options"]
    assert "DWPreprocessor" not in comfy.nodes


def test_styles_of_the_core_are_all_offered(comfy):
    inputs = sys.modules[f"{comfy.package.__name__}.nodes.inputs"]
    from dwpose_core.render import STYLES

    assert set(STYLES) < set(inputs.STYLES)
    for style in inputs.STYLES:
        assert inputs.style_of(style, joint=9).joint == 9


@pytest.fixture(scope="module")
def core_nodes():
    return json.loads((stub.ROOT / "tests" / "comfy_core_nodes.json").read_text())


@pytest.mark.parametrize("stem", STEMS)
def test_shipped_graphs_fit_the_schemas(comfy, core_nodes, stem):
    graph = json.loads((stub.ROOT / "workflows" / f"{stem}.json").read_text())
    prompt = json.loads((stub.ROOT / "workflows" / "api" / f"{stem}.json").read_text())
    assert (stub.ROOT / "workflows" / f"{stem}.jpg").stat().st_size < 100_000
    by_id = {node["id"]: node for node in graph["nodes"]}
    for link_id, source, slot, target, socket, kind in graph["links"]:
        assert link_id in by_id[source]["outputs"][slot]["links"]
        assert by_id[target]["inputs"][socket]["link"] == link_id
        assert by_id[source]["outputs"][slot]["type"] in kind.split(",")
    for key, node in prompt.items():
        shown = by_id[int(key)]
        assert shown["type"] == node["class_type"]
        if node["class_type"] in comfy.nodes:
            schema = comfy.nodes[node["class_type"]].define_schema()
            names = [item.id for item in schema.inputs]
            required = [item.id for item in schema.inputs if not item.optional]
            values = [node["inputs"][item.id] for item in schema.inputs if "default" in item.options]
            assert shown["widgets_values"] == [
                value if not isinstance(value, list) else stub.widgets(schema)[name]
                for name, value in zip(stub.widgets(schema), values, strict=True)
            ]
            for item in schema.inputs:
                if item.io_type == "COMBO":
                    assert node["inputs"][item.id] in item.options["options"]
        else:
            names = core_nodes[node["class_type"]]["inputs"]
            required = core_nodes[node["class_type"]]["required"]
        assert set(node["inputs"]) <= set(names) and set(required) <= set(node["inputs"])


def test_there_are_nine_graphs_and_nothing_else_to_list():
    assert [stem.split(" - ")[0] for stem in STEMS] == [f"DWPose {number}" for number in range(1, 10)]


def test_the_blueprint_fits_the_schemas(comfy):
    (path,) = (stub.ROOT / "subgraphs").glob("*.json")
    data = json.loads(path.read_text())
    (outside,), (inside,) = data["nodes"], data["definitions"]["subgraphs"]
    assert outside["type"] == inside["id"] and inside["name"] == path.stem
    nodes = {node["id"]: node for node in inside["nodes"]}
    links = {link["id"]: link for link in inside["links"]}
    for slot, item in enumerate(inside["inputs"]):
        link = links[item["linkIds"][0]]
        assert (link["origin_id"], link["origin_slot"]) == (inside["inputNode"]["id"], slot)
        assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    for slot, item in enumerate(inside["outputs"]):
        link = links[item["linkIds"][0]]
        assert (link["target_id"], link["target_slot"]) == (inside["outputNode"]["id"], slot)
        assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
    for node in nodes.values():
        widgets = stub.widgets(comfy.nodes[node["type"]].define_schema())
        assert node["widgets_values"] == list(widgets.values())
    for node, widget in outside["properties"]["proxyWidgets"]:
        assert widget in stub.widgets(comfy.nodes[nodes[int(node)]["type"]].define_schema())
    assert [item["name"] for item in outside["inputs"]] == ["image", "boxes", "mask", "size_from"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_locales_name_every_node_and_input(comfy, language):
    texts = json.loads((stub.ROOT / "locales" / language / "nodeDefs.json").read_text())
    assert set(texts) == set(comfy.nodes)
    for node_id, node in comfy.nodes.items():
        schema, text = node.define_schema(), texts[node_id]
        assert text["display_name"] and text["description"]
        assert set(text["inputs"]) == {item.id for item in schema.inputs}
        assert all(entry["name"] and entry["tooltip"] for entry in text["inputs"].values())
        assert list(text["outputs"]) == [str(number) for number in range(len(schema.outputs))]
        if language == "en":
            assert text["display_name"] == schema.display_name and text["description"] == schema.description
            assert {i.id: i.options["tooltip"] for i in schema.inputs} == {
                name: entry["tooltip"] for name, entry in text["inputs"].items()
            }


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_translations_name_the_same_programs_and_files(comfy, language):
    texts = json.loads((stub.ROOT / "locales" / language / "nodeDefs.json").read_text())
    for item in comfy.nodes["DWPoseLoader"].define_schema().inputs:
        named = re.findall(r"[a-z]+(?:[-/][a-z0-9]+)+|tensorrt|openvino", item.options["tooltip"])
        translated = texts["DWPoseLoader"]["inputs"][item.id]["tooltip"]
        assert [name for name in named if name not in translated] == []


def test_every_node_has_a_page_and_its_pictures_exist(comfy):
    docs = stub.ROOT / "nodes" / "web" / "docs"
    assert {page.stem for page in docs.glob("*.md")} == set(comfy.nodes)
    for page in docs.glob("*.md"):
        text = page.read_text()
        for item in comfy.nodes[page.stem].define_schema().inputs:
            assert f"`{item.id}`" in text, f"{page.name} does not explain {item.id}"
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (docs / picture).is_file(), f"{page.name}: {picture}"


def test_registry_metadata():
    tomllib = pytest.importorskip("tomllib")
    data = tomllib.loads((stub.ROOT / "pyproject.toml").read_text())
    comfy = data["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"] == "DWPose" and comfy["requires-comfyui"] == ">=0.3.48"
    assert "web" not in comfy  # WEB_DIRECTORY serves it; with both, the node pages are not found
    for key in ("Icon", "Banner"):
        name = comfy[key].rsplit("/", 1)[1]
        assert (stub.ROOT / "docs" / "images" / "comfyui" / name).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["project"]["version"])
    assert data["project"]["version"] == __version__
    needs = {
        line.split(">")[0].strip() for line in (stub.ROOT / "requirements.txt").read_text().splitlines() if line.strip()
    }
    assert needs == {"opencv-python-headless"}
