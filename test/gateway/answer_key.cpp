// The answer cache's key: everything that can change an answer changes the key, and nothing else does.

#include "gateway/answer_key.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <functional>
#include <random>
#include <set>

namespace json = boost::json;
using convoy::gateway::answer_key;
using convoy::gateway::canonical_request;
using convoy::gateway::KeyContext;

namespace {

const std::string secret(32, 'k');
const KeyContext context{"weights", "tokenizer", "chatml", "/v1/chat/completions", "cpu-int8", 0, {2}};

std::string key_of(const json::object& request) { return answer_key(secret, "tenant", context, request); }
std::string key_of(std::string_view text) { return key_of(json::parse(text).as_object()); }

/// A request with every field that we know, and some that we don't.
json::object full_request() {
  return json::parse(R"({
    "model": "m", "messages": [{"role": "system", "content": "be brief"},
                               {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    "prompt": [1, 2, 3], "temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "presence_penalty": 0.25,
    "frequency_penalty": -0.5, "repetition_penalty": 1.5, "seed": 7, "max_tokens": 9, "max_completion_tokens": 10,
    "stop": ["a", "b"], "logprobs": true, "top_logprobs": 3, "n": 1, "ignore_eos": false, "min_tokens": 2,
    "return_token_ids": true, "echo": false, "best_of": 1, "suffix": null, "response_format": {"type": "text"},
    "logit_bias": {"50": -100, "51": 3}, "tools": [], "tool_choice": "none", "metadata": {"a": {"b": ["c", 1]}},
    "a_field_of_tomorrow": 1.25, "stream": true, "stream_options": {"include_usage": true}, "user": "u",
    "priority": 3, "speculation": "off"})")
      .as_object();
}

json::value random_value(std::mt19937_64& random, int depth) {
  switch (random() % (depth > 2 ? 6 : 8)) {
    case 0:
      return nullptr;
    case 1:
      return random() % 2 == 0;
    case 2:
      return static_cast<int64_t>(random());
    case 3:
      return static_cast<double>(random() % 1000) / 8.0 + 0.0625;
    case 4:
      return json::value(std::string(random() % 4, static_cast<char>('a' + random() % 3)));
    case 5:
      return static_cast<int64_t>(random() % 10);
    case 6: {
      json::array array;
      for (auto n = random() % 4; n > 0; --n) array.push_back(random_value(random, depth + 1));
      return array;
    }
    default: {
      json::object object;
      for (auto n = random() % 4; n > 0; --n)
        object[std::string(1, static_cast<char>('a' + random() % 5))] = random_value(random, depth + 1);
      return object;
    }
  }
}

/// The same object with its keys in another order, at every level.
json::value reordered(const json::value& value, std::mt19937_64& random) {
  if (const auto* array = value.if_array()) {
    json::array out;
    for (const auto& item : *array) out.push_back(reordered(item, random));
    return out;
  }
  const auto* object = value.if_object();
  if (!object) return value;
  std::vector<const json::key_value_pair*> fields;
  for (const auto& field : *object) fields.push_back(&field);
  std::shuffle(fields.begin(), fields.end(), random);
  json::object out;
  for (const auto* field : fields) out[field->key()] = reordered(field->value(), random);
  return out;
}

/// Changes one value somewhere inside, or adds or removes one.
void mutate(json::value& value, std::mt19937_64& random) {
  if (auto* object = value.if_object(); object && !object->empty()) {
    auto field = object->begin() + static_cast<long>(random() % object->size());
    switch (random() % 4) {
      case 0:
        object->erase(field);
        return;
      case 1:
        (*object)["added" + std::to_string(random() % 3)] = random_value(random, 0);
        return;
      default:
        mutate(field->value(), random);
        return;
    }
  }
  if (auto* array = value.if_array(); array && !array->empty()) {
    const size_t index = random() % array->size();
    switch (random() % 4) {
      case 0:
        array->erase(array->begin() + static_cast<long>(index));
        return;
      case 1:
        std::swap((*array)[index], array->back());
        return;
      default:
        mutate((*array)[index], random);
        return;
    }
  }
  value = random_value(random, 0);
}

json::object without_transport(json::object request) {
  for (const char* field : {"stream", "stream_options", "user", "priority", "speculation", "n", "best_of"})
    request.erase(field);
  return request;
}

}  // namespace

BOOST_AUTO_TEST_CASE(changing_or_removing_any_field_changes_the_key_but_for_transport_fields) {
  const json::object request = full_request();
  const std::set<std::string> transport = {"stream", "stream_options", "user", "priority", "speculation",
                                           "n",      "best_of"};
  for (const auto& field : request) {
    const std::string name = field.key();
    json::object removed = request, changed = request;
    removed.erase(name);
    changed[name] = "something else";
    BOOST_TEST_CONTEXT(name) {
      BOOST_CHECK_EQUAL(key_of(removed) == key_of(request), transport.contains(name));
      BOOST_CHECK_EQUAL(key_of(changed) == key_of(request), transport.contains(name));
    }
  }
}

BOOST_AUTO_TEST_CASE(transport_fields_are_only_left_out_at_the_top) {
  BOOST_CHECK(key_of(R"({"metadata":{"user":"a"}})") != key_of(R"({"metadata":{"user":"b"}})"));
  BOOST_CHECK(key_of(R"({"messages":[{"stream":true}]})") != key_of(R"({"messages":[{"stream":false}]})"));
}

BOOST_AUTO_TEST_CASE(keys_are_equal_exactly_when_requests_mean_the_same) {
  const uint64_t seed = std::random_device{}();
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  int equal = 0, different = 0;
  for (int round = 0; round < 3000; ++round) {
    json::value mutated = full_request();
    const bool change = round % 3 != 0;
    if (change) mutate(mutated, random);
    const json::object request = full_request(), other = reordered(mutated, random).as_object();
    // Boost.JSON compares objects whatever the order of their keys, and numbers of one kind by value.
    const bool same = without_transport(request) == without_transport(other);
    (same ? equal : different)++;
    KeyContext kernels = context;  // sometimes others
    if (random() % 2) kernels.kernel_variant = random() % 2 ? "cpu-reference" : "cpu-int8 ";
    BOOST_TEST_CONTEXT("seed " << seed << " round " << round << ": " << json::serialize(other)) {
      BOOST_CHECK_EQUAL(canonical_request(request) == canonical_request(other), same);
      BOOST_CHECK_EQUAL(key_of(request) == key_of(other), same);
      BOOST_CHECK_EQUAL(key_of(request) == answer_key(secret, "tenant", kernels, other),
                        same && kernels.kernel_variant == context.kernel_variant);
    }
  }
  BOOST_CHECK_GT(equal, 500);
  BOOST_CHECK_GT(different, 500);
}

BOOST_AUTO_TEST_CASE(tenant_digests_template_endpoint_kernels_epoch_and_secret_change_the_key) {
  const json::object request = full_request();
  const auto key = [&](const KeyContext& c) { return answer_key(secret, "tenant", c, request); };
  std::set<std::string> keys = {key(context), answer_key(secret, "other", context, request),
                                answer_key(std::string(32, 'x'), "tenant", context, request)};
  const std::vector<std::function<void(KeyContext&)>> changes = {
      [](KeyContext& c) { c.weights_digest += 'x'; },
      [](KeyContext& c) { c.tokenizer_digest += 'x'; },
      [](KeyContext& c) { c.template_id += 'x'; },
      [](KeyContext& c) { c.endpoint = "/v1/completions"; },
      [](KeyContext& c) { c.kernel_variant = "cpu-reference"; },
      [](KeyContext& c) { c.kernel_variant = ""; },
      [](KeyContext& c) { c.end_tokens = {}; },
      [](KeyContext& c) { c.end_tokens = {3}; },
      [](KeyContext& c) { c.end_tokens.push_back(3); },
      [](KeyContext& c) { c.cache_epoch = 1; },
      [](KeyContext& c) { c.cache_epoch = 256; }};
  for (const auto& change : changes) {
    KeyContext other = context;
    change(other);
    keys.insert(key(other));
  }
  BOOST_CHECK_EQUAL(keys.size(), 3 + changes.size());
  for (const auto& k : keys) BOOST_CHECK_EQUAL(k.size(), 32u);
}

BOOST_AUTO_TEST_CASE(text_does_not_flow_from_one_field_into_the_next) {
  const json::object request;
  const auto key = [&](std::string_view tenant, std::string weights, std::string tokenizer) {
    return answer_key(secret, tenant, {std::move(weights), std::move(tokenizer), "", "", "", 0}, request);
  };
  BOOST_CHECK(key("ab", "c", "") != key("a", "bc", ""));
  BOOST_CHECK(key("", "ab", "c") != key("", "a", "bc"));
  BOOST_CHECK(key("a", "", "") != key("", "a", ""));
  BOOST_CHECK(key_of(R"({"stop":["ab","c"]})") != key_of(R"({"stop":["a","bc"]})"));
  BOOST_CHECK(key_of(R"({"stop":["a","b"]})") != key_of(R"({"stop":[["a"],"b"]})"));
  BOOST_CHECK(key_of(R"({"stop":["a"],"x":[]})") != key_of(R"({"stop":[],"x":["a"]})"));
  BOOST_CHECK(key_of(R"({"a":{"b":1}})") != key_of(R"({"a":{},"b":1})"));
  BOOST_CHECK(key_of(R"({"prompt":"[1,2]"})") != key_of(R"({"prompt":[1,2]})"));
  BOOST_CHECK(key_of(R"({"a":"1"})") != key_of(R"({"a":1})"));
  BOOST_CHECK(key_of(R"({"a":null})") != key_of("{}"));
  BOOST_CHECK(key_of(R"({"a":false})") != key_of(R"({"a":0})"));
}

BOOST_AUTO_TEST_CASE(text_is_neither_folded_nor_trimmed) {
  BOOST_CHECK(key_of(R"({"prompt":"Hi"})") != key_of(R"({"prompt":"hi"})"));
  BOOST_CHECK(key_of(R"({"prompt":"hi"})") != key_of(R"({"prompt":"hi "})"));
  BOOST_CHECK(key_of(R"({"prompt":"\u00e9"})") != key_of(R"({"prompt":"e\u0301"})"));
  BOOST_CHECK(key_of(R"({"prompt":"a\u0000b"})") != key_of(R"({"prompt":"a"})"));
}

BOOST_AUTO_TEST_CASE(numbers_count_by_their_exact_value) {
  BOOST_CHECK(key_of(R"({"a":1})") == key_of(R"({"a":1.0})"));
  BOOST_CHECK(key_of(R"({"a":1})") == key_of(R"({"a":1e0})"));
  BOOST_CHECK(key_of(R"({"a":0})") == key_of(R"({"a":-0.0})"));
  BOOST_CHECK(key_of(R"({"a":18446744073709551615})") != key_of(R"({"a":1.8446744073709551615e19})"));
  BOOST_CHECK(key_of(R"({"a":9007199254740993})") != key_of(R"({"a":9007199254740993.0})"));
  BOOST_CHECK(key_of(R"({"a":-1})") != key_of(R"({"a":1})"));
  BOOST_CHECK(key_of(R"({"a":-1})") != key_of(R"({"a":18446744073709551615})"));
  BOOST_CHECK(key_of(R"({"a":-9223372036854775808})") != key_of(R"({"a":-9223372036854775807})"));
  BOOST_CHECK(key_of(R"({"a":0.1})") != key_of(R"({"a":0.10000000000000002})"));
}
