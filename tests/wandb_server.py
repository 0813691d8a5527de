"""A stand-in for W&B's server on loopback, which speaks as much of its protocol as the SDK asks for.

GraphQL is answered by the names of fields and their arguments, which stay the same from version to version while
operations and variables are renamed; an answer holds more than was asked for.
"""

import base64
import contextlib
import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import quote, unquote

import yaml

KEY = "0123456789abcdef" * 3
"""An API key of the expected form, as any of 40 characters or more is."""

PROJECT = {"id": "project", "name": "project", "entity": {"id": "someone", "name": "someone"}}


@dataclass
class Run:
    """What the server was sent of a run."""

    id: str
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the history, by their number
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)  # displayName, groupName, tags, notes, jobType, sweep, …
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None  # of the process that ended it last

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the history, in the order that the server shows them in."""
        return [row for _, row in sorted(self.lines.items())]

    def bucket(self) -> dict[str, Any]:
        """The run as GraphQL describes it."""
        tail = [json.dumps(row) for row in self.rows[-1:]]
        return {
            **{"id": f"id of {self.id}", "name": self.id, "description": "", "displayName": self.id, "tags": []},
            **{key: value for key, value in self.properties.items() if value is not None},
            **{"project": PROJECT, "sweepName": self.properties.get("sweep"), "eventsLineCount": 0, "logLineCount": 0},
            **{"historyLineCount": len(self.lines), "historyTail": json.dumps(tail), "eventsTail": "[]"},
            **{"config": json.dumps(self.config), "summaryMetrics": json.dumps(self.summary)},
            "wandbConfig": '{"t": 1}',  # of a run that had started
        }


@dataclass
class Artifact:
    """One version of an artifact."""

    id: str
    name: str
    run: str | None
    aliases: set[str]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class WandbServer(ThreadingHTTPServer):
    """Accepts what the SDK sends and keeps it.

    Set ``failing`` to a status, with which all requests are then answered, or to ``"hangs"``: none is answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.unknown: list[str] = []  # queries that were not understood
        self.failing: int | str | None = None
        self.lock, self.closing = threading.RLock(), threading.Event()
        self._trials, self._ids = {}, count(1)  # trials by agent
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def artifact(self, name: str, alias: str) -> Artifact:
        """The version of an artifact that bears an alias."""
        return next(found for found in self.artifacts.values() if found.name == name and alias in found.aliases)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data that a GraphQL query asks for."""
        data: dict[str, Any] = {}
        for name, arguments in re.findall(r"(\w+)\s*(?:\(([^()]*)\))?\s*{", query):
            if (method := getattr(self, f"_{name}", None)) and name not in data:
                given = {key: variables.get(value) for key, value in re.findall(r"(\w+)\s*:\s*\$(\w+)", arguments)}
                data[name] = method(given | (given.pop("input", None) or {}))
        if not data and "project" not in query:
            self.unknown.append(query)
        # Fields of other fields: here they stand beside them as well.
        parent = {"bucket": data.get("bucket"), "run": data.get("bucket"), "sweep": data.get("sweep"), **PROJECT}
        return {"model": parent, "project": {**parent, "artifact": None, "artifactType": None}, **data}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        named = dict.fromkeys(("id", "entity", "username", "name", "email"), "someone")
        return {**named, "flags": "{}", "teams": {"edges": []}, "apiKeys": {"edges": []}}

    def _serverInfo(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"features": [], "cliVersionInfo": {"max_cli_version": "99"}, "latestLocalVersionInfo": None}

    def _entity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"xxhashDigestsEnabled": False, "organization": None}

    def _bucket(self, given: dict[str, Any]) -> dict[str, Any] | None:
        run = self.runs.get(given.get("name", ""))
        return run and run.bucket()

    def _upsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        id = given.get("name") or given["id"].removeprefix("id of ")
        inserted = id not in self.runs
        run = self.runs.setdefault(id, Run(id))
        run.config |= json.loads(given.pop("config", None) or "{}")
        run.summary |= json.loads(given.pop("summaryMetrics", None) or "{}")
        run.properties |= {
            key: value for key, value in given.items() if value is not None and key not in ("id", "name")
        }
        return {"bucket": run.bucket(), "inserted": inserted}

    def _rewindRun(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[given["runName"]]
        run.lines = {number: row for number, row in run.lines.items() if row["_step"] <= given["metricValue"]}
        return {"rewoundRun": run.bucket()}

    def _createRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": self._place("run", given["runName"], name)} for name in given["files"]]
        return {"runID": f"id of {given['runName']}", "uploadHeaders": [], "files": files}

    def _markRunFilesUploaded(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"success": True}

    def _createArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        id, names = f"artifact-{next(self._ids)}", given.get("artifactCollectionNames") or []
        aliases = {alias["alias"] for alias in given.get("aliases") or []} | {"latest"}
        name = given.get("artifactCollectionName") or names[0]
        self.artifacts[id] = Artifact(id, name, given.get("runName"), aliases)
        return {"artifact": {"id": id, "state": "PENDING", "artifactSequence": {"id": name, "latestArtifact": None}}}

    def _createArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = self._place("artifact", given["artifactID"], "manifest")
        file = {"id": "manifest", "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": given["artifactID"], "file": file}}

    def _updateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return self._createArtifactManifest({"artifactID": given["artifactManifestID"]})

    def _createArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in given["artifactFiles"]:
            url = self._place("artifact", file["artifactID"], file["name"])
            node = {"name": file["name"], "storagePath": file["name"], "uploadUrl": url, "uploadHeaders": []}
            nodes.append({"node": {**node, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"files": {"edges": nodes}}

    def _commitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[given["artifactID"]]
        for other in self.artifacts.values():
            if other is not artifact and other.name == artifact.name:
                other.aliases -= artifact.aliases
        artifact.committed = True
        return {"artifact": {"id": artifact.id, "digest": "digest"}}

    def _upsertSweep(self, given: dict[str, Any]) -> dict[str, Any]:
        name = f"sweep{next(self._ids)}"
        self.sweeps[name] = yaml.safe_load(given["config"])
        return {"sweep": {"id": name, "name": name, "project": PROJECT}, "configValidationWarnings": []}

    def _sweep(self, given: dict[str, Any]) -> dict[str, Any] | None:
        if (name := given.get("sweepName")) not in self.sweeps:
            return None
        config = yaml.safe_dump(self.sweeps[name])
        return {"id": name, "name": name, "state": "RUNNING", "config": config, "runs": {"edges": []}}

    def _createAgent(self, given: dict[str, Any]) -> dict[str, Any]:
        agent = f"agent{next(self._ids)}"
        self._trials[agent] = given["sweep"]
        return {"agent": {"id": agent}}

    def _agentHeartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        """Commands one trial, with the first value of every parameter, and to exit when it has ended."""
        commands, running = [], json.loads(given["runState"])
        if sweep := self._trials.pop(given["id"], None):
            config = self.sweeps[sweep]
            first = {
                name: [*of.get("values", ()), of.get("value", of.get("min"))][0]
                for name, of in config["parameters"].items()
            }
            trial = {
                "program": config.get("program"),
                "args": {name: {"value": value} for name, value in first.items()},
            }
            commands.append({"type": "run", "run_id": f"trial{next(self._ids)}", **trial})
        elif not running:
            commands.append({"type": "exit"})
        return {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}

    def _place(self, kind: str, id: str, name: str) -> str:
        return f"{self.url}/store/{kind}/{quote(id, safe='')}/{quote(name)}"

    def stream(self, id: str, sent: dict[str, Any]) -> None:
        """Takes what the file stream sends: lines by their number, and how the run ended."""
        run = self.runs[id]
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.lines |= enumerate(map(json.loads, part["content"]), part["offset"])
            elif name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
            elif name == "output.log":
                run.files[name] = run.files.get(name, b"") + "\n".join(part["content"]).encode()
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


class Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        _, _, key = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).partition(b":")
        if self.server.failing == "hangs":
            self.server.closing.wait()
        elif status := self.server.failing or (0 if len(key) >= 40 else 401):
            self._reply({"errors": [{"message": "refused"}]}, status)
        elif self.path == "/graphql":
            sent = json.loads(body)
            with self.server.lock:
                self._reply({"data": self.server.answer(sent["query"], sent.get("variables") or {})})
        else:
            with self.server.lock:
                self.server.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({})

    def do_PUT(self) -> None:
        _, _, kind, id, name = map(unquote, self.path.split("/", 4))
        kept = self.server.runs if kind == "run" else self.server.artifacts
        kept[id].files[name] = self._body()
        self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: dict[str, Any], status: int = 200) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # of a process that ended, or was killed
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
