"""Images inside of other files: WebDataset tar shards, parquet tables, data sets of `save_to_disk`.

A file that is damaged becomes one item with an error, and what could be read before it stays.
"""

from __future__ import annotations

import itertools
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Any

from .lists import IMAGE_COLUMN, TEXT_COLUMN, TEXT_COLUMNS, folder_of, in_folder, no_column
from .names import IMAGE_SUFFIXES, Item, output_key, without_suffix
from .storage import open_input

# Of samples and beside images: not worth mentioning when they are not read as images.
SIDE_SUFFIXES = (".txt", ".json")


def tar_items(path: str, name: str, left_out: Counter[str]) -> Iterator[Item]:
    """Images of a WebDataset shard called `name`: one item for each image, whatever else its sample holds."""
    try:
        yield from _tar_items(path, name, left_out)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield {"key": name, "path": path, "error": f"{path} is damaged, or not a tar: {error}"}


def _tar_items(path: str, name: str, left_out: Counter[str]) -> Iterator[Item]:
    with open_input(path) as file:
        if file.read(2) == b"\x1f\x8b":
            raise ValueError("it is compressed, and images cannot be found in the middle; unpack it with gunzip first")
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            # WebDataset: neighbours with the same name up to the first dot are one sample.
            for sample, members in itertools.groupby(_members(tar, left_out), lambda member: member[0]):
                parts = {full: where for _, full, where in members}
                images = [full for full in parts if full.lower().endswith(IMAGE_SUFFIXES)]
                others = (PurePosixPath(full).suffix.lower() for full in parts if full not in images)
                left_out.update(suffix or "no suffix" for suffix in others if suffix not in SIDE_SUFFIXES)
                # Beside 6.jpg, 6.seg.png is a mask or a map; x.1.jpg and x.2.jpg are just names with dots.
                plain = [full for full in images if without_suffix(full) == sample]
                left_out.update(
                    PurePosixPath(full).name.partition(".")[2] for full in images if plain and full not in plain
                )
                for full in plain or images:
                    stem, suffix = without_suffix(full), PurePosixPath(full).suffix[1:]
                    key = output_key(stem)
                    item = {"key": key, "path": path, "at": parts[full], "else": [f"{key}_{suffix}", f"{name}/{key}"]}
                    text_at = parts.get(f"{stem}.txt") or parts.get(f"{sample}.txt")
                    yield item | ({"text_at": text_at} if text_at else {})


def _members(tar: tarfile.TarFile, left_out: Counter[str]) -> Iterator[tuple[str, str, list[int]]]:
    """Sample, name and place of each file in a tar; hidden ones, as macOS adds them, are left out."""
    while (member := tar.next()) is not None:
        tar.members = []  # tarfile keeps every header otherwise
        folder, slash, base = member.name.rpartition("/")
        if not member.isfile() and not member.isdir():
            left_out["link in a tar"] += 1
        elif member.isfile() and base and not base.startswith("."):
            yield folder + slash + base.partition(".")[0], member.name, [member.offset_data, member.size]
    # tarfile takes a header that makes no sense for the end.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError(f"there is no header at byte {tar.offset}")


def parquet_items(
    path: str, number: int, name: str, image_column: str = IMAGE_COLUMN, text_column: str = TEXT_COLUMN
) -> Iterator[Item]:
    """Rows of the parquet file called `name`, the `number`-th of all."""
    parquet = _parquet()
    try:
        with open_input(path) as file:
            table = parquet.ParquetFile(file)
            columns = table.schema_arrow.names
            groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    except (ValueError, OSError) as error:  # pyarrow's errors are both
        yield {"key": f"{number:05d}/{name}", "path": path, "error": f"{path} is damaged, or not parquet: {error}"}
        return
    _check_columns(path, columns, image_column, text_column)
    places = ((group, row) for group, rows in enumerate(groups) for row in range(rows))
    for count, place in enumerate(places):
        yield {"key": f"{number:05d}/{count:08d}", "path": path, "at": list(place)}


def dataset_items(source: str, image_column: str = IMAGE_COLUMN, text_column: str = TEXT_COLUMN) -> Iterator[Item]:
    dataset = open_dataset(source)
    _check_columns(source, dataset.column_names, image_column, text_column)
    for row in range(len(dataset)):
        yield {"key": f"{row:08d}", "path": source, "at": [row]}


def _check_columns(source: str, columns: list[str], image_column: str, text_column: str) -> None:
    if image_column not in columns:
        raise no_column(source, image_column, columns, "--image-column")
    if text_column != TEXT_COLUMN and text_column not in columns:
        raise no_column(source, text_column, columns, "--text-column")


def open_dataset(source: str) -> Any:
    """A dataset saved by `datasets.Dataset.save_to_disk`.

    Raises:
        ValueError: for a `DatasetDict`.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f'{source} needs the datasets package: pip install "dwpose-torch[datasets]"') from error
    dataset = datasets.load_from_disk(source)
    if isinstance(dataset, datasets.DatasetDict):
        raise ValueError(
            f"{source} holds several splits; give one: {', '.join(f'{source}/{name}' for name in dataset)}"
        )
    return dataset


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('parquet needs pyarrow: pip install "dwpose-torch[datasets]"') from error
    return pyarrow.parquet


class TableReader:
    """Bytes and captions of parquet and dataset items that are asked for in order; holds a few rows at a time."""

    _ROWS = 16  # a row group may be a whole file, of any size

    def __init__(self, image_column: str, text_column: str):
        self._image = image_column
        self._texts = TEXT_COLUMNS if text_column == TEXT_COLUMN else (text_column,)
        self._files = ExitStack()
        self._place: tuple[str, int | None] | None = None  # path, row group
        self._rows: Any = None  # row number -> columns, or why there are none

    def read(self, item: Item) -> tuple[bytes, Any]:
        """Raises ValueError where the row holds no image bytes, or cannot be read."""
        place = (item["path"], item["at"][0]) if len(item["at"]) == 2 else (item["path"], None)
        if self._place != place:
            self._files.close()
            self._place = place
            try:
                self._rows = self._read(*place)
            except (ValueError, OSError) as error:
                self._rows = error
        row = self._rows if isinstance(self._rows, Exception) else self._rows(item["at"][-1])
        if isinstance(row, Exception):
            raise ValueError(f"{item['path']} cannot be read: {row}")
        image, path = row[self._image], None
        text = next((row[name] for name in self._texts if row.get(name) not in (None, "")), None)
        if isinstance(image, dict):
            image, path = image.get("bytes"), image.get("path")
        elif isinstance(image, str):
            image, path = None, image
        if image is None and path:
            with open_input(in_folder(folder_of(item["path"]), path) if place[1] is not None else path) as file:
                return file.read(), text
        if not isinstance(image, bytes):
            raise ValueError(f"{item['path']}, row {item['at']}: no image bytes or path in column {self._image!r}")
        return image, text

    def close(self) -> None:
        self._files.close()

    def _read(self, path: str, group: int | None) -> Any:
        if group is None:
            import datasets

            dataset = open_dataset(path)
            if isinstance(dataset.features[self._image], datasets.Image):
                dataset = dataset.cast_column(self._image, datasets.Image(decode=False))
            return dataset.__getitem__
        file = self._files.enter_context(open_input(path))
        table = _parquet().ParquetFile(file, buffer_size=1 << 20)  # without a buffer the group is read in one piece
        columns = [name for name in (self._image, *self._texts) if name in table.schema_arrow.names]
        batches = table.iter_batches(self._ROWS, row_groups=[group], columns=columns, use_threads=False)
        places = enumerate((batch, row) for batch in batches for row in range(len(batch)))

        def row_at(index: int) -> dict[str, Any] | Exception:
            try:
                batch, row = next(place for number, place in places if number == index)
            except (ValueError, OSError) as error:
                self._rows = error  # what follows the damage is lost as well
                return error
            return {name: batch.column(name)[row].as_py() for name in columns}

        return row_at
