"""The judge: COCO-WholeBody AP and AR of a model, or of anybody's results file.

    python -m training.evaluate dwpose-l-384 --annotations coco_wholebody_val_v1.0.json --images val2017 \
        --boxes COCO_val2017_detections_AP_H_56_person.json
    python -m training.evaluate best.safetensors --annotations ... --images ...                     ground-truth boxes
    python -m training.evaluate --results a.json --annotations coco_wholebody_val_v1.0.json        no model, no images
    torchrun --nproc-per-node 8 -m training.evaluate ...                                            all GPUs

A model is a .pth, .onnx or .safetensors file or a catalogue name. With ground-truth boxes figures are a few points
above the published ones, which use the detector boxes named above and the flip test. Those are printed below the
official weights, and below others with --paper. Several results files are the parts of one result, as the shards of
`dwpose extract --keypoints coco`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dwpose_core import geometry, simcc
from dwpose_core.backends import OnnxRunner, TorchRunner
from dwpose_core.models import catalogue
from dwpose_core.models.weights import load_pose

from . import metric
from .command import at_least_one, not_negative, output, run
from .data.wholebody import read_annotations, read_coco, read_image, read_json
from .distributed import Process, gather, start, stop
from .objectives import normalize

# Published AP, COCO-WholeBody v1.0 val, AP_H_56 boxes, flip test (README of IDEA-Research/DWPose; RTMPose: mmpose
# tables). "hands" there combines both hands in a way the code does not show.
PUBLISHED: dict[str, dict[str, float]] = {
    "dwpose-t": {"body": 0.585, "foot": 0.465, "face": 0.735, "hands": 0.357, "whole": 0.485},
    "dwpose-s": {"body": 0.633, "foot": 0.533, "face": 0.776, "hands": 0.427, "whole": 0.538},
    "dwpose-m": {"body": 0.685, "foot": 0.636, "face": 0.828, "hands": 0.527, "whole": 0.606},
    "dwpose-l": {"body": 0.704, "foot": 0.662, "face": 0.843, "hands": 0.566, "whole": 0.631},
    "dwpose-l-384": {"body": 0.722, "foot": 0.704, "face": 0.887, "hands": 0.621, "whole": 0.665},
    "rtmpose-x-384": {"body": 0.714, "foot": 0.692, "face": 0.888, "hands": 0.590, "whole": 0.653},
}
COLUMNS = ("body", "foot", "face", "left_hand", "right_hand", "hands", "whole")


class BoxCrops(Dataset):
    """All boxes of one image per item: crops (P, H, W, 3) uint8 RGB, boxes (P, 4), box scores (P,), image id."""

    def __init__(self, images: dict[int, str], boxes: dict[int, tuple[np.ndarray, np.ndarray]], input_size):
        self.images, self.boxes, self.input_size = images, boxes, input_size
        self.ids = [image_id for image_id in images if image_id in boxes]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        image_id = self.ids[index]
        boxes, scores = self.boxes[image_id]
        return geometry.crop(read_image(self.images[image_id]), boxes, self.input_size), boxes, scores, image_id


def ground_truth_boxes(annotations: str | Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """image id -> boxes (P, 4) xyxy and scores (P,) of one, of the people training would use."""
    table = read_annotations(annotations)
    owner = table.image_id[table.image]
    return {int(i): (table.box[owner == i], np.ones((owner == i).sum(), np.float32)) for i in np.unique(owner)}


def detector_boxes(path: str | Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """A COCO detection file: every person box of it, without threshold and without clipping.

    Raises:
        ValueError: when it is something else.
    """
    content = read_json(path)
    fields = {"image_id", "category_id", "bbox", "score"}
    if not isinstance(content, list) or not all(isinstance(e, dict) and fields <= e.keys() for e in content):
        raise ValueError(
            f"{path} is not a file of detected boxes: expected a list of {{image_id, category_id, bbox, score}}. To "
            "use the boxes of the annotations name no boxes at all"
        )
    grouped: dict[int, list] = {}
    for entry in content:
        if entry["category_id"] == 1:
            x, y, w, h = entry["bbox"]
            grouped.setdefault(entry["image_id"], []).append((x, y, x + w, y + h, entry["score"]))
    tables = {image: np.array(rows, np.float32) for image, rows in grouped.items()}
    return {image: (table[:, :4], table[:, 4]) for image, table in tables.items()}


def images_folder(path: str | Path) -> Path:
    """The same path.

    Raises:
        ValueError: when it is no folder.
    """
    if not Path(path).is_dir():
        raise ValueError(f"there is no folder {path}, where the images of the annotations should be")
    return Path(path)


def predict(
    runner: Callable,
    crops: BoxCrops,
    process: Process,
    flip_test: bool = True,
    batch_size: int = 64,
    workers: int = 2,
    progress: bool = True,
) -> tuple[metric.Detections, np.ndarray]:
    """Keypoints of every box, this process's share of images gathered with everybody else's, and box scores (D,)."""
    if not len(crops):
        raise ValueError("there is no box in any image of the annotations: do boxes and annotations belong together?")
    mine = torch.utils.data.Subset(crops, range(process.rank, len(crops), process.world))
    loader = DataLoader(mine, batch_size=None, num_workers=workers)
    columns: list[list] = [[], [], [], [], [], []]
    waiting: list[tuple] = []

    def flush() -> None:
        pixels, boxes, box_scores, owners = (np.concatenate(side) for side in zip(*waiting, strict=True))
        waiting.clear()
        for begin in range(0, len(pixels), batch_size):
            part = slice(begin, begin + batch_size)
            batch = normalize(torch.from_numpy(pixels[part]).to(runner.device))
            logits = runner(batch)
            if flip_test:
                logits = simcc.flip_average(logits, runner(batch.flip(3)))
            xy, score = (out.cpu().numpy() for out in simcc.decode(*logits))
            scale = geometry.box_to_center_scale(boxes[part], crops.input_size)[1]
            rows = (
                owners[part],
                geometry.keypoints_to_image(xy, boxes[part], crops.input_size),
                score,
                box_scores[part],
                scale.prod(axis=1),
            )
            for column, row in zip(columns, rows, strict=False):
                column.append(row)

    bar = tqdm(loader, desc="judging", unit="image", disable=not (progress and process.is_first), dynamic_ncols=True)
    for pixels, boxes, box_scores, image_id in bar:
        waiting.append((*map(np.asarray, (pixels, boxes, box_scores)), np.full(len(boxes), image_id)))
        if sum(len(entry[1]) for entry in waiting) >= batch_size:
            flush()
    if waiting:
        flush()
    shares = gather([np.concatenate(column) if column else None for column in columns[:5]], process)
    owner, xy, score, box_score, area = (
        np.concatenate([share[i] for share in shares if share[i] is not None]) for i in range(5)
    )
    return metric.Detections(owner.astype(np.int64), xy, score, box_score, area), box_score


def evaluate_model(
    runner: Callable,
    truth: dict,
    images: str | Path,
    boxes: dict[int, tuple[np.ndarray, np.ndarray]],
    process: Process,
    use_area: bool = True,
    fast: bool = False,
    results: str | Path | None = None,
    **options,
) -> tuple[dict[str, float], metric.Detections]:
    """Stats of `metric.coco_stats`, on every process, and the people that were judged, who are written to `results`
    before that. `options` as in `predict`."""
    names = {image["id"]: str(Path(images) / image["file_name"]) for image in truth["images"]}
    people, box_score = predict(runner, BoxCrops(names, boxes, runner.input_size), process, **options)
    kept = metric.oks_nms(
        metric.Detections(**{**vars(people), "person_score": metric.rescore(box_score, people.scores)})
    )
    if results and process.is_first:
        Path(results).write_text(json.dumps(metric.results_json(kept)))
    stats = metric.coco_stats(truth, kept, use_area, fast) if process.is_first else None
    return gather(stats, process)[0], kept


def load_runner(model: str, device: str | torch.device | None, provider: str | None = None):
    """A runner for a weight file or a catalogue name; .onnx files run on ONNX Runtime when `provider` is given."""
    if provider:
        if not model.endswith(".onnx"):
            raise ValueError(f"--provider runs .onnx files; {model} is something else. Leave it out")
        return OnnxRunner(model, provider, kind="pose")
    return TorchRunner(load_pose(model), device)


def weights_of(runner: Callable, model: str) -> str:
    """What the judged weights are called. Of the files of one network only the official one bears its name."""
    official = {entry.filename: entry.name for entry in catalogue.ENTRIES}
    return getattr(runner, "weights", None) or official.get(Path(model).name, runner.name)


def published_row(weights: str) -> str | None:
    """The row of `PUBLISHED` that belongs to these weights, if they are official ones."""
    name = weights.removesuffix("-pth")  # dwpose-l-384 is published in two forms
    return name if name in PUBLISHED else None


def table(name: str, stats: dict[str, float], published: str | None) -> str:
    """Stats as people read them: AP / AR per part, the published AP below."""
    width = max(18, len(name) + 2)
    lines = [" " * (width + 6) + "".join(f"{column.replace('_', ' '):>13}" for column in COLUMNS)]
    for kind in ("AP", "AR"):
        cells = "".join(f"{metric.shown(100 * stats[f'{c}/{kind}'], 1):>13}" for c in COLUMNS)
        lines.append(f"{name:{width}}{kind:6}{cells}")
    if published:
        row = PUBLISHED[published]
        cells = "".join(f"{100 * row[c]:13.1f}" if c in row else f"{'':13}" for c in COLUMNS)
        lines.append(f"{published:{width}}{'paper':6}{cells}")
    lines.append("hands: mean of left and right, an assumption about the published column")
    return "\n".join(lines)


def read_shards(paths: list[str], truth: dict) -> metric.Detections:
    """The people of all results files together: `dwpose extract` writes a file for every shard.

    Raises:
        ValueError: for files that have images in common, which are of different models or of one part twice.
    """
    shards = [metric.read_results(path, truth) for path in paths]
    owners = np.concatenate([np.unique(shard.image_id) for shard in shards])
    if len(np.unique(owners)) < len(owners):
        raise ValueError("these results files share images, so they are not parts of one result; judge them one by one")
    people = metric.Detections(
        **{name: np.concatenate([getattr(shard, name) for shard in shards]) for name in vars(shards[0])}
    )
    if not len(people):
        print("note: nobody was found in any image: AP is 0")
    return people


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="weight file or catalogue name")
    parser.add_argument("--annotations", required=True, help="COCO-WholeBody json")
    parser.add_argument("--images", help="folder of the images")
    parser.add_argument("--boxes", help="detector boxes (COCO results json); ground-truth boxes without it")
    parser.add_argument("--results", nargs="+", help="judge COCO-WholeBody results json instead of a model")
    parser.add_argument("--device", help="cuda, cpu, ...; the best present by default")
    parser.add_argument("--provider", help="run an .onnx file on ONNX Runtime: cpu, cuda, tensorrt, openvino")
    parser.add_argument("--no-flip", action="store_true", help="one pass; published figures use the flip test")
    parser.add_argument("--no-area", action="store_true", help="area = 0.53 x box (UBody)")
    parser.add_argument("--fast", action="store_true", help="judge with faster-coco-eval (same numbers)")
    parser.add_argument("--batch-size", type=at_least_one, default=64)
    parser.add_argument("--workers", type=not_negative, default=2)
    parser.add_argument("--paper", choices=PUBLISHED, help="published row to print; official weights have theirs")
    parser.add_argument("--json", help="write the stats here")
    parser.add_argument("--save-results", help="write the judged people here, as a COCO-WholeBody results json")
    args = parser.parse_args(argv)
    if bool(args.model) == bool(args.results):
        parser.error("give a model or --results, one of them")
    if args.model and not args.images:
        parser.error("--images is needed to run a model")
    if args.save_results and args.results:
        parser.error("--save-results is for the people that a model finds; --results has them already")
    for path in filter(None, (args.json, args.save_results)):
        output(path)
    truth = read_coco(args.annotations)
    metric.check_judging(truth, not args.no_area, args.fast)
    if args.results:
        stats = metric.coco_stats(truth, read_shards(args.results, truth), not args.no_area, args.fast)
        weights = network = Path(args.results[0]).stem
        published, process = args.paper, Process(0, 1, torch.device("cpu"))
    else:
        images_folder(args.images)
        process = start(args.device or "")
        runner = load_runner(args.model, process.device, args.provider)
        boxes = detector_boxes(args.boxes) if args.boxes else ground_truth_boxes(args.annotations)
        options = {"flip_test": not args.no_flip, "batch_size": args.batch_size, "workers": args.workers}
        options |= {"use_area": not args.no_area, "fast": args.fast, "results": args.save_results}
        stats, _ = evaluate_model(runner, truth, args.images, boxes, process, **options)
        weights, network = weights_of(runner, args.model), runner.name
        published = args.paper or published_row(weights)
    if process.is_first:
        print(table(weights, stats, published))
        if args.json:
            record = {
                "model": args.model or args.results,
                "network": network,
                "annotations": args.annotations,
                "boxes": args.boxes or ("as in the results file" if args.results else "ground truth"),
                "flip_test": None if args.results else not args.no_flip,
                "published": PUBLISHED.get(published or ""),
                "hands": "mean of left and right (assumption)",
                "stats": stats,
            }
            Path(args.json).write_text(json.dumps(record, indent=2) + "\n")
    stop()


if __name__ == "__main__":
    sys.exit(run(main))
