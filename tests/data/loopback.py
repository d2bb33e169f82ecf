"""A local HTTP server with scripted failures that counts requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self):
        self.server.asked.append((self.path.lstrip("/"), self.headers.get("Range")))
        answers = self.server.answers
        (answers.pop(0) if answers else whole)(self, self.server.files.get(self.path.lstrip("/")))

    def log_message(self, *args):
        pass

    def head(self, status, length=None, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Loopback(ThreadingHTTPServer):
    """``answers`` are used for the next requests; after that, files are served normally."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


def whole(handler, content):
    """The file or the requested range."""
    if content is None:
        return handler.head(404, 0)
    wanted = handler.headers.get("Range")
    if wanted is None:
        handler.head(200, len(content))
        return handler.wfile.write(content)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        return handler.head(416, 0)
    where = f"bytes {start}-{len(content) - 1}/{len(content)}"
    handler.head(206, len(content) - start, Content_Range=where)
    return handler.wfile.write(content[start:])


def without_ranges(handler, content):
    handler.head(200, len(content))
    handler.wfile.write(content)


def half(handler, content):
    """Announces the full length, sends half, closes the connection."""
    handler.head(200, len(content))
    handler.wfile.write(content[: len(content) // 2])


def half_of_unknown_length(handler, content):
    handler.head(200)
    handler.wfile.write(content[: len(content) // 2])


def wrong_byte(handler, content):
    handler.head(200, len(content))
    handler.wfile.write(content[:-1] + bytes([content[-1] ^ 1]))


def stalled(handler, content):
    """Sends half, then stalls with the connection open."""
    half(handler, content)
    handler.wfile.flush()
    handler.server.closing.wait(30)


def slow(handler, content):
    handler.server.closing.wait(1)
    whole(handler, content)


def status(code):
    return lambda handler, _: handler.head(code, 0)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Loopback]:
    with Loopback() as server:
        server.files.update(files)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
