"""What a shard leaves behind. A sink writes into a scratch folder and hands over the finished files at the end;
`close` lets go of those that are not.

    files        <key>.png                                     a mirrored tree of maps (kohya-style conditioning folder)
    imagefolder  images/<key>.jpg, conditioning_images/<key>.png, metadata.jsonl    (diffusers' ControlNet trainers);
                 in <key> a ~ follows the words that `datasets` would take for a split, see `names.without_splits`
    webdataset   00000.tar with <n>.jpg, <n>.pose.png, <n>.json, <n>.txt
    parquet      data/train-00000-of-00012.parquet with image, conditioning_image, text
    dummy        nothing (to measure speed)

Every byte depends on the input only, never on time, machine or order of arrival.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import save_npz, to_coco
from ..people import People
from ..skeleton import NUM_KEYPOINTS
from .names import without_splits

OUTPUT_FORMATS = ("files", "imagefolder", "webdataset", "parquet", "dummy")
KEYPOINT_SUFFIXES = {"jsonl": ".jsonl.gz", "npz": ".npz", "coco": ".coco.json"}
WITH_IMAGES = ("imagefolder", "webdataset", "parquet")  # these carry the photograph along


@dataclass(frozen=True)
class Row:
    """One finished item. `people` is None where it failed; `message` says why, or what is amiss otherwise."""

    key: str
    index: int  # in the shard
    image_id: int  # COCO's
    people: People | None = None
    message: str = ""
    map: bytes | None = field(default=None, repr=False)
    file: bytes | None = field(default=None, repr=False)
    suffix: str = ""
    text: str | None = None

    def report(self) -> dict[str, Any]:
        """This row in the shard's report."""
        row = {"key": self.key, "image_id": self.image_id, "status": "failed" if self.people is None else "ok"}
        if self.people is not None:
            height, width = self.people.image_size
            row |= {"width": width, "height": height, "people": len(self.people)}
        return row | ({"message": self.message} if self.message else {})


def keypoint_row(key: str, people: People) -> dict[str, Any]:
    """One image in keypoints.jsonl: 133 x (x, y, score) in pixels of the image, boxes xyxy."""
    points = np.concatenate((people.xy, people.score[..., None]), axis=2).astype(np.float64).round(4)
    persons = [
        {"keypoints": points[p].ravel().tolist(), "box": people.box[p].astype(np.float64).round(2).tolist()}
        | {"score": round(float(people.box_score[p]), 4)}
        | ({} if people.id is None else {"id": int(people.id[p])})
        for p in range(len(people))
    ]
    height, width = people.image_size
    return {"key": key, "width": width, "height": height, "people": persons}


def read_keypoint_rows(data: bytes) -> Iterator[tuple[str, People]]:
    """Key and People of each line of a keypoints .jsonl(.gz) file.

    Raises:
        ValueError: naming the line that is not one of ours.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"the file is cut short or damaged: {error}") from error
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row["key"], str):
                raise TypeError(f"its key is no text but {type(row['key']).__name__}")
            persons = row["people"]
            points = np.array([p["keypoints"] for p in persons], np.float32).reshape(-1, NUM_KEYPOINTS, 3)
            people = People(
                points[..., :2],
                points[..., 2],
                np.array([p["box"] for p in persons], np.float32).reshape(-1, 4),
                np.array([p["score"] for p in persons], np.float32),
                (row["height"], row["width"]),
                id=np.array([p["id"] for p in persons]) if persons and all("id" in p for p in persons) else None,
            )
            yield row["key"], people
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"line {number} is no row of keypoints: {error}") from error


class KeypointLines:
    """A keypoints .jsonl.gz being written, without a time stamp."""

    def __init__(self, path: Path):
        self._raw = open(path, "wb")
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=self._raw, mtime=0)

    def add(self, key: str, people: People) -> None:
        self._file.write(json_lines([keypoint_row(key, people)]))

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._raw.close()


def json_lines(rows: Iterable[dict]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")  # JSON's own escapes: paths may hold bytes that are no UTF-8


class KeypointFiles:
    """keypoints/00000.jsonl.gz, .npz, .coco.json of one shard."""

    def __init__(self, formats: Iterable[str], folder: Path, shard: str):
        self._paths = {
            kind: folder / f"keypoints{suffix}" for kind, suffix in KEYPOINT_SUFFIXES.items() if kind in formats
        }
        self._names = {kind: f"keypoints/{shard}{KEYPOINT_SUFFIXES[kind]}" for kind in self._paths}
        self._lines = KeypointLines(self._paths["jsonl"]) if "jsonl" in self._paths else None
        self._people: list[People] = []
        self._ids: list[int] = []

    def add(self, row: Row) -> None:
        if row.people is None:
            return
        if self._lines is not None:
            self._lines.add(row.key, row.people)
        if "npz" in self._paths or "coco" in self._paths:
            self._people.append(row.people)
            self._ids.append(row.image_id)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def finish(self) -> dict[str, Path]:
        self.close()
        if "npz" in self._paths:
            save_npz(self._paths["npz"], self._people)
        if "coco" in self._paths:
            self._paths["coco"].write_text(json.dumps(to_coco(self._people, self._ids), separators=(",", ":")))
        return {self._names[kind]: path for kind, path in self._paths.items()}


class FileSink:
    """A tree of maps with the names of the images; with `images` the layout of imagefolder."""

    def __init__(self, folder: Path, shard: str, map_suffix: str, images: bool):
        self._folder, self._shard, self._suffix, self._images = folder, shard, map_suffix, images
        self._files: dict[str, Path] = {}
        self._metadata: list[dict] = []

    def add(self, row: Row) -> None:
        if row.map is None:
            return
        if not self._images:
            self._write(f"{row.key}{self._suffix}", row.map)
            return
        name = without_splits(row.key)
        image, pose = f"images/{name}{row.suffix}", f"conditioning_images/{name}{self._suffix}"
        self._write(image, row.file)
        self._write(pose, row.map)
        # imagefolder's own convention: file_name -> column image, <name>_file_name -> column <name>
        self._metadata.append({"file_name": image, "conditioning_image_file_name": pose, "text": row.text or ""})

    def _write(self, name: str, data: bytes) -> None:
        file = self._folder / f"{len(self._files):06d}"
        file.write_bytes(data)
        self._files[name] = file

    def close(self) -> None: ...

    def finish(self) -> dict[str, Path]:
        if self._images:
            (self._folder / "metadata").write_bytes(json_lines(self._metadata))
            self._files[f"_dwpose/metadata/{self._shard}.jsonl"] = self._folder / "metadata"
        return self._files


class TarSink:
    """A WebDataset shard. Sample names are shard and number: a dot in an original name would split the sample."""

    def __init__(self, folder: Path, shard: str, map_suffix: str):
        self._path, self._shard, self._suffix = folder / "shard.tar", shard, map_suffix
        self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)

    def add(self, row: Row) -> None:
        if row.people is None:
            return
        name = f"{self._shard}{row.index:06d}"
        self._member(f"{name}{row.suffix}", row.file)
        self._member(f"{name}.pose{self._suffix}", row.map)
        self._member(f"{name}.json", json_lines([keypoint_row(row.key, row.people)]))
        if row.text is not None:
            self._member(f"{name}.txt", row.text.encode())

    def _member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()

    def finish(self) -> dict[str, Path]:
        self.close()
        return {f"{self._shard}.tar": self._path}


class ParquetSink:
    """Rows that `datasets.load_dataset(folder)` reads as images; row groups of a hundred keep memory low."""

    _GROUP = 100

    def __init__(self, folder: Path, name: str):
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError('parquet needs pyarrow: pip install "dwpose-torch[datasets]"') from error
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"image": picture, "conditioning_image": picture, "text": pa.string(), "key": pa.string()}
        columns |= {"width": pa.int32(), "height": pa.int32(), "keypoints": pa.list_(pa.list_(pa.float32()))}
        numbers = {pa.int32(): {"dtype": "int32", "_type": "Value"}, pa.string(): {"dtype": "string", "_type": "Value"}}
        features = {name: numbers.get(kind, {"_type": "Image"}) for name, kind in columns.items()}
        inner = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
        features["keypoints"] = {"feature": inner, "_type": "List"}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        self._pa, self._name, self._path = pa, name, folder / "shard.parquet"
        self._schema = pa.schema(columns.items(), metadata=metadata)
        self._writer = pq.ParquetWriter(self._path, self._schema, compression="snappy")
        self._rows: list[dict] = []

    def add(self, row: Row) -> None:
        if row.people is None:
            return
        height, width = row.people.image_size
        points = np.concatenate((row.people.xy, row.people.score[..., None]), axis=2).reshape(-1, 3 * NUM_KEYPOINTS)
        self._rows.append(
            {
                "image": {"bytes": row.file, "path": f"{row.key}{row.suffix}"},
                "conditioning_image": {"bytes": row.map, "path": None},
                "text": row.text or "",
                "key": row.key,
                "width": width,
                "height": height,
                "keypoints": points.tolist(),
            }
        )
        if len(self._rows) == self._GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        self._writer.close()

    def finish(self) -> dict[str, Path]:
        self._flush()
        self.close()
        return {self._name: self._path}


class NoSink:
    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...

    def finish(self) -> dict[str, Path]:
        return {}


def open_sink(format: str, folder: Path, shard: int, shards: int, map_suffix: str) -> Any:
    """The sink of one shard; `shards` is the number of all shards."""
    name = f"{shard:05d}"
    if format in ("files", "imagefolder"):
        return FileSink(folder, name, map_suffix, images=format == "imagefolder")
    if format == "webdataset":
        return TarSink(folder, name, map_suffix)
    if format == "parquet":
        return ParquetSink(folder, f"data/train-{name}-of-{shards:05d}.parquet")
    return NoSink()
