"""A small server on the loopback address that plays doi.org, Zenodo, UCI and a mirror."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import requests

RECORD = "8389554"


class Record:
    """What the server serves and how it misbehaves; counts what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}  # file name to a wrong checksum
        self.cut: dict[str, int] = {}  # file name to the number of transfers that break off
        self.status: dict[str, int] = {}  # path to an HTTP status
        self.asked: list[str] = []

    def listing(self) -> dict:
        return {
            "id": int(RECORD),
            "files": [
                {
                    "key": name,
                    "size": len(content),
                    "checksum": "md5:" + self.checksums.get(name, hashlib.md5(content).hexdigest()),
                    "links": {
                        "self": f"https://zenodo.org/api/records/{RECORD}/files/{name}/content"
                    },
                }
                for name, content in self.files.items()
            ],
        }

    def transfers(self) -> list[str]:
        return [path.split("/")[-2] for path in self.asked if path.endswith("/content")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        record: Record = self.server.record
        path = urlsplit(self.path).path
        record.asked.append(path)
        if path in record.status:
            self.reply(record.status[path], b"no")
        elif path == f"/doi.org/10.5281/zenodo.{RECORD}":
            self.send_response(302)
            self.send_header("Location", f"https://zenodo.org/records/{RECORD}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == f"/zenodo.org/records/{RECORD}":
            self.reply(200, b"<html>the page of the record</html>")
        elif path == f"/zenodo.org/api/records/{RECORD}":
            self.reply(200, json.dumps(record.listing()).encode())
        elif path.startswith(f"/zenodo.org/api/records/{RECORD}/files/"):
            self.send_file(path.split("/")[-2])
        elif path.startswith(("/mirror.example/", "/archive.ics.uci.edu/static/public/")):
            self.send_file(path.split("/")[-1])
        else:
            self.reply(404, b"not here")

    def send_file(self, name: str) -> None:
        record: Record = self.server.record
        if name not in record.files:
            self.reply(404, b"not here")
            return
        content = record.files[name]
        if record.cut.get(name, 0) > 0:
            record.cut[name] -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
        else:
            self.reply(200, content)

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(monkeypatch):
    """Run the server and lead every request to doi.org, zenodo.org, UCI and a mirror to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.record = Record()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    original = requests.adapters.HTTPAdapter.send

    def redirected(self, request, **options):
        # Only the host changes: redirects, the record's API and all of pooch stay as they are.
        address, parts = request.url, urlsplit(request.url)
        assert parts.netloc in ("doi.org", "zenodo.org", "mirror.example", "archive.ics.uci.edu")
        request.url = f"http://127.0.0.1:{server.server_port}/{parts.netloc}{parts.path}"
        options["proxies"] = {}
        response = original(self, request, **options)
        request.url = response.url = address
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", redirected)
    with closing(server.socket):
        yield server.record
        server.shutdown()
    thread.join()
