"""From a few lines of Python to the two JSON formats of ComfyUI: API prompts and UI graphs.

What a node looks like is read from a server's /object_info, so that widgets stand in the order they have there.
"""

from __future__ import annotations

from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
COLUMN, GAP, TOP = 360, 60, 120
PICTURES = {"LoadImage", "PreviewImage", "SaveImage", "LoadVideo", "SaveVideo", "LoadImageMask"}


class Graph:
    """Nodes in the order they are added; `node` returns a handle whose items are output slots."""

    def __init__(self, object_info: dict, note: str, downloads: dict[str, dict] | None = None):
        """`downloads` says where files that widgets name come from: {"url", "directory"}; the browser offers them."""
        self.info = object_info
        self.note = note
        self.downloads = downloads or {}
        self.nodes: list[tuple[str, str, dict, str | None]] = []

    def node(self, class_type: str, title: str | None = None, **inputs: Any) -> Slots:
        """`inputs` are links (`handle[0]`) and the widget values that differ from the defaults.

        Raises:
            KeyError, ValueError: for a node or input that the server does not have.
        """
        if class_type not in self.info:
            raise KeyError(f"no node {class_type} on this server")
        known = dict(self._inputs(class_type))
        if unknown := set(inputs) - set(known):
            raise ValueError(f"{class_type} has no input {', '.join(sorted(unknown))}")
        values = {name: self._default(spec) for name, spec in known.items() if _is_widget(spec)}
        self.nodes.append((str(len(self.nodes) + 1), class_type, {**values, **inputs}, title))
        return Slots(str(len(self.nodes)))

    def _inputs(self, class_type: str) -> list[tuple[str, list]]:
        declared = self.info[class_type]["input"]
        order = self.info[class_type]["input_order"]
        return [(name, declared[group][name]) for group in ("required", "optional") for name in order.get(group, ())]

    def _default(self, spec: list) -> Any:
        options = spec[1] if len(spec) > 1 else {}
        choices = spec[0] if isinstance(spec[0], list) else options.get("options")
        if "default" in options:
            return options["default"]
        if choices:
            return choices[0]
        return "" if isinstance(spec[0], list) else {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(spec[0], "")

    def api(self) -> dict:
        """What POST /prompt takes."""
        return {
            key: {
                "class_type": class_type,
                "inputs": {name: list(v) if isinstance(v, tuple) else v for name, v in inputs.items()},
                "_meta": {"title": title or self.info[class_type].get("display_name") or class_type},
            }
            for key, class_type, inputs, title in self.nodes
        }

    def ui(self) -> dict:
        """What the browser opens: format 0.4, laid out in columns by distance from the inputs."""
        nodes, links, heights = [], [], {}
        depth: dict[str, int] = {}
        for key, class_type, inputs, title in self.nodes:
            sources = [value for value in inputs.values() if isinstance(value, tuple)]
            depth[key] = max((depth[source] + 1 for source, _ in sources), default=0)
            sockets, widgets = [], []
            for name, spec in self._inputs(class_type):
                link = inputs.get(name)
                if _is_widget(spec):
                    widgets.append(link if not isinstance(link, tuple) else self._default(spec))
                    if (spec[1] if len(spec) > 1 else {}).get("control_after_generate"):
                        widgets.append("fixed")
                    if not isinstance(link, tuple):
                        continue
                    socket = {"name": name, "type": _type(spec), "widget": {"name": name}, "link": None}
                else:
                    socket = {"name": name, "type": _type(spec), "link": None}
                    if name in self.info[class_type]["input"].get("optional", {}):
                        socket["shape"] = 7
                if isinstance(link, tuple):
                    source, slot = link
                    links.append([len(links) + 1, int(source), slot, int(key), len(sockets), _type(spec)])
                    socket["link"] = len(links)
                sockets.append(socket)
            if class_type in ("LoadImage", "LoadImageMask"):
                widgets.append("image")  # the upload button
            outputs = [
                {"name": name, "type": kind, "links": []}
                for name, kind in zip(
                    self.info[class_type]["output_name"], self.info[class_type]["output"], strict=True
                )
            ]
            text_lines = 4 if any(_is_multiline(spec) for _, spec in self._inputs(class_type)) else 0
            height = 46 + 20 * max(len(sockets), len(outputs)) + 24 * (len(widgets) + text_lines)
            height += 260 if class_type in PICTURES or class_type == "DWPoseEstimate" else 0
            height += 80 if class_type == "DWPoseLoader" else 0  # what it says about files that are not there
            column = depth[key]
            top = heights.get(column, TOP)
            heights[column] = top + height + GAP
            node = {
                "id": int(key),
                "type": class_type,
                "pos": [column * (COLUMN + GAP), top],
                "size": [COLUMN, height],
                "flags": {},
                "order": int(key) - 1,
                "mode": 0,
                "inputs": sockets,
                "outputs": outputs,
                "properties": {"Node name for S&R": class_type},
                "widgets_values": widgets,
            }
            files = [value for value in inputs.values() if isinstance(value, str) and value in self.downloads]
            if files:
                node["properties"]["models"] = [{"name": name, **self.downloads[name]} for name in files]
            if title:
                node["title"] = title
            nodes.append(node)
        by_id = {node["id"]: node for node in nodes}
        for link_id, source, slot, *_ in links:
            by_id[source]["outputs"][slot]["links"].append(link_id)
        nodes.append(self._note(len(nodes) + 1))
        return {
            "id": "",
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.8, "offset": [60, 40]}},
            "version": 0.4,
        }

    def _note(self, number: int) -> dict:
        lines = 2 + sum(1 + len(line) // 70 for line in self.note.splitlines())
        height = 30 + 22 * lines
        return {
            "id": number,
            "type": "MarkdownNote",
            "pos": [0, TOP - height - GAP],
            "size": [2 * COLUMN + GAP, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "About this workflow",
            "properties": {},
            "widgets_values": [self.note],
            "color": "#432",
            "bgcolor": "#653",
        }


class Slots:
    """A node in the making; indexing gives a link to one of its outputs."""

    def __init__(self, key: str):
        self.key = key

    def __getitem__(self, slot: int) -> tuple[str, int]:
        return self.key, slot


def _is_widget(spec: list) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not options.get("forceInput")


def _is_multiline(spec: list) -> bool:
    return len(spec) > 1 and bool(spec[1].get("multiline"))


def _type(spec: list) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]
