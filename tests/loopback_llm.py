"""A language model's server on 127.0.0.1: chat completions that follow the prompts of s0, faults on order."""

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-loopback-0123456789abcdef"
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u")]


def invented_sentence(name: str, n_words: int) -> str:
    rng = random.Random(name)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(n_words)]
    return " ".join(words).capitalize() + "."


class LoopbackLLM(ThreadingHTTPServer):
    """Speaks /v1/chat/completions. `fault(number, body)` names what goes wrong with a request, or None."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LoopbackHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.lock = threading.Lock()
        self.bodies: list[dict] = []
        self.arrivals: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.labels: dict[str, int] = {}  # sentences this server wrote -> the label they were asked for
        self.fault = lambda number, body: None
        self.judged_label = lambda sentence, label, body: label
        self.answer_to = None  # a function of the body, for questions that are not those of s0
        self.delay = 0.0
        self.answers_before_the_gate = 10**9  # later requests wait until it is opened
        self.gate = threading.Event()
        self.accepted_formats = {"json_schema", "json_object", "text"}
        self.hang_seconds = 3.0

    def kinds(self) -> Counter:
        return Counter(kind_of(body) for body in self.bodies)


def kind_of(body: dict) -> str:
    return next(kind for kind in ("scenes", "sentences", "judgements") if f'{{"{kind}"' in user_text(body))


def user_text(body: dict) -> str:
    return body["messages"][1]["content"]


class LoopbackHandler(BaseHTTPRequestHandler):
    server: LoopbackLLM
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.arrivals.append(time.monotonic())
            number = len(server.bodies)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            time.sleep(server.delay)
            if number > server.answers_before_the_gate:
                server.gate.wait(60)
            self.answer(body, server.fault(number, body))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.in_flight -= 1

    def answer(self, body: dict, fault: str | None) -> None:
        assert self.path == "/v1/chat/completions"
        if fault is not None and fault[:3].isdigit():
            status, _, code = fault.partition(" ")
            headers = {"Retry-After": code.removeprefix("wait=")} if code.startswith("wait=") else {}
            message = f"went wrong for {self.headers['Authorization']} ({code})"
            self.send(int(status), {"error": {"message": message, "code": code, "param": None}}, headers)
            return
        used = body.get("response_format", {"type": "text"})["type"]
        if used not in self.server.accepted_formats:
            self.send(400, {"error": {"message": f"response_format type {used} is not supported"}})
            return
        if fault == "no temperature" and "temperature" in body:
            error = {"message": "Unsupported value", "param": "temperature", "code": "unsupported_value"}
            self.send(400, {"error": error})
            return
        if fault == "hang":
            time.sleep(self.server.hang_seconds)
        message = {"role": "assistant", "content": json.dumps(self.content(body, fault))}
        finish = "stop"
        if fault == "truncated":
            message["content"] = message["content"][: len(message["content"]) // 2]
        elif fault == "length":
            finish = "length"
        elif fault == "malformed":
            message["content"] = "Sure! Here you are: {sentences: oops}"
        elif fault == "fenced":
            message["content"] = f"Here you are:\n```json\n{message['content']}\n```"
        elif fault == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        elif fault == "echo":
            message["content"] = f"{self.headers['Authorization']} {message['content']}"
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        self.send(200, reply | {"choices": [choice], "usage": usage}, fault=fault)

    def content(self, body: dict, fault: str | None) -> dict:
        if self.server.answer_to is not None:
            return self.server.answer_to(body)
        kind = kind_of(body)
        text = user_text(body)
        if kind == "scenes":
            count = int(re.search(r"Invent (\d+)", text)[1])
            stem = hashlib.sha256(text.encode()).hexdigest()[:4]
            scenes = [
                {"title": f"Scene {stem} {n}", "scene": invented_sentence(f"{stem}-{n}", 15)}
                for n in range(count)
            ]
            return {"scenes": scenes}
        slots = json.loads(text.splitlines()[-1])
        if kind == "judgements":
            items = []
            for slot in slots:
                label = self.server.labels.get(slot["sentence"], 0)
                label = self.server.judged_label(slot["sentence"], label, body)
                items.append({"sentence_id": slot["sentence_id"], "label": label})
            id_key = "sentence_id"
        else:
            label = int(re.search(r"sentence of label (\d)", text)[1])
            items = []
            for slot in slots:
                shortest, longest = map(int, slot["words"].split(" to "))
                rng = random.Random(f"{slot['scenario_id']} {label}")
                sentence = invented_sentence(
                    f"{slot['scenario_id']} {label} {body.get('seed')}", rng.randint(shortest, longest)
                )
                with self.server.lock:
                    self.server.labels[sentence] = label
                items.append(
                    {"scenario_id": slot["scenario_id"], "intended_label": label, "sentence": sentence}
                )
            id_key = "scenario_id"
        if fault == "too few":
            items = items[: len(items) // 2 + 1]
        elif fault == "too many":
            items += [item | {id_key: f"{item[id_key]}-extra"} for item in items]
        elif fault == "duplicates" and kind == "sentences":
            items = [item | {"sentence": items[0]["sentence"]} for item in items]
        elif fault == "repeated":
            items += [item | ({"label": 0} if "label" in item else {}) for item in items]
        elif fault == "wrong ids":
            items = [items[0]] + [item | {id_key: "nobody"} for item in items[1:]]
        elif fault == "wrong types":
            items = [{**items[0], id_key: 7}, {"x": 1}, "text", *items[3:]]
        elif fault == "other list":
            return {"answers": items}
        return {kind: items}

    def send(self, status: int, reply: dict, headers: dict | None = None, fault: str | None = None) -> None:
        payload = json.dumps(reply).encode()
        if fault == "broken body":
            payload = payload[: len(payload) // 2]
        if fault == "html":
            payload = b"<html>gateway</html>"
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "cut":
            self.wfile.write(payload[: len(payload) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(payload)


@contextmanager
def loopback_llm() -> Iterator[LoopbackLLM]:
    """Yield a server that answers until the block ends."""
    with LoopbackLLM() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
