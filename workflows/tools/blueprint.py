"""A subgraph blueprint: a few nodes that ComfyUI's node library offers as one (ComfyUI 0.15 and later)."""

from __future__ import annotations

import uuid
from typing import Any

# The ids ComfyUI's browser gives to the two ends of a subgraph.
INPUT_NODE, OUTPUT_NODE = -10, -20


def blueprint(
    name: str,
    graph: dict,
    inputs: list[tuple[int, str]],
    outputs: list[tuple[int, int]],
    widgets: list[tuple[int, str]],
    **about: Any,
) -> dict:
    """What stands in `subgraphs/<name>.json`.

    Args:
        graph: the nodes inside, as `Graph.ui` gives them.
        inputs: sockets (node, input) that become inputs of the subgraph.
        outputs: (node, output slot) that become its outputs.
        widgets: (node, widget) shown on it.
        about: further fields of the subgraph: description, category.
    """
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    nodes = {node["id"]: node for node in graph["nodes"] if node["type"] != "MarkdownNote"}
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in graph["links"]]

    def link(origin: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        values = (len(links) + 1, *origin, *target, kind)
        links.append(dict(zip(names, values, strict=True)))
        return len(links)

    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    top = min(node["pos"][1] for node in nodes.values())
    shown_inputs, shown_outputs = [], []
    for slot, (node, socket) in enumerate(inputs):
        place = next(i for i, item in enumerate(nodes[node]["inputs"]) if item["name"] == socket)
        item = nodes[node]["inputs"][place]
        item["link"] = link((INPUT_NODE, slot), (node, place), item["type"])
        shown_inputs.append(_end(key, socket, item["type"], item["link"], (-100, top + 20 + 20 * slot)))
        if "shape" in item:
            shown_inputs[-1]["shape"] = item["shape"]
    for slot, (node, place) in enumerate(outputs):
        item = nodes[node]["outputs"][place]
        item["links"].append(link((node, place), (OUTPUT_NODE, slot), item["type"]))
        shown_outputs.append(
            _end(key, item["name"], item["type"], item["links"][-1], (right + 100, top + 20 + 20 * slot))
        )
    outside = {
        "id": len(nodes) + 1,
        "type": key,
        "pos": [0, 0],
        "size": [320, 46 + 20 * max(len(inputs), len(outputs)) + 24 * len(widgets)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": item["name"], "type": item["type"], "link": None} for item in shown_inputs],
        "outputs": [{"name": item["name"], "type": item["type"], "links": []} for item in shown_outputs],
        "properties": {"proxyWidgets": [[str(node), widget] for node, widget in widgets]},
        "widgets_values": [],
        "title": name,
    }
    inside = {
        "id": key,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes) + 1, "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": INPUT_NODE, "bounding": [-220, top, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 100, top, 120, 40 + 20 * len(outputs)]},
        "inputs": shown_inputs,
        "outputs": shown_outputs,
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {},
        **about,
    }
    return {
        "revision": 0,
        "last_node_id": outside["id"],
        "last_link_id": 0,
        "nodes": [outside],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [inside]},
        "extra": {},
    }


def _end(key: str, name: str, kind: str, link_id: int, place: tuple[float, float]) -> dict:
    number = str(uuid.uuid5(uuid.UUID(key), f"{name} {link_id}"))
    return {"id": number, "name": name, "type": kind, "linkIds": [link_id], "pos": list(place)}
