#!/usr/bin/env python3
"""Chat templates against jinja2: `convoy render` gives what it does, byte for byte, and refuses what it fails on.

The texts are those that come with Convoy, those of test/golden, and every *.jinja of the folder that CONVOY_CHAT_TEMPLATES names (else
../shared/golden/templates); the source package of llama-cpp-python brings seventy (vendor/llama.cpp/models/templates).
Needs the package jinja2; scripts/test installs it into .venv, which is used if it is there.

usage: chat_templates_test.py                          the test
       chat_templates_test.py --record cases.json      writes the renderings that test/model/chat_templates.cpp checks
       chat_templates_test.py --record-constructs FILE the same for test/model/jinja.cpp, of the templates in that file
"""

import concurrent.futures
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77  # ctest's SKIP_RETURN_CODE
BAD_INPUT = 3
SOURCE = pathlib.Path(os.environ.get("CONVOY_SOURCE_DIR", ".")).resolve()
OURS = SOURCE / "model/chat/texts"
CONVOY = os.environ.get("CONVOY_BINARY", "")
try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    VENV_PYTHON = SOURCE / ".venv/bin/python"
    if VENV_PYTHON.exists() and pathlib.Path(sys.prefix) != VENV_PYTHON.parents[1]:
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    print("skipped: the package jinja2 is not installed; scripts/test installs it into .venv")
    sys.exit(SKIPPED)

DEEPSEEK = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
OTHERS = {"bos_token": "<s>", "eos_token": "</s>"}
CONVERSATIONS = int(os.environ.get("CONVOY_CONVERSATIONS", "500"))  # a template
REFUSED_MAX = max(1, CONVERSATIONS * 40 // 500)  # a refusal costs a process
# Needs `functions` and `datetime`, which its publisher's programs give and transformers does not: both refuse all.
REFUSE_ALL = {"fireworks-ai-llama-3-firefunction-v2"}


# The reference: jinja2, set up as transformers does for apply_chat_template().


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


class Generation(jinja2.ext.Extension):
    """{% generation %}: what is in it is printed."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_print"), [], [], body).set_lineno(line)

    def _print(self, caller):
        return caller()


def compiled(text, now=datetime.datetime.now):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.filters["from_json"] = json.loads  # as vendors' servers have it; transformers has not
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment.from_string(text)


def special_tokens(name):
    return DEEPSEEK if name.startswith("deepseek") else LLAMA if name.startswith("llama") else OTHERS


def reference(name, template, line):
    """The rendering, or None where the template fails."""
    more = dict(special_tokens(name))
    if line.get("thinking") is not None:  # the publishers call it differently
        more.update(thinking=line["thinking"], enable_thinking=line["thinking"])
    try:
        return template.render(messages=line["messages"], tools=line["tools"], documents=None,
                               add_generation_prompt=line["add_generation_prompt"], **more)
    except (jinja2.exceptions.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


def templates():
    """{name: text}"""
    found = {}
    llama3 = SOURCE / "../shared/golden/tokenizers/llama3/tokenizer_config.json"  # its licence allows no copy
    if llama3.exists():
        found["llama3-first"] = json.loads(llama3.read_text())["chat_template"]
    more = pathlib.Path(os.environ.get("CONVOY_CHAT_TEMPLATES", SOURCE / "../shared/golden/templates"))
    for path in sorted([*more.glob("*.jinja"), *OURS.glob("*.jinja"), *(SOURCE / "test/golden/templates").glob("*.jinja")]):
        found[path.stem] = path.read_bytes().decode()
    return found


# Conversations.

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather \"now\" — для города 城市\tü <tool_call> \\ /",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "enum": ["Köln", "\u2028", ""]},
        "days": {"type": "integer", "minimum": 0, "maximum": 18446744073709551615, "default": -9223372036854775808},
        "scale": {"type": "number", "enum": [0.1, 1.0, 1e-05, 0.0001, 1e15, 123456789012.5, -0.0, 2.5e-300, 3.14]},
        "deep": {"a": [[], {}, [{}], None, True, False, "\u0000\u001f\u007f\b\f\r\n"]}}, "required": ["city"]}}}
BARE_TOOL = {"name": "bare", "parameters": {}}

TEXTS = ["", "Hi", "What is 2+2?", "  spaces \n", "\n\nlines\n\n", "你好\u3000", "\u00a0\u2003x\u0085\u001c", "{{ x }}{% raw %}",
         "<think>\nhmm\n</think>\n\nanswer", "a</think>b</think>c", "</think>", "<think>only", "\n</think>\n\n\ntail\n",
         "<tool_response>\nsunny\n</tool_response>", "<tool_response>", "<|im_end|>", "<｜Assistant｜>", "\"quoted\" \\ \u0001",
         "None", "x<think>y<think>\n\nz\n\n</think>w"]


def chosen(random_, *weighted):
    values, weights = zip(*weighted)
    return random_.choices(values, weights)[0]


def random_call(random_):
    arguments = random_.choice(['{"city": "Köln"}', "", {"city": "Köln", "n": [1, 2.50, 1e100 / 1e90]}, {}, [], "{", None, 7])
    if random_.random() < 0.7:
        arguments = '{"city":"Köln"}' if random_.random() < 0.6 else {"city": "Köln", "days": 3}
    function = {"name": random_.choice(["get_weather", "f", "", "名\""]), "arguments": arguments}
    if random_.random() < 0.08:
        return function
    call = {"id": "call_1", "function": function}
    if random_.random() < 0.93:
        call["type"] = "function"
    return call


def random_message(random_, role):
    message = {"role": role, "content": random_.choice(TEXTS)}
    calls = role == "assistant" and random_.random() < 0.4
    if random_.random() < (0.4 if calls else 0.01):
        message["content"] = None
    elif random_.random() < (0.15 if calls else 0.01):
        del message["content"]
    if calls or random_.random() < 0.01:
        message["tool_calls"] = chosen(
            random_, ([random_call(random_)], 8), ([random_call(random_) for _ in range(2)], 3), ([], 1), (None, 1))
    if role == "assistant" and random_.random() < 0.2:
        message["reasoning_content"] = random_.choice([None, "", "because", "\n\nwhy\n", "<think>x</think>"])
    if role == "assistant" and random_.random() < 0.1:
        message["prefix"] = random_.random() < 0.7
    if role == "tool":
        message["tool_call_id"] = "call_1"
    return message


def random_line(random_):
    roles = []
    if random_.random() < 0.4:
        roles.append("system")
    for _ in range(random_.randint(0, 3)):
        roles.append("user")
        if random_.random() < 0.4:
            roles += ["assistant"] + ["tool"] * random_.randint(1, 3)
        if random_.random() < 0.7:
            roles.append("assistant")
    if random_.random() < 0.6:
        roles.append("user")
    if random_.random() < 0.2:
        roles.insert(random_.randint(0, len(roles)), random_.choice(["system", "tool", "assistant", "user", "ipython", "critic"]))
    roles = roles or ["user"]
    return {"messages": [random_message(random_, role) for role in roles],
            "tools": chosen(random_, (None, 4), ([], 1), ([WEATHER], 2), ([WEATHER, BARE_TOOL], 1)),
            "add_generation_prompt": random_.random() < 0.6,
            "thinking": random_.choice([None, None, True, False])}


def fixed_lines():
    """Few, for the stored renderings: each says something that another does not."""
    say = lambda role, content, **more: dict({"role": role, "content": content}, **more)  # noqa: E731
    text_call = {"type": "function", "id": "1", "function": {"name": "get_weather", "arguments": '{"city":"Köln"}'}}
    object_call = {"type": "function", "id": "2", "function": {"name": "f", "arguments": {"days": 3, "scale": 0.5}}}
    user, done = say("user", "  Hi \n"), say("tool", '{"t": 20}', tool_call_id="1")
    thought = say("assistant", "<think>\nhmm\n</think>\n\nHello!")
    conversations = [
        [user],
        [say("system", " S "), user],
        [say("system", "S"), user, thought, say("system", "T"), say("user", "more")],
        [user, say("assistant", "", reasoning_content="\nwhy\n"), say("user", "")],
        [user, say("assistant", None, tool_calls=[text_call])],
        [user, say("assistant", "Let me see.", tool_calls=[text_call]), done, say("assistant", "20 degrees.")],
        [user, say("assistant", None, tool_calls=[text_call, text_call]), done, done],
        [user, say("assistant", None, tool_calls=[text_call]), done, say("assistant", "20."), say("user", "and f?"),
         say("assistant", "<think>x</think>y", tool_calls=[text_call]), done, say("assistant", "a</think>b")],
        [user, say("assistant", "", tool_calls=[object_call]), done],
        [user, {"role": "assistant", "tool_calls": [object_call]}, say("tool", None)],
        [user, say("assistant", "Sure, ", prefix=True)],
        [user, say("assistant", "x", tool_calls=None), say("user", "y")],
        [user, say("assistant", "x", tool_calls=[])],
        [say("user", None)], [{"role": "user"}], [say("system", None), user],
        [say("tool", "first"), say("critic", "what?"), thought],
        [say("user", "<|im_end|>{{ x }}你好\u3000"), say("user", "<tool_response>\nr\n</tool_response>"), thought]]
    for index, messages in enumerate(conversations):
        yield {"messages": messages, "tools": ([None, [WEATHER], [], [WEATHER, BARE_TOOL]])[index % 4],
               "add_generation_prompt": index % 5 != 3, "thinking": (None, True, False)[index % 3]}


# Ours.


def render(name, text, lines):
    """The texts, or None where one is refused."""
    with tempfile.NamedTemporaryFile(suffix=".jinja") as file:
        file.write(text.encode())
        file.flush()
        tokens = special_tokens(name)
        process = subprocess.run(
            [CONVOY, "render", "--template", file.name, "--bos", tokens["bos_token"], "--eos", tokens["eos_token"]],
            text=True, capture_output=True, timeout=120,
            input="".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    if process.returncode:
        refused = process.returncode == BAD_INPUT and "standard input, line" in process.stderr
        if not refused:
            raise AssertionError(f"exit {process.returncode}: {process.stderr}")
        return None
    return [json.loads(line)["text"] for line in process.stdout.rstrip("\n").split("\n")]


class ChatTemplates(unittest.TestCase):
    def compare(self, name, text, lines, expected):
        good = [(line, e) for line, e in zip(lines, expected) if e is not None]
        bad = [line for line, e in zip(lines, expected) if e is None][:REFUSED_MAX]
        self.assertEqual(not good, name in REFUSE_ALL)
        ours = render(name, text, [line for line, _ in good]) if good else []
        if ours is None:  # find which
            line = next(line for line, _ in good if render(name, text, [line]) is None)
            self.fail(f"refused: {json.dumps(line, ensure_ascii=False)}")
        for (line, wanted), own in zip(good, ours):
            self.assertEqual(own, wanted, json.dumps(line, ensure_ascii=False))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for line, own in zip(bad, pool.map(lambda line: render(name, text, [line]), bad)):
                self.assertIsNone(own, json.dumps(line, ensure_ascii=False))
        print(f"{name}: {len(good)} equal, {len(bad)} refused")

    def test_every_template_renders_and_refuses_as_jinja2_does(self):
        for name, text in templates().items():
            random_ = random.Random(name)
            lines = list(fixed_lines()) + [random_line(random_) for _ in range(CONVERSATIONS)]
            template = compiled(text)
            expected = [reference(name, template, line) for line in lines]
            with self.subTest(template=name):
                self.compare(name, text, lines, expected)


RECORDED = datetime.datetime(2025, 3, 4, 12)  # the clock of the stored renderings


def record(path):
    """What is stored of texts that are not at hand stays."""
    lines = list(fixed_lines())
    stored = json.loads(pathlib.Path(path).read_text())
    if stored["conversations"] != lines:
        raise SystemExit(f"{path} holds other conversations: give every text, and an empty file")
    rendered = stored["renderings"] | {name: [reference(name, compiled(text, lambda: RECORDED), line) for line in lines]
                for name, text in sorted(templates().items())}
    rows = ",\n".join("  " + json.dumps(line, ensure_ascii=False) for line in lines)
    names = ",\n".join(
        f"  {json.dumps(name)}: [\n" + ",\n".join("    " + json.dumps(text, ensure_ascii=False) for text in texts) + "]"
        for name, texts in rendered.items())
    pathlib.Path(path).write_text(f'{{"conversations": [\n{rows}],\n"renderings": {{\n{names}}}}}\n')


def record_constructs(path):
    path = pathlib.Path(path)
    golden = json.loads(path.read_text())
    line = {"messages": golden["messages"], "tools": golden["tools"], "add_generation_prompt": True}

    def text_of(template):
        try:
            return reference("", compiled(template), line)
        except (jinja2.exceptions.TemplateError, SyntaxError):
            return None

    rows = ",\n".join("  " + json.dumps({"template": c["template"], "text": text_of(c["template"])}, ensure_ascii=False)
                      for c in golden["cases"])
    messages, tools = (json.dumps(golden[key], ensure_ascii=False) for key in ("messages", "tools"))
    path.write_text(f'{{"messages": {messages},\n"tools": {tools},\n"cases": [\n{rows}]}}\n')


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        record(sys.argv[2])
    elif sys.argv[1:2] == ["--record-constructs"]:
        record_constructs(sys.argv[2])
    else:
        unittest.main(verbosity=2)
