#!/usr/bin/env python3
"""The official SDK against a running cluster: what it sends is understood, what it gets is what it expects.

Runs against the cluster that CONVOY_URL names (as http://127.0.0.1:8080), or one of its own as the other tests here do.
Needs the package openai; scripts/test installs it into .venv, which is used if it is there.
Answers are compared with each other, never with fixed text: any chat model will do.
"""

import os
import sys
import unittest
import uuid

from with_openai import SKIPPED, openai

URL = os.environ.get("CONVOY_URL", "")
QUESTION = [{"role": "user", "content": "Name three colours."}]


def client(**options):
    return openai.OpenAI(base_url=URL + "/v1", api_key="unused", max_retries=0, timeout=120, **options)


def model():
    return client().models.list().data[0].id


def fresh_seed():
    """A seed that no cached answer has."""
    return uuid.uuid4().int % 2**62


class Models(unittest.TestCase):
    def test_the_list_names_the_served_model_and_it_can_be_asked_for(self):
        models = client().models.list().data
        self.assertEqual(len(models), 1)
        self.assertEqual(models[0].object, "model")
        self.assertGreater(models[0].created, 0)
        self.assertEqual(client().models.retrieve(models[0].id).id, models[0].id)

    def test_an_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError):
            client().models.retrieve("no-such-model")


class Chat(unittest.TestCase):
    def ask(self, **options):
        defaults = {"model": model(), "messages": QUESTION, "temperature": 0, "max_tokens": 12}
        return client().chat.completions.create(**{**defaults, **options})

    def test_an_answer_has_every_field_the_sdk_knows(self):
        answer = self.ask(seed=fresh_seed())
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, model())
        self.assertGreater(answer.created, 1_700_000_000)
        self.assertEqual(len(answer.choices), 1)
        choice = answer.choices[0]
        self.assertEqual((choice.index, choice.message.role), (0, "assistant"))
        self.assertTrue(choice.message.content)
        self.assertIsNone(choice.logprobs)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 5)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        if choice.finish_reason == "length":
            self.assertEqual(usage.completion_tokens, 12)
        else:
            self.assertLessEqual(usage.completion_tokens, 12)

    def test_max_completion_tokens_limits_the_answer(self):
        answer = client().chat.completions.create(
            model=model(), messages=QUESTION, temperature=0, max_completion_tokens=3)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 3)

    def test_a_stream_says_the_same_as_a_whole_answer(self):
        seed = fresh_seed()
        whole = self.ask(seed=seed, max_tokens=12)
        chunks = list(self.ask(seed=seed, max_tokens=12, stream=True, stream_options={"include_usage": True},
                               extra_headers={"Cache-Control": "no-store"}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(len({c.id for c in chunks}), 1)
        self.assertEqual({c.object for c in chunks}, {"chat.completion.chunk"})
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        self.assertEqual(reasons[:-1], [None] * (len(reasons) - 1))
        self.assertEqual(reasons[-1], whole.choices[0].finish_reason)
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))

    def test_a_stream_has_no_usage_unless_asked(self):
        chunks = list(self.ask(stream=True))
        self.assertTrue(all(c.usage is None and len(c.choices) == 1 for c in chunks))

    def test_the_sdks_own_stream_helper_puts_the_answer_together(self):
        options = {"model": model(), "messages": QUESTION, "temperature": 0, "max_tokens": 24}
        text = self.ask(**options).choices[0].message.content
        options["stop"] = text[len(text) // 2:][:4]  # the helper takes an answer that ran out of tokens as an error
        with client().chat.completions.stream(**options) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, text[:text.index(options["stop"])])
        self.assertEqual(final.choices[0].finish_reason, "stop")
        with self.assertRaises(openai.LengthFinishReasonError):
            with client().chat.completions.stream(**{**options, "stop": None, "max_tokens": 2}) as stream:
                stream.get_final_completion()

    def test_an_identical_request_comes_from_the_cache_whole_or_streamed(self):
        options = {"model": model(), "messages": QUESTION, "temperature": 0, "max_tokens": 12, "seed": fresh_seed()}
        raw = client().chat.completions.with_raw_response
        first = raw.create(**options)
        self.assertEqual(first.headers["x-cache"], "miss")
        text = first.parse().choices[0].message.content
        second = raw.create(**options)
        self.assertEqual(second.headers["x-cache"], "hit")
        self.assertEqual(second.parse().choices[0].message.content, text)
        self.assertEqual(second.parse().usage, first.parse().usage)
        third = raw.create(**options, stream=True)
        self.assertEqual(third.headers["x-cache"], "hit")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in third.parse()), text)

    def test_logprobs_stand_beside_every_token(self):
        answer = self.ask(max_tokens=4, logprobs=True, top_logprobs=2)
        tokens = answer.choices[0].logprobs.content
        self.assertEqual(len(tokens), 4)
        for token in tokens:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 2)
            self.assertGreaterEqual(token.top_logprobs[0].logprob, token.top_logprobs[1].logprob)
            self.assertEqual(token.logprob, token.top_logprobs[0].logprob)  # greedy takes the best
        text = b"".join(bytes(t.bytes) for t in tokens).decode(errors="replace")
        self.assertEqual(text, answer.choices[0].message.content)

    def test_a_stop_string_ends_the_answer_before_it(self):
        whole = self.ask(max_tokens=24).choices[0].message.content
        stop = whole[len(whole) // 2:][:4]
        answer = self.ask(max_tokens=24, stop=[stop])
        self.assertEqual(answer.choices[0].message.content, whole[:whole.index(stop)])
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_a_seed_repeats_a_sampled_answer(self):
        options = {"temperature": 1.0, "seed": fresh_seed(), "extra_headers": {"Cache-Control": "no-store"}}
        self.assertEqual(self.ask(**options).choices[0].message.content, self.ask(**options).choices[0].message.content)


class Completions(unittest.TestCase):
    def complete(self, **options):
        defaults = {"model": model(), "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
        return client().completions.create(**{**defaults, **options})

    def test_text_whole_and_streamed_agree(self):
        whole = self.complete()
        self.assertTrue(whole.id.startswith("cmpl-"))
        self.assertEqual(whole.object, "text_completion")
        self.assertTrue(whole.choices[0].text)
        self.assertEqual(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
        chunks = list(self.complete(stream=True, extra_headers={"Cache-Control": "no-store"}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual(chunks[-1].choices[0].finish_reason, whole.choices[0].finish_reason)

    def test_a_prompt_of_token_ids_is_taken_and_ids_come_back(self):
        extensions = {"return_token_ids": True, "ignore_eos": True}
        answer = self.complete(prompt=[504, 3575, 282], max_tokens=5, extra_body=extensions)
        self.assertEqual(answer.usage.prompt_tokens, 3)
        self.assertEqual(answer.usage.completion_tokens, 5)
        ids = answer.choices[0].token_ids
        self.assertEqual(len(ids), 5)
        chunks = self.complete(prompt=[504, 3575, 282], max_tokens=5, stream=True, extra_body=extensions)
        self.assertEqual([i for c in chunks if c.choices for i in getattr(c.choices[0], "token_ids", [])], ids)


    def test_prompts_of_a_list_are_choices_as_if_each_came_alone(self):
        prompts = ["The capital of France is", "Water is"]
        alone = [self.complete(prompt=p).choices[0].text for p in prompts]
        headers = {"Cache-Control": "no-store"}
        together = self.complete(prompt=prompts, extra_headers=headers)
        self.assertEqual([c.index for c in together.choices], [0, 1])
        self.assertEqual([c.text for c in together.choices], alone)
        self.assertEqual(together.usage.completion_tokens, 16)
        texts = ["", ""]
        for chunk in self.complete(prompt=prompts, stream=True, extra_headers=headers):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        self.assertEqual(texts, alone)


class Errors(unittest.TestCase):
    def refused(self, kind, **options):
        defaults = {"model": model(), "messages": QUESTION, "max_tokens": 4}
        with self.assertRaises(kind) as caught:
            client().chat.completions.create(**{**defaults, **options})
        error = caught.exception
        self.assertTrue(error.body["message"])
        self.assertIn("type", error.body)
        return error

    def test_a_value_out_of_range_is_a_bad_request_that_names_its_field(self):
        for field, value in {"temperature": 9, "top_p": -1, "presence_penalty": 3, "max_tokens": 0, "n": 0,
                             "stop": ["a", ""]}.items():
            with self.subTest(field):
                error = self.refused(openai.BadRequestError, **{field: value})
                self.assertEqual((error.status_code, error.param), (400, field))
                self.assertEqual(error.type, "invalid_request_error")

    def test_a_value_of_the_wrong_type_is_a_bad_request_that_names_its_field(self):
        for field, value in {"messages": "Hi", "max_tokens": "4", "seed": 1.5, "logprobs": "yes"}.items():
            with self.subTest(field):
                error = self.refused(openai.BadRequestError, **{field: value})
                self.assertEqual((error.status_code, error.param), (400, field))

    def test_an_unknown_model_is_not_found(self):
        error = self.refused(openai.NotFoundError, model="no-such-model")
        self.assertEqual((error.status_code, error.code), (404, "model_not_found"))

    def test_a_prompt_longer_than_the_context_is_a_bad_request_with_both_numbers(self):
        error = self.refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 40_000}])
        self.assertEqual(error.code, "context_length_exceeded")
        numbers = [int(n) for n in "".join(c if c.isdigit() else " " for c in error.body["message"]).split()]
        self.assertGreaterEqual(len(numbers), 2, error.body["message"])
        self.assertGreater(max(numbers), 40_000)

    def test_an_error_in_a_stream_request_is_raised_before_the_stream(self):
        self.refused(openai.BadRequestError, stream=True, temperature=9)

    def test_neutral_values_are_accepted(self):
        answer = client().chat.completions.create(
            model=model(), messages=[{**QUESTION[0], "name": "Ada"}], max_tokens=2, top_p=0, stop=[], logit_bias={},
            reasoning_effort="none", extra_body={"stop_token_ids": [], "chat_template_kwargs": {}, "stream_options": {}})
        self.assertEqual(len(answer.choices), 1)

    def test_fields_of_other_servers_that_we_lack_are_refused_by_name(self):
        for field, value in {"chat_template_kwargs": {"enable_thinking": False}, "guided_choice": ["a"],
                             "stop_token_ids": [7]}.items():
            with self.subTest(field):
                error = self.refused(openai.BadRequestError, extra_body={field: value})
                self.assertEqual((error.param, error.code), (field, "unsupported_parameter"))

    def test_an_unknown_field_is_ignored(self):
        answer = client().chat.completions.create(model=model(), messages=QUESTION, max_tokens=2,
                                                  extra_body={"a_field_of_tomorrow": {"x": 1}})
        self.assertEqual(len(answer.choices), 1)

    def test_an_unknown_path_is_not_found(self):
        with self.assertRaises(openai.NotFoundError):
            client().embeddings.create(model=model(), input="Hi")


def setUpModule():
    """Starts a cluster unless one was named."""
    global URL
    if URL:
        return
    from cluster import Cluster  # reads ctest's environment

    cluster = Cluster().__enter__()
    unittest.addModuleCleanup(cluster.__exit__, None)
    URL = f"http://127.0.0.1:{cluster.gateway_port}"


if __name__ == "__main__":
    if not URL:
        from cluster import MODEL

        if not MODEL.exists():
            print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
            sys.exit(SKIPPED)
    unittest.main(verbosity=2)
