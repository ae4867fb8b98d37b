"""Our node against comfyui_controlnet_aux's DWPreprocessor in one running ComfyUI server: speed, memory, agreement.

    python -m benchmarks.bench_comfyui --url http://127.0.0.1:8188 --pid <server> --video clip.mp4 --frames 120 \\
        --pose dwpose.safetensors --detector yolox_l.safetensors --out benchmarks/results/comfyui.json

The server runs both packs; the video lies in its input folder. Give both the same weights: ours by --pose and
--detector, theirs as the files its own downloads would be. The clip goes through in chunks, ours and theirs taking
turns, so that whatever else the machine does hits both. Times are those between the start and the end of a prompt on
the server, with video and networks loaded. Then the whole clip runs through ours once more while the server's memory
is watched.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np

PARTS = ("pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.info = self.get("/object_info")

    def get(self, path: str):
        with _OPENER.open(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def node(self, class_type: str, **inputs) -> dict:
        """A node with the server's defaults for what is not given."""
        values = {}
        for group in ("required", "optional"):
            for name, spec in self.info[class_type]["input"].get(group, {}).items():
                if len(spec) > 1 and "default" in spec[1]:
                    values[name] = spec[1]["default"]
        return {"class_type": class_type, "inputs": {**values, **inputs}}

    def run(self, prompt: dict) -> tuple[dict, float]:
        """Outputs of a prompt, and the seconds it took on the server."""
        body = json.dumps({"prompt": prompt, "client_id": "bench"}).encode()
        request = urllib.request.Request(self.url + "/prompt", body, {"Content-Type": "application/json"})
        with _OPENER.open(request, timeout=60) as answer:
            prompt_id = json.load(answer)["prompt_id"]
        while True:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry["status"].get("status_str"):
                break
            time.sleep(0.05)
        messages = dict(entry["status"]["messages"])
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(f"the server failed: {messages.get('execution_error')}")
        return entry["outputs"], (
            messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]
        ) / 1000


class Clip:
    """Prompts over parts of one video."""

    def __init__(self, server: Server, args: argparse.Namespace):
        self.server, self.args = server, args

    def _frames(self, start: int, count: int) -> dict:
        node = self.server.node
        return {
            "1": node("LoadVideo", file=self.args.video),
            "2": node("GetVideoComponents", video=["1", 0]),
            "3": node("ImageFromBatch", image=["2", 0], batch_index=start, length=count),
        }

    def ours(self, start: int, count: int, resolution: int = 512) -> tuple[list, float]:
        node, args = self.server.node, self.args
        prompt = self._frames(start, count) | {
            "4": node("DWPoseLoader", pose=args.pose, detector=args.detector, backend=args.backend),
            "5": node("DWPoseEstimate", model=["4", 0], image=["3", 0], resolution=resolution),
            "6": node("PreviewAny", source=["5", 1]),
        }
        outputs, seconds = self.server.run(prompt)
        return json.loads(outputs["5"]["openpose_json"][0]), seconds

    def theirs(self, start: int, count: int) -> tuple[list, float]:
        node, args = self.server.node, self.args
        prompt = self._frames(start, count) | {
            "5": node(
                "DWPreprocessor",
                image=["3", 0],
                bbox_detector=args.their_detector,
                pose_estimator=args.their_pose,
                resolution=512,
            ),
            "6": node("PreviewAny", source=["5", 1]),
        }
        outputs, seconds = self.server.run(prompt)
        return json.loads(outputs["5"]["openpose_json"][0]), seconds


def agreement(ours: list, theirs: list) -> dict:
    """How far the same points of the same people are apart, in pixels of the image."""
    people = [sum(len(frame["people"]) for frame in frames) for frames in (ours, theirs)]
    distances, points = [], [0, 0]
    for mine, other in zip(ours, theirs, strict=True):
        for person, match in _pairs(mine["people"], other["people"]):
            for part in PARTS:
                a, b = _triples(person, part), _triples(match, part)
                seen = (a[:, 2] > 0) & (b[:, 2] > 0)
                points = [points[0] + int((a[:, 2] > 0).sum()), points[1] + int((b[:, 2] > 0).sum())]
                distances += np.abs(a[seen, :2] - b[seen, :2]).max(axis=1).tolist()
    found = np.array(distances or [np.nan])
    return {
        "frames": len(ours),
        "people_ours_theirs": people,
        "points_seen_ours_theirs": points,
        "points_seen_in_both": len(distances),
        "difference_px": {
            "median": float(np.median(found)),
            "p99": float(np.percentile(found, 99)),
            "max": float(found.max()),
        },
    }


def _pairs(ours: list[dict], theirs: list[dict]) -> list[tuple[dict, dict]]:
    """The same people in both, by the median distance of their body points; nearest pair first."""
    apart = {}
    for i, person in enumerate(ours):
        for j, match in enumerate(theirs):
            a, b = _triples(person, PARTS[0]), _triples(match, PARTS[0])
            seen = (a[:, 2] > 0) & (b[:, 2] > 0)
            if seen.any():
                apart[i, j] = float(np.median(np.abs(a[seen, :2] - b[seen, :2]).max(axis=1)))
    pairs: dict[int, int] = {}
    for i, j in sorted(apart, key=apart.get):
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return [(ours[i], theirs[j]) for i, j in pairs.items()]


def _triples(person: dict, part: str) -> np.ndarray:
    count = {"pose": 18, "face": 70, "hand": 21}[part.split("_")[0]]
    return np.array(person[part] or [0.0] * 3 * count, float).reshape(-1, 3)


def watch_memory(pid: int, run) -> dict:
    """MiB of the server's memory over the time of `run()`: at its start, and the highest of each tenth of it."""
    samples, done = [], threading.Event()
    start = time.perf_counter()

    def watch() -> None:
        while not done.is_set():
            samples.append((time.perf_counter() - start, resident(pid)))
            time.sleep(0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    seconds = samples[-1][0]
    tenths = [[mib for at, mib in samples if i <= 10 * at / seconds < i + 1] for i in range(10)]
    return {"seconds": seconds, "start_mib": samples[0][1], "tenths_max_mib": [max(t) for t in tenths if t]}


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    raise RuntimeError(f"no process {pid}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="the server")
    parser.add_argument("--pid", type=int, help="its process, if it runs here: memory is watched")
    parser.add_argument("--video", required=True, help="name of a video in the server's input folder")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--chunk", type=int, default=10, help="frames per prompt")
    parser.add_argument("--pose", required=True, help="pose network as DWPose Loader lists it")
    parser.add_argument("--detector", required=True, help="detector as DWPose Loader lists it")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--their-pose", default="dw-ll_ucoco_384_bs5.torchscript.pt")
    parser.add_argument("--their-detector", default="yolox_l.torchscript.pt")
    parser.add_argument("--note", default="", help="what the weights are")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    server = Server(args.url)
    system = server.get("/system_stats")["system"]
    clip = Clip(server, args)
    for run in (clip.ours, clip.theirs):
        print(f"{run.__name__}: first frame {run(0, 1)[1]:.1f} s, with loading", flush=True)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    found: dict[str, list] = {"ours": [], "theirs": []}
    for number, start in enumerate(range(0, args.frames, args.chunk)):
        count = min(args.chunk, args.frames - start)
        for name in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            keypoints, spent = getattr(clip, name)(start, count)
            seconds[name].append(spent)
            found[name] += keypoints
        print(
            f"frames {start}..{start + count - 1}: ours {count / seconds['ours'][-1]:.2f}, "
            f"theirs {count / seconds['theirs'][-1]:.2f} frames/s",
            flush=True,
        )
    rate = {name: args.frames / sum(values) for name, values in seconds.items()}
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]
    result = {
        "setting": {
            "machine": f"{platform.machine()}, CPU",
            "comfyui": system["comfyui_version"],
            "torch": system["pytorch_version"],
            "python": system["python_version"].split()[0],
            "frame": [found["ours"][0]["canvas_height"], found["ours"][0]["canvas_width"]],
            "frames": args.frames,
            "ours": [args.pose, args.detector, args.backend],
            "theirs": [args.their_pose, args.their_detector],
            "note": args.note,
        },
        "people_per_frame": Counter(len(frame["people"]) for frame in found["ours"]),
        "frames_per_second": rate,
        "ratio": rate["ours"] / rate["theirs"],
        "ratio_of_chunks": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "agreement": agreement(found["ours"], found["theirs"]),
    }
    if args.pid:
        # A small map: what is looked for is what piles up, not the 3 GB of the film and the output that grows with it.
        result["memory"] = watch_memory(args.pid, lambda: clip.ours(0, args.frames, resolution=128))
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
