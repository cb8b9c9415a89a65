"""What fails, and what the client and the operator see then: stages killed and stopped, Redis killed and stopped."""
import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
import time
import unittest

from cluster import MODEL, PATIENCE_S, SKIPPED, Cluster, Stream, alive, wait_for

# A stage that is lost is noticed by its link or its lease: long before step_timeout_ms, which is 30 s.
NOTICED_S = 20
# An answer that takes some seconds, during which stages are lost.
LONG = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "temperature": 0, "return_token_ids": True}


class Stages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))

    def setUp(self):
        wait_for(self.cluster.ready, "the cluster is ready")

    def answer(self):
        return self.cluster.completion(return_token_ids=True)[1]["choices"][0]["token_ids"]

    def start_long_answer(self):
        """A stream, what is still to come of it, and its first tokens."""
        stream = Stream(self.cluster, "/v1/completions", {"model": self.cluster.model_id(), **LONG},
                        {"Cache-Control": "no-store"})
        events = stream.events()
        return stream, events, next(events)["choices"][0]["token_ids"]

    def long_answer(self):
        """What it is when nothing fails."""
        return self.cluster.completion(**LONG)[1]["choices"][0]["token_ids"]

    def expect_the_whole_answer(self, stream, events, tokens, expected):
        """The rest of a stream: no error, no token missing or twice, and the end that it has when nothing fails."""
        reasons = []
        for event in events:
            self.assertNotIn("error", event)
            for choice in event["choices"]:
                tokens += choice.get("token_ids") or []
                if choice.get("finish_reason"):
                    reasons.append(choice["finish_reason"])
        self.assertEqual(reasons, ["length"])
        self.assertTrue(stream.done)
        self.assertEqual(tokens, expected)

    def test_a_stage_killed_while_idle_is_replaced(self):
        before = self.answer()
        for index in (0, 1):
            ended = self.cluster.metric('convoy_stages_lost_total{cause="ended"}')
            self.cluster.wait_for_successor(self.cluster.signal_stage(index, signal.SIGKILL))
            self.assertEqual(self.answer(), before)
            self.assertEqual(self.cluster.metric('convoy_stages_lost_total{cause="ended"}'), ended + 1)

    def test_a_stage_killed_while_answering_costs_no_token(self):
        expected = self.long_answer()
        for index in (0, 1):
            stream, events, tokens = self.start_long_answer()
            self.cluster.signal_stage(index, signal.SIGKILL)
            self.expect_the_whole_answer(stream, events, tokens, expected)
            wait_for(self.cluster.ready, "ready again")

    def test_a_stage_stopped_in_mid_answer_is_noticed_and_replaced_and_costs_no_token(self):
        expected = self.long_answer()
        for index in (0, 1):
            stream, events, tokens = self.start_long_answer()
            frozen = self.cluster.metric('convoy_stages_lost_total{cause="frozen"}')
            stopped = self.cluster.signal_stage(index, signal.SIGSTOP)
            wait_for(lambda: not self.cluster.ready(), "/readyz is 503", NOTICED_S)
            self.expect_the_whole_answer(stream, events, tokens, expected)
            wait_for(self.cluster.ready, "ready again")
            self.assertFalse(alive(stopped))
            self.assertEqual(self.cluster.metric('convoy_stages_lost_total{cause="frozen"}'), frozen + 1)

    def test_many_answers_at_once_lose_no_token_and_those_that_wait_none_either(self):
        prompts = [f"The number {i} is" for i in range(8)]
        ask = lambda prompt: self.cluster.completion(
            prompt=prompt, max_tokens=160, ignore_eos=True, return_token_ids=True)[1]["choices"][0]["token_ids"]
        expected = [ask(prompt) for prompt in prompts]
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            answers = [pool.submit(ask, prompt) for prompt in prompts]
            wait_for(lambda: self.cluster.status()["running"] >= 4, "they run")
            self.cluster.signal_stage(1, signal.SIGKILL)
            self.assertEqual([answer.result() for answer in answers], expected)

    def test_a_request_that_comes_while_a_stage_is_missing_waits_for_it(self):
        expected = self.answer()
        killed = self.cluster.signal_stage(0, signal.SIGKILL)
        wait_for(lambda: not self.cluster.ready(), "/readyz is 503", NOTICED_S)
        self.assertEqual(self.answer(), expected)
        self.assertNotIn(killed, self.cluster.stage_pids())


class NoReplays(unittest.TestCase):
    """Where nothing may be computed again, a lost stage ends an answer with an error: never as if it were complete."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(pipeline={"replays_max": 0}).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))

    def setUp(self):
        wait_for(self.cluster.ready, "the cluster is ready")

    def test_a_stream_ends_with_an_error_and_not_cleanly(self):
        stream = Stream(self.cluster, "/v1/completions", {"model": self.cluster.model_id(), **LONG},
                        {"Cache-Control": "no-store"})
        events = stream.events()
        next(events)
        self.cluster.signal_stage(1, signal.SIGKILL)
        began, error = time.monotonic(), None
        with self.assertRaises(Exception):
            for event in events:
                error = event.get("error", error)
        self.assertIn("pipeline.replays_max", error["message"])
        self.assertFalse(stream.done)
        self.assertLess(time.monotonic() - began, NOTICED_S)

    def test_an_unstreamed_request_gets_an_error_status(self):
        result = {}
        def ask():
            result["response"], result["body"] = self.cluster.post(
                "/v1/completions", {"model": self.cluster.model_id(), **LONG}, {"Cache-Control": "no-store"})
        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: self.cluster.status()["running"] == 1, "it runs")
        self.cluster.signal_stage(1, signal.SIGKILL)
        thread.join(PATIENCE_S)
        self.assertGreaterEqual(result["response"].status, 500)
        self.assertTrue(result["body"]["error"]["message"])


class ThreeStages(unittest.TestCase):
    def test_the_middle_one_is_killed_and_the_cluster_answers_as_before(self):
        with Cluster(stages=3) as cluster:
            answer = lambda: cluster.completion(return_token_ids=True)[1]["choices"][0]["token_ids"]
            before, pids = answer(), cluster.stage_pids()
            killed = cluster.signal_stage(1, signal.SIGKILL)
            cluster.wait_for_successor(killed)
            self.assertEqual(answer(), before)
            after = cluster.stage_pids()
            self.assertEqual([after[0], after[2]], [pids[0], pids[2]])
            self.assertNotEqual(after[1], killed)


class Spares(unittest.TestCase):
    def test_a_spare_has_the_pages_of_all_weights_and_no_memory_of_its_own(self):
        with Cluster(stage={"spares": 1}) as cluster:
            log = cluster.dir / "run/node1.log"
            wait_for(lambda: "stage.spare_warm" in log.read_text(), "a spare is warm")
            spare = int(re.search(r"stage.spare_waits pid=(\d+)", log.read_text())[1])
            mib = {key: int(kib) / 1024 for key, kib in
                   re.findall(r"Rss(File|Anon):\s+(\d+)", pathlib.Path(f"/proc/{spare}/status").read_text())}
            self.assertGreater(mib["File"], 0.95 * MODEL.stat().st_size / (1 << 20))
            self.assertLess(mib["Anon"], 32)

    def test_a_spare_takes_the_place_of_a_lost_stage_and_costs_no_token(self):
        with Cluster(stage={"spares": 1}) as cluster:
            log = cluster.dir / "run/node1.log"
            waiting = lambda: re.findall(r"stage.spare_waits pid=(\d+)", log.read_text())
            expected = cluster.completion(**LONG)[1]["choices"][0]["token_ids"]
            for index in (0, 1):
                wait_for(lambda: len(waiting()) == index + 1, "a spare waits")
                answer = {}
                asking = threading.Thread(target=lambda: answer.update(cluster.completion(**LONG)[1]))
                asking.start()
                wait_for(lambda: cluster.status()["running"] == 1, "it runs")
                cluster.wait_for_successor(cluster.signal_stage(index, signal.SIGKILL))
                self.assertEqual(cluster.stage_pids()[index], int(waiting()[index]))
                asking.join(PATIENCE_S)
                self.assertEqual(answer["choices"][0]["token_ids"], expected)


class Admission(unittest.TestCase):
    def test_as_many_as_may_run_and_wait_are_answered_when_all_come_at_once(self):
        with Cluster(stages=1, pipeline={"sequences_max": 8, "queue_max": 2}) as cluster:
            with concurrent.futures.ThreadPoolExecutor(10) as threads:
                ask = lambda i: cluster.post("/v1/completions", {"model": cluster.model_id(), "prompt": f"{i}:",
                                             "max_tokens": 200, "ignore_eos": True}, {"Cache-Control": "no-store"})
                statuses = [response.status for response, _ in threads.map(ask, range(10))]
            self.assertEqual(statuses, [200] * 10)


class ChangedFiles(unittest.TestCase):
    """A stage that is started again reads the configuration and the model again: it may not have become another."""

    def setUp(self):
        self.cluster = Cluster(stages=1)
        model = self.cluster.dir / "model.gguf"
        shutil.copyfile(MODEL, model)
        self.cluster.config.write_text(self.cluster.config.read_text().replace(str(MODEL), str(model)))
        self.cluster.model = model
        self.cluster.__enter__()

    def tearDown(self):
        self.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))

    def restart_finds(self, *texts):
        """A stage that starts now is refused, and its node's log says why."""
        self.cluster.signal_stage(0, signal.SIGKILL)
        log = self.cluster.dir / "run" / "node1.log"
        wait_for(lambda: any(all(t in line for t in texts) for line in log.read_text().splitlines()), texts)
        self.assertFalse(self.cluster.ready())

    def test_a_stage_that_reads_other_settings_is_refused_with_both(self):
        text = self.cluster.config.read_text()
        self.cluster.config.write_text(text + '[stage]\nkv_type = "f16"\n')
        self.restart_finds("kv_type auto", "kv_type f16", "cluster.conf was changed")
        self.cluster.config.write_text(text)
        wait_for(self.cluster.ready, "the cluster serves again with the old settings")

    def test_a_stage_that_reads_another_model_is_refused_with_both(self):
        self.assertEqual(len(list(self.cluster.dir.glob("*.convoy-digest"))), 1)
        with open(self.cluster.model, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        self.restart_finds("model ", " there, ", "its files were changed")


class Redis(unittest.TestCase):
    def body(self, cluster, text):
        return {"model": cluster.model_id(), "messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}

    def test_killed_redis_costs_no_request_and_comes_back(self):
        with Cluster() as cluster:
            killed = cluster.status()["redis"]["pid"]
            os.kill(killed, signal.SIGKILL)
            for i in range(5):
                response, _ = cluster.post("/v1/chat/completions", self.body(cluster, f"after the kill {i}"))
                self.assertEqual(response.status, 200)
                self.assertEqual(response.headers["X-Cache"], "miss")
            wait_for(lambda: cluster.status()["redis"]["state"] == "up", "Redis is up again")
            self.assertNotEqual(cluster.status()["redis"]["pid"], killed)
            def stored_again():
                response, _ = cluster.post("/v1/chat/completions", self.body(cluster, "once more"))
                return response.headers["X-Cache"] == "hit"
            wait_for(stored_again, "answers are stored again")

    def test_stopped_redis_delays_a_token_by_the_timeout_at_most_and_then_not_at_all(self):
        with Cluster(cache={"redis_timeout_ms": 1000, "circuit_failures": 3}) as cluster:
            pid = cluster.status()["redis"]["pid"]
            def first_token(i):
                stream = Stream(cluster, "/v1/chat/completions", self.body(cluster, f"stopped {i}"))
                next(stream.events())
                took = time.monotonic() - stream.started
                stream.close()
                return took
            normal = min(first_token(f"normal {i}") for i in range(3))
            os.kill(pid, signal.SIGSTOP)
            try:
                late = [first_token(0)]
                self.assertGreater(late[0], 1)  # it did wait: the time-out is what bounds it
                while cluster.metric("convoy_redis_circuit_open") == 0:
                    late.append(first_token(len(late)))
                    self.assertLess(len(late), 5, "the circuit opens after three failures")
                self.assertLess(min(late), normal + 2)  # by one time-out, not by two
                self.assertGreaterEqual(cluster.metric("convoy_redis_circuit_opened_total"), 1)
                self.assertLess(min(first_token(f"open {i}") for i in range(3)), normal + 0.5)
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_for(lambda: cluster.metric("convoy_redis_circuit_open") == 0, "the circuit closes")


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
