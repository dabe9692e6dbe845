"""The file in which a process keeps its metrics memory.

It begins with :data:`MAGIC`, the length of the header and the header's CRC-32 (4 bytes each, little endian), and the
header: the layout of the memory as JSON. The cells follow on a page of their own.
"""

from __future__ import annotations

import json
import re
import secrets
import zlib
from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "MAGIC", "SUFFIX", "ForeignError", "TornError", "cells_start", "is_name", "new_name", "pack_header", "parse_header",
]  # fmt: skip

#: The last sign is the format's number.
MAGIC: Final = b"SMCACHE2"
SUFFIX: Final = ".metrics"
_FIXED: Final = len(MAGIC) + 8
_PAGE: Final = 4096


class TornError(ValueError):
    """The content of a file is not what its process wrote."""


class ForeignError(TornError):
    """A file of another version, whose numbers this one never counted."""


def new_name() -> str:
    """A name for a file; random, since process ids repeat from container to container."""
    return secrets.token_hex(8) + SUFFIX


def is_name(name: str) -> bool:
    """Whether a process may have given its file this name."""
    return re.fullmatch(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}", name) is not None


def pack_header(description: Mapping[str, Any]) -> bytes:
    """What stands before the cells, :meth:`Layout.describe` told; files of one layout begin alike."""
    text = json.dumps(description).encode()
    return MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text


def parse_header(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """What stands before the cells, as it is and as the layout it describes.

    Raises:
        TornError: it is no such header.
    """
    if content.startswith(MAGIC[:-1]) and not content.startswith(MAGIC):
        raise ForeignError(f"written by another version ({content[: len(MAGIC)].decode(errors='replace')})")
    if not content.startswith(MAGIC):
        raise TornError(f"does not begin with {MAGIC.decode()}")
    size, checksum = (int.from_bytes(content[at : at + 4], "little") for at in (len(MAGIC), len(MAGIC) + 4))
    text = content[_FIXED : _FIXED + size]
    if len(text) != size or zlib.crc32(text) != checksum:
        raise TornError("its header is not whole")
    description: dict[str, Any] = json.loads(text)
    return content[: _FIXED + size], description


def cells_start(header: bytes) -> int:
    """The byte at which the cells begin."""
    return -(-len(header) // _PAGE) * _PAGE
