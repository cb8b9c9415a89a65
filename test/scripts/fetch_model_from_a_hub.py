"""scripts/fetch-model ORG/NAME against a good hub, over good lines and bad ones.
usage: fetch_model_from_a_hub.py REPOSITORY"""
import os
import shutil
import signal
import struct
import threading
import time
import unittest

from fake_hub import COMMIT, MODEL
from fetching import FILES, MIB, OFFER, ONE, OTHERS, RANDOM, TOKEN, TWO, FetchModel


class AGoodHub(FetchModel):
    def test_brings_what_convoy_needs_and_nothing_else(self):
        out = self.fetches()
        self.assert_whole()
        self.assertEqual(self.hub.files_asked_for(), set(FILES) - {"generation_config.json"})  # which is empty
        self.assertIn("100 %", out)
        self.assertIn(f"models/tiny-moe is there: 8 files, 6.6 MB of {MODEL} at {COMMIT[:12]}", out)
        self.assertIn("convoy up --model models/tiny-moe", out)

    def test_a_second_run_asks_for_no_file(self):
        self.fetches()
        self.hub.requests.clear()
        self.assertIn("models/tiny-moe is there", self.fetches())
        self.assertEqual(self.hub.files_asked_for(), set())

    def test_a_second_run_brings_only_what_is_missing(self):
        self.fetches()
        (self.folder / TWO).unlink()
        self.hub.requests.clear()
        self.assertIn("1 file, 2.1 MB; 7 files, 4.5 MB there already", self.fetches())
        self.assertEqual(self.hub.files_asked_for(), {TWO})
        self.assert_whole()

    def test_ranges_of_one_file_come_at_once(self):
        both = threading.Barrier(2, timeout=30)

        def together(handler, data, bounds):
            if bounds and bounds[0] < 2 * MIB:
                both.wait()  # ends only when the other range is asked for, too
            handler.send(data, bounds)

        self.hub.tricks[ONE] = together
        self.fetches()
        self.assertFalse(both.broken)
        self.assertEqual(sorted(self.hub.asked_for(ONE)),
                         [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB), (3 * MIB, 4 * MIB), (4 * MIB, 4 * MIB + 123)])
        self.assert_whole()

    def test_connections_are_no_more_than_allowed(self):
        def slowly(handler, data, bounds):
            time.sleep(0.05)
            handler.send(data, bounds)

        self.hub.tricks = {ONE: slowly, TWO: slowly}
        self.fetches(MODEL, "--connections=3")
        self.assertEqual(self.hub.in_flight_max, 3)

    def test_the_token_goes_to_the_hub_and_to_nobody_else(self):
        self.hub.token = TOKEN
        (self.root / "mine").write_text(TOKEN + "\n")
        (self.root / "token").write_text(TOKEN)
        sources = {"HF_TOKEN": TOKEN}, {"HF_TOKEN_PATH": str(self.root / "mine")}, {"HF_HOME": str(self.root)}
        for source in sources:
            with self.subTest(source=list(source)):
                self.hub.requests.clear()
                self.fetches(**source)
                self.assert_whole()
                sent = {(r.server, r.authorization) for r in self.hub.requests}
                self.assertEqual(sent, {("hub", f"Bearer {TOKEN}"), ("cdn", None)})
                shutil.rmtree(self.folder)

    def test_a_revision_is_pinned_to_its_commit(self):
        for revision in ("v1.0", "refs/pr/1", COMMIT):
            with self.subTest(revision=revision):
                self.fetches(f"{MODEL}@{revision}")
                self.assert_whole()
        paths = [r.path for r in self.hub.requests if "/resolve/" in r.path]
        self.assertTrue(paths)
        self.assertTrue(all(f"/resolve/{COMMIT}/" in path for path in paths))

    def test_one_gguf_file(self):
        out = self.fetches(MODEL, "tiny.Q4_0.gguf")
        self.assertEqual((self.models / "tiny.Q4_0.gguf").read_bytes(), OTHERS["tiny.Q4_0.gguf"])
        self.assertEqual(self.hub.files_asked_for(), {"tiny.Q4_0.gguf"})
        self.assertIn("convoy up --model models/tiny.Q4_0.gguf", out)
        self.fails(f"no x.gguf in it; {OFFER}", MODEL, "x.gguf")

    def test_every_part_of_a_gguf_file_whichever_is_asked_for(self):
        for asked in ("tiny.F16-00002-of-00002.gguf", "tiny.Q8_0/tiny.Q8_0-00002-of-00003.gguf"):
            out = self.fetches(MODEL, asked)
            name = asked.rpartition("/")[2]
            self.assertIn(f"convoy up --model models/{name}", out)
            parts = {path: data for path, data in OTHERS.items() if path[:-20] == asked[:-20]}
            self.assertGreaterEqual(len(parts), 2)
            for path, data in parts.items():
                self.assertEqual((self.models / path.rpartition("/")[2]).read_bytes(), data)
        self.assertEqual([path for path in self.models.iterdir() if path.is_dir()], [])
        self.hub.requests.clear()
        self.fetches(MODEL, "tiny.Q8_0/tiny.Q8_0-00001-of-00003.gguf")
        self.assertEqual(self.hub.files_asked_for(), set())
        del self.hub.files["tiny.F16-00002-of-00002.gguf"]
        self.fails("no tiny.F16-00002-of-00002.gguf in it", MODEL, "tiny.F16-00001-of-00002.gguf")

    def test_convoy_inspects_what_came(self):
        convoy = self.root / "build/release/convoy"
        convoy.parent.mkdir(parents=True)
        convoy.write_text('#!/bin/sh\n[ "$1" = --help ] && echo "  inspect   Looks" && exit\necho "saw $*"\nexit 3\n')
        convoy.chmod(0o755)
        code, out, _ = self.run_to_end()
        self.assertEqual(code, 3)
        self.assertIn("saw inspect models/tiny-moe\n", out)


class WhatIsThere(FetchModel):
    def test_a_changed_file_is_neither_used_nor_replaced(self):
        self.fetches()
        (self.folder / "config.json").write_bytes(b'{"model_type": "deepseek_v3"}')  # as long as the other
        self.fails("models/tiny-moe/config.json is not what maker/tiny-moe has at")
        self.assertIn(b"v3", (self.folder / "config.json").read_bytes())

    def test_two_commits_do_not_mix(self):
        self.fetches()
        self.hub.commit = "feed" * 10
        self.fails(f"complete it with scripts/fetch-model {MODEL}@{COMMIT}")
        self.assert_whole()

    def test_a_folder_of_the_users_is_left_alone(self):
        self.folder.mkdir(parents=True)
        (self.folder / "mine").touch()
        self.fails("models/tiny-moe is there already and not from the hub")
        shutil.move(self.folder, self.root / "elsewhere")
        self.folder.symlink_to(self.root / "elsewhere")
        self.fails("models/tiny-moe is there already and not from the hub")
        self.assertEqual([p.name for p in (self.root / "elsewhere").iterdir()], ["mine"])


class AnInterruption(FetchModel):
    def test_broken_connections_are_continued_where_they_broke(self):
        broken = set()

        def once_broken(handler, data, bounds):
            if bounds and bounds[1] not in broken:
                broken.add(bounds[1])
                handler.send(data, bounds, count=300_000)
                return handler.reset() if bounds[0] else None
            handler.send(data, bounds)

        self.hub.tricks[TWO] = once_broken
        self.fetches()
        self.assert_whole()
        firsts = sorted(first for first, _ in self.hub.asked_for(TWO))
        self.assertEqual((firsts[0], firsts[1]), (0, 300_000))  # a reset may lose what was under way
        self.assertEqual(len(firsts), 4)

    def test_a_line_that_breaks_often_but_brings_something_is_borne_with(self):
        self.hub.tricks[TWO] = lambda handler, data, bounds: handler.send(data, bounds, count=100_000)
        self.fetches()
        self.assertEqual(len(self.hub.asked_for(TWO)), 22)  # a range of 1 MiB takes 11
        self.assert_whole()

    def test_gives_up_in_the_end_and_goes_on_in_the_next_run(self):
        self.hub.tricks[TWO] = lambda handler, data, bounds: handler.send(data, bounds, count=1000 * (bounds[0] == 0))
        said = self.fails("times in a row; what came is kept: run this again to go on", MODEL, "--connections=1")
        self.assertIn(f"{MODEL}/{TWO}: the connection ended early, 6", said)
        self.assertFalse((self.folder / TWO).exists())
        self.assertTrue((self.folder / ONE).exists())
        self.hub.tricks.clear()
        self.hub.requests.clear()
        self.assertIn("7 files, 4.5 MB there already; going on after 1.0 kB", self.fetches())
        self.assertEqual(sorted(self.hub.asked_for(TWO)), [(1000, MIB), (MIB, 2 * MIB)])
        self.assert_whole()

    def end_in_the_middle(self, with_signal):
        stall = threading.Event()
        self.addCleanup(stall.set)

        def stalls(handler, data, bounds):
            if bounds[0] == MIB:
                handler.send(data, bounds, count=MIB // 2)
                handler.wfile.flush()
                stall.wait(60)
            else:
                handler.send(data, bounds)

        self.hub.tricks[TWO] = stalls
        process = self.start(MODEL, "--connections=1")
        end = time.monotonic() + 30
        came = 0
        while came != MIB // 2 and time.monotonic() < end:  # the counter of the second range
            time.sleep(0.01)
            try:
                with open(self.folder / f"{TWO}.part", "rb") as part:
                    came, = struct.unpack("<Q", os.pread(part.fileno(), 8, 2 * MIB + 8))
            except (FileNotFoundError, struct.error):
                pass
        self.assertEqual(came, MIB // 2)
        process.send_signal(with_signal)
        out, err = process.communicate(timeout=50)  # before what stalls goes on
        self.assertFalse((self.folder / TWO).exists())
        self.hub.tricks.clear()
        self.hub.requests.clear()
        self.assertIn("going on after 1.6 MB", self.fetches())
        self.assertEqual(self.hub.asked_for(TWO), [(MIB + MIB // 2, 2 * MIB)])
        self.assert_whole()
        return process.returncode, err

    def test_by_the_user(self):
        code, err = self.end_in_the_middle(signal.SIGINT)
        self.assertEqual(code, 130)
        self.assertEqual(err, "fetch-model: interrupted; what came is kept: run the same again to go on\n")

    def test_by_a_kill(self):
        self.assertEqual(self.end_in_the_middle(signal.SIGKILL)[0], -signal.SIGKILL)

    def test_a_part_of_other_bytes_is_not_continued(self):
        self.hub.tricks[TWO] = lambda handler, data, bounds: handler.send(data, bounds, count=1000)
        self.fails("times in a row", MODEL, "--attempts=1")
        self.hub.tricks.clear()
        self.hub.files[TWO] = RANDOM.randbytes(2 * MIB)
        self.hub.requests.clear()
        self.fetches()
        self.assertEqual(sorted(self.hub.asked_for(TWO)), [(0, MIB), (MIB, 2 * MIB)])
        self.assertEqual((self.folder / TWO).read_bytes(), self.hub.files[TWO])

    def test_a_server_without_ranges_is_read_from_the_beginning(self):
        both = threading.Barrier(2, timeout=30)
        breaks = iter([3 * MIB, 3 * MIB])

        def whole(handler, data, bounds):
            if bounds:
                both.wait()
            handler.send(data, None, count=next(breaks, None))

        self.hub.tricks[ONE] = whole
        self.fetches(MODEL, "--connections=2")
        self.assert_whole()
        # Two found out, one of them let go, the other tried again and for no range.
        self.assertEqual([bounds is None for bounds in self.hub.asked_for(ONE)], [False, False, True])

    def test_only_one_run_at_a_time(self):
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.hub.tricks["config.json"] = lambda handler, data, bounds: (go_on.wait(60), handler.send(data, bounds))
        first = self.start()
        while "config.json" not in self.hub.files_asked_for():
            self.assertIsNone(first.poll())
            time.sleep(0.01)
        self.fails("another scripts/fetch-model is at work here")
        go_on.set()
        first.communicate(timeout=60)
        self.assertEqual(first.returncode, 0)
        self.assert_whole()


if __name__ == "__main__":
    unittest.main()
