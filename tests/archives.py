"""Archives as bytes, for sources of data."""

from __future__ import annotations

import io
import tarfile


def tarred(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            for name, goal in (links or {}).items():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, goal
                file.addfile(info)
    return buffer.getvalue()
