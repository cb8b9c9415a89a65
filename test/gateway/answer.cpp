#include "gateway/answer.hpp"

#include <boost/test/unit_test.hpp>

#include "gateway/openai_response.hpp"
#include "test/gateway/fake_model.hpp"

namespace convoy::gateway {

namespace {

namespace json = boost::json;
using schema::Frame;
using schema::FrameBuilder;

struct Fixture {
  ServedModel model = test::fake_model();
  CompletionRequest request;
  std::optional<AnswerReader> reader;
  Piece piece;

  AnswerReader& read(uint32_t max_tokens = 100) {
    if (!reader) reader.emplace(model, request, max_tokens);
    return *reader;
  }
  std::optional<std::string> tokens(uint32_t first, const std::vector<int32_t>& ids) {
    FrameBuilder<schema::Tokens> b;
    b->setFirstIndex(first);
    auto list = b->initTokens(static_cast<unsigned>(ids.size()));
    for (unsigned i = 0; i < list.size(); ++i) {
      list[i].setId(ids[i]);
      list[i].setLogprob(-0.5f);
      auto top = list[i].initTop(1);
      top[0].setId(ids[i]);
      top[0].setLogprob(-0.5f);
    }
    const auto frame = std::move(b).finish();
    return read().take(*schema::Reading(frame), piece);
  }
  std::optional<std::string> finished(uint32_t count,
                                      schema::Finished::Reason reason = schema::Finished::Reason::STOP) {
    FrameBuilder<schema::Finished> b;
    b->setTokens(count);
    b->setReason(reason);
    b->setMessage("the reason");
    const auto frame = std::move(b).finish();
    return read().take(*schema::Reading(frame), piece);
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(answers, Fixture)

BOOST_AUTO_TEST_CASE(tokens_become_text_and_control_tokens_do_not) {
  BOOST_TEST(!tokens(0, {'h', test::control_token, 'i'}));
  BOOST_TEST(!tokens(3, {test::piece_token, test::end_token}));
  BOOST_TEST(!finished(5));
  BOOST_TEST(piece.text == "hi piece");
  BOOST_TEST(piece.tokens.size() == 5u);
  BOOST_TEST(piece.tokens[4].end);
  BOOST_TEST((read().finish_reason() == FinishReason::stop));
  BOOST_TEST(read().tokens() == 5u);
}

BOOST_AUTO_TEST_CASE(a_blank_that_the_tokenizer_put_there_begins_no_chat_but_goes_on_with_a_prompt) {
  model.tokenizer = std::make_shared<test::ByteTokenizer>(true);
  request.endpoint = Endpoint::completions;
  BOOST_TEST(!tokens(0, {test::piece_token}));
  BOOST_TEST(piece.text == " piece");
  reader.reset();
  piece = {};
  request.endpoint = Endpoint::chat;
  BOOST_TEST(!tokens(0, {test::control_token, ' ', test::piece_token}));
  BOOST_TEST(piece.text == " piece");
}

BOOST_AUTO_TEST_CASE(repeated_tokens_are_ignored) {
  BOOST_TEST(!tokens(0, {'a', 'b'}));
  BOOST_TEST(!tokens(0, {'a', 'b'}));
  BOOST_TEST(!tokens(1, {'b', 'c'}));
  BOOST_TEST(piece.text == "abc");
  BOOST_TEST(!finished(3, schema::Finished::Reason::LENGTH));
  BOOST_TEST((read().finish_reason() == FinishReason::length));
}

BOOST_AUTO_TEST_CASE(a_gap_is_a_failure) {
  BOOST_TEST(!tokens(0, {'a'}));
  BOOST_TEST(tokens(2, {'c'}).has_value());
}

BOOST_AUTO_TEST_CASE(an_end_that_counts_other_tokens_is_a_failure) {
  BOOST_TEST(!tokens(0, {'a'}));
  BOOST_TEST(finished(2).has_value());
  BOOST_TEST(!read().finish_reason().has_value());
}

BOOST_AUTO_TEST_CASE(failed_and_cancelled_ends_are_failures) {
  BOOST_TEST(finished(0, schema::Finished::Reason::FAILED).value() == "the reason");
  BOOST_TEST(finished(0, schema::Finished::Reason::CANCELLED).has_value());
}

BOOST_AUTO_TEST_CASE(more_tokens_than_asked_for_or_unknown_ones_are_failures) {
  read(2);
  BOOST_TEST(tokens(0, {'a', 'b', 'c'}).has_value());
  BOOST_TEST(tokens(2, {test::vocab}).has_value());
  BOOST_TEST(tokens(2, {-1}).has_value());
}

BOOST_AUTO_TEST_CASE(a_stop_string_ends_the_answer_and_its_tokens_count) {
  request.stop = {"lo"};
  BOOST_TEST(!tokens(0, {'h', 'e', 'l', 'l'}));
  BOOST_TEST(piece.text == "hel");
  BOOST_TEST(!tokens(4, {'o', 'x', 'y'}));
  BOOST_TEST((read().finish_reason() == FinishReason::stop));
  BOOST_TEST(piece.text == "hel");
  BOOST_TEST(read().tokens() == 5u);
  BOOST_TEST(piece.tokens.size() == 5u);
  BOOST_TEST(!tokens(7, {'z'}));  // late tokens change nothing
  BOOST_TEST(!finished(8));
  BOOST_TEST(read().tokens() == 5u);
}

BOOST_AUTO_TEST_CASE(a_stop_string_ends_no_answer_before_min_tokens) {
  request.stop = {"aa"};
  request.sampling.min_tokens = 3;
  BOOST_TEST(!tokens(0, {'a', 'a', 'b'}));
  BOOST_TEST(piece.text == "aab");  // the stop string is text like any other
  BOOST_TEST(!tokens(3, {'a', 'a', 'c'}));
  BOOST_TEST((read().finish_reason() == FinishReason::stop));
  BOOST_TEST(piece.text == "aab");
  BOOST_TEST(read().tokens() == 5u);
}

BOOST_AUTO_TEST_CASE(a_stop_string_may_begin_before_min_tokens) {
  request.stop = {"aab"};
  request.sampling.min_tokens = 3;
  BOOST_TEST(!tokens(0, {'a', 'a', 'a'}));
  BOOST_TEST(piece.text == "a");
  BOOST_TEST(!tokens(3, {'b'}));
  BOOST_TEST((read().finish_reason() == FinishReason::stop));
  BOOST_TEST(piece.text == "a");
}

BOOST_AUTO_TEST_CASE(an_end_token_is_an_ordinary_one_with_ignore_eos) {
  request.ignore_eos = true;
  BOOST_TEST(!tokens(0, {'a', test::end_token, 'b'}));
  BOOST_TEST(piece.text == "ab");
  BOOST_TEST(!piece.tokens[1].end);
}

BOOST_AUTO_TEST_CASE(logprobs_of_a_chat_carry_token_bytes_and_alternatives) {
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 1;
  tokens(0, {0xC3, 0xA9, test::end_token});
  finished(3);
  const AnswerWriter writer(model, request, "chatcmpl-1", 17);
  const json::value body = json::parse(writer.body({{piece, FinishReason::stop}}, {4, 3}));
  const json::array& content = body.at("choices").at(0).at("logprobs").at("content").as_array();
  BOOST_TEST(content.size() == 2u);  // the end token has no text
  BOOST_TEST(content[0].at("token").as_string() == "\xEF\xBF\xBD");
  BOOST_TEST((content[0].at("bytes") == json::array({0xC3})));
  BOOST_TEST(content[0].at("logprob").as_double() == -0.5);
  BOOST_TEST(content[0].at("top_logprobs").at(0).at("logprob").as_double() == -0.5);
  BOOST_TEST(body.at("choices").at(0).at("message").at("content").as_string() == "\xC3\xA9");
  BOOST_TEST(body.at("usage").at("total_tokens").to_number<int>() == 7);
  BOOST_TEST(body.at("usage").at("completion_tokens").to_number<int>() == 3);
}

BOOST_AUTO_TEST_CASE(logprobs_of_a_completion_are_four_lists) {
  request.endpoint = Endpoint::completions;
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 1;
  tokens(0, {0xC3, 0xA9, 'b', test::piece_token, test::end_token});
  finished(5);
  const AnswerWriter writer(model, request, "cmpl-1", 17);
  const json::value body = json::parse(writer.body({{piece, FinishReason::stop}}, {4, 5}));
  const json::value& logprobs = body.at("choices").at(0).at("logprobs");
  BOOST_TEST((logprobs.at("text_offset") == json::array({0, 0, 1, 2})));
  BOOST_TEST(logprobs.at("tokens").at(3).as_string() == " piece");
  BOOST_TEST(logprobs.at("token_logprobs").as_array().size() == 4u);
  BOOST_TEST(logprobs.at("top_logprobs").at(2).at("b").as_double() == -0.5);
  BOOST_TEST(body.at("object").as_string() == "text_completion");
  BOOST_TEST(body.at("choices").at(0).at("text").as_string() ==
             "\xC3\xA9"
             "b piece");
}

BOOST_AUTO_TEST_CASE(alternatives_that_are_parts_of_characters_stay_apart) {
  request.endpoint = Endpoint::completions;
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 3;
  piece.tokens.push_back({0xE2, -0.5f, {{0xE2, -0.5f}, {0xC3, -1.0f}, {0x80, -2.0f}}, 0, false});
  const AnswerWriter writer(model, request, "cmpl-1", 17);
  const json::value body = json::parse(writer.body({{piece, FinishReason::length}}, {1, 1}));
  const json::value& logprobs = body.at("choices").at(0).at("logprobs");
  BOOST_TEST(logprobs.at("tokens").at(0).as_string() == "bytes:\\xe2");
  const json::object& top = logprobs.at("top_logprobs").at(0).as_object();
  BOOST_TEST_REQUIRE(top.size() == 3u);
  BOOST_TEST(top.at("bytes:\\xc3").as_double() == -1.0);
  BOOST_TEST(top.at("bytes:\\x80").as_double() == -2.0);
}

BOOST_AUTO_TEST_CASE(an_answer_that_comes_at_once_is_streamed_in_events_of_64_kb) {
  request.return_token_ids = true;
  for (const auto& [endpoint, logprobs] :
       {std::pair{Endpoint::chat, false}, {Endpoint::chat, true}, {Endpoint::completions, true}}) {
    request.endpoint = endpoint;
    request.sampling.logprobs = logprobs;
    Piece whole;
    std::vector<int32_t> ids;
    for (int i = 0; i < 20'000; ++i) {
      whole.text += i % 3 ? "\x01" : "\xE2\x82\xAC";
      const int32_t id = 1 + i % 200;
      ids.push_back(id);
      whole.tokens.push_back({id, -0.123456789f, {{id, -0.123456789f}, {0xE2, -1.5f}}, 7, false});
    }
    const AnswerWriter writer(model, request, "chatcmpl-1", 17);
    const std::string events = writer.piece_events(0, whole);
    std::string seen;
    std::vector<int32_t> seen_ids;
    for (size_t at = 0, end; at < events.size(); at = end + 2) {
      end = events.find("\n\n", at);
      BOOST_TEST_REQUIRE(end != std::string::npos);
      BOOST_TEST_REQUIRE(end - at <= event_bytes_max);
      const json::value choice = json::parse(events.substr(at + 6, end - at - 6)).at("choices").at(0);
      seen += endpoint == Endpoint::chat ? choice.at("delta").at("content").as_string().c_str()
                                         : choice.at("text").as_string().c_str();
      for (const auto& id : choice.at("token_ids").as_array()) seen_ids.push_back(id.to_number<int32_t>());
    }
    BOOST_TEST((seen == whole.text));
    BOOST_TEST((seen_ids == ids));
  }
}

BOOST_AUTO_TEST_CASE(weights_without_a_digest_have_no_fingerprint) {
  const auto fingerprint = [&] {
    return json::parse(AnswerWriter(model, request, "chatcmpl-1", 17).first_events(1).substr(6))
        .at("system_fingerprint");
  };
  BOOST_TEST((fingerprint() == "fp_0123456789ab"));
  model.weights_digest = Later();
  BOOST_TEST(fingerprint().is_null());
}

BOOST_AUTO_TEST_CASE(an_infinite_logprob_is_still_json) {
  request.sampling.logprobs = true;
  piece.tokens.push_back({'a', -std::numeric_limits<float>::infinity(), {}, 0, false});
  const AnswerWriter writer(model, request, "chatcmpl-1", 17);
  const json::value body = json::parse(writer.body({{piece, FinishReason::length}}, {1, 1}));
  BOOST_TEST(body.at("choices").at(0).at("logprobs").at("content").at(0).at("logprob").as_double() ==
             -9999.0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace convoy::gateway
