"""What an upload is made of: the content of an artifact's files, one after the other, in blocks worth a thread's time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from passel.cluster.worker.answers import DamagedError
from passel.pipeline.manifest import ArtifactFile
from passel.pipeline.store import storage_errors

_BLOCK_BYTES = 2**19


def content(folder: Path, files: Sequence[ArtifactFile], start: int) -> Iterator[bytes]:
    """From byte `start` of all of it on. Raises StorageError, DamagedError when a file is gone or shorter than it should be."""
    small = bytearray()  # files that are too small for a block each
    for file in files:
        if start >= file.size_bytes:
            start -= file.size_bytes
            continue
        path, left_bytes = folder / file.name, file.size_bytes - start
        if not path.exists():
            raise DamagedError("A file of the artifact is gone", str(path))
        with storage_errors(folder), path.open("rb") as source:
            source.seek(start)
            start = 0
            while left_bytes and (block := source.read(min(_BLOCK_BYTES, left_bytes))):
                left_bytes -= len(block)
                if not small and len(block) == _BLOCK_BYTES:
                    yield block
                    continue
                small += block
                if len(small) >= _BLOCK_BYTES:
                    yield bytes(small)
                    small.clear()
        if left_bytes:
            raise DamagedError("A file of the artifact is shorter than it was", str(path))
    if small:
        yield bytes(small)
