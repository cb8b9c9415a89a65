// The interpreter of chat templates: against what jinja2 gives, whose text is whose, and what it may use.

#include <boost/test/unit_test.hpp>

#include "model/chat/chat_template.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "test/model/golden_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

const std::vector<Message> hello = {{"user", "Hi"}};

std::vector<Segment> segments(const std::string& text, const std::vector<Message>& messages = hello,
                              const RenderOptions& options = {}) {
  return ChatTemplate::from_text(text, {.bos = "<s>", .eos = "</s>"}).render(messages, options);
}

std::string rendered(const std::string& text, const std::vector<Message>& messages = hello) {
  return plain_text(segments(text, messages));
}

/// Only what may hold control tokens.
std::string trusted(const std::string& text, const std::vector<Message>& messages = hello) {
  std::string own;
  for (const Segment& segment : segments(text, messages))
    if (segment.trusted) own += segment.text;
  return own;
}

/// The error that the template ends with.
InputError refused(const std::string& text, const RenderOptions& options = {}) {
  try {
    segments(text, hello, options);
  } catch (const InputError& error) {
    return error;
  }
  BOOST_FAIL("not refused: " << text.substr(0, 200));
  throw std::logic_error("not reached");
}

/// Messages that are read one by one.
class Read final : public LateMessages {
 public:
  explicit Read(std::vector<Message> messages) : messages_(std::move(messages)) {}
  size_t size() const override { return messages_.size(); }
  const Message& read(size_t index) override {
    count++;
    return last_ = messages_[index];
  }
  size_t count = 0;

 private:
  std::vector<Message> messages_;
  Message last_;
};

/// What a template gives, or why it gives nothing.
template <class Messages>
std::string outcome(const std::string& text, Messages&& messages) {
  try {
    return plain_text(ChatTemplate::from_text(text, {}).render(messages, {.add_generation_prompt = true}));
  } catch (const InputError& error) {
    return error.what();
  }
}

std::string times(size_t count, const std::string& unit) {
  std::string text;
  for (size_t i = 0; i < count; i++) text += unit;
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_construct_gives_what_jinja2_gives) {
  const auto golden =
      parse_json(read_file(source_dir() / "test/golden/templates/constructs.json"), "golden").as_object();
  const std::vector<Message> messages = parse_messages(golden.at("messages"));
  const json::array& tools = golden.at("tools").as_array();
  BOOST_REQUIRE_GE(golden.at("cases").as_array().size(), 200);
  for (const json::value& c : golden.at("cases").as_array()) {
    const std::string text(c.at("template").as_string());
    std::optional<std::string> own;
    std::string why;
    try {
      own = plain_text(segments(text, messages, {.add_generation_prompt = true, .tools = &tools}));
    } catch (const InputError& error) {
      why = error.what();
      BOOST_TEST(error.where().starts_with("chat template, line "), text << ": " << why);
    }
    if (c.at("text").is_null()) {
      BOOST_TEST(!own.has_value(), text << " gives " << own.value_or(""));
      continue;
    }
    BOOST_TEST(own.has_value(), text << ": " << why);
    if (own) BOOST_TEST(*own == c.at("text").as_string(), text << " gives " << *own);
  }
}

BOOST_AUTO_TEST_CASE(no_way_through_a_template_makes_a_clients_text_the_templates_own) {
  const std::vector<Message> messages = {
      {"<x>", "<x>a<x> b"}, {.role = "user", .content = "<x>", .name = "<x>", .tool_call_id = "<x>"}};
  for (const std::string expression : {"m.content",
                                       "m.content ~ ''",
                                       "m.content + '!'",
                                       "m.content | trim",
                                       "m.content | upper | lower",
                                       "m.content | replace('a', '<y>')",
                                       "m.content.replace('b', m.content)",
                                       "'q'.replace('q', m.content)",
                                       "m.content.split('a') | join('-')",
                                       "m.content[1:] ~ m.content[:1]",
                                       "m.content[::-1]",
                                       "m.content | reverse",
                                       "m.content | tojson",
                                       "m | tojson",
                                       "[m.content]",
                                       "m",
                                       "{m.content: 1}",
                                       "m.content | list",
                                       "m.content | indent(2, true)",
                                       "m.content | title",
                                       "m.content.title()",
                                       "m.content * 2",
                                       "m.content | default('x')",
                                       "m.content | string | safe",
                                       "m.role",
                                       "m.name",
                                       "m.tool_call_id",
                                       "[m.content, m.content] | join(m.content)",
                                       "m.content.join(['a', 'b'])",
                                       "(m.content if true else 'x')",
                                       "messages | map(attribute='content') | join",
                                       "m.content.partition('a')",
                                       "m.values() | list",
                                       "m.content.splitlines()[0]",
                                       "m.content | capitalize",
                                       "f(m.content)",
                                       "b"}) {
    const std::string text =
        "{% macro f(x) %}{{ x }}{% endmacro %}{% for m in messages %}{% set b %}{{ m.content }}"
        "{% endset %}{{ " +
        expression + " }}{% endfor %}";
    BOOST_TEST(trusted(text, messages).find_first_of("xX") == std::string::npos, expression);
  }
}

BOOST_AUTO_TEST_CASE(what_the_template_wrote_keeps_its_control_tokens_through_every_filter) {
  for (const std::string expression :
       {"'<x>'", "'<x>' ~ messages[0].content", "('<x>' + 'y') | trim", "'a<x>b' | replace('a', '')",
        "'<X>' | lower", "'<x> <x>'.split(' ')[0]", "['<x>', 'b'] | join", "{'a': '<x>'}['a']", "'b<x>'[1:]",
        "'<x>' if true", "messages[0].nope | default('<x>')", "'<x>a' | indent"})
    BOOST_TEST(trusted("{{ " + expression + " }}").find("<x>") != std::string::npos, expression);
  BOOST_TEST(trusted("<x>{{ bos_token }}{{ eos_token }}") == "<x><s></s>");
}

BOOST_AUTO_TEST_CASE(a_role_of_the_format_may_be_part_of_a_control_token_and_no_other) {
  const std::string text = "{{ '<|' + messages[0].role + '|>' }}";
  BOOST_TEST(trusted(text, {{"assistant", ""}}) == "<|assistant|>");
  BOOST_TEST(trusted(text, {{"endoftext", ""}}) == "<||>");
  BOOST_TEST(trusted("{{ messages[0].content }}", {{"user", "assistant"}}) == "");
}

BOOST_AUTO_TEST_CASE(neighbours_of_one_origin_are_one_segment) {
  const auto parts = segments("a{{ 'b' }}{{ messages[0].content }}{{ messages[0].content }}{{ 'c' }}");
  BOOST_REQUIRE_EQUAL(parts.size(), 3);
  BOOST_TEST((parts[0].trusted && !parts[1].trusted && parts[2].trusted));
  BOOST_TEST(parts[1].text == "HiHi");
}

BOOST_AUTO_TEST_CASE(a_long_prompt_is_seen_as_it_grows_and_can_be_given_up) {
  const std::string text = "{% for i in range(2000) %}{% set b %}{{ 'x' * 100 }}{% endset %}<{{ b }}>" +
                           std::string("{{ messages[0].content }}{% endfor %}{{ 'the end' }}");
  std::vector<std::string> seen;
  const RenderOptions watched{.watch = [&](std::span<const Segment> beginning) {
    BOOST_TEST((beginning.size() > 1 && beginning[0].trusted && !beginning[1].trusted));
    seen.push_back(plain_text(beginning));
  }};
  const std::string whole = plain_text(segments(text, hello, watched));
  BOOST_TEST(whole == rendered(text));
  BOOST_REQUIRE_EQUAL(seen.size(), 6);  // of 4 KiB, 8 KiB, … 128 KiB
  for (size_t i = 0; i < seen.size(); i++) {
    BOOST_TEST(whole.starts_with(seen[i]));
    BOOST_TEST(seen[i].size() >= size_t{4096} << i);
    BOOST_TEST(seen[i].size() < (size_t{4500} << i));
  }
  struct Enough {};
  size_t rendered_bytes = 0;
  const RenderOptions impatient{.watch = [&](std::span<const Segment> beginning) {
    rendered_bytes = plain_text(beginning).size();
    if (rendered_bytes > 10'000) throw Enough();
  }};
  BOOST_CHECK_THROW(segments(text, hello, impatient), Enough);
  BOOST_TEST(rendered_bytes < 20'000);
  seen.clear();
  segments("{% for i in range(40) %}{{ 'x' * 100 }}{% endfor %}", hello, watched);
  BOOST_TEST(seen.empty());  // too short to be worth a look
}

BOOST_AUTO_TEST_CASE(messages_that_are_read_late_give_the_same) {
  const auto golden =
      parse_json(read_file(source_dir() / "test/golden/templates/constructs.json"), "golden").as_object();
  std::vector<Message> messages = parse_messages(golden.at("messages"));
  for (Message& message : messages) message.tool_calls = {};
  for (const json::value& c : golden.at("cases").as_array()) {
    const std::string text(c.at("template").as_string());
    BOOST_TEST(outcome(text, Read(messages)) == outcome(text, messages), text);
  }
  BOOST_TEST(outcome("{{ messages }}", Read({})) == outcome("{{ messages }}", std::vector<Message>()));
}

BOOST_AUTO_TEST_CASE(messages_are_read_as_a_template_comes_to_them_and_once) {
  const std::vector<Message> messages(1000, {"user", std::string(100, 'x')});
  const std::pair<std::string, size_t> templates[] = {
      {"{{ messages | length }}", 0},
      {"{{ messages[0].content + messages[-1].content + messages[0].role }}", 2},
      {"{% for m in messages %}{% if loop.index > 5 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", 6},
      {"{% for i in range(2) %}{% for m in messages %}{{ m.content }}{% endfor %}{% endfor %}", 1000},
      {"{% for m in messages | reverse %}{{ m.content }}{% endfor %}{{ messages[7].content }}", 1000}};
  for (const auto& [text, count] : templates) {
    Read read(messages);
    outcome(text, read);
    BOOST_TEST(read.count == count, text);
  }
}

BOOST_AUTO_TEST_CASE(an_error_names_the_line_and_what_is_wrong) {
  const std::pair<std::string, std::string> errors[] = {
      {"a\n{{ 1 +\n}}", "line 3"},
      {"\n\n{% for m in messages %}\n{{ m.x.y }}{% endfor %}", "line 4"},
      {"\n{{ 'a' | shout }}", "\"shout\""},
      {"{% macro f() %}\n{{ 1 / 0 }}{% endmacro %}\n\n{{ f() }}", "line 2"},
      {"{{ raise_exception('Roles must\nalternate') }}", "Roles must"},
      {"{{ messages[0].content.encode('x') }}", "`encode`"},
      {"{% include 'x' %}", "\"include\""},
      {"{{ f(*messages) }}", "spreads"},
  };
  for (const auto& [text, part] : errors)
    BOOST_TEST(std::string(refused(text).what()).find(part) != std::string::npos, refused(text).what());
}

BOOST_AUTO_TEST_CASE(a_template_that_asks_for_too_much_is_refused_and_says_which_limit) {
  const RenderOptions few{.limits = {.steps_max = 20'000, .bytes_max = 1 << 20}};
  const std::string loops = "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}";
  for (const std::string& text :
       {loops, std::string("{{ range(90000) | sum }}"),
        std::string("{% for a in range(200) %}{% set x = messages | map(attribute='role') | list %}"
                    "{{ (x * 100) | sort | unique | join }}{% endfor %}")})
    BOOST_TEST(refused(text, few).problem().starts_with("needs more than"), refused(text, few).what());
  for (const std::string text :
       {"{{ 'a' * 100000000 }}", "{{ [1] * 100000000 }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor "
        "%}",
        "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x.replace('a', 'aaaa') %}{% "
        "endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
        "ns.x }}",
        "{% set ns = namespace(x='\"') %}{% for i in range(60) %}{% set ns.x = ns.x | tojson %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x | list | join('aaaa') "
        "%}{% endfor %}",
        "{% set ns = namespace(x='a\n') %}{% for i in range(60) %}{% set ns.x = (ns.x * 9) | indent(90) %}{% "
        "endfor %}"})
    BOOST_TEST(refused(text, few).problem().starts_with("needs more than"), refused(text, few).what());
}

BOOST_AUTO_TEST_CASE(nothing_can_be_nested_without_end) {
  const std::string deep[] = {
      "{{ " + times(5000, "(") + "1" + times(5000, ")") + " }}",
      "{{ " + times(5000, "[") + times(5000, "]") + " }}",
      "{{ " + times(5000, "not ") + "1 }}",
      "{{ " + times(5000, "-") + "1 }}",
      "{{ 1" + times(5000, " + 1") + " }}",
      "{{ x" + times(5000, ".x") + " }}",
      "{{ x" + times(5000, " | trim") + " }}",
      "{{ 1" + times(5000, " if 1 else 1") + " }}",
      times(5000, "{% if 1 %}") + times(5000, "{% endif %}"),
      times(5000, "{% for a in b %}") + times(5000, "{% endfor %}"),
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace(x={}) %}{% for i in range(5000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
      "{% set ns = namespace(x='a') %}{% for i in range(5000) %}{% set ns.x = [ns.x].count %}{% endfor %}",
  };
  for (const std::string& text : deep) BOOST_TEST(refused(text).what() != std::string(), text.substr(0, 40));
  BOOST_TEST(rendered(times(40, "{% if 1 %}") + "a" + times(40, "{% endif %}")) == "a");
}

BOOST_AUTO_TEST_CASE(depth_has_a_limit_of_its_own_up_to_which_it_is_safe) {
  const auto deep = [](int levels) {
    return "{% macro f(n) %}{% if n > 0 %}{% for i in [1] %}{{ f(n - 1) | trim }}{% endfor %}{% endif %}"
           "{% endmacro %}{{ f(" +
           std::to_string(levels) + ") }}";
  };
  BOOST_TEST(refused(deep(20), {.limits = {.depth_max = 50}}).problem() == "goes more than 50 levels deep");
  BOOST_TEST(plain_text(segments(deep(20), hello, {.limits = {.depth_max = 1000}})).empty());
  BOOST_TEST(refused(deep(100'000), {.limits = {.depth_max = 1000}}).problem() ==
             "goes more than 1000 levels deep");
}

BOOST_AUTO_TEST_CASE(json_text_becomes_values_of_the_clients) {
  const std::vector<Message> asks = {{"user", R"({"<x>": [1, 2.5, null, {"a": "<x>"}], "b": true})"}};
  const std::string text =
      "{% set j = messages[0].content | from_json %}{{ j | tojson }} {{ j['<x>'][3].a }}";
  BOOST_TEST(rendered(text, asks) == R"({"<x>": [1, 2.5, null, {"a": "<x>"}], "b": true} <x>)");
  BOOST_TEST(trusted(text, asks).find("<x>") == std::string::npos);
  BOOST_TEST(rendered(R"({{ '[1, "a"]' | from_json }})") == "[1, 'a']");
  for (const std::string bad : {"{", "", "[1e400]", "nope", "[1] 2"}) {
    const InputError error = refused("\n{{ '" + bad + "' | from_json }}");
    BOOST_TEST(error.where() == "chat template, line 2", bad);
  }
  BOOST_TEST(!refused("{{ none | from_json }}").problem().empty());
  BOOST_TEST(!refused("{{ ('[' * 1000000) | from_json }}").problem().empty());
}

BOOST_AUTO_TEST_CASE(a_value_that_holds_itself_is_given_back) {
  // Leaks are LeakSanitizer's to find.
  BOOST_TEST(rendered("{% set ns = namespace() %}{% set ns.self = [ns] %}{% macro f() %}{% endmacro %}"
                      "{% set ns.f = f %}{% for a in [1] %}{% set ns.loop = loop %}{{ loop.changed(loop) "
                      "}}{% endfor %}") == "True");
}

BOOST_AUTO_TEST_CASE(the_time_is_the_callers) {
  const ChatTemplate dated = ChatTemplate::from_text("{{ strftime_now('%Y') }}", {});
  BOOST_TEST(dated.reads_clock());
  BOOST_TEST(plain_text(dated.render(hello, {.now = 86'400 * 366 * 10})) == "1980");
  BOOST_TEST(!ChatTemplate::from_text("{{ 1 }}", {}).reads_clock());
  BOOST_TEST(!refused("{{ strftime_now('%c' * 1000) }}").problem().empty());
}

BOOST_AUTO_TEST_CASE(a_number_that_json_could_not_keep_is_refused_with_its_place) {
  const json::array tools = {json::parse(R"({"x": 1e30})")};
  BOOST_CHECK_EXCEPTION(segments("{{ tools }}", hello, {.tools = &tools}), InputError,
                        [](const InputError& error) { return error.where() == "tools"; });
}

BOOST_AUTO_TEST_CASE(a_text_that_is_no_template_is_refused_when_it_is_read) {
  for (const std::string& text :
       {std::string("\xff"), std::string((1 << 20) + 1, 'a'), std::string("{{ 99999999999999999999 }}"),
        std::string("{{ '\\ud800' }}"), std::string("{{ '\\x4' }}")})
    BOOST_CHECK_THROW(ChatTemplate::from_text(text, {}), InputError);
}
