"""A real cluster for a test: a configuration in a folder of its own, `convoy up`, and ways to ask and to hurt it.

Only the standard library. CONVOY_BINARY and CONVOY_SOURCE_DIR come from ctest; the model from CONVOY_MODEL or models/.
"""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BINARY = os.environ["CONVOY_BINARY"]
SOURCE = pathlib.Path(os.environ["CONVOY_SOURCE_DIR"])
MODEL = pathlib.Path(os.environ.get("CONVOY_MODEL") or SOURCE / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
SKIPPED = 77  # ctest's SKIP_RETURN_CODE
PATIENCE_S = 60  # for what must happen: so long that only what never happens fails, however busy the machine is


def run_convoy(*args, timeout=120):
    """A command that needs no cluster; it has to succeed."""
    done = subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise AssertionError(f"convoy {args[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def alive(pid):
    """Whether a process runs. One that ended and that its parent has not reaped yet does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, message, seconds=PATIENCE_S):
    """Polls until what() is truthy and returns that; fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {message}")


def maps(entries):
    """A list of maps as a value of cluster.conf."""
    return "[" + ", ".join("{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in e.items()) + " }" for e in entries) + "]"


def labels_of(sample):
    """Of a line of /metrics, or of its name: the set of NAME="VALUE"."""
    return set(re.findall(r'\w+="[^"]*"', sample.partition("{")[2]))


# Waits until the test's end of the pipe is closed, by whatever ended the test, and ends the cluster if that still has
# its folder. Nobody's child and in a session of its own, so that what kills the test's processes does not reach it.
GUARD = """exec 3<&0
(cat <&3 >/dev/null; if [ -e "$1" ]; then "$0" down --grace-ms 1000 --config "$1"; rm -rf "$2"; fi) >/dev/null 2>&1 &"""


class Cluster:
    """One running cluster; a context manager that leaves nothing behind, even if its process is killed."""

    def __init__(self, stages=2, model=MODEL, nodes=None, models=None, pipelines=None, **sections):
        """nodes: (name, port, whether it is the head's, stages) and, if not of the first pipeline, its name. models: maps of
        [cluster] models, in place of the one; pipelines: maps as well."""
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-"))
        self.config = self.dir / "cluster.conf"
        self.model = pathlib.Path(models[0]["path"] if models else model)
        self.gateway_port = free_port()
        if nodes is None:
            nodes = [("node1", free_port(), True, stages)]
        listed = ",\n".join(
            f'  {{ name = "{name}", listen = "127.0.0.1:{port}", roles = '
            + ('["gateway", "router", "cache", "pipeline"]' if head else "[]")
            + f", stages = {count}" + "".join(f', pipeline = "{of}"' for of in pipeline) + " }"
            for name, port, head, count, *pipeline in nodes
        )
        served = f'model = "{self.model}"\n' if not models else f"models = {maps(models)}\n"
        if pipelines:
            served += f"pipelines = {maps(pipelines)}\n"
        settings = {"gateway": {"port": self.gateway_port}, "pipeline": {}, "stage": {}, "cache": {}, "log": {}}
        for section, values in sections.items():
            settings.setdefault(section, {}).update(values)
        text = f'[cluster]\nname = "test"\n{served}run_dir = "run"\nnodes = [\n{listed}\n]\n'
        for section, values in settings.items():
            if values:
                text += f"[{section}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
        self.config.write_text(text)
        guard = subprocess.Popen(["sh", "-c", GUARD, BINARY, self.config, self.dir], stdin=subprocess.PIPE,
                                 start_new_session=True)
        guard.wait()
        self.guarded = guard.stdin

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, failed, *_):
        if failed:
            for log in sorted((self.dir / "run").glob("*.log")):
                print(f"---- {log.name}\n{log.read_text()[-4000:]}", flush=True)
        self.convoy("down", check=False)
        self.discard()

    def discard(self):
        """What is left of one that does not run."""
        shutil.rmtree(self.dir, ignore_errors=True)
        self.guarded.close()

    def convoy(self, command, *args, check=True, timeout=120):
        done = subprocess.run([BINARY, command, "--config", self.config, *args], capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"convoy {command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def up(self):
        return self.convoy("up")

    def status(self):
        return json.loads(self.convoy("status", "--json", check=False).stdout)

    def stage_pids(self):
        return [s["pid"] for s in self.status()["stages"]]

    def signal_stage(self, index, number):
        pid = wait_for(self.stage_pids, "the stages are known")[index]
        os.kill(pid, number)
        return pid

    def wait_for_successor(self, killed):
        """Of a stage. The cluster may be ready again before anyone sees that it is not."""
        def known():
            pids = self.stage_pids()
            return pids and all(pids) and killed not in pids
        wait_for(known, "another process has taken the stage's place")
        wait_for(self.ready, "ready again")

    # ---- HTTP ----

    def connect(self, timeout=PATIENCE_S):
        return http.client.HTTPConnection("127.0.0.1", self.gateway_port, timeout=timeout)

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def ready(self):
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def post(self, path, body, headers=None):
        """The response and its body: a dict, or text if it is no JSON."""
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
        try:
            return response, json.loads(text)
        except ValueError:
            return response, text

    def completion(self, **fields):
        """A deterministic completion that is never taken from the cache, unless the fields say otherwise."""
        headers = fields.pop("headers", {"Cache-Control": "no-store"})
        body = {"model": self.model_id(), "prompt": "The capital of France is", "max_tokens": 24, "temperature": 0, **fields}
        response, answer = self.post("/v1/completions", body, headers)
        assert response.status == 200, (response.status, answer)
        return response, answer

    def model_id(self):
        return re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", self.model.name)

    def metric_names(self):
        """Of all families that have a sample."""
        return {line.split()[2] for line in self.get("/metrics")[1].splitlines() if line.startswith("# TYPE ")}

    def metric(self, name):
        """The sum over a metric's samples, of those with these labels if the name has braces. One that is not there is
        an error, so that no test compares two numbers that nobody counts."""
        family, wanted = name.split("{")[0], labels_of(name)
        samples = [float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics")[1].splitlines()
                   if re.match(re.escape(family) + r"[ {]", line) and wanted <= labels_of(line)]
        if not samples:
            raise KeyError(f"/metrics has no {name}")
        return sum(samples)

    def settled(self, name):
        """A metric that the pipeline says four times a second, behind what it counts: once it stands still."""
        value, since = self.metric(name), time.monotonic()
        while time.monotonic() < since + 1:
            time.sleep(0.05)
            if (now := self.metric(name)) != value:
                value, since = now, time.monotonic()
        return value


class Stream:
    """A streamed answer, event by event."""

    def __init__(self, cluster, path, body, headers=None, timeout=PATIENCE_S):
        self.connection = cluster.connect(timeout)
        self.started = time.monotonic()
        self.connection.request("POST", path, json.dumps({**body, "stream": True}),
                                {"Content-Type": "application/json", **(headers or {})})
        self.response = self.connection.getresponse()
        self.done = False

    def events(self):
        """Yields each data object; sets done at [DONE]. A connection that breaks off raises. Dropping the generator
        leaves the stream open: only its end, an error or close() ends it."""
        try:
            for line in self.response:
                line = line.decode().rstrip("\r\n")
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    self.done = True
                    continue
                yield json.loads(line[6:])
        except Exception:
            self.close()
            raise
        self.close()

    def close(self):
        self.response.close()
        self.connection.close()
