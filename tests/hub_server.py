"""A Hugging Face hub on this machine, so that tests can download models and data sets with the real clients.

``FOLDER/models/ORG/NAME`` and ``FOLDER/datasets/ORG/NAME`` hold the files of the repositories.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40


def _id(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def _missing(self, kind: str) -> None:
        self._answer(404, b"{}", **{"X-Error-Code": kind, "X-Error-Message": "not here"})

    def _repository(self, parts: list[str]) -> tuple[Path | None, list[str]]:
        """The folder that [models|datasets] / [ORG /] NAME / ... names, and what follows the name."""
        kind = parts.pop(0) if parts[:1] in (["models"], ["datasets"]) else "models"
        for length in (2, 1):
            folder = self.root.joinpath(kind, *parts[:length])
            if len(parts) >= length and folder.is_dir():
                return folder, parts[length:]
        return None, []

    def _entries(self, folder: Path, paths: list[Path]) -> list[dict[str, Any]]:
        return [
            {"type": "directory", "path": str(path.relative_to(folder)), "oid": COMMIT, "size": 0}
            if path.is_dir()
            else {
                "type": "file",
                "path": str(path.relative_to(folder)),
                "oid": _id(path),
                "size": path.stat().st_size,
            }
            for path in paths
        ]

    def _api(self, folder: Path, rest: list[str], body: bytes) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        match rest:
            case [] | ["revision", _]:
                names = [{"rfilename": str(path.relative_to(folder))} for path in files]
                name = "/".join(folder.parts[-2:])
                self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": names})
            case ["tree", _, *inside]:
                start = folder.joinpath(*inside)
                recursive = (
                    parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
                )
                found = sorted(start.rglob("*") if recursive else start.glob("*"))
                self._json(self._entries(folder, found)) if start.is_dir() else self._missing("EntryNotFound")
            case ["paths-info", _]:
                form = parse_qs(body.decode()) if not body.startswith(b"{") else json.loads(body)
                wanted = [folder / path for path in form.get("paths", [])]
                self._json(self._entries(folder, [path for path in wanted if path.exists()]))
            case _:
                self._missing("EntryNotFound")

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[:1] == ["api"]
        folder, rest = self._repository(parts[1:] if api else parts)
        if folder is None:
            self._missing("RepoNotFound")
        elif api:
            self._api(folder, rest, body)
        elif rest[:1] == ["resolve"] and folder.joinpath(*rest[2:]).is_file():
            file = folder.joinpath(*rest[2:])
            content = file.read_bytes()
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if first:
                part = content[int(first) : int(last) + 1 if last else None]
                where = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
                self._answer(206, part, ETag=f'"{_id(file)}"', Content_Range=where)
            else:
                self._answer(200, content, ETag=f'"{_id(file)}"', Accept_Ranges="bytes")
        else:
            self._missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = _serve


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve the repositories in ``root``; gives the address for ``HF_ENDPOINT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"root": root}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
