"""What the commands say, and with which exit code they end, when somebody is wrong: no cluster, no model."""
import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile

BINARY = os.environ["CONVOY_BINARY"]
SOURCE = pathlib.Path(os.environ["CONVOY_SOURCE_DIR"])
OK, FAILED, USAGE, BAD_INPUT, UNAVAILABLE, INTERNAL = 0, 1, 2, 3, 4, 70
failures = []


def convoy(*args, **more):
    return subprocess.run([BINARY, *map(str, args)], capture_output="stdout" not in more, text=True, timeout=60, **more)


def expect(name, done, code, *words):
    said = (done.stdout or "") + (done.stderr or "")
    missing = [w for w in words if w not in said]
    if done.returncode != code or missing or (code != INTERNAL and "internal fault:" in said):
        failures.append(name)
        print(f"FAIL {name}: exit code {done.returncode} (expected {code}), without {missing}: {said}")


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    conf = folder / "my.conf"
    node = '{name = "a", listen = "127.0.0.1:0", roles = ["gateway", "router", "cache", "pipeline"], stages = 1}'
    good = f'[cluster]\nname = "c"\nmodel = "random:deepseek-llm-7b:1"\nnodes = [{node}]\n'

    def configured(text):
        conf.write_text(text)
        return conf

    expect("an unknown command names the nearest", convoy("statsu"), USAGE, "unknown command `statsu`", "`status`")
    expect("a hidden command is not proposed", convoy("stag"), USAGE, "unknown command `stag`")
    expect("an unknown option names the nearest", convoy("status", "--confg=x"), USAGE, "`--confg`", "`--config`")
    expect("no command is a usage error", convoy(), USAGE)
    expect("help is no error", convoy("--help"), OK, "Exit codes")
    expect("a missing configuration says the system's reason", convoy("status", "--config", folder / "no.conf"), BAD_INPUT,
           "no.conf", "No such file or directory")
    expect("a folder is no configuration", convoy("check-config", folder), BAD_INPUT, "Is a directory")
    expect("a good configuration", convoy("check-config", configured(good)), OK, "ok")
    expect("a missing model is a mistake", convoy("check-config", configured(good.replace("random:deepseek-llm-7b:1", "m.gguf"))),
           BAD_INPUT, "my.conf:3:1", "m.gguf", "No such file or directory")
    expect("unless it need not be there", convoy("check-config", "--no-model", conf), OK, "ok")
    expect("all mistakes at once", convoy("check-config", configured("\ufeff" + good + '[log]\njson = yes\nlevle = "info"\n')),
           BAD_INPUT, "BOM", ":6:8: `log.json` is yes", "allowed: true or false", ":7:1: unknown key `log.levle`")
    expect("up ends with it, too", convoy("up", "--config", conf), BAD_INPUT, ":6:8: `log.json` is yes")
    expect("up wants its model", convoy("up", "--config", configured(good.replace("random:deepseek-llm-7b:1", "m.gguf"))),
           BAD_INPUT, "m.gguf", "No such file or directory")
    expect("a stage that does not fit is told with what may be used", convoy("inspect", "random:deepseek-v3", "--stage", "0-60"),
           OK, "allowed here", "warning", "it needs", "and may use")
    expect("the hint keeps the configuration", convoy("chat", "--config", configured(good), "x"), UNAVAILABLE,
           f"`convoy up --config {conf}`")
    expect("a full disk is named", convoy("check-config", "--print-docs", stdout=open("/dev/full", "w"),
                                          stderr=subprocess.PIPE), FAILED, "standard output", "No space left on device")
    expect("a full disk is named by a filter", convoy("render", "--template", "smollm2", stdout=open("/dev/full", "w"),
                                                      stderr=subprocess.PIPE,
                                                      input='{"messages": [{"role": "user", "content": "x"}]}\n'),
           BAD_INPUT, "standard output", "No space left on device")
    expect("what is no JSON is told with its place", convoy("render", "--template", "smollm2", input='\n{"messages": [1,]}\n'),
           BAD_INPUT, "standard input, line 2", "column 17", "a comma stands before ']'")
    (folder / "tokenizer.json").write_bytes(b"\x1f\x8b\x08\x00")
    expect("a compressed file is named", convoy("tokenize", "--tokenizer", folder / "tokenizer.json", input=""), BAD_INPUT,
           "gzip")

    (folder / "run").mkdir(mode=0o700)
    stubborn = subprocess.Popen([sys.executable, "-c", "import fcntl, os, signal, sys, time\nos.umask(0o077)\n"
                                 "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nlock = open(sys.argv[1], 'w')\n"
                                 "fcntl.lockf(lock, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(1000)",
                                 folder / "run/a.lock"], stdout=subprocess.PIPE)
    stubborn.stdout.readline()
    expect("down kills a node that does not end", convoy("down", "--grace-ms", "10", "--config", configured(good)), OK,
           "is down")
    stubborn.kill()  # if it did not
    stubborn.communicate()

    # A node that nobody can end: its process is none that this `down` could name, let alone kill.
    apart = ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--pid", "--fork"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode != 0:
        print("skipped: `down` beside a process that it cannot end; this user may make no namespaces")
    else:
        with os.fdopen(os.open(folder / "run/a.lock", os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            expect("down fails if a node still runs", subprocess.run(
                [*apart, BINARY, "down", "--grace-ms", "10", "--config", conf], capture_output=True, text=True,
                timeout=60), FAILED, "still run", "my.conf")
        expect("and not once it is gone", convoy("down", "--config", conf), OK, "was not running")

    (folder / "gone").mkdir()
    expect("a deleted current folder is named", subprocess.run(
        ["sh", "-c", 'cd gone && rmdir ../gone && exec "$0" up --config ../my.conf --model m.gguf', BINARY], cwd=folder,
        capture_output=True, text=True, timeout=60), BAD_INPUT, "the current folder: No such file or directory")
    # Two descriptors more than the standard ones are not enough for a connection.
    expect("descriptors that run out are no fault of ours", subprocess.run(
        ["sh", "-c", 'ulimit -n 4 && exec "$0" chat --url http://127.0.0.1:1 --model m x', BINARY],
        capture_output=True, text=True, timeout=60), FAILED, "Too many open files", "ulimit -n")
    # 60 MB of values, each of which takes more than its text does.
    (folder / "many.json").write_text('{"messages": [' + ",".join(['{"role":"user","content":"x"}'] * 2_000_000) + "]}")
    expect("memory that runs out is no fault of ours", subprocess.run(
        ["sh", "-c", 'ulimit -v 400000 && exec "$0" render --template smollm2 < many.json', BINARY], cwd=folder,
        capture_output=True, text=True, timeout=60), FAILED, "out of memory")

print(f"{len(failures)} of the messages are wrong" if failures else "every message is as it should be")
sys.exit(1 if failures else 0)
