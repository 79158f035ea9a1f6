"""A small hub on 127.0.0.1: resolve, metadata headers, redirects, ranges, access rules, faults on order."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from hub.encoder_cache import sae_repository
from huggingface_hub import constants

READER, STRANGER = "hf_reader", "hf_stranger"  # accounts with and without access to gated repositories
LARGE = (".npz", ".safetensors")  # stored outside git: the hub redirects to its storage host


@dataclass
class Repository:
    folder: Path
    commit: str = "c0ffee" + "0" * 34
    access: str = "open"  # or "gated", "private"

    def files(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())


@dataclass(frozen=True)
class Request:
    """One request as the server saw it; `sent` counts bytes of the body."""

    host: str  # "hub" or "storage"
    method: str
    path: str
    range: str | None
    authorized: bool
    status: int
    sent: int


@dataclass
class Fault:
    """What the next `times` requests get whose host, method and path match, instead of the answer due."""

    path: str
    host: str = "hub"
    method: str = "GET"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    times: int = 10**6


class LoopbackHub:
    """Use as a context manager; `endpoint` is what HF_ENDPOINT takes."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.ignores_ranges = False
        self._lock = threading.Lock()
        self._servers = {}
        for host in ("hub", "storage"):
            handler = type("Handler", (_Handler,), {"hub": self, "host": host})
            self._servers[host] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            self._servers[host].daemon_threads = True

    def __enter__(self) -> "LoopbackHub":
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def address(self, host: str) -> str:
        return f"http://127.0.0.1:{self._servers[host].server_port}"

    @property
    def endpoint(self) -> str:
        return self.address("hub")

    def bytes_sent(self, *endings: str) -> int:
        """Return the bytes sent for files with these endings, `.npz` for example."""
        return sum(r.sent for r in self.requests if r.path.endswith(endings))

    def fault(self, host: str, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and (fault.host, fault.method) == (host, method) and fault.path in path:
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub
    host: str

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass

    def answer(self):
        path = unquote(self.path.partition("?")[0])
        fault = self.hub.fault(self.host, self.command, path)
        if fault and fault.status:
            self.reply(fault.status, fault.headers, b"")
        elif self.host == "storage":
            self.send_file(Path(path), {}, fault)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups(), fault)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self.api(*match.groups())
        else:
            self.reply(404, {}, b'{"error":"Not Found"}')

    def refused(self, repo_id: str, revision: str) -> bool:
        """Answer as the hub does where a repository or revision is not to be had; return whether it did."""
        repository = self.hub.repositories.get(repo_id)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (READER, STRANGER):
            self.error(401, "Invalid credentials in Authorization header")
        elif repository is None or (repository.access == "private" and token != READER):
            if token:
                self.error(404, "Repository not found", "RepoNotFound")
            else:
                self.error(401, "Invalid username or password.")
        elif repository.access == "gated" and not token:
            self.error(401, f"Access to model {repo_id} is restricted.", "GatedRepo")
        elif repository.access == "gated" and token != READER:
            self.error(
                403, f"Access to model {repo_id} is restricted and you are not in the list.", "GatedRepo"
            )
        elif revision not in ("main", repository.commit):
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        else:
            return False
        return True

    def resolve(self, repo_id: str, revision: str, name: str, fault: Fault | None):
        if self.refused(repo_id, revision):
            return
        repository = self.hub.repositories[repo_id]
        commit = {"X-Repo-Commit": repository.commit}
        file = repository.folder / name
        if not file.is_file():
            self.error(404, "Entry not found", "EntryNotFound", commit)
            return
        etag = f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"'
        if name.endswith(LARGE):
            size = str(file.stat().st_size)
            place = {"Location": self.hub.address("storage") + str(file)}
            self.reply(302, commit | place | {"X-Linked-Etag": etag, "X-Linked-Size": size}, b"")
        else:
            self.send_file(file, commit | {"ETag": etag}, fault)

    def api(self, repo_id: str, kind: str | None, revision: str | None):
        if self.refused(repo_id, revision or "main"):
            return
        repository = self.hub.repositories[repo_id]
        if kind == "tree":
            sizes = {name: (repository.folder / name).stat().st_size for name in repository.files()}
            content = [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in sizes.items()]
        else:
            siblings = [{"rfilename": name} for name in repository.files()]
            content = {"id": repo_id, "modelId": repo_id, "sha": repository.commit, "siblings": siblings}
            content |= {"private": repository.access == "private", "tags": [], "downloads": 0, "likes": 0}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def send_file(self, file: Path, headers: dict[str, str], fault: Fault | None):
        body, status = file.read_bytes(), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not self.hub.ignores_ranges:
            start, stop = int(wanted[1]), min(int(wanted[2] or len(body) - 1) + 1, len(body))
            headers = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
            body, status = body[start:stop], 206
        self.reply(status, headers, body, fault.cut_after if fault else None)

    def error(self, status: int, message: str, code: str | None = None, headers: dict | None = None):
        known = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        self.reply(status, known, json.dumps({"error": message}).encode())

    def reply(self, status: int, headers: dict[str, str], body: bytes, cut_after: int | None = None):
        sent = 0 if self.command == "HEAD" else len(body if cut_after is None else body[:cut_after])
        self.hub.requests.append(
            Request(
                self.host,
                self.command,
                unquote(self.path.partition("?")[0]),
                self.headers.get("Range"),
                "Authorization" in self.headers,
                status,
                sent,
            )
        )
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        if cut_after is not None:
            self.close_connection = True


@contextmanager
def talking_to_loopback(monkeypatch, folder: Path) -> Iterator[LoopbackHub]:
    """Yield a hub to which this process talks, with no token and with empty caches below `folder`."""
    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("TRAIT_TRACING_CACHE", str(folder / "ours"))
        sae_repository.cache_clear()
        yield hub
        sae_repository.cache_clear()
