"""A stand-in for W&B's server on loopback, which speaks as much of its protocol as the SDK asks for.

GraphQL is answered by the names of fields and of their arguments, which stay the same from version to version while
operations and variables are renamed; an answer holds more than was asked for.
"""

import base64
import gzip
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import quote, unquote

import yaml

Json = dict[str, Any]

ENTITY = {"id": "someone", "name": "someone"}
PROJECT = {"id": "project", "name": "project", "entity": ENTITY, "artifact": None, "artifactType": None}
VIEWER = {**ENTITY, "entity": "someone", "username": "someone", "email": "", "flags": "{}", "teams": {"edges": []}}


@dataclass
class Run:
    """What the server was sent of a run."""

    name: str  # GraphQL's word for its id
    lines: dict[int, Json] = field(default_factory=dict)  # of the history, by number
    summary: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    properties: Json = field(default_factory=dict)  # modelName (its project), displayName, groupName, tags, jobType, …
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None  # of the process that ended it last

    @property
    def rows(self) -> list[Json]:
        """The history, in the order of its lines."""
        return [row for _, row in sorted(self.lines.items())]

    def bucket(self) -> Json:
        """The run as GraphQL describes it."""
        steps, lines = [row["_step"] for row in self.rows], [json.dumps(row) for row in self.rows]
        return {
            **{"displayName": self.name, "description": "", "notes": "", "tags": [], "state": "", **self.properties},
            **{"id": f"id:{self.name}", "name": self.name, "sweepName": self.properties.get("sweep")},
            **{"project": {**PROJECT, "name": self.properties.get("modelName")}, "wandbConfig": '{"t": 1}'},
            **{"config": json.dumps(self.config), "summaryMetrics": json.dumps(self.summary)},
            **{"historyLineCount": len(lines), "historyTail": json.dumps(lines[-1:]), "history": lines},
            **{"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"},
            **{"historyKeys": {"lastStep": max(steps, default=-1)}},
            **{"parquetHistory": {"parquetUrls": [], "liveData": [{"_step": step} for step in steps]}},
        }


@dataclass
class Artifact:
    """A version of an artifact."""

    name: str
    aliases: set[str]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class WandbServer(ThreadingHTTPServer):
    """Keeps what the SDK sends, for tests to read, unless they set a ``refusal`` or that it ``hangs``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": self.url, "WANDB_API_KEY": 40 * "f"}
        self.refusal, self.hangs = 0, False  # the status of every answer; whether none ever comes
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}  # by id, oldest first
        self.sweeps: dict[str, Json] = {}  # their configurations
        self.errors: list[str] = []  # requests that the stand-in can't answer
        self.lock, self._numbers = threading.Lock(), count(1)
        self._tried: set[str] = set()  # sweeps that have had their trial
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(error := sys.exception(), ConnectionError):  # as of a process that has ended
            self.errors.append(repr(error))

    def artifact(self, name: str, alias: str) -> Artifact:
        """The newest version of an artifact that was given an alias."""
        return [found for found in self.artifacts.values() if found.name == name and alias in found.aliases][-1]

    def answer(self, query: str, variables: Json) -> Json:
        """The data that a GraphQL query asks for."""
        data: Json = {"viewer": VIEWER, "serverInfo": {"features": []}}
        for name, arguments in re.findall(r"(\w+)\s*\(([^()]*)\)\s*{", query):
            given = {key: variables.get(value) for key, value in re.findall(r"(\w+)\s*:\s*\$(\w+)", arguments)}
            if method := getattr(self, "on_" + re.sub("([A-Z])", r"_\1", name).lower(), None):
                data[name] = method(given.get("input") or given)
        inner = {**PROJECT, **{name: data.get(name) for name in ("bucket", "run", "sweep")}}
        return {**data, "model": inner, "project": inner}

    def on_bucket(self, given: Json) -> Json | None:
        return self.runs[given["name"]].bucket() if given["name"] in self.runs else None

    on_run = on_bucket

    def on_upsert_bucket(self, given: Json) -> Json:
        name = given.get("name") or given["id"].removeprefix("id:")
        inserted, run = name not in self.runs, self.runs.setdefault(name, Run(name))
        run.config |= json.loads(given.get("config") or "{}")
        run.summary |= json.loads(given.get("summaryMetrics") or "{}")
        run.properties |= {key: value for key, value in given.items() if value is not None}
        return {"bucket": run.bucket(), "inserted": inserted}

    def on_create_run_files(self, given: Json) -> Json:
        files = [self._upload("runs", given["runName"], name) for name in given["files"]]
        return {"runID": f"id:{given['runName']}", "uploadHeaders": [], "files": files}

    def on_create_artifact(self, given: Json) -> Json:
        key, name = f"artifact{next(self._numbers)}", given["artifactCollectionName"]
        self.artifacts[key] = Artifact(name, {alias["alias"] for alias in given.get("aliases") or []})
        return {"artifact": {"id": key, "state": "PENDING", "artifactSequence": {"id": name, "latestArtifact": None}}}

    def on_create_artifact_manifest(self, given: Json) -> Json:
        key = given["artifactID"]
        return {"artifactManifest": {"id": key, "file": self._upload("artifacts", key, "manifest")}}

    def on_create_artifact_files(self, given: Json) -> Json:
        uploads = [self._upload("artifacts", file["artifactID"], file["name"]) for file in given["artifactFiles"]]
        return {"files": {"edges": [{"node": upload} for upload in uploads]}}

    def on_commit_artifact(self, given: Json) -> Json:
        self.artifacts[given["artifactID"]].committed = True
        return {"artifact": {"id": given["artifactID"], "digest": ""}}

    def on_upsert_sweep(self, given: Json) -> Json:
        name = f"sweep{next(self._numbers)}"
        self.sweeps[name] = yaml.safe_load(given["config"])
        return {"sweep": {"id": name, "name": name, "project": {**PROJECT, "name": given["projectName"]}}}

    def on_sweep(self, given: Json) -> Json:
        name = given["sweepName"]
        return {"id": name, "name": name, "config": yaml.safe_dump(self.sweeps[name]), "runs": {"edges": []}}

    def on_create_agent(self, given: Json) -> Json:
        return {"agent": {"id": given["sweep"]}}

    def on_agent_heartbeat(self, given: Json) -> Json:
        """Commands one trial of a sweep, with every parameter's first value, and to exit once it has ended."""
        name, commands = given["id"], [{"type": "exit"}] if given["runState"] == "{}" else []
        if name not in self._tried:
            self._tried.add(name)
            parameters: Json = self.sweeps[name]["parameters"]
            args = {key: {"value": [*of.get("values", []), of.get("min")][0]} for key, of in parameters.items()}
            commands = [{"type": "run", "run_id": f"trial-{name}", "program": "lightning", "args": args}]
        return {"agent": {"id": name}, "commands": json.dumps(commands)}

    def _upload(self, kind: str, key: str, name: str) -> Json:
        upload = {"uploadUrl": f"{self.url}/{kind}/{quote(key, safe='')}/{quote(name)}", "uploadHeaders": []}
        return {**upload, "id": name, "name": name, "storagePath": name, "artifact": {"id": key}}

    def stream(self, run: Run, sent: Json) -> Json:
        """Takes a request of the file stream: lines of files from a number on, and how the run ended."""
        files = sent.get("files") or {}
        if part := files.get("wandb-history.jsonl"):
            run.lines |= enumerate(map(json.loads, part["content"]), part["offset"])
        if part := files.get("wandb-summary.json"):
            run.summary = json.loads(part["content"][-1])
        run.exit_code = sent.get("exitcode", run.exit_code)
        return {}


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the server."""

    server: WandbServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sent, server = json.loads(self._body()), self.server
        key = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).partition(b":")[2]
        if server.hangs:
            threading.Event().wait()
        with server.lock:
            if server.refusal or len(key) < 40:
                self._reply({"errors": [{"message": "refused"}]}, server.refusal or 401)
            elif self.path == "/graphql":
                self._reply({"data": server.answer(sent["query"], sent.get("variables") or {})})
            else:  # /files/ENTITY/PROJECT/RUN/file_stream
                self._reply(server.stream(server.runs[self.path.split("/")[-2]], sent))

    def do_PUT(self) -> None:
        _, kind, key, name = map(unquote, self.path.split("/", 3))
        kept = self.server.runs if kind == "runs" else self.server.artifacts
        kept[key].files[name] = self._body()
        self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: Json, status: int = 200) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
