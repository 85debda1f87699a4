"""A hub on 127.0.0.1 that speaks enough of the Hugging Face hub's HTTP interface for tests.

`huggingface_hub`, `transformers` and `datasets` talk to it through HF_ENDPOINT. Repositories
hold commits and branches, every request is logged, and answers go wrong on request. As the real
one does, it sends those who want a large file, or bring one, to a storage server, which is another
host. Who brings something needs a token, any.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Fault = Literal["gated", "forbidden", "bad-token", "error", "cut", "silence"]
Kind = Literal["model", "dataset"]
_API = re.compile(
    r"^/api/(models|datasets)/([^/]+/[^/]+)"
    r"(?:/(revision|tree|paths-info|preupload|commit)/(.+))?$"
)
_BATCH = re.compile(r"^/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
_DISCUSSIONS = re.compile(r"^/api/models/([^/]+/[^/]+)/discussions$")
_IN_STORAGE = (".safetensors", ".bin", ".parquet", ".onnx")
_REFUSALS = {
    "gated": (401, "GatedRepo", "Access to this repository is restricted."),
    "forbidden": (403, "GatedRepo", "You are not in the list of those who may read it."),
    "bad-token": (401, None, "Invalid credentials in Authorization header"),
}
_RESOLVE = re.compile(r"^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass(frozen=True)
class PullRequest:
    number: int
    author: str
    status: str


@dataclass
class Repository:
    """Files by commit, and the commit that each branch points to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)
    private: bool = False

    @property
    def files(self) -> dict[str, bytes]:
        """What its main branch holds."""
        return self.commits[self.branches["main"]]

    def open_pull_request(
        self, files: Mapping[str, bytes], author: str = "SFconvertbot", status: str = "open"
    ) -> str:
        """Add a pull request whose branch holds exactly these files; return its commit."""
        number = len(self.pull_requests) + 1
        self.pull_requests.append(PullRequest(number, author, status))
        return self.commit(files, branch=f"refs/pr/{number}")

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit that holds exactly these files, move the branch to it, return its name."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.branches[branch] = digest
        return digest

    def find(self, revision: str) -> str | None:
        """Return the commit that a revision stands for."""
        revision = unquote(revision)
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class PlannedFault:
    """How answers go wrong."""

    kind: Fault
    pattern: str
    """Of `METHOD path`, as a regular expression."""
    times: int | None = None
    """How many answers; None: all."""


@dataclass(frozen=True)
class LoggedRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    to_storage: bool

    @property
    def is_redirected(self) -> bool:
        """Say whether the file asked for is large: then the hub only tells where it is."""
        return self.path.endswith(_IN_STORAGE) and not self.to_storage


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return a folder's files, by path, as a commit takes them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class LoopbackHub:
    """Repositories, planned faults and the log of one server."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.requests: list[LoggedRequest] = []
        self.uploads: dict[str, bytes] = {}
        self.silence_seconds = 30.0
        self._faults: list[PlannedFault] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server, self._storage = _Server(self), _Server(self, is_storage=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage_endpoint(self) -> str:
        """Where large files are: to clients another host, so no place for the hub's token."""
        return f"http://localhost:{self._storage.server_port}"

    def repository(self, kind: Kind, name: str) -> Repository:
        """Return a repository, made when it is first asked for."""
        return self.repositories.setdefault((kind, name), Repository())

    def plan_fault(self, kind: Fault, pattern: str, times: int | None = None) -> None:
        """Let requests whose `METHOD path` matches `pattern` go wrong, at most `times` times."""
        self._faults.append(PlannedFault(kind, pattern, times))

    def mend(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def forget_requests(self) -> None:
        with self._lock:
            self.requests.clear()

    def paths(self, contains: str = "", method: str = "") -> list[str]:
        """Return the paths asked for that contain a text, by a method."""
        with self._lock:
            return [r.path for r in self.requests if contains in r.path and method in r.method]

    def receive(self, request: LoggedRequest) -> Fault | None:
        """Log a request; return what is to go wrong with its answer."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times == 0:
                    continue
                if fault.kind in ("cut", "silence") and request.is_redirected:
                    continue  # they come with the content, from the storage
                if re.search(fault.pattern, f"{request.method} {request.path}"):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault.kind
        return None

    def keep_silent(self) -> None:
        """Wait, without a word, until the silence or the server ends."""
        self._stopped.wait(self.silence_seconds)

    @contextmanager
    def serving(self) -> Iterator[LoopbackHub]:
        for server in (self._server, self._storage):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop answering; nothing listens on the ports any more."""
        if not self._stopped.is_set():
            self._stopped.set()
            for server in (self._server, self._storage):
                server.shutdown()
                server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: LoopbackHub, *, is_storage: bool = False) -> None:
        self.hub, self.is_storage = hub, is_storage
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing on stderr: requests are logged for the tests."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self) -> None:
        self.hub = self.server.hub
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        self.body = self.content.decode(errors="replace")
        path = urlsplit(self.path).path
        self.logged = LoggedRequest(
            self.command, path, dict(self.headers), to_storage=self.server.is_storage
        )
        self.fault = self.hub.receive(self.logged)
        if self.fault == "silence":
            self.hub.keep_silent()
            self.close_connection = True
        elif self.fault == "error":
            self._answer(500, b"Internal Server Error")
        elif self.fault in _REFUSALS:
            self._refuse(*_REFUSALS[self.fault])
        else:
            self._route(path)

    def _route(self, path: str) -> None:
        if self._brings(path):
            return
        if found := _RESOLVE.match(path):
            dataset, name, revision, file = found.groups()
            self._with_commit("dataset" if dataset else "model", name, revision, self._file, file)
        elif found := _DISCUSSIONS.match(path):
            self._discussions(found[1])
        elif found := _API.match(path):
            plural, name, action, rest = found.groups()
            kind: Kind = "dataset" if plural == "datasets" else "model"
            revision, _, folder = (rest or "main").partition("/")
            answers = {"tree": self._tree, "paths-info": self._paths_info}
            self._with_commit(kind, name, revision, answers.get(action, self._info), folder, name)
        else:
            self._refuse(404, "NotFound", "Not found")

    # --- what clients bring ---------------------------------------------------------------------

    def _brings(self, path: str) -> bool:
        """Answer a request that brings something; say whether it is one."""
        found = _API.match(path)
        action = found[3] if found else None
        if self.server.is_storage and self.command == "PUT":
            self.hub.uploads[path.rpartition("/")[2]] = self.content
            self._answer(200, b"")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create" or _BATCH.match(path) or action in ("preupload", "commit"):
            if not self.headers.get("Authorization"):
                self._refuse(401, None, "Invalid username or password.")
            elif path == "/api/repos/create":
                self._create(json.loads(self.body))
            elif found is None:
                self._batch(json.loads(self.body))
            else:
                kind: Kind = "dataset" if found[1] == "datasets" else "model"
                self._preupload() if action == "preupload" else self._commit(kind, found[2])
        else:
            return False
        return True

    def _create(self, asked: dict[str, Any]) -> None:
        kind: Kind = asked.get("type") or "model"
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repositories:
            self._refuse(409, None, "You already created this repo")
            return
        made = self.hub.repository(kind, name)
        made.private = asked.get("visibility") == "private"
        made.commit({".gitattributes": b""})
        self._json({"url": url, "name": name})

    def _preupload(self) -> None:
        told = [
            {
                "path": file["path"], "shouldIgnore": False, "oid": None,
                "uploadMode": "lfs" if file["path"].endswith(_IN_STORAGE) else "regular",
            }
            for file in json.loads(self.body)["files"]
        ]  # fmt: skip
        self._json({"files": told})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            one | {"actions": {"upload": {"href": f"{self.hub.storage_endpoint}/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, kind: Kind, name: str) -> None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
            return
        files = dict(repository.files)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        commit = repository.commit(files)
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        self._json({"commitUrl": f"{url}/commit/{commit}", "commitOid": commit})

    # --- what clients want ----------------------------------------------------------------------

    def _with_commit(
        self, kind: Kind, name: str, revision: str, answer: Any, *arguments: str
    ) -> None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:  # as the hub does for those who are not logged in
            self._refuse(404, "RepoNotFound", "Repository not found")
            return
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        answer(repository.commits[commit], commit, *arguments)

    def _discussions(self, name: str) -> None:
        """List pull requests; who asks for one author's gets those of others, too."""
        repository = self.hub.repositories.get(("model", name))
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
            return
        told = [
            {
                "num": request.number, "title": "Adding `safetensors` variant of this model",
                "author": {"name": request.author}, "status": request.status,
                "isPullRequest": True, "createdAt": "2023-03-01T00:00:00.000Z",
                "repo": {"name": name, "type": "model"},
            }
            for request in repository.pull_requests
        ]  # fmt: skip
        self._json({"discussions": told, "count": len(told), "start": 0})

    def _info(self, files: dict[str, bytes], commit: str, folder: str, name: str) -> None:
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in files]
        if "blobs=true" in self.path.lower():
            for sibling in siblings:
                entry = _entry(sibling["rfilename"], files[sibling["rfilename"]])
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
        private = any(
            commit in one.commits and one.private
            for (_, known), one in self.hub.repositories.items()
            if known == name
        )
        about = {"_id": "0", "id": name, "sha": commit, "tags": [], "private": private}
        self._json({**about, "siblings": siblings})

    def _tree(self, files: dict[str, bytes], commit: str, folder: str, name: str) -> None:
        prefix = f"{unquote(folder)}/" if folder else ""
        below = [path for path in files if path.startswith(prefix)]
        if not below:
            self._refuse(404, "EntryNotFound", "Folder not found", commit)
            return
        recursive = "recursive=true" in self.path.lower()
        folders = {
            prefix + "/".join(parts[:depth])
            for path in below
            for parts in [path[len(prefix) :].split("/")]
            for depth in range(1, len(parts))
        }
        if not recursive:
            below = [path for path in below if "/" not in path[len(prefix) :]]
            folders = {path for path in folders if "/" not in path[len(prefix) :]}
        self._json([*map(_folder_entry, sorted(folders)), *(_entry(p, files[p]) for p in below)])

    def _paths_info(self, files: dict[str, bytes], commit: str, folder: str, name: str) -> None:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        else:
            pairs = (pair.partition("=") for pair in self.body.split("&"))
            wanted = [unquote(value.replace("+", " ")) for key, _, value in pairs if key == "paths"]
        entries = [_entry(path, files[path]) for path in wanted if path in files]
        folders = [p for p in wanted if p and any(file.startswith(f"{p}/") for file in files)]
        self._json([*entries, *map(_folder_entry, folders)])

    def _file(self, files: dict[str, bytes], commit: str, file: str) -> None:
        content = files.get(unquote(file))
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if self.logged.is_redirected:
            place = f"{self.hub.storage_endpoint}{self.path}"
            self._answer(302, b"", {**headers, "Location": place})
            return
        start, status = 0, 200
        if asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(asked.group(1)), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(status, content[start:], headers, cut_at=len(content) // 2 - start)

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(
        self, status: int, code: str | None, message: str, commit: str | None = None
    ) -> None:
        headers = {"X-Error-Message": message}
        if code is not None:
            headers["X-Error-Code"] = code
        if commit is not None:
            headers["X-Repo-Commit"] = commit
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(
        self,
        status: int,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        cut_at: int = 0,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(ConnectionError):  # the client may have given up
            if self.fault == "cut":
                self.wfile.write(content[: max(0, cut_at)])
                self.wfile.flush()
                time.sleep(0.05)
                self._reset_connection()
            else:
                self.wfile.write(content)

    def _reset_connection(self) -> None:
        """End the connection at once, as a network that goes away does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def _entry(path: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": digest}


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
