"""The head dies, or says nothing any more: its stages keep their weights, and the next head serves with them."""
import json
import os
import signal
import socket
import sys
import time
import unittest

from cluster import MODEL, SKIPPED, Cluster, alive, wait_for

LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}


class Head(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(stages=3).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))

    def setUp(self):
        wait_for(self.cluster.ready, "the cluster is ready")

    def answer(self):
        return self.cluster.completion(return_token_ids=True)[1]["choices"][0]["token_ids"]

    def head(self):
        return self.cluster.status()["gateway"]["pid"]

    def log(self):
        return (self.cluster.dir / "run/node1.log").read_text()

    def wait_for_another(self, head):
        wait_for(lambda: self.head() not in (0, head), "another head answers")
        wait_for(self.cluster.ready, "it serves")

    def test_a_killed_head_costs_its_streams_and_no_stage_its_weights(self):
        for _ in range(2):
            before, stages, head, epoch = self.answer(), self.cluster.stage_pids(), self.head(), self.cluster.status()["epoch"]
            loaded = self.log().count("stage.weights")
            body = json.dumps({"model": self.cluster.model_id(), **LONG, "stream": True})
            with socket.create_connection(("127.0.0.1", self.cluster.gateway_port), 60) as client:
                client.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                                f"Cache-Control: no-store\r\n\r\n{body}").encode())
                read = b""
                while b"data: " not in read:
                    read += client.recv(65536)
                os.kill(head, signal.SIGKILL)
                try:
                    while more := client.recv(65536):
                        read += more
                except ConnectionError:
                    pass
            self.assertNotIn(b"[DONE]", read)
            self.assertFalse(read.endswith(b"0\r\n\r\n"), "not even HTTP's own end")
            self.wait_for_another(head)
            self.assertEqual(self.answer(), before)
            self.assertEqual(self.cluster.stage_pids(), stages)
            self.assertEqual(self.log().count("stage.weights"), loaded)
            self.assertGreater(self.cluster.status()["epoch"], epoch)

    def test_it_serves_soon_after_its_start(self):
        took = []
        time.sleep(1.5)
        for _ in range(3):
            head, began = self.head(), time.monotonic()
            os.kill(head, signal.SIGKILL)
            wait_for(lambda: not alive(head), "it is gone")
            wait_for(self.cluster.ready, "the next one serves")
            took.append(time.monotonic() - began)
            time.sleep(1.5)  # one that lives shorter is started again later each time
        print(f"from the head's death to the next one's readiness: {sorted(took)} s", flush=True)
        self.assertLess(min(took), 3)  # a second, on a machine that does nothing else

    def test_a_head_and_a_stage_may_die_together(self):
        before, head = self.answer(), self.head()
        killed = self.cluster.signal_stage(1, signal.SIGKILL)
        os.kill(head, signal.SIGKILL)
        self.wait_for_another(head)
        self.assertEqual(self.answer(), before)
        self.assertNotIn(killed, self.cluster.stage_pids())

    def test_a_head_that_says_nothing_is_replaced(self):
        before, stages, head = self.answer(), self.cluster.stage_pids(), self.head()
        os.kill(head, signal.SIGSTOP)
        wait_for(lambda: not alive(head), "its node ends it")
        self.wait_for_another(head)
        self.assertEqual(self.answer(), before)
        self.assertEqual(self.cluster.stage_pids(), stages)

    def test_a_head_that_cannot_start_again_is_tried_again_and_its_stages_wait(self):
        stages, head = self.cluster.stage_pids(), self.head()
        text = self.cluster.config.read_text()
        self.cluster.config.write_text(text + "[pipeline]\nnonsense = 1\n")
        try:
            os.kill(head, signal.SIGKILL)
            wait_for(lambda: "nonsense" in self.log(), "it fails, and says why")
        finally:
            self.cluster.config.write_text(text)
        self.wait_for_another(head)
        self.assertEqual(self.cluster.stage_pids(), stages)


class Node(unittest.TestCase):
    def test_a_killed_node_takes_head_and_stages_along_and_the_next_up_works_at_once(self):
        with Cluster() as cluster:
            status = cluster.status()
            node, head, stages = status["nodes"][0]["pid"], status["gateway"]["pid"], cluster.stage_pids()
            self.assertNotEqual(node, head)
            os.kill(node, signal.SIGKILL)
            wait_for(lambda: cluster.status()["nodes"][0]["pid"] == 0, "it is gone")
            cluster.up()
            self.assertFalse(any(map(alive, [head, *stages])))
            self.assertTrue(cluster.ready())


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
