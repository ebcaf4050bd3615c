"""Candidates from Milvus: a cluster by its address, or milvus-lite in a folder of its own.

For a catalogue that one machine should not hold in lists or a graph, or where Milvus is there already. The server holds
the vectors in its own index and proposes; the true scores are computed here from the stored vectors, mapped from disk,
as for every approximate index. So what was added or removed since the build is also kept here: the server's collection
is never changed, and whoever serves an older build of the same run is not disturbed.

A collection's name is a hash of what is in it: the same vectors and settings are the same collection, written once.
Nothing here deletes one; ``triptych artifacts prune`` does not reach the server.

Filters are not sent along, they would be as long as the catalogue; more is asked for and what must not be returned is
dropped. What is then missing is searched exactly here.

The local form is for trying and for tests: its files are copied at every opening, and it compares one by one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError, ConfigError, MissingExtra
from triptych.foundation.progress import track
from triptych.index.approximate import ApproximateConfig
from triptych.index.stored import COPY_ROWS, StoredVectors

INSERT_ROWS = 5000
MOST_PLACES = 16_384
"""Milvus returns no more for a query."""
QUERIES_AT_A_TIME = 64
TOKEN = "MILVUS_TOKEN"  # noqa: S105 - the name of an environment variable
LOCAL = "milvus.db"
ROW, VECTOR = "row", "vector"


class MilvusIndexType(StrEnum):
    """Milvus's own index behind a collection, by its own name."""

    AUTOINDEX = "AUTOINDEX"
    FLAT = "FLAT"
    IVF_FLAT = "IVF_FLAT"
    IVF_SQ8 = "IVF_SQ8"
    HNSW = "HNSW"
    DISKANN = "DISKANN"


class MilvusConfig(ApproximateConfig):
    """Candidates from Milvus."""

    kind: Literal["milvus"] = "milvus"
    """Name of the file that defines it."""
    uri: str | None = Field(None, pattern=r"^(https?|tcp)://")
    """Address of a cluster, e.g. http://milvus:19530; none: milvus-lite, in the folder of the index. A token is read
    from the environment variable MILVUS_TOKEN, and never stored."""
    index_type: MilvusIndexType = MilvusIndexType.AUTOINDEX
    """Which of Milvus's indexes."""
    build_params: dict[str, int] = Field(default_factory=dict)
    """Of that index, by Milvus's names: nlist, M, efConstruction."""
    search_params: dict[str, int] = Field(default_factory=dict)
    """Of its search: nprobe, ef, search_list."""
    refine: int = Field(2, ge=1)
    """Candidates for each place wanted, among which true scores decide."""

    search_fields: ClassVar[frozenset[str]] = ApproximateConfig.search_fields | {"search_params"}
    structure_file: ClassVar[str] = "milvus.json"

    @property
    def candidates_per_place(self) -> int:
        """As `refine`."""
        return self.refine

    def organise(self, stored: StoredVectors) -> Collection | None:
        """Write every row into a collection, unless the server has it already."""
        if stored.num_rows == 0:
            return None
        server = Server(self.uri, folder=None)
        name = _collection_name(stored, config=self)
        if server.num_rows(name) != stored.num_rows:
            _insert(stored, server=server, name=name, config=self)
        return Collection(server, name, stored.num_rows, stored.dim, self)

    def open_structure(self, path: Path) -> Collection:
        """Find the collection on the server, or copy the local one and open the copy."""
        about = json.loads(path.read_text(encoding="utf-8"))
        server = Server(self.uri, folder=path.parent / LOCAL)
        found = server.num_rows(about["collection"])
        if found != about["rows"]:
            raise ArtifactError(
                f"Milvus at {server.address} has {found or 'no'} rows of collection {about['collection']}, and "
                f"{str(path)!r} says {about['rows']}. Build the index again: triptych run."
            )
        server.client.load_collection(about["collection"])
        return Collection(server, about["collection"], about["rows"], about["dim"], self)


CONFIG = MilvusConfig


class Server:
    """A connection; where there is no address, to a milvus-lite of our own in a temporary folder."""

    def __init__(self, uri: str | None, *, folder: Path | None) -> None:
        """Connect.

        Args:
            uri: address of a cluster; None for milvus-lite.
            folder: what milvus-lite begins with, left as it is: opening changes files, and artefacts do not change.

        Raises:
            MissingExtra: pymilvus is not installed.
            ConfigError: nobody answers.
        """
        try:
            from pymilvus import MilvusClient, MilvusException
        except ImportError:
            raise MissingExtra("index.kind = 'milvus'", extra="milvus") from None
        self.home = None if uri is not None else Path(tempfile.mkdtemp(prefix="triptych-milvus-"))
        if self.home is not None and folder is not None:
            if not folder.is_dir():
                raise ArtifactError(f"There is no {str(folder)!r}. Build the index again: triptych run.")
            shutil.copytree(folder, self.home / LOCAL)
        self.address = uri or str(self.home)
        try:
            token = "" if uri is None else os.environ.get(TOKEN, "")
            self.client = MilvusClient(uri=uri or str(self.home and self.home / LOCAL), token=token)
        except MilvusException as error:
            raise ConfigError(f"index.uri: no Milvus answers at {self.address} ({error.message}).") from None
        weakref.finalize(self, _close, self.client, self.home)

    def num_rows(self, collection: str) -> int:
        """Return how many rows a collection has; 0 where there is none."""
        if not self.client.has_collection(collection):
            return 0
        return int(self.client.get_collection_stats(collection)["row_count"])


def _close(client: Any, home: Path | None) -> None:
    client.close()
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Collection:
    """A collection that is only read."""

    server: Server
    name: str
    num_rows: int
    dim: int
    config: MilvusConfig

    @property
    def memory_bytes(self) -> int:
        """Bytes of the vectors on the server, float32; its index is not counted."""
        return self.num_rows * self.dim * 4

    def propose(
        self, queries: NDArray[np.float32], *, places: int, kept: NDArray[np.bool_] | None, widening: float
    ) -> NDArray[np.int64]:
        """Ask for `widening` times as many rows, and drop those that are not kept."""
        rows = np.full((len(queries), places), -1, np.int64)
        limit = min(MOST_PLACES, self.num_rows, math.ceil(places * widening))
        for start in range(0, len(queries), QUERIES_AT_A_TIME):
            answer = self.server.client.search(
                self.name,
                data=list(queries[start : start + QUERIES_AT_A_TIME]),
                anns_field=VECTOR,
                limit=limit,
                search_params={"metric_type": "IP", "params": dict(self.config.search_params)},
            )
            for place, hits in enumerate(answer, start=start):
                found = np.array([hit[ROW] for hit in hits], dtype=np.int64)
                own = found if kept is None else found[kept[found]]
                rows[place, : min(places, len(own))] = own[:places]
        return rows

    def tuned(self, config: MilvusConfig) -> Collection:
        """Return the same collection, searched by another config."""
        return replace(self, config=config)

    def write(self, path: Path) -> None:
        """Write which collection it is; of milvus-lite also a copy of its files."""
        if self.server.home is not None:
            shutil.rmtree(path.parent / LOCAL, ignore_errors=True)
            lock_files = shutil.ignore_patterns("LOCK", "*.lock")
            shutil.copytree(self.server.home / LOCAL, path.parent / LOCAL, ignore=lock_files)
        write_json(path, {"collection": self.name, "rows": self.num_rows, "dim": self.dim})


def _collection_name(stored: StoredVectors, *, config: MilvusConfig) -> str:
    """Name a collection by all that decides what is in it."""
    decisive = [config.index_type.value, config.build_params, stored.num_rows, stored.dim, stored.number_format.value]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for start in range(0, stored.num_rows, COPY_ROWS):
        digest.update(stored.take(np.arange(start, min(start + COPY_ROWS, stored.num_rows))).tobytes())
    return f"triptych_{digest.hexdigest()[:24]}"


def _insert(stored: StoredVectors, *, server: Server, name: str, config: MilvusConfig) -> None:
    """Make the collection anew; what an interrupted build left of it is dropped."""
    from pymilvus import DataType, MilvusClient

    client = server.client
    if client.has_collection(name):
        client.drop_collection(name)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ROW, DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=stored.dim)
    index = MilvusClient.prepare_index_params()
    index.add_index(VECTOR, index_type=config.index_type.value, metric_type="IP", params=dict(config.build_params))
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
    starts = range(0, stored.num_rows, INSERT_ROWS)
    for start in track(starts, label="milvus", unit="block") if len(starts) > 1 else starts:
        rows = np.arange(start, min(start + INSERT_ROWS, stored.num_rows))
        vectors = stored.take(rows)
        client.insert(name, [{ROW: int(row), VECTOR: vector} for row, vector in zip(rows, vectors, strict=True)])
    client.flush(name)
