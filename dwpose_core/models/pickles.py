"""Reads the tensors of a PyTorch checkpoint without running anything that is in the file.

A pickle is a small program: it may name any callable and call it. The published DWPose and RTMPose checkpoints need
that freedom for objects nobody wants here (mmengine's HistoryBuffer, numpy scalars in `meta` and `message_hub`), so
`torch.load(weights_only=True)` refuses them. `read_checkpoint` then reads the same file with an unpickler that knows
tensors and builtin containers only; every other class or function becomes an inert `Placeholder`. Nothing named in
the file is imported or called.
"""

from __future__ import annotations

import io
import logging
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch

log = logging.getLogger(__name__)

# Numbers that open a checkpoint written before PyTorch 1.6, which is five pickles and the raw storages.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class Placeholder:
    """Stands for any class or function of the file that is not a tensor or a container. Does nothing, accepts all."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    # The opcodes for lists and sets call these on whatever the file put there.
    append = extend = add = update = __call__


def _rebuild_tensor(storage: Any, offset: int, size: tuple, stride: tuple, *unused: Any) -> torch.Tensor:
    """A view into a storage, as torch pickles it; as_strided refuses to leave the storage."""
    if not isinstance(storage, torch.Tensor):
        raise pickle.UnpicklingError("a tensor of this file has no storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *args: {},
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *unused: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *unused: data,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


class TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors and builtin containers; `storage(key, dtype, count)` supplies flat tensors."""

    def __init__(self, file: BinaryIO, storage: Any):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        found = ALLOWED.get((module, name), Placeholder)
        # A pickle may set attributes on what it names; a function goes out as a throw-away wrapper.
        return found if isinstance(found, type) else (lambda *args: found(*args))

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            return Placeholder()
        _, dtype, key, _, count, *view = pid
        storage = self._storage(str(key), dtype, int(count))
        if view and view[0] is not None:  # legacy files: (key of the view, offset, length)
            _, offset, length = view[0]
            return storage[offset : offset + length]
        return storage


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(roots) != 1:
            raise ValueError(f"{path} is a zip archive but not a PyTorch checkpoint (no data.pkl in it)")
        root = roots[0]
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError(f"{path} was written on a big-endian machine, which this reader does not support")
        cache: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in cache:
                data = bytearray(archive.read(f"{root}data/{key}"))
                cache[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return cache[key]

        return TensorUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(path: Path) -> Any:
    """Before PyTorch 1.6: magic number, protocol, system, the object, the list of storage keys, then each storage as
    an int64 element count and its bytes, little endian."""
    storages: dict[str, torch.Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        if key not in storages:
            # The file cannot ask for more memory than it has bytes.
            if not 0 <= count * dtype.itemsize <= size:
                raise pickle.UnpicklingError("a storage is larger than the file")
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    size = path.stat().st_size
    with open(path, "rb") as file:

        def load() -> Any:
            return TensorUnpickler(file, storage).load()

        if load() != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
            raise pickle.UnpicklingError("not a PyTorch checkpoint")
        load()  # sizes of C types where it was written
        result = load()
        for key in load():
            target = storages[str(key)]
            count = int.from_bytes(file.read(8), "little")
            data = bytearray(file.read(target.numel() * target.itemsize))
            if count != target.numel() or len(data) != target.numel() * target.itemsize:
                raise EOFError("the file ends early")
            if data:
                target.copy_(torch.frombuffer(data, dtype=target.dtype))
    return result


def read_checkpoint(path: Path) -> Any:
    """The object in a .pth / .pt file, tensors on the CPU, with unknown objects as `Placeholder`.

    Raises:
        ValueError: where the file is damaged, or no PyTorch checkpoint.
    """
    if zipfile.is_zipfile(path):
        # Asked first: torch 2.4 hands such a file to torch.jit.load even with weights_only=True.
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception as error:  # of the archive's own table; as many kinds as below
            raise _damaged(path, error) from error
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError(
                f"{path} is a TorchScript program, not a checkpoint; use the .pth or .onnx file of this model"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on legacy storages; nobody can act on that here
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Either an object outside torch's allow list or a damaged file; the reader below tells them apart.
        log.debug("torch.load(weights_only=True) refused %s: %s", path, error)
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except ValueError:
        raise
    except Exception as error:
        # A hostile or cut pickle fails in any way it likes: EOFError, KeyError, IndexError, BadZipFile, ...
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is damaged or not a PyTorch checkpoint ({type(error).__name__}: {error}); download it again"
    )
