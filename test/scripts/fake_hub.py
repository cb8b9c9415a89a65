"""A small Hugging Face hub on loopback for tests: its API, files of git itself, and large files on another port, as a
hub's content servers are. It remembers every request, and a test may have it misbehave for a file or for a while."""
import collections
import hashlib
import http.server
import json
import socket
import struct
import threading
import urllib.parse

MODEL = "maker/tiny-moe"
COMMIT = "5eed" * 10
Request = collections.namedtuple("Request", "server path file range authorization")


class FakeHub:
    """files: name → bytes; weights are LFS files. A context manager."""

    def __init__(self, files):
        self.files = dict(files)
        self.commit = COMMIT
        self.token = None  # what it wants of who asks for anything
        self.refusals = []  # (status, headers) of the next answers of the API
        self.tricks = {}  # file → f(handler, data, range or None): answers instead
        self.changed = {}  # file → fields of its entry in the list that are other than they should be
        self.more_siblings = []
        self.requests = []
        self.lock = threading.Lock()
        self.in_flight = self.in_flight_max = 0

    def __enter__(self):
        self.servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        for name, server in zip(("hub", "cdn"), self.servers):
            server.name, server.fake = name, self
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def is_lfs(self, name):
        return name.endswith((".safetensors", ".gguf", ".bin"))

    def listing(self):
        siblings = []
        for name, data in self.files.items():
            entry = {"rfilename": name, "size": len(data)}
            if self.is_lfs(name):
                entry["blobId"] = hashlib.sha1(name.encode()).hexdigest()  # a pointer's, not the content's
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append(entry | self.changed.get(name, {}))
        return {"id": MODEL, "sha": self.commit, "siblings": siblings + self.more_siblings}

    def asked_for(self, name):
        """The ranges of the requests that were to bring bytes of a file; None: without a range."""
        return [r.range for r in self.requests if r.file == name]

    def files_asked_for(self):
        return {r.file for r in self.requests if r.file}


class Handler(http.server.BaseHTTPRequestHandler):
    timeout = 60

    def do_GET(self):
        fake, path = self.server.fake, urllib.parse.urlsplit(self.path).path
        content = path.removeprefix(f"/api/resolve-cache/{MODEL}/{fake.commit}/").removeprefix("/blob/")
        content = urllib.parse.unquote(content) if content != path else None
        bounds = None
        if self.headers["Range"]:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            bounds = int(first), int(last) + 1
        authorization = self.headers["Authorization"]
        with fake.lock:
            fake.requests.append(Request(self.server.name, self.path, content, bounds, authorization))
        if self.server.name == "cdn" and authorization:
            return self.head(400)  # as signed addresses do
        if self.server.name == "hub" and fake.token and authorization != f"Bearer {fake.token}":
            return self.head(401, {"X-Error-Code": "GatedRepo"})
        if content is not None:
            return self.content(fake, content, bounds)
        if path.startswith("/api/"):
            return self.api(fake, path)
        prefix = f"/{MODEL}/resolve/{fake.commit}/"
        name = urllib.parse.unquote(path.removeprefix(prefix))
        if not path.startswith(prefix) or name not in fake.files:
            return self.head(404, {"X-Error-Code": "EntryNotFound"})
        if fake.is_lfs(name):
            return self.head(302, {"Location": f"{fake.cdn}/blob/{name}?signature=s3cret"})
        return self.head(307, {"Location": f"/api/resolve-cache/{MODEL}/{fake.commit}/{name}"})

    def api(self, fake, path):
        if fake.refusals:
            return self.head(*fake.refusals.pop(0))
        if path not in (f"/api/models/{MODEL}/revision/{r}" for r in ("main", "v1.0", "refs%2Fpr%2F1", fake.commit)):
            return self.head(404, {"X-Error-Code": "RepoNotFound"})
        text = json.dumps(fake.listing()).encode()
        self.head(200, {"Content-Length": len(text)})
        self.wfile.write(text)

    def content(self, fake, name, bounds):
        with fake.lock:
            fake.in_flight += 1
            fake.in_flight_max = max(fake.in_flight_max, fake.in_flight)
        try:
            (fake.tricks.get(name) or Handler.send)(self, fake.files[name], bounds)
        except OSError:
            pass  # the client has gone
        finally:
            with fake.lock:
                fake.in_flight -= 1

    def send(self, data, bounds, count=None):
        """The bytes asked for, or only the first count of them."""
        first, end = bounds or (0, len(data))
        if bounds:
            self.head(206, {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}", "Content-Length": end - first})
        else:
            self.head(200, {"Content-Length": len(data)})
        self.wfile.write(data[first : end if count is None else min(end, first + count)])

    def head(self, status, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, str(value))
        self.end_headers()

    def reset(self):
        """Ends the connection as a router does that forgot about it."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *_):
        pass
