"""Reads the tensors that `torch.save` wrote, without unpickling anything."""

from __future__ import annotations

import io
import math
import pickletools
import reprlib
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**28
"""Limit on the size of a member of the zip, and of all tensors together [bytes]."""
MAX_PICKLE_BYTES = 2**20
"""Limit on the size of the pickle that describes the tensors [bytes]."""
MAX_MEMBERS = 1_000
"""Limit on the number of members of the zip, and of named tensors."""
MAX_NAME = 256
"""Limit on the length of their names [characters]."""
MAX_AXES = 8
"""Limit on the number of axes of a tensor."""

_DTYPES = {"torch HalfStorage": "f2", "torch FloatStorage": "f4", "torch DoubleStorage": "f8"}
_ORDERED_DICT, _REBUILD = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"

ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, struct.error)
"""Exceptions that zipfile raises on a damaged file."""


def read_tensors(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the named tensors that `torch.save` wrote, without executing anything.

    Args:
        data: contents of the file, which is a zip of the storages and of a pickle that refers to them.

    Returns:
        Arrays by name.

    Raises:
        ValueError: naming what the file asks for besides tensors, or what is damaged.
    """
    try:
        with open_archive(io.BytesIO(data)) as archive:
            names = archive.namelist()
            folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
            if len(folders) != 1:
                raise ValueError(f"the weights must hold one data.pkl, found {len(folders)}")
            folder = folders[0]
            order = b"little"  # torch before 2.1 wrote no byteorder
            if f"{folder}byteorder" in names:
                order = read_member(archive, f"{folder}byteorder", 16)
            if order not in (b"little", b"big"):
                raise ValueError(f"byteorder must be little or big, got {order!r}")
            return _Opcodes(
                lambda key, size: read_member(archive, f"{folder}data/{key}", size),
                "<" if order == b"little" else ">",
            ).run(read_member(archive, f"{folder}data.pkl", MAX_PICKLE_BYTES))
    except ZIP_ERRORS as error:
        raise ValueError(f"the weights are not a zip as torch >= 1.6 writes it ({error})") from error


@contextmanager
def open_archive(file: Path | io.BytesIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose members are few, have different short names, and do not share their bytes.

    Then what can be read from it is no more than the file itself, however its directory describes it.

    Raises:
        ValueError: if it is not like that.
    """
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        names = {member.filename for member in members}
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"a zip must have at most {MAX_MEMBERS} members, it has {len(members)}")
        if any(len(name) > MAX_NAME for name in names):
            raise ValueError(f"the names in a zip must have at most {MAX_NAME} characters")
        if len(names) < len(members):
            raise ValueError("the members of a zip must have different names, some names appear twice")
        # A member lies behind its own header, which takes 30 bytes and its name.
        ends = [each.header_offset + 30 + len(each.filename) + each.compress_size for each in members]
        starts = [each.header_offset for each in members]
        if any(end > start for end, (_, start) in zip(ends, pairwise(starts), strict=False)):
            raise ValueError("the members of a zip must lie one behind the other, some overlap")
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int = MAX_BYTES) -> bytes:
    """Return the contents of a member; it must be stored uncompressed, so that a small file stays small."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"it holds no {shorten(name)}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{name} must be stored neither compressed nor encrypted")
    if info.file_size != info.compress_size:
        raise ValueError(f"{name} is damaged: its size is given as {info.file_size} and {info.compress_size}")
    if info.file_size > limit:
        raise ValueError(f"{name} must have at most {limit} bytes, it has {info.file_size}")
    try:
        return archive.read(name)
    except ZIP_ERRORS as error:
        raise ValueError(f"{name} is damaged ({error})") from error


@dataclass(frozen=True)
class _Global:
    """Something that unpickling would import."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A reference to numbers in another member of the zip."""

    dtype: str
    key: str
    size: int


class _Opcodes:
    """Interprets the few opcodes that describe an ordered dict of tensors; refuses all others by name.

    Args:
        read_storage: takes the name of a storage and a limit in bytes, and returns its contents.
        byteorder: "<" or ">".
    """

    def __init__(self, read_storage: Callable[[str, int], bytes], byteorder: str) -> None:
        self.read_storage, self.byteorder = read_storage, byteorder
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[_Storage, bytes] = {}

    def run(self, pickled: bytes) -> dict[str, NDArray[Any]]:
        """Interpret a whole pickle, and return the arrays by name."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about invalid escapes in strings, which are refused anyway
                for opcode, argument, _ in pickletools.genops(pickled):
                    self._step(opcode.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"the pickle of the weights is damaged ({error})") from error
        result = self.stack[0] if len(self.stack) == 1 else None
        if not isinstance(result, dict) or not all(
            isinstance(value, np.ndarray) for value in result.values()
        ):
            raise ValueError("the weights must be named tensors and nothing else")
        if len(result) > MAX_MEMBERS or any(len(name) > MAX_NAME for name in result):
            raise ValueError(
                f"the weights must be at most {MAX_MEMBERS} tensors, "
                f"with names of at most {MAX_NAME} characters"
            )
        # Many names may refer to the same numbers, and whoever walks over the tensors meets them each time.
        if sum(array.nbytes for array in result.values()) > MAX_BYTES:
            raise ValueError(f"the tensors must have at most {MAX_BYTES} bytes in total")
        return result

    def _step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "GLOBAL":
                if argument not in (_ORDERED_DICT, _REBUILD, *_DTYPES):
                    raise ValueError(f"refused: its pickle asks for {argument.replace(' ', '.')[:MAX_NAME]}")
                self.stack.append(_Global(argument))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2":
                self.stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "EMPTY_DICT":
                self.stack.append({})
            case "MARK":
                self.marked.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self._pop_to_mark()
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(self._pop(int(opcode[-1])))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "SETITEM":
                self._set_items(self._pop(2))
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "BINPERSID":
                self.stack.append(self._name_storage(self._pop(1)[0]))
            case "REDUCE":
                self.stack.append(self._call(*self._pop(2)))
            case "BUILD":  # a state dict's versions of its modules, which are not needed
                self._pop(1)
            case _:
                raise ValueError(f"refused: its pickle has the opcode {opcode}, which weights do not need")

    def _pop(self, n: int) -> tuple[Any, ...]:
        if len(self.stack) < n:
            raise IndexError("its stack is empty")
        popped = tuple(self.stack[-n:])
        del self.stack[-n:]
        return popped

    def _pop_to_mark(self) -> list[Any]:
        popped, self.stack = self.stack, self.marked.pop()
        return popped

    def _set_items(self, items: Sequence[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str) for key in items[::2]):
            raise ValueError("refused: its pickle sets items of something other than a dict with string keys")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _name_storage(self, name: Any) -> _Storage:
        match name:
            case ("storage", _Global(kind), str(key), str(), int(size)) if kind in _DTYPES and size >= 0:
                return _Storage(self.byteorder + _DTYPES[kind], key, size)
        raise ValueError(f"refused: its pickle refers to {shorten(name)}, which is not a storage of floats")

    def _call(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case _Global(name), () if name == _ORDERED_DICT:
                return {}
            case (
                _Global(name),
                (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
            ) if name == _REBUILD:
                return self._make_array(storage, offset, shape, strides)
        raise ValueError(f"refused: its pickle calls {shorten(function)} with {shorten(arguments)}")

    def _make_array(
        self, storage: _Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
    ) -> NDArray[Any]:
        if len(shape) > MAX_AXES or not all(isinstance(n, int) and n > 0 for n in shape) or offset < 0:
            raise ValueError(f"a tensor must have positive sizes, got {shorten(shape)} from {offset}")
        if offset + math.prod(shape) > storage.size:
            raise ValueError(f"a tensor {shape} from {offset} does not fit into {storage.size} numbers")
        if strides != tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))):
            raise ValueError(f"a tensor {shape} must be stored row by row, got strides {shorten(strides)}")
        data = self._load(storage)
        return np.frombuffer(data, storage.dtype)[offset : offset + math.prod(shape)].reshape(shape)

    def _load(self, storage: _Storage) -> bytes:
        """Read the numbers of a storage, once however often it is referred to."""
        n_bytes = storage.size * np.dtype(storage.dtype).itemsize
        if n_bytes > MAX_BYTES:
            raise ValueError(f"the tensors must have at most {MAX_BYTES} bytes in total")
        if storage not in self.storages:
            data = self.read_storage(storage.key, n_bytes)
            if len(data) != n_bytes:
                raise ValueError(f"data/{storage.key} must have {n_bytes} bytes, it has {len(data)}")
            self.storages[storage] = data
        return self.storages[storage]


class _Short(reprlib.Repr):
    """Shows the beginning of a structure; the work of `repr` would double with each level of shared pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxdict = 4
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        """Show an integer; the digits of one that is too long are not computed."""
        return super().repr_int(x, level) if x.bit_length() < 1024 else "a long integer"

    def repr_ndarray(self, x: NDArray[Any], level: int) -> str:
        """Show the shape of an array."""
        return f"array of shape {x.shape}"


_SHORT = _Short()


def shorten(value: Any) -> str:
    """Return the first characters of a value, for an error message, at a cost that does not depend on it."""
    return _SHORT.repr(value)[:120]
