"""Reading the file of a catalogue; `catalogue` describes its layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .writing import FORMAT, FORMAT_VERSION

__all__ = ["CatalogueError", "Index", "Reader"]


class CatalogueError(ValueError):
    """A file is no catalogue, is damaged, or is of a newer format."""


class Reader:
    """The open file, opened anew in every process that uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._pid = -1
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_pid": -1, "_closed": self._closed}

    def close(self) -> None:
        self._closed = True
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def file(self) -> h5py.File:
        if self._closed:
            raise ValueError(
                f"the catalogue {self.path} is closed, expected an open one: open it again with "
                "Catalogue.open."
            )
        # A file handle must not cross a fork.
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = self._open(), os.getpid()
        return self._file

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"there is no file {self.path}, expected a catalogue: check the name, or make "
                "one with Catalogue.write or the data commands."
            )
        try:
            return h5py.File(self.path, "r")
        except PermissionError:
            raise
        except OSError as error:
            if h5py.is_hdf5(self.path):
                found = "is cut short or damaged"
            else:
                found = "is not an HDF5 file"
            raise CatalogueError(
                f"{self.path} {found}, expected a catalogue in HDF5: fetch or write it anew."
            ) from error

    def damaged(self, detail: str) -> CatalogueError:
        return CatalogueError(
            f"{self.path} is damaged ({detail}), expected a complete catalogue: fetch or write "
            "it anew."
        )

    def stars(self, name: str, start: int, stop: int, columns: list[int], width: int) -> np.ndarray:
        file = self.file()
        try:
            stars = file["galaxies"][name]["stars"]
            if stars.ndim != 2 or stars.shape[1] != width or stars.shape[0] < stop:
                raise self.damaged(f"stars of galaxy {name!r} have the shape {stars.shape}")
            if columns == list(range(width)):
                return stars[start:stop].astype(np.float32, copy=False)
            found = np.empty((stop - start, len(columns)), dtype=np.float32)
            for position, column in enumerate(columns):
                found[:, position] = stars[start:stop, column]
            return found
        except (OSError, KeyError) as error:
            raise self.damaged(f"stars of galaxy {name!r} cannot be read") from error

    def masses(self, name: str) -> np.ndarray | float | None:
        file = self.file()
        try:
            group = file["galaxies"][name]
            return group["masses"][()] if "masses" in group else None
        except (OSError, KeyError) as error:
            raise self.damaged(f"masses of galaxy {name!r} cannot be read") from error


class Index:
    """What a file says of its galaxies without their stars."""

    def __init__(self, reader: Reader) -> None:
        file = reader.file()
        if file.attrs.get("format") != FORMAT:
            raise CatalogueError(
                f"{reader.path} is an HDF5 file but no catalogue of galaxies, expected the "
                f"attribute format = {FORMAT!r}: make one with Catalogue.write."
            )
        version = int(file.attrs.get("format_version", 0))
        if version > FORMAT_VERSION:
            raise CatalogueError(
                f"{reader.path} has format version {version}, expected at most "
                f"{FORMAT_VERSION}: update galflow_lite to read it."
            )
        try:
            self.columns = tuple(json.loads(file.attrs["columns"]))
            self.condition_names = tuple(json.loads(file.attrs["condition_names"]))
            self.units = json.loads(file.attrs["units"])
            self.provenance = json.loads(file.attrs["provenance"])
            self.chunk_stars = int(file.attrs["chunk_stars"])
            index = file["index"]
            self.ids: list[str] = index["ids"].asstr()[:].tolist()
            self.n_stars: np.ndarray = index["n_stars"][:]
            self.conditions: np.ndarray = index["conditions"][:]
            self.attributes: list[str] = index["attributes"].asstr()[:].tolist()
        except (KeyError, OSError, ValueError) as error:
            raise reader.damaged("its index cannot be read") from error
