"""Bodies are whole however they arrive, and connections are used again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from zoo.transfer.body import LEAST_BYTES, PIECE_BYTES, pieces

DATA = bytes(range(256)) * 5_000


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.send_response(200)
        match self.path:
            case "/whole":
                self.send_header("Content-Length", str(len(DATA)))
                self.end_headers()
                self.wfile.write(DATA)
            case "/chunked":
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for start in range(0, len(DATA), 70_000):
                    part = DATA[start : start + 70_000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            case "/slow":
                self.send_header("Content-Length", str(len(DATA)))
                self.end_headers()
                for start in range(0, len(DATA), LEAST_BYTES):
                    self.wfile.write(DATA[start : start + LEAST_BYTES])
                    self.wfile.flush()
                    time.sleep(0.005)
            case "/empty":
                self.send_header("Content-Length", "0")
                self.end_headers()
            case _:
                self.send_header("Content-Length", str(len(DATA)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(DATA[:100_000])
                self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def server() -> Iterator[str]:
    Answers.connections = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{hub.server_address[1]}"
        finally:
            hub.shutdown()
            thread.join()


def body(session: requests.Session, url: str) -> list[bytes]:
    with session.get(url, stream=True) as response:
        return [bytes(piece) for piece in pieces(response)]


def test_bodies_of_every_form_are_whole_and_share_a_connection() -> None:
    with server() as hub, requests.Session() as session:
        for path in ("whole", "chunked", "empty", "whole"):
            found = body(session, f"{hub}/{path}")
            assert b"".join(found) == (b"" if path == "empty" else DATA), path
            assert max(map(len, found), default=0) <= PIECE_BYTES
        assert Answers.connections == 1


def test_what_comes_slowly_is_kept_soon() -> None:
    with server() as hub, requests.Session() as session:
        found = body(session, f"{hub}/slow")
    assert b"".join(found) == DATA
    # A moment brings at most four or eight of the server's parts.
    assert len(found) > len(DATA) / (10 * LEAST_BYTES)


def test_what_came_before_the_end_is_given() -> None:
    with server() as hub, requests.Session() as session:
        assert b"".join(body(session, f"{hub}/broken")) == DATA[:100_000]


@pytest.mark.parametrize("path", ["whole", "chunked"])
def test_a_body_of_another_library_is_copied(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as hub, requests.Session() as session, session.get(f"{hub}/{path}", stream=True) as response:
        monkeypatch.setattr("zoo.transfer.body.http.client.HTTPResponse", type("Other", (), {}))
        assert b"".join(bytes(piece) for piece in pieces(response)) == DATA
