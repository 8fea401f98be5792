"""Headers of the ZIP format (APPNOTE 6.3.x) for members whose sizes and CRC are known beforehand; ZIP64 where needed."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

_FULL_32, _FULL_16 = 0xFFFFFFFF, 0xFFFF
_UTF8 = 1 << 11
_FILE_MODE, _FOLDER_MODE = 0o100644 << 16, (0o040755 << 16) | 0x10


@dataclass(frozen=True)
class Member:
    """A file or, with '/' at the end of its name, a folder. modified_s: seconds since the epoch, shown as UTC."""

    name: str
    size: int
    packed_size: int
    crc: int
    modified_s: int
    deflated: bool

    @property
    def is_large(self) -> bool:
        return self.size >= _FULL_32 or self.packed_size >= _FULL_32


def local_header(member: Member) -> bytes:
    """What stands before a member's bytes."""
    name = member.name.encode()
    extra = struct.pack("<HHQQ", 1, 16, member.size, member.packed_size) if member.is_large else b""
    sizes = (_FULL_32, _FULL_32) if member.is_large else (member.packed_size, member.size)
    head = struct.pack("<IHHHII", 0x04034B50, _version(member), _UTF8, _method(member), _dos_time(member), member.crc)
    return head + struct.pack("<IIHH", *sizes, len(name), len(extra)) + name + extra


def central_directory(members: list[tuple[Member, int]], offset: int) -> bytes:
    """What stands at the end. members: with the offsets of their local headers. offset: where this begins."""
    rows = b"".join(_central_row(m, at) for m, at in members)
    count, size = len(members), len(rows)
    tail = b""
    if count >= _FULL_16 or size >= _FULL_32 or offset >= _FULL_32:
        tail = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, offset)
        tail += struct.pack("<IIQI", 0x07064B50, 0, offset + size, 1)
    short = min(count, _FULL_16), min(count, _FULL_16), min(size, _FULL_32), min(offset, _FULL_32)
    return rows + tail + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, *short, 0)


def _central_row(member: Member, at: int) -> bytes:
    name = member.name.encode()
    long = [member.size, member.packed_size] if member.is_large else []
    long += [at] if at >= _FULL_32 else []
    extra = struct.pack(f"<HH{len(long)}Q", 1, 8 * len(long), *long) if long else b""
    version = max(_version(member), 45 if long else 20)
    sizes = (_FULL_32, _FULL_32) if member.is_large else (member.packed_size, member.size)
    head = struct.pack(
        "<IHHHHII", 0x02014B50, (3 << 8) | version, version, _UTF8, _method(member), _dos_time(member), member.crc
    )
    mode = _FOLDER_MODE if member.name.endswith("/") else _FILE_MODE
    return (
        head + struct.pack("<IIHHHHHII", *sizes, len(name), len(extra), 0, 0, 0, mode, min(at, _FULL_32)) + name + extra
    )


def _version(member: Member) -> int:
    return 45 if member.is_large else 20


def _method(member: Member) -> int:
    return 8 if member.deflated else 0


def _dos_time(member: Member) -> int:
    """Date and time in the 32 bits of MS-DOS, which begin in 1980."""
    t = time.gmtime(max(member.modified_s, 315532800))
    return (min(t.tm_year - 1980, 127) << 25 | t.tm_mon << 21 | t.tm_mday << 16) | (
        t.tm_hour << 11 | t.tm_min << 5 | min(t.tm_sec, 59) // 2
    )
