#!/usr/bin/env python3
"""Fetches a model from the Hugging Face hub into models/: in parallel, resumable, every file checked against the hub's
own digest. Called by scripts/fetch-model; only Python's standard library.

A file has its name only when it is checked; until then it is NAME.part. Read on in download.py, part.py, client.py.
"""
import argparse
import concurrent.futures
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

from client import GGUF, Broken, Failure, Hub, Patience, Stopped, endpoint_of, token_of
from download import Download
from part import Part, digest_of
from progress import Progress, gigabytes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "models"
CONVOY = ROOT / "build/release/convoy"
RECORD = ".fetched"  # in a model's folder: ORG/NAME COMMIT
SPARE_BYTES = 64 << 20  # left free on the disk


def main():
    args = arguments()
    stop = threading.Event()
    try:
        fetch(args, stop)
    except Failure as e:
        stop.set()
        print(f"fetch-model: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        stop.set()
        print(f"fetch-model: {e.filename or 'models'}: {e.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        stop.set()
        print("fetch-model: interrupted; what came is kept: run the same again to go on", file=sys.stderr)
        return 130
    return inspect(target_of(args))


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/fetch-model", allow_abbrev=False,
                                     description="Fetches a model from the Hugging Face hub into models/.")
    parser.add_argument("model", metavar="ORG/NAME[@REVISION]")
    parser.add_argument("gguf", metavar="FILE.gguf", nargs="?",
                        help="this file instead of the checkpoint; of a file in parts any one stands for all")
    parser.add_argument("--connections", type=within(1, 64), default=8, metavar="N", help="at once, 8 if not given")
    parser.add_argument("--range-mib", type=within(1, 4096), default=64, metavar="N",
                        help="large files come in ranges of so many MiB, 64 if not given")
    parser.add_argument("--attempts", type=within(1, 100), default=6, metavar="N",
                        help="in a row without a success, then give up; 6 if not given")
    parser.add_argument("--backoff-ms", type=within(1, 60000), default=500, metavar="N",
                        help="wait before the second attempt, doubled each time; 500 if not given")
    args = parser.parse_args()
    word = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    named = re.fullmatch(rf"({word}/({word}))(?:@({word}(?:/{word})*))?", args.model)
    if not named or ".." in args.model:
        parser.error(f"{args.model}: not a model's name on the hub; give it as ORG/NAME or ORG/NAME@REVISION")
    if args.gguf and not re.fullmatch(GGUF, args.gguf):
        parser.error(f"{args.gguf}: not the name of a GGUF file in the model's top folder or a folder in it")
    args.model, args.name, args.revision = named.groups()
    return args


def within(low, high):
    def number(text):
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text}: give a number from {low} to {high}")
        return int(text)

    return number


def target_of(args):
    return MODELS / (args.gguf or args.name).rpartition("/")[2]


def fetch(args, stop):
    MODELS.mkdir(exist_ok=True)
    lock = os.open(MODELS, os.O_RDONLY | os.O_CLOEXEC)  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure("another scripts/fetch-model is at work here; run this again when it is done") from None

    hub = Hub(endpoint_of(os.environ), token_of(os.environ))
    listing = list_patiently(hub, args, stop)
    files = chosen(listing, args)
    target = target_of(args)
    folder = MODELS if args.gguf else target
    if not args.gguf:
        claim_folder(target, args, listing.commit)

    missing = [file for file in files if not os.path.lexists(folder / file.local_name)]
    there = [file for file in files if file not in missing]
    check_those_there(folder, there, args, listing.commit, stop)
    name = target.relative_to(ROOT)
    commit = listing.commit[:12]
    if not missing:
        print(f"{name} is there: {count_of(files)} of {args.model} at {commit}, checked against the hub's digests.")
        return
    check_disk(folder, missing)
    parts = [Part(file, folder / file.local_name, args.range_mib << 20) for file in missing]
    kept = sum(part.bytes_done() for part in parts)
    print(f"Fetching {args.model} at {commit}: {count_of(missing)}"
          + (f"; {count_of(there)} there already" if there else "")
          + (f"; going on after {gigabytes(kept)}" if kept else ""), flush=True)
    Download(hub, args, listing.commit, parts, stop).run()
    print(f"{name} is there: {count_of(files)} of {args.model} at {commit}, checked against the hub's digests.")


def list_patiently(hub, args, stop):
    patience = Patience(args.attempts, args.backoff_ms / 1000, stop, print)
    while True:
        try:
            return hub.list(args.model, args.revision or "main")
        except Broken as e:
            patience.after(e, args.model, "check the network, HF_ENDPOINT and https_proxy, or run this again later")


def chosen(listing, args):
    """The files to have, small ones first: what is wrong with the model often shows there."""
    gguf = sorted(name for name in listing.files if name.endswith(".gguf") and parts_of(name)[0] == name)
    offer = f"; its GGUF files: {', '.join(gguf[:12])}" if gguf else ""
    if args.gguf:
        for name in parts_of(args.gguf):
            if name not in listing.files:
                raise Failure(f"{args.model}: no {name} in it" + (offer or ", nor any other GGUF file"))
        return [listing.files[name] for name in parts_of(args.gguf)]
    if not any(name.endswith(".safetensors") for name in listing.files):
        mend = f"{offer}; give one of them as second argument" if gguf else "; Convoy reads no other weights but GGUF"
        raise Failure(f"{args.model}: no *.safetensors in its top folder{mend}")
    if "config.json" not in listing.files:
        raise Failure(f"{args.model}: no config.json in its top folder, so it is no checkpoint that Convoy reads")
    files = [file for name, file in listing.files.items() if not name.endswith(".gguf")]
    return sorted(files, key=lambda file: (file.name.endswith(".safetensors"), file.name))


def parts_of(gguf):
    """The names of all parts of the file that this one is a part of; of a whole file its own."""
    part = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", gguf)
    if not part or not 1 <= int(part[2]) <= int(part[3]):
        return [gguf]
    return [f"{part[1]}-{number:05}-of-{part[3]}.gguf" for number in range(1, int(part[3]) + 1)]


def claim_folder(folder, args, commit):
    """One folder, one commit: shards of two would pass each check and still be no model."""
    name = folder.relative_to(ROOT)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise Failure(f"{name} is there already and not from the hub; move it away first")
    folder.mkdir(exist_ok=True)
    record = folder / RECORD
    if all(entry == record for entry in folder.iterdir()):
        record.write_text(f"{args.model} {commit}\n", encoding="ascii")
        return
    try:
        held_model, held_commit = record.read_text(encoding="ascii", errors="replace")[:300].split()
    except (FileNotFoundError, ValueError):
        raise Failure(f"{name} is there already and not from the hub; move it away first") from None
    if (held_model, held_commit) != (args.model, commit):
        raise Failure(f"{name} holds {held_model} at {held_commit[:12]}, not {args.model} at {commit[:12]}; remove it "
                      f"first, or complete it with scripts/fetch-model {held_model}@{held_commit}")


def check_those_there(folder, files, args, commit, stop):
    """What an earlier run checked may have been changed since, or be of another model (GGUF files share a folder)."""
    progress = Progress("checked of what is there", sum(file.size for file in files))

    def advance(count):
        progress.add(count)
        if stop.is_set():
            raise Stopped

    def is_it(file):
        with open(folder / file.local_name, "rb") as f:
            return os.fstat(f.fileno()).st_size == file.size and digest_of(f.fileno(), file, advance) == file.digest

    with concurrent.futures.ThreadPoolExecutor(min(args.connections, os.cpu_count() or 1)) as pool:
        checks = {file: pool.submit(is_it, file) for file in files}
        try:
            while not all(check.done() for check in checks.values()):
                progress.show()
                concurrent.futures.wait(checks.values(), 0.2)
        except BaseException:
            stop.set()
            raise
    progress.end()
    for file, check in checks.items():
        if not check.result():
            path = (folder / file.local_name).relative_to(ROOT)
            raise Failure(f"{path} is not what {args.model} has at {commit[:12]}; move it away and run this again")


def check_disk(folder, files):
    """Before anything is created. What an earlier run left of these files takes its room already."""
    needed = sum(file.size for file in files)
    for file in files:
        try:
            needed -= min(file.size, os.lstat(folder / f"{file.local_name}.part").st_blocks * 512)
        except FileNotFoundError:
            pass
    room = shutil.disk_usage(MODELS).free - SPARE_BYTES
    if needed > room:
        raise Failure(f"{gigabytes(needed)} are to come, but models/ has room for {gigabytes(max(0, room))}; make "
                      "room, or make models/ a link to a folder on a larger disk")


def count_of(files):
    return f"{len(files)} file{'s' if len(files) != 1 else ''}, {gigabytes(sum(file.size for file in files))}"


def inspect(target):
    """What Convoy makes of it, if it is built."""
    name = target.relative_to(ROOT)
    try:
        commands = subprocess.run([CONVOY, "--help"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        commands = ""
    if re.search(r"^\s+inspect\s", commands, re.M):
        sys.stdout.flush()
        return subprocess.run([CONVOY, "inspect", name], cwd=ROOT, check=False).returncode
    print(f'To serve it: model = "{name}" in cluster.conf, or convoy up --model {name}')
    return 0


if __name__ == "__main__":
    sys.exit(main())
