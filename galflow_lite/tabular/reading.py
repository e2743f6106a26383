"""Raw files as streams of lines, and lines of numbers as tables."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

__all__ = [
    "checked",
    "is_archive",
    "is_numpy",
    "no_number",
    "numbers",
    "numpy_table",
    "opened",
]

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether the name is that of a zip or tar archive."""
    return path.name.lower().endswith((".zip", *_TAR))


@contextmanager
def opened(path: Path | str, *wanted: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Open a raw file, wherever it is packed: name and stream of its bytes. Nothing is unpacked.

    Args:
        path: The file itself, whatever its name; or a folder, a zip or a tar archive that holds
            it. A file that ends in .gz is decompressed, in an archive too.
        wanted: Names, or last parts of paths, of which an archive or folder must hold one.

    Raises:
        FileNotFoundError: If nothing is at the path.
        ValueError: If the archive is damaged or does not hold the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}, expected {wanted[0]}: check the path.")
    try:
        with ExitStack() as stack:
            name, stream = _find(path, wanted, stack)
            if name.endswith(".gz"):
                stream = stack.enter_context(gzip.open(stream))
            yield f"{path}:{name}" if name != path.name else str(path), stream
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path} cannot be unpacked ({type(error).__name__}), expected a complete archive: "
            "download it again."
        ) from error


def _find(path: Path, wanted: tuple[str, ...], stack: ExitStack) -> tuple[str, IO[bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and _fits(file.as_posix(), wanted):
                return file.name, stack.enter_context(file.open("rb"))
    elif path.name.lower().endswith(".zip"):
        packed = stack.enter_context(zipfile.ZipFile(path))
        for info in packed.infolist():
            if _fits(info.filename, wanted):
                return info.filename, stack.enter_context(packed.open(info))
    elif path.name.lower().endswith(_TAR):
        # A loop, and not the list of members, which would unpack a large archive to its end.
        tar = stack.enter_context(tarfile.open(path))
        for member in tar:
            if member.isfile() and _fits(member.name, wanted):
                return member.name, stack.enter_context(tar.extractfile(member))
    else:
        return path.name, stack.enter_context(path.open("rb"))
    raise ValueError(f"{path} holds no {' or '.join(wanted)}, expected one: this is another set.")


def _fits(name: str, wanted: tuple[str, ...]) -> bool:
    parts = PurePosixPath(name.lower().removesuffix(".gz")).parts
    ends = (PurePosixPath(end.lower()).parts for end in wanted)
    return any(parts[-len(end) :] == end for end in ends)


def is_numpy(stream: IO[bytes]) -> bool:
    """Whether the stream begins as a .npy file does; nothing is taken from it.

    Raises:
        ValueError: If it begins as a pickle does.
    """
    begin = stream.read(6)
    stream.seek(0)
    if begin[:1] == b"\x80":
        raise ValueError(
            "the file is a pickle, which is never loaded because it can run any code, expected "
            "text or .npy: take the raw file of the set."
        )
    return begin == b"\x93NUMPY"


def numpy_table(stream: IO[bytes], *, source: str, width: int) -> np.ndarray:
    """Table of a .npy file, shape (n, width), float64.

    Raises:
        ValueError: If it holds objects, has another shape, or numbers that are not finite.
    """
    try:
        # NumPy would ask the stream of a tar archive for a file number, which it has not.
        content = io.BytesIO(stream.read())
        table = np.lib.format.read_array(content, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise ValueError(
            f"{source} cannot be read ({type(error).__name__}), expected a complete .npy "
            "file of numbers: download it again."
        ) from error
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind not in "fiu":
        raise ValueError(
            f"{source} has the shape {table.shape} and type {table.dtype}, expected numbers of "
            f"shape (n, {width}): this is another file."
        )
    return checked(table.astype(np.float64), source)


def numbers(
    lines: Iterable[bytes],
    *,
    source: str,
    widths: range,
    use: slice,
    first: int,
    delimiter: bytes | None = None,
) -> np.ndarray:
    """Table of lines of numbers. Empty lines are passed over.

    Args:
        lines: The lines.
        source: Name of the file, for errors.
        widths: Numbers of fields that a line may have.
        use: The fields to keep.
        first: Number of the first of the lines in the file, for errors.
        delimiter: What separates the fields; None takes white space.

    Returns:
        Numbers, shape (n, fields kept), float64.

    Raises:
        ValueError: If a line has another number of fields or a field that is not a finite number,
            or if there are no lines.
    """
    # An array grows in place: a list of Python numbers would take eight times the memory.
    values = array("d")
    kept = 0
    for number, line in enumerate(lines, first):
        fields = line.split(delimiter)
        if len(fields) not in widths:
            if not line.strip():
                continue
            raise ValueError(
                f"line {number} of {source} has {len(fields)} fields, expected {_span(widths)}: "
                "this is another file, or a damaged one."
            )
        kept = len(fields[use])
        try:
            values.extend(map(float, fields[use]))
        except ValueError:
            raise no_number(fields[use], number, source) from None
    if not kept:
        raise ValueError(
            f"{source} holds no complete rows, expected some: check that the file is complete."
        )
    return checked(np.frombuffer(values).reshape(-1, kept), source)


def _span(widths: range) -> str:
    return str(widths[0]) if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"


def no_number(fields: list[bytes], line: int, source: str) -> ValueError:
    """The error on the first field that is not a number."""
    for field in fields:
        try:
            float(field)
        except ValueError:
            text = field.decode(errors="replace").strip()[:40]
            break
    return ValueError(
        f"line {line} of {source} has the field {text!r}, expected a number: this is another file, "
        "or a damaged one."
    )


def checked(table: np.ndarray, source: str) -> np.ndarray:
    """The table itself.

    Raises:
        ValueError: If a row holds NaN or an infinite value.
    """
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"row {int(np.argmin(finite)) + 1} of {source} holds NaN or an infinite value, "
            "expected finite numbers: this is another file, or a damaged one."
        )
    return table
