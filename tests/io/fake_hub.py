"""A hub of one repository on this machine, with as much of the protocol as huggingface_hub asks for, and a log."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves the files of `folder` as repository owner/name; `fetched` lists the files that were asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.fetched = folder, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        names = sorted(p.relative_to(self.server.folder).as_posix() for p in self.server.folder.rglob("*") if p.is_file())
        if path.startswith("/api/models/owner/name/tree/"):
            sizes = {name: (self.server.folder / name).stat().st_size for name in names}
            self._send(
                json.dumps([{"type": "file", "path": n, "size": s, "oid": "0"} for n, s in sizes.items()]).encode(), with_body
            )
        elif path.startswith("/api/models/owner/name"):
            info = {
                "id": "owner/name",
                "sha": COMMIT,
                "siblings": [{"rfilename": n, "size": (self.server.folder / n).stat().st_size} for n in names],
            }
            self._send(json.dumps(info).encode(), with_body)
        elif path.startswith("/owner/name/resolve/"):
            name = path.split("/", 5)[5]
            if name not in names:
                self._send(b"", with_body, status=404)
                return
            self.server.fetched += [name] if with_body else []
            self._send((self.server.folder / name).read_bytes(), with_body)
        else:
            self.send_error(404)

    def _send(self, content: bytes, with_body: bool, status: int = 200) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass
