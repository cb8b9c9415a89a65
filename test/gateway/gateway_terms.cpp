// What the head tells gateways of other processes.

#include "gateway/served_terms.hpp"

#include <boost/test/unit_test.hpp>

#include "model/error.hpp"
#include "test/gateway/fake_model.hpp"

namespace {

using namespace convoy;
using namespace convoy::gateway;

GatewayTerms terms() {
  ServedModel model = convoy::gateway::test::fake_model();
  model.weights_digest.set("d1");
  GatewayTerms terms;
  model.aliases = {"other", "names"};
  terms.models = {terms_of(model, "first")};
  terms.asks_for_keys = true;
  terms.answer_key = std::string("\0key", 4);
  terms.cache_epoch = 3;
  terms.frame_bytes_max = 1 << 20;
  return terms;
}

}  // namespace

BOOST_AUTO_TEST_CASE(terms_come_back_as_they_went) {
  const GatewayTerms sent = terms(), got = decode(encode(sent));
  BOOST_TEST(go_on(sent, got));
  BOOST_TEST(got.models.at(0).digest == "d1");
  BOOST_TEST(got.models[0].pipeline == "first");
  BOOST_TEST(got.models[0].aliases == sent.models[0].aliases, boost::test_tools::per_element());
  BOOST_TEST(got.models[0].created == sent.models[0].created);
  BOOST_TEST(got.answer_key == sent.answer_key);
  BOOST_TEST(got.asks_for_keys);
  BOOST_TEST(all_digests_known(got));
}

BOOST_AUTO_TEST_CASE(a_gateway_goes_on_by_terms_under_which_answers_are_the_same) {
  const auto changed = [](auto change) {
    GatewayTerms other = terms();
    change(other);
    return !go_on(terms(), other);
  };
  BOOST_TEST(!changed([](GatewayTerms& t) { t.models[0].created += 1; }));
  BOOST_TEST(!changed([](GatewayTerms& t) { t.models[0].digest.clear(); }));  // it is being read
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].digest = "d2"; }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].id = "another"; }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].aliases.pop_back(); }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].end_tokens.push_back(1); }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].arithmetic += " deterministic"; }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].chat_template += "."; }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models[0].tokenizer = "t2"; }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.models.push_back(t.models[0]); }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.asks_for_keys = false; }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.answer_key.clear(); }));
  BOOST_TEST(changed([](GatewayTerms& t) { t.cache_epoch = 4; }));
}

BOOST_AUTO_TEST_CASE(a_model_of_the_terms_is_the_heads) {
  const ServedModel model = convoy::gateway::test::fake_model();
  const ServedModel made = served_model(terms_of(model, ""), model.tokenizer);
  BOOST_TEST(made.id == model.id);
  BOOST_TEST((made.end_tokens == model.end_tokens));
  BOOST_TEST(made.context_tokens == model.context_tokens);
  BOOST_TEST(made.chat.has_value() == model.chat.has_value());
  if (made.chat) BOOST_TEST(made.chat->sha256() == model.chat->sha256());
  BOOST_CHECK_THROW(served_model(terms_of(model, ""), nullptr), InputError);
  auto of_another = terms_of(model, "");
  of_another.tokenizer = "another";
  BOOST_CHECK_THROW(served_model(of_another, model.tokenizer), InputError);
}

BOOST_AUTO_TEST_CASE(terms_of_no_model_are_refused) {
  GatewayTerms none = terms();
  none.models.clear();
  BOOST_CHECK_THROW(decode(encode(none)), InputError);
  GatewayTerms empty = terms();
  empty.models[0].vocab = 0;
  BOOST_CHECK_THROW(decode(encode(empty)), InputError);
}
