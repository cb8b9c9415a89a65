"""What resident memory processes gain by the requests that they serve. Only the standard library."""
import os
import pathlib
import statistics

WARM_UP = 0.5  # of the requests: memory is not looked at
POINTS_MIN = 3  # of a process, for a line through them


def resident_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(points):
    """Of the line nearest to them."""
    x, y = (statistics.mean(values) for values in zip(*points))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


class Growth:
    """Looks at processes as requests are served. One that is replaced begins anew."""

    def __init__(self):
        self.points = {}  # by name and pid: how many requests were served, and the memory then

    def look(self, requests, processes):
        """processes: {name: pid}."""
        for name, pid in processes.items():
            try:
                self.points.setdefault((name, pid), []).append((requests, resident_bytes(pid)))
            except (OSError, IndexError):
                pass  # it has just ended

    def of_requests(self):
        """{name: figures} of the process of each name that served most, once it was used to them; empty if nobody was
        looked at often enough."""
        longest = {}
        for (name, _), points in self.points.items():
            begin = points[0][0] + WARM_UP * (points[-1][0] - points[0][0])
            used = [point for point in points if point[0] > begin]
            if len({requests for requests, _ in used}) >= POINTS_MIN and \
                    points[-1][0] - points[0][0] > longest.get(name, {"requests": 0})["requests"]:
                longest[name] = {"requests": points[-1][0] - points[0][0], "resident_bytes": points[-1][1],
                                 "resident_bytes_per_1000_requests": round(1000 * slope(used))}
        return longest
