"""Machines for a test: network namespaces, each with one address, that hang on one switch. Needs root; a machine lives as
long as the process that holds its namespace, which ends with the test however that ends.
"""
import ctypes
import json
import os
import signal
import subprocess
import sys

SUBNET = "10.77.0."
PR_SET_PDEATHSIG = 1


def die_with_parent():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """A network of its own."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
                                       stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        self.holder.stdout.read(1)  # it is there
        self.run("ip", "link", "set", "lo", "up")

    def inside(self, *command):
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--", *map(str, command)]

    def run(self, *command, check=True, timeout=120):
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def start(self, *command, **options):
        """A process that ends with the test."""
        return subprocess.Popen(self.inside(*command), preexec_fn=die_with_parent, **options)

    def close(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


class Network:
    """A switch, and machines on it."""

    def __init__(self):
        self.switch = Namespace()
        self.switch.run("ip", "link", "add", "name", "switch", "type", "bridge")
        self.switch.run("ip", "link", "set", "switch", "up")
        self.machines = []

    def add(self):
        machine = Machine(self.switch, len(self.machines) + 1)
        self.machines.append(machine)
        return machine

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for namespace in [*self.machines, self.switch]:
            namespace.close()


class Machine(Namespace):
    def __init__(self, switch, number):
        super().__init__()
        self.address, self.switch, self.port = f"{SUBNET}{number}", switch, f"port{number}"
        switch.run("ip", "link", "add", "name", self.port, "type", "veth", "peer", "name", "net", "netns", str(self.holder.pid))
        switch.run("ip", "link", "set", self.port, "master", "switch", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "net")
        self.run("ip", "link", "set", "net", "up")

    def plug(self, there):
        """Its cable, in or out."""
        self.switch.run("ip", "link", "set", self.port, "up" if there else "down")

    def rough(self, loss, delay_ms):
        """Its cable as long as the context lasts: each packet, in either direction, comes so much later, or not at all."""
        return RoughCable(self, loss, delay_ms)

    def ask(self, method, url, body=None, timeout=60):
        """Status and text of an HTTP request that comes from this machine itself."""
        done = self.run(sys.executable, "-c", ASK, method, url, json.dumps(body), str(timeout), check=False, timeout=timeout + 10)
        if done.returncode != 0:
            return 0, done.stderr
        answer = json.loads(done.stdout)
        return answer["status"], answer["text"]


# In a process of its own: only a whole process moves into another namespace.
ASK = """
import http.client, json, sys
from urllib.parse import urlsplit
method, url, body, timeout = sys.argv[1:]
at = urlsplit(url)
connection = http.client.HTTPConnection(at.hostname, at.port, timeout=float(timeout))
body = json.loads(body)
connection.request(method, at.path, None if body is None else json.dumps(body),
                   {"Content-Type": "application/json", "Cache-Control": "no-store"})
response = connection.getresponse()
print(json.dumps({"status": response.status, "text": response.read().decode()}))
"""

# All that goes over a switch's port, as it stands in its packets.
SNIFF = """
import socket, sys
port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
port.bind((sys.argv[1], 0))
print(flush=True)
with open(sys.argv[2], "wb", buffering=0) as out:
    while True:
        try:
            out.write(port.recv(65536))
        except OSError:
            pass  # the cable is out
"""


# Between two ports of a switch: argv has them, the share of packets that is lost, and the delay in seconds.
ROUGH = """
import heapq, random, select, socket, sys, time
loss, delay = float(sys.argv[3]), float(sys.argv[4])
ports = []
for name in sys.argv[1:3]:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    port.bind((name, 0))
    port.setblocking(False)
    ports.append(port)
print(flush=True)
under_way, number = [], 0
while True:
    waits = max(0, under_way[0][0] - time.monotonic()) if under_way else None
    for port in select.select(ports, [], [], waits)[0]:
        try:
            packet, (_, _, kind, *_) = port.recvfrom(65536)
        except OSError:
            continue
        if kind != socket.PACKET_OUTGOING and random.random() >= loss:
            number += 1
            heapq.heappush(under_way, (time.monotonic() + delay, number, ports[1 - ports.index(port)], packet))
    while under_way and under_way[0][0] <= time.monotonic():
        try:
            under_way[0][2].send(under_way[0][3])
        except OSError:
            pass  # one more that is lost
        heapq.heappop(under_way)
"""

# What a port does not leave to its network card, which is the one that forwards its packets here as they are: checksums
# (SIOCETHTOOL's ETHTOOL_STXCSUM), TCP's segments (STSO, SGSO). argv has the port's name and whether the card does.
OFFLOAD = """
import array, fcntl, socket, struct, sys
with socket.socket() as any:
    for command in 0x17, 0x1f, 0x24:
        value = array.array("B", struct.pack("II", command, int(sys.argv[2])))
        fcntl.ioctl(any, 0x8946, struct.pack("16sP16x", sys.argv[1].encode(), value.buffer_info()[0]))
"""


class RoughCable:
    """The kernels that tests run on have no netem, so a process of ours carries the packets."""

    def __init__(self, machine, loss, delay_ms):
        self.machine, self.switch, self.end = machine, machine.switch, f"{machine.port}-end"
        self.how = [str(loss), str(delay_ms / 1000)]

    def offload(self, on):
        self.machine.run(sys.executable, "-c", OFFLOAD, "net", int(on))

    def __enter__(self):
        port, end = self.machine.port, self.end
        self.switch.run("ip", "link", "add", "name", f"{end}s", "type", "veth", "peer", "name", end)
        self.switch.run(sys.executable, "-c", OFFLOAD, f"{end}s", 0)
        self.offload(False)
        self.process = self.switch.start(sys.executable, "-c", ROUGH, port, end, *self.how, stdout=subprocess.PIPE)
        self.process.stdout.read(1)
        self.switch.run("ip", "link", "set", port, "nomaster")
        self.switch.run("ip", "link", "set", f"{end}s", "master", "switch", "up")
        self.switch.run("ip", "link", "set", end, "up")
        return self

    def __exit__(self, *_):
        ended = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.switch.run("ip", "link", "del", self.end)
        self.switch.run("ip", "link", "set", self.machine.port, "master", "switch")
        self.offload(True)
        if ended is not None:
            raise AssertionError(f"the process that carried the packets ended with {ended}")


class Wire:
    """What was seen on a machine's cable."""

    def __init__(self, machine, file):
        self.file = file
        self.process = machine.switch.start(sys.executable, "-c", SNIFF, machine.port, file, stdout=subprocess.PIPE)
        self.process.stdout.read(1)

    def seen(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        return self.file.read_bytes()


def possible():
    """Whether this user may make networks."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--net", "ip", "link", "add", "name", "switch", "type", "bridge"],
                                                capture_output=True).returncode == 0
