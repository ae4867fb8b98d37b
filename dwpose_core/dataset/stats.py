"""What an extraction gave, as text and as a page with pictures. Reads the shards' stats and keypoints, no networks."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from ..people import People
from ..render import overlay, render
from .decode import Task, decode
from .plan import Plan, describe, stats_of
from .shard import SCORE_BINS
from .sinks import read_keypoint_rows
from .storage import Storage

_TILE = 220  # pixels, the height of a sample picture on the page; half as much again is the most in width


@dataclass(frozen=True)
class Stats:
    """Sums over all finished shards of one output folder."""

    storage: Storage
    config: dict
    plan: Plan
    done: list[int]  # finished shards
    ok: int
    failed: int
    left_out: int  # of those that are ok: too few people, or too little of them
    people_per_image: Counter[int]
    score_histogram: np.ndarray
    networks: list[str]
    reasons: Counter[str]  # of failures
    failures: list[dict]  # the first rows


def collect(folder: str) -> Stats:
    """Raises ValueError where there is no extraction."""
    storage = Storage(folder)
    if storage.size("_dwpose/plan.json") is None:
        raise ValueError(f"{folder} is not the output of `dwpose extract` (it has no _dwpose/plan.json)")
    done, ok, failed, left_out, networks = [], 0, 0, 0, []
    counts: Counter[int] = Counter()
    scores = np.zeros(SCORE_BINS, np.int64)
    reasons: Counter[str] = Counter()
    failures: list[dict] = []
    for name in storage.names("_dwpose/shards"):
        if not name.endswith("_stats.json") or (shard := stats_of(storage, int(name.split("_")[0]))) is None:
            continue
        done.append(shard["shard"])
        ok, failed, left_out = ok + shard["ok"], failed + shard["failed"], left_out + shard.get("left_out", 0)
        counts.update({int(number): count for number, count in shard["people_per_image"].items()})
        scores += shard["score_histogram"]
        networks += [] if shard["networks"] in networks else [shard["networks"]]
        if shard["failed"]:
            for row in storage.json_lines(f"_dwpose/shards/{shard['shard']:05d}_report.jsonl"):
                if row["status"] != "ok":
                    reasons[row["message"]] += 1
                    failures += [row] if len(failures) < 50 else []
    config = storage.json("_dwpose/config.json")
    counted = (done, ok, failed, left_out, counts, scores)
    return Stats(storage, config, Plan(storage), *counted, networks, reasons, failures)


def text(stats: Stats) -> str:
    """A dozen lines for a terminal."""
    seen = sum(stats.people_per_image.values())
    people = sum(number * count for number, count in stats.people_per_image.items())
    lines = [
        f"inputs    {stats.plan.items}, of which {stats.ok} ok, {stats.failed} failed, "
        f"{stats.plan.items - stats.ok - stats.failed} to do",
        *([f"left out  {stats.left_out}, which are ok but lack people"] if stats.left_out else []),
        *([f"not read  {describe(stats.plan.left_out)}"] if stats.plan.left_out else []),
        f"shards    {len(stats.done)} of {stats.plan.shards}",
        f"people    {people}, {people / max(seen, 1):.2f} per picture",
        f"networks  {'; '.join(stats.networks)}",
        "",
        "people per picture",
        *_bars([(str(n) if n < 10 else "10+", c) for n, c in _grouped(stats.people_per_image)]),
        "",
        "keypoint scores",
        *_bars([(f"{i / SCORE_BINS:.2f}", int(count)) for i, count in enumerate(stats.score_histogram)]),
    ]
    if stats.reasons:
        lines += ["", "failures", *(f"  {count:8d}  {reason}" for reason, count in stats.reasons.most_common(10))]
    return "\n".join(lines)


def _grouped(counts: Counter[int]) -> list[tuple[int, int]]:
    """0 to 9 people, then all larger groups together."""
    merged: Counter[int] = Counter()
    for number, count in counts.items():
        merged[min(number, 10)] += count
    return [(number, merged[number]) for number in range(max(merged, default=0) + 1)]


def _bars(rows: list[tuple[str, int]], width: int = 40) -> list[str]:
    top = max((count for _, count in rows), default=0) or 1
    return [f"  {label:>5s} {'#' * round(width * count / top):{width}s} {count}" for label, count in rows]


def samples(stats: Stats, count: int) -> list[tuple[str, np.ndarray]]:
    """Captions and pictures, spread evenly over the finished shards: photograph and map side by side, people first.
    None of videos, whose keypoint files are called as they are: 00000.mp4 is not shard 0."""
    found: list[tuple[str, np.ndarray]] = []
    if stats.config["input_format"] == "video":
        return found
    shards = stats.done[:: max(1, len(stats.done) // max(count, 1))][:count] if stats.done else []
    each = -(-count // max(len(shards), 1))
    for shard in shards:
        name = f"keypoints/{shard:05d}.jsonl.gz"
        if stats.storage.size(name) is None:
            continue
        rows = list(read_keypoint_rows(stats.storage.read(name)))
        rows = [row for row in rows if len(row[1])] or rows
        items = {item["key"]: item for item in stats.plan.shard(shard)}
        for key, people in rows[:: max(1, len(rows) // each)][:each]:
            found.append((f"{key} ({len(people)})", _sample(items[key], people, stats)))
    return found[:count]


def _sample(item: dict, people: People, stats: Stats) -> np.ndarray:
    height, width = people.image_size
    factor = min(_TILE / height, 1.5 * _TILE / width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    style = {**stats.config["style"], "thickness": 0.4}
    pose_map = render(people, size, **style)
    table = stats.config["input_format"] in ("parquet", "dataset")
    photo = None if table else decode(Task(item, short_side=2 * _TILE)).image
    if photo is None:  # moved since, or inside a table
        return pose_map
    photo = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
    return np.concatenate((overlay(photo, people, **style), pose_map), axis=1)


def write_page(stats: Stats, count: int = 12) -> str:
    """OUT/_dwpose/stats.html, one file without links; returns its name. Raises ValueError for less than no samples."""
    if count < 0:
        raise ValueError(f"--samples must be at least 0, got {count}")
    from PIL import Image

    tiles = []
    for caption, picture in samples(stats, count):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=88)
        data = base64.b64encode(buffer.getvalue()).decode()
        tiles.append(
            f'<figure><img src="data:image/jpeg;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    seen = sum(stats.people_per_image.values())
    people = sum(number * count for number, count in stats.people_per_image.items())
    left = stats.plan.items - stats.ok - stats.failed
    figures = (
        ("inputs", stats.plan.items), ("ok", stats.ok), ("left out", stats.left_out), ("failed", stats.failed),
        ("to do", left), ("people", people),
        ("people per picture", f"{people / max(seen, 1):.2f}"),
    )  # fmt: skip
    cards = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures)
    groups = [(str(n) if n < 10 else "10+", c) for n, c in _grouped(stats.people_per_image)]
    scores = [(f"{i / SCORE_BINS:.2f}", int(c)) for i, c in enumerate(stats.score_histogram)]
    failed = "".join(
        f"<tr><td>{html.escape(row['key'])}</td><td>{html.escape(row['message'])}</td></tr>" for row in stats.failures
    )
    page = _PAGE.format(
        source=html.escape(stats.config["source"]),
        networks=html.escape("; ".join(stats.networks)),
        cards=cards,
        groups=_chart(groups),
        scores=_chart(scores),
        tiles="".join(tiles) or "<p>no stored keypoints to draw from</p>",
        failures=f"<h2>Failures</h2><table>{failed}</table>" if failed else "",
    )
    # Paths may hold bytes that are no UTF-8.
    stats.storage.write("_dwpose/stats.html", page.encode("utf-8", "backslashreplace"), "stats")
    return f"{stats.storage.root}/_dwpose/stats.html"


def _chart(rows: list[tuple[str, int]]) -> str:
    """Vertical bars as SVG, each with its count as a tooltip."""
    top = max((count for _, count in rows), default=0) or 1
    step = 460 / max(len(rows), 1)
    every = -(-len(rows) // 11)  # labels that fit
    bars = "".join(
        f'<rect x="{i * step + step * 0.1:.1f}" y="{130 - 120 * count / top:.1f}" width="{step * 0.8:.1f}" '
        f'height="{120 * count / top:.1f}"><title>{label}: {count}</title></rect>'
        + (f'<text x="{(i + 0.5) * step:.1f}" y="146">{label}</text>' if i % every == 0 else "")
        for i, (label, count) in enumerate(rows)
    )
    return f'<svg viewBox="0 0 460 152">{bars}</svg>'


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dwpose extract</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: #1c2330;
  background: #f6f7f9 }}
h1 {{ font-size: 1.4rem; margin: 0 }} h2 {{ font-size: 1.05rem; margin: 2rem 0 .6rem }}
p {{ color: #5b6475; margin: .2rem 0; overflow-wrap: anywhere }}
.cards, .charts, .tiles {{ display: flex; flex-wrap: wrap; gap: .8rem; align-items: start }}
.charts {{ margin-top: .8rem }} .charts h2 {{ margin: .2rem 0 .6rem }}
.cards div, .charts div, figure {{ background: #fff; border-radius: 8px; padding: .7rem 1rem;
  box-shadow: 0 1px 3px #0002 }}
.cards div {{ color: #5b6475; min-width: 7rem }} .cards b {{ display: block; font-size: 1.5rem; color: #1c2330 }}
.charts div {{ flex: 1 1 420px }} svg {{ width: 100%; display: block }} rect {{ fill: #3d6fe0 }}
text {{ font-size: 11px; text-anchor: middle; fill: #5b6475 }}
figure {{ margin: 0; padding: .5rem }} img {{ display: block; border-radius: 4px; max-width: 100% }}
figcaption {{ font-size: .8rem; color: #5b6475; padding-top: .3rem; max-width: 520px; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; background: #fff; font-size: .85rem }}
td {{ padding: .25rem .8rem; border-bottom: 1px solid #e6e8ec }}
</style></head><body>
<h1>dwpose extract</h1><p>{source}</p><p>{networks}</p>
<h2>Counts</h2><div class="cards">{cards}</div>
<div class="charts"><div><h2>People per picture</h2>{groups}</div><div><h2>Keypoint scores</h2>{scores}</div></div>
<h2>Samples</h2><div class="tiles">{tiles}</div>
{failures}
</body></html>
"""
