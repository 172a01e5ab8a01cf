"""An OpenAI-compatible server on this machine that answers by rule, and misbehaves when told to."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Action = Callable[["Handler"], None]
OPENINGS = ("Please work this out:", "Here is something to find out:", "Give the answer to this:", "Say what is asked:")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeEndpoint

    def log_message(self, *arguments: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        self.server.listed += 1
        (self.server.models_action or send_json({"data": [{"id": "good-model"}]}))(self)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(body)
            self.server.times.append(time.monotonic())
        action = self.server.script(number, body)
        action(self)
        with self.server.lock:
            if action.__name__ == "answered":
                self.server.answered[prompt_of(body)] += 1


class FakeEndpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self.headers_seen: list[dict[str, str]] = []
        self.listed = 0
        self.models_action: Action | None = None
        self.script: Callable[[int, dict[str, Any]], Action] = lambda number, body: rewording(body)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the play."""


@contextmanager
def running() -> Iterator[FakeEndpoint]:
    server = FakeEndpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def prompt_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "[picture]") for part in content)


def question_of(prompt: str) -> str:
    return re.search(r"The question:\n(.*?)\n(?:\nThese|\nReply)", prompt, re.DOTALL)[1].strip()  # type: ignore[index]


def rewordings(prompt: str) -> list[str]:
    """As many sound rewordings as are asked for, other ones than those that the prompt names."""
    count = int(re.search(r"in (\d+) other ways", prompt)[1])  # type: ignore[index]
    question = question_of(prompt)
    fresh = [f"{opening} {question}" for opening in OPENINGS if f"- {opening}" not in prompt]
    return fresh[:count]


def send_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Action:
    return send(json.dumps(value), status, headers)


def send(text: str, status: int = 200, headers: dict[str, str] | None = None, length: int | None = None) -> Action:
    def act(handler: Handler) -> None:
        data = text.encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)
        handler.wfile.flush()

    return act


def completion(text: Any, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]
    }


def answer(text: str, finish_reason: str = "stop") -> Action:
    act = send_json(completion(text, finish_reason))

    def answered(handler: Handler) -> None:
        act(handler)

    return answered


def rewording(body: dict[str, Any]) -> Action:
    return answer(json.dumps(rewordings(prompt_of(body))))


def error(status: int, message: str = "no", **headers: str) -> Action:
    return send_json({"error": {"message": message}}, status, {k.replace("_", "-"): v for k, v in headers.items()})


def hang(seconds: float) -> Action:
    return lambda handler: time.sleep(seconds)


def drip(seconds: float) -> Action:
    """A body that comes a byte at a time: each read is quick, the whole takes long."""

    def act(handler: Handler) -> None:
        send("", length=1000)(handler)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    return act


def cut(handler: Handler) -> None:
    """Half of the body, then the end of the connection."""
    text = json.dumps(completion("[]" * 50))
    send(text[:40], length=len(text))(handler)
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """The connection is torn down before any answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())


def in_turn(*actions: Action | None) -> Callable[[int, dict[str, Any]], Action]:
    """The n-th request meets the n-th action, later ones and those at None are answered well."""

    def script(number: int, body: dict[str, Any]) -> Action:
        action = actions[number] if number < len(actions) else None
        return action or rewording(body)

    return script
