"""A conversation whose keys and values had to leave memory comes back from the disk: it is found again, and its answer
is the one that it would have got had nobody else been served meanwhile."""
import os
import pathlib
import signal
import sys
import unittest

from cluster import MODEL, SKIPPED, Cluster, wait_for

# Room for 15 blocks of 64 tokens, so that each text below pushes out most of the one before.
PIPELINE = {"kv_tokens": 1024, "context_tokens_max": 768, "sequences_max": 2}
TEXTS = [" ".join(f"{word} {i} of the {word}s," for i in range(60)) for word in ("ship", "house", "river", "garden")]


class KvDisk(unittest.TestCase):
    def ask(self, cluster, text):
        """The tokens of its answer, and how many of the prompt's were found."""
        _, answer = cluster.completion(prompt=text, max_tokens=12)
        usage = answer["usage"]
        self.assertGreater(usage["prompt_tokens"], 400)
        return answer["choices"][0]["text"], usage["prompt_tokens_details"]["cached_tokens"]

    def test_a_conversation_that_was_pushed_out_is_found_again_with_the_same_answer(self):
        with Cluster(stages=2, stage={"threads": 1, "kv_disk_bytes": 64 << 20}, pipeline=PIPELINE) as cluster:
            before = [self.ask(cluster, text) for text in TEXTS]
            self.assertTrue(all(found == 0 for _, found in before), before)
            for text, (answer, _) in zip(TEXTS, before):
                again, found = self.ask(cluster, text)
                self.assertEqual(again, answer)
                self.assertGreater(found, 384)
            for metric in ("convoy_kv_blocks_loaded_total", "convoy_kv_blocks_saved_total"):  # which stages report
                wait_for(lambda metric=metric: cluster.metric(metric) >= 20, metric)
            # The file has no name; the folder's owner sees nothing of it.
            self.assertEqual(list((cluster.dir / "run").glob("kv-*")), [])
            for pid in cluster.stage_pids():
                open_files = [os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
                self.assertEqual(len([f for f in open_files if "/kv-" in f and f.endswith("(deleted)")]), 1, open_files)
            # A stage's successor begins empty, and so does everybody.
            killed = cluster.signal_stage(1, signal.SIGKILL)
            cluster.wait_for_successor(killed)
            for text, (answer, _) in list(zip(TEXTS, before))[:2]:
                again, found = self.ask(cluster, text)
                self.assertEqual((again, found), (answer, 0))

    def test_without_a_disk_the_same_is_computed_again(self):
        with Cluster(stages=1, stage={"threads": 1}, pipeline=PIPELINE) as cluster:
            before = [self.ask(cluster, text) for text in TEXTS]
            again, found = self.ask(cluster, TEXTS[0])
            self.assertEqual(again, before[0][0])
            self.assertLess(found, 384)

    def test_a_damaged_block_costs_the_stage_its_place_and_nobody_a_wrong_answer(self):
        with Cluster(stages=1, stage={"threads": 1, "kv_disk_bytes": 64 << 20}, pipeline=PIPELINE) as cluster:
            right, _ = self.ask(cluster, TEXTS[0])
            for text in TEXTS[1:]:
                self.ask(cluster, text)
            pid, = cluster.stage_pids()
            name, = [fd for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir() if "/kv-" in os.readlink(fd)]
            with open(name, "r+b") as file:  # by way of the process, which alone has it
                file.write(b"\0" * (64 << 20))
            self.assertEqual(self.ask(cluster, TEXTS[0])[0], right)  # computed by the stage's successor
            self.assertIn("is damaged", (cluster.dir / "run" / "node1.log").read_text())
            self.assertNotEqual(cluster.stage_pids(), [pid])


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
