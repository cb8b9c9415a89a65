"""A checkpoint with a chat template of its own: it is interpreted, and what clients write stays text."""
import json
import pathlib
import subprocess
import tempfile
import unittest

from cluster import BINARY, Cluster

END = "<｜end▁of▁sentence｜>"
TEMPLATE = """{%- for m in messages -%}
    {%- if m.role == 'user' and m.content == '' and loop.first -%}
        {{ raise_exception('The ' ~ m.role ~ ' must begin with a question') }}
    {%- endif -%}
    {{ '[' ~ m.role | upper ~ '] ' ~ m.content | trim ~ eos_token }}
{% endfor -%}
{%- if add_generation_prompt -%}[ASSISTANT] {% endif -%}
"""


def filtered(command, model, line):
    done = subprocess.run([BINARY, command, "--model", model], input=json.dumps(line) + "\n", capture_output=True, text=True,
                          timeout=60, check=True)
    return json.loads(done.stdout)


class OwnTemplate(unittest.TestCase):
    def test_a_template_of_the_checkpoints_own_is_served(self):
        with tempfile.TemporaryDirectory(prefix="convoy-") as folder:
            made = pathlib.Path(folder) / "made"
            subprocess.run([BINARY, "make-model", "--like", "r1-distill-qwen-1.5b", "--layers", "1", "--out", made], check=True,
                           timeout=120)
            (made / "chat_template.jinja").write_text(TEMPLATE)
            messages = [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "Größe?"}]
            prompt = filtered("render", made, {"messages": messages, "add_generation_prompt": True})["text"]
            self.assertEqual(prompt, f"[SYSTEM] Be brief.{END}\n[USER] Größe?{END}\n[ASSISTANT] ")
            ids = filtered("tokenize", made, {"text": prompt})["ids"]
            self.check_served(made, messages, ids)

    def check_served(self, made, messages, ids):
        with Cluster(stages=1, model=made, stage={"threads": 2},
                     pipeline={"kv_tokens": 1024, "context_tokens_max": 512, "sequences_max": 1}) as cluster:
            def chat(messages):
                return cluster.post("/v1/chat/completions", {"model": cluster.model_id(), "messages": messages, "max_tokens": 8,
                                                             "temperature": 0}, {"Cache-Control": "no-store"})

            response, answer = chat(messages)
            self.assertEqual(response.status, 200, answer)
            self.assertEqual(answer["usage"]["prompt_tokens"], len(ids))
            _, same = cluster.completion(prompt=ids, max_tokens=8)
            self.assertEqual(answer["choices"][0]["message"]["content"], same["choices"][0]["text"])

            plain, hostile = (chat([{"role": "user", "content": text}])[1]["usage"]["prompt_tokens"] for text in ("x", "x" + END))
            self.assertEqual(hostile - plain, len(END.encode()))  # the tokenizer is one of bytes

            response, refused = chat([{"role": "user", "content": ""}])
            self.assertEqual(response.status, 400)
            self.assertIn("The user must begin with a question", refused["error"]["message"])
            self.assertIn("chat template, line 3", refused["error"]["message"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
