"""bench/run links carries frames every way, compares them, and counts only what others left alone. Takes the repository and
the folder of convoy_bench_links."""
import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import types

repository, binaries = map(pathlib.Path, sys.argv[1:3])
run, bench = repository / "bench/run", binaries / "convoy_bench_links"
loader = importlib.machinery.SourceFileLoader("bench_run", str(run))
code = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(code)

with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / "lines.jsonl"
    subprocess.run([run, "links", "--bench", bench, "--repeats", "1", "--seconds", "0.1", "--others-max", "1000", "--output",
                    output], check=True, stdout=subprocess.DEVNULL)
    lines = {line["way"]: line for line in map(json.loads, output.read_text(encoding="utf-8").splitlines())}
assert set(lines) == {"limit", *code.LINK_WAYS}, set(lines)
for way, line in lines.items():
    assert line["stream_bytes_per_s"]["median"] > 1e6, (way, line)
    trips = [line[key]["best"] for key in line if key.startswith("round_trip_") and key.endswith("_us_p50")]
    assert len(trips) == 3 and min(trips) > 0.5, (way, line)
    assert ("control_beside_stream_us_p99" in line) == (way != "limit"), (way, line)
ratio = lines["link"]["to_asio"]["stream_bytes_per_s"]
both = [lines[way]["stream_bytes_per_s"]["median"] for way in ("link", "asio")]
assert abs(ratio - both[0] / both[1]) < 0.01 * ratio + 0.001, (ratio, both)

# Others are busy twice, then they are not.
busy = [1.5, 0.5, 0.05]
code.Others = lambda: types.SimpleNamespace(cores=lambda: busy.pop(0))
code.link_once = lambda args, way: {"measured with others at": busy[0]}
kept = code.link_undisturbed(types.SimpleNamespace(others_max=0.1), "link")
assert kept == {"measured with others at": 0.05, "others_cores": 0.05} and not busy, (kept, busy)
busy = [1.5] * code.LINK_TRIES_MAX
try:
    code.link_undisturbed(types.SimpleNamespace(others_max=0.1), "link")
    raise AssertionError("a turn counted though others were busy")
except SystemExit as refusal:
    assert "others kept more than 0.1 cores busy" in str(refusal), refusal

refused = subprocess.run([bench, "measure", "--way", "pigeons", "--port", "1"], capture_output=True, text=True)
assert refused.returncode != 0 and "pigeons" in refused.stderr, refused
nobody = subprocess.run([bench, "measure", "--way", "asio", "--port", "1"], capture_output=True, text=True)
assert nobody.returncode == 1 and "convoy_bench_links:" in nobody.stderr, nobody
