"""A hub of one repository on this machine, with as much of the protocol as huggingface_hub asks for, and a log."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "a" * 34


class FakeHub(ThreadingHTTPServer):
    """Serves the files of `folder` as repository owner/name, and takes commits to it; there is none if `folder` is not there.

    Attributes:
        fetched: Files that were downloaded.
        asked: Requests that change something, as method and path.
        private: Whether the repository is private: what a request to make it says.
        uploads: Large files that were uploaded and are in no commit yet: sha256 -> content.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.fetched, self.asked, self.private, self.uploads = folder, [], [], False, {}
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

    def do_POST(self) -> None:
        """Upload: make the repository, ask how to send each file, send large ones by the LFS protocol, and commit."""
        content, path, hub = self._content(), unquote(urlsplit(self.path).path), self.server
        hub.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and path != "/api/validate-yaml":
            self._json({"error": "Invalid username or password."}, status=401)
        elif path == "/api/repos/create":
            wanted = json.loads(content)
            if wanted["organization"] != "owner":
                return self._json({"error": f"You have no rights to create models under {wanted['organization']}"}, status=403)
            hub.folder.mkdir()
            hub.private = wanted.get("visibility") == "private"
            self._json({"url": f"{hub.address}/owner/name"})
        elif path == "/api/validate-yaml":
            named = "license: no-such" in json.loads(content)["content"]
            self._json({"errors": [{"message": "license: unknown"}] * named, "warnings": []}, status=400 if named else 200)
        elif path == "/api/models/owner/name/preupload/main":
            modes = {
                one["path"]: "lfs" if one["path"].endswith(".safetensors") else "regular"
                for one in json.loads(content)["files"]
            }
            self._json({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes.items()]})
        elif path == "/owner/name.git/info/lfs/objects/batch":
            objects = [
                one | {"actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif path == "/api/models/owner/name/commit/main":
            for line in map(json.loads, content.splitlines()):
                self._commit(line["key"], line["value"])
            self._json({"commitUrl": f"{hub.address}/owner/name/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.send_error(404)

    def do_PUT(self) -> None:
        content = self._content()
        sha256 = hashlib.sha256(content).hexdigest()
        assert self.path == f"/lfs/{sha256}"
        self.server.asked.append(f"PUT {self.path}")
        self.server.uploads[sha256] = content
        self._send(b"", with_body=True)

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _commit(self, key: str, value: dict) -> None:
        if key == "header":
            return
        assert key in ("file", "lfsFile")
        content = base64.b64decode(value["content"]) if key == "file" else self.server.uploads.pop(value["oid"])
        path = self.server.folder / value["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        names = sorted(p.relative_to(self.server.folder).as_posix() for p in self.server.folder.rglob("*") if p.is_file())
        if path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self._json({"name": "owner"} if known else {"error": "Invalid token"}, status=200 if known else 401)
        elif not self.server.folder.exists():
            self._json({"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, status=404)
        elif path.startswith("/api/models/owner/name/tree/"):
            sizes = {name: (self.server.folder / name).stat().st_size for name in names}
            self._json([{"type": "file", "path": n, "size": s, "oid": "0"} for n, s in sizes.items()], with_body=with_body)
        elif path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": n, "size": (self.server.folder / n).stat().st_size} for n in names]
            info = {"id": "owner/name", "sha": COMMIT, "private": self.server.private, "siblings": siblings}
            self._json(info, with_body=with_body)
        elif path.startswith("/owner/name/resolve/"):
            name = path.split("/", 5)[5]
            if name not in names:
                return self._send(b"", with_body, {"X-Error-Code": "EntryNotFound"}, status=404)
            self.server.fetched += [name] if with_body else []
            self._send((self.server.folder / name).read_bytes(), with_body)
        else:
            self._json({"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, status=404)

    def _json(self, value: object, headers: dict[str, str] | None = None, status: int = 200, with_body: bool = True) -> None:
        self._send(json.dumps(value).encode(), with_body, headers, status)

    def _send(self, content: bytes, with_body: bool, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        named = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT} | (headers or {})
        for name, value in ({"Content-Length": str(len(content))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass
