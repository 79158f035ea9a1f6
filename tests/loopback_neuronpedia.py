"""Neuronpedia's web interface on 127.0.0.1: features, lists of one's own, faults on order."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-np-loopback-0123456789"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    key: str | None
    body: dict | None


def feature_json(model_id: str, source: str, index: str) -> dict:
    """A feature as the server tells it, many fields of which nobody here reads."""
    tokens = [f"▁t{i}" for i in range(40)]
    values = [0.0] * 40
    values[20], values[21] = 7.12345, 3.5
    activation = {"tokens": tokens, "values": values, "maxValue": 7.12345, "maxValueTokenIndex": 20}
    weaker = activation | {"tokens": ["▁weak", "er"], "values": [0, 1.5], "maxValue": 1.5}
    weaker["maxValueTokenIndex"] = 1
    return {
        "modelId": model_id,
        "layer": source,
        "index": index,
        "sourceSetName": "res",
        "frac_nonzero": 0.01,
        "pos_str": ["a"],
        "pos_values": [1.0],
        "model": {"id": model_id, "layers": 26},
        "explanations": [
            {
                "id": "cl1",
                "description": f"telling <b>untruths</b> & worse, number {index}",
                "explanationModelName": "gpt-4o-mini",
                "typeName": "oai_token-act-pair",
                "scores": [{"value": 0.7}],
                "triggeredByUser": None,
            },
            {"id": "cl2", "description": "<script>alert('x')</script>", "explanationModelName": None},
        ],
        # The strongest is not the first, and is there twice.
        "activations": [weaker, activation, activation],
    }


class LoopbackNeuronpedia(ThreadingHTTPServer):
    """`fault(request)` is a status, (status, headers), text to send as it is, or None for the answer due."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[Request] = []
        self.fault = lambda request: None
        self.feature = feature_json
        self.missing: set[str] = set()  # paths below /api/feature/

    def paths(self, method: str = "GET") -> list[str]:
        return [request.path for request in self.requests if request.method == method]


class Handler(BaseHTTPRequestHandler):
    server: LoopbackNeuronpedia
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request(None)

    def do_POST(self) -> None:
        self.handle_request(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def handle_request(self, body: dict | None) -> None:
        request = Request(self.command, self.path, self.headers.get("x-api-key"), body)
        self.server.requests.append(request)
        fault = self.server.fault(request)
        if isinstance(fault, int):
            fault = fault, {}
        if isinstance(fault, tuple):
            self.send(fault[0], {"error": f"no, {request.key}"}, fault[1])
        elif fault is not None:
            self.send(200, fault, {})
        elif match := re.fullmatch(r"/api/feature/(([^/]+)/([^/]+)/(\d+))", self.path):
            if match[1] in self.server.missing:
                self.send(404, {"error": "Not Found"}, {})
            else:
                self.send(200, self.server.feature(*match.groups()[1:]), {})
        elif (self.command, self.path) == ("POST", "/api/list/new-with-features"):
            if request.key != KEY:
                self.send(401, {"message": f"bad key {request.key}"}, {})
            else:
                assert all(isinstance(feature["index"], int) for feature in body["features"])
                number = len(self.server.paths("POST"))
                self.send(
                    200, {"id": "l", "name": body["name"], "url": f"{self.server.address}/list/{number}"}, {}
                )
        else:
            self.send(404, {"error": "Not Found"}, {})

    def send(self, status: int, content: object, headers: dict[str, str]) -> None:
        payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(payload))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)


@contextmanager
def loopback_neuronpedia() -> Iterator[LoopbackNeuronpedia]:
    """Yield a server that answers until the block ends."""
    with LoopbackNeuronpedia() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
