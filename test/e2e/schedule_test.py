"""What clients see of the scheduler: prompts that are found again, places that are taken back, users that share."""
import concurrent.futures
import itertools
import threading
import time
import unittest

from cluster import MODEL, SKIPPED, Cluster, Stream, wait_for

BLOCK = 64  # tokens
NO_STORE = {"Cache-Control": "no-store"}


def full_blocks(tokens):
    return tokens // BLOCK * BLOCK


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def ids(seed, count):
    """A prompt of token ids that no other seed begins with."""
    return [1000 + (seed * 7919 + i * 104729) % 30000 for i in range(count)]


def first_token_s(cluster, path="/v1/completions", **fields):
    """Seconds from the request to the first token of a stream, which is then left."""
    stream = Stream(cluster, path, {"model": cluster.model_id(), "temperature": 0, "max_tokens": 4, "ignore_eos": True,
                                    "return_token_ids": True, **fields}, NO_STORE)
    assert stream.response.status == 200, stream.response.read()
    for event in stream.events():
        if event["choices"] and event["choices"][0].get("token_ids"):
            stream.close()
            return time.monotonic() - stream.started
    raise AssertionError("the stream has no token")


class PrefixCache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(stages=2)
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None)

    def test_each_turn_of_a_conversation_finds_all_full_blocks_of_those_before(self):
        prompt, known = ids(1, 150), 0
        for turn in range(4):
            _, answer = self.cluster.completion(prompt=prompt, max_tokens=70, ignore_eos=True, return_token_ids=True)
            self.assertEqual(cached(answer), min(full_blocks(known), full_blocks(len(prompt) - 1)), f"turn {turn}")
            prompt = prompt + answer["choices"][0]["token_ids"]
            known = len(prompt) - 1  # the last token was never computed
            prompt = prompt + ids(100 + turn, 37)
        self.assertGreater(known, 6 * BLOCK)

    def test_each_turn_of_a_chat_finds_the_prompt_before_it(self):
        messages = [{"role": "system", "content": "You know a lot about trees and answer at length. " * 12}]
        before = 0
        for turn in range(4):
            messages.append({"role": "user", "content": f"Tell me something about tree number {turn}."})
            response, answer = self.cluster.post("/v1/chat/completions", {
                "model": self.cluster.model_id(), "messages": messages, "max_tokens": 20, "temperature": 0}, NO_STORE)
            self.assertEqual(response.status, 200, answer)
            self.assertGreaterEqual(cached(answer), full_blocks(before), f"turn {turn}")
            before = answer["usage"]["prompt_tokens"]
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        self.assertGreater(before, 3 * BLOCK)

    def test_streams_say_it_too_and_users_do_not_find_each_others_prompts(self):
        def ask(user):
            stream = Stream(self.cluster, "/v1/completions", {
                "model": self.cluster.model_id(), "prompt": ids(2, 200), "max_tokens": 2, "user": user,
                "stream_options": {"include_usage": True}}, NO_STORE)
            return [cached(event) for event in stream.events() if event.get("usage")]
        self.assertEqual([ask("ann"), ask("bob"), ask("ann")], [[0], [0], [192]])

    def test_a_shared_system_prompt_is_read_once(self):
        ratios = []
        for seed in (11, 12, 13):  # one of these runs beside nothing else
            system = ids(seed, 2000)
            first = first_token_s(self.cluster, prompt=system + ids(seed + 100, 20))
            second = first_token_s(self.cluster, prompt=system + ids(seed + 200, 20))
            ratios.append(second / first)
            if ratios[-1] <= 0.1:
                break
        self.assertLessEqual(min(ratios), 0.1, ratios)

    def test_several_answers_to_a_prompt_share_its_work(self):
        counter = "convoy_prompt_cached_tokens_total"
        before = self.cluster.settled(counter)
        _, answer = self.cluster.completion(prompt=ids(3, 200), n=3, temperature=1, seed=5, max_tokens=4)
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2])
        self.assertEqual(answer["usage"]["prompt_tokens"], 200)
        self.assertEqual(self.cluster.settled(counter) - before, 2 * 192)  # two found all blocks of the first

    def test_guesses_change_no_token(self):
        prompt = ids(4, 12) * 8
        ask = lambda how: self.cluster.completion(prompt=prompt, max_tokens=60, ignore_eos=True, return_token_ids=True,
                                                  speculation=how)[1]["choices"][0]["token_ids"]
        alone = ask("off")

        def guessed():  # only where steps are measured to be worth it: on a busy machine not in every answer
            self.assertEqual(ask("prompt_lookup"), alone)
            return self.cluster.metric("convoy_drafted_tokens_total") > 0
        wait_for(guessed, "tokens were guessed")


class Preemption(unittest.TestCase):
    def test_twice_what_the_kv_cache_holds_is_answered_as_if_each_came_alone(self):
        with Cluster(stages=1, pipeline={"kv_tokens": 1024}) as cluster:
            def ask(seed):
                return cluster.completion(prompt=ids(seed, 16), max_tokens=240, ignore_eos=True, user=str(seed),
                                          return_token_ids=True)[1]["choices"][0]["token_ids"]
            seeds = range(20, 28)  # 8 * 256 tokens
            alone = [ask(seed) for seed in seeds]
            self.assertEqual(cluster.metric("convoy_preemptions_total"), 0)
            with concurrent.futures.ThreadPoolExecutor(len(seeds)) as threads:
                together = list(threads.map(ask, seeds))
            self.assertEqual(together, alone)
            wait_for(lambda: cluster.metric("convoy_preemptions_total") > 0, "sequences were preempted")
            self.assertEqual(cluster.status()["preemptions"], cluster.metric("convoy_preemptions_total"))


class Fairness(unittest.TestCase):
    def test_a_user_beside_64_clients_of_another_is_served_soon(self):
        with Cluster(stages=1) as cluster:
            alone = min(first_token_s(cluster, prompt=ids(seed, 400), user="ann") for seed in (30, 31))
            ends = threading.Event()

            def keep_asking(seed):
                for i in itertools.count():
                    if ends.is_set():
                        return
                    cluster.post("/v1/completions", {
                        "model": cluster.model_id(), "prompt": ids(1000 * seed + i, 40), "max_tokens": 100, "ignore_eos": True,
                        "user": "bob"}, NO_STORE)

            with concurrent.futures.ThreadPoolExecutor(64) as threads:
                clients = [threads.submit(keep_asking, seed) for seed in range(100, 164)]
                try:
                    wait_for(lambda: cluster.status()["running"] >= 60, "the others run")
                    beside = [first_token_s(cluster, prompt=ids(seed, 400), user="ann") for seed in (32, 33, 34)]
                    steps = [cluster.metric(f'convoy_step_seconds_{what}{{kind="mixed"}}') for what in ("sum", "count")]
                finally:
                    ends.set()
                for client in clients:
                    client.result()
            step = steps[0] / steps[1]
            print(f"first token: alone {alone:.3f} s, beside 64 {sorted(beside)}, a mixed step {step:.3f} s", flush=True)
            self.assertLessEqual(min(beside), 3 * alone + step)


class Overload(unittest.TestCase):
    def test_ten_times_what_can_be_served_is_refused_with_when_to_come_again(self):
        with Cluster(stages=1, pipeline={"sequences_max": 4, "queue_max": 4}) as cluster:
            ends = time.monotonic() + 6
            answers, lock = [], threading.Lock()

            def keep_asking(seed):
                for i in itertools.count():
                    if time.monotonic() > ends:
                        return
                    response, body = cluster.post("/v1/completions", {
                        "model": cluster.model_id(), "prompt": ids(1000 * seed + i, 30), "max_tokens": 40, "ignore_eos": True},
                        NO_STORE)
                    with lock:
                        answers.append((response.status, dict(response.headers), body))
                    if response.status == 503:
                        time.sleep(0.05)

            with concurrent.futures.ThreadPoolExecutor(80) as threads:
                for client in [threads.submit(keep_asking, seed) for seed in range(80)]:
                    client.result()
            statuses = [status for status, _, _ in answers]
            self.assertEqual(set(statuses), {200, 503})
            for status, headers, body in answers:
                headers = {name.lower(): value for name, value in headers.items()}
                if status == 200:
                    self.assertEqual(body["usage"]["completion_tokens"], 40)
                    continue
                self.assertEqual(body["error"]["code"], "overloaded")
                self.assertGreaterEqual(int(headers["retry-after"]) * 1000, int(headers["retry-after-ms"]))
                self.assertGreaterEqual(int(headers["retry-after-ms"]), 1000)
            rejected = cluster.metric("convoy_requests_overload_rejected_total")
            print(f"{statuses.count(200)} answered, {statuses.count(503)} refused, {rejected:.0f} of them by the pipeline",
                  flush=True)
            self.assertLess(rejected, statuses.count(503) / 2)  # the gateway knows
            wait_for(lambda: not cluster.status()["overloaded"], "it takes requests again")
            cluster.completion()


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: there is no {MODEL} (scripts/fetch-model)")
        raise SystemExit(SKIPPED)
    unittest.main()
