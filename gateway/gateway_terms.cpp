#include "gateway/gateway_terms.hpp"

#include <algorithm>

#include "model/error.hpp"

namespace convoy::gateway {

namespace {

std::string bytes_of(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

bool same_model(const ModelTerms& a, const ModelTerms& b) {
  return a.id == b.id && a.aliases == b.aliases && a.context_tokens == b.context_tokens &&
         a.vocab == b.vocab && a.end_tokens == b.end_tokens &&
         (a.digest.empty() || b.digest.empty() || a.digest == b.digest) && a.arithmetic == b.arithmetic &&
         a.tokenizer == b.tokenizer && a.chat_template == b.chat_template;
}

}  // namespace

schema::Frame<schema::GatewayTerms> encode(const GatewayTerms& terms) {
  schema::FrameBuilder<schema::GatewayTerms> frame(1024);
  auto models = frame->initModels(static_cast<unsigned>(terms.models.size()));
  for (unsigned i = 0; i < models.size(); ++i) {
    const ModelTerms& from = terms.models[i];
    models[i].setId(from.id);
    models[i].setCreated(from.created);
    models[i].setContextTokens(static_cast<uint64_t>(from.context_tokens));
    models[i].setVocab(static_cast<uint64_t>(from.vocab));
    auto ends = models[i].initEndTokens(static_cast<unsigned>(from.end_tokens.size()));
    for (unsigned k = 0; k < ends.size(); ++k) ends.set(k, from.end_tokens[k]);
    models[i].setDigest(from.digest);
    models[i].setArithmetic(from.arithmetic);
    models[i].setTokenizer(from.tokenizer);
    models[i].setChatTemplate(from.chat_template);
    auto aliases = models[i].initAliases(static_cast<unsigned>(from.aliases.size()));
    for (unsigned k = 0; k < aliases.size(); ++k) aliases.set(k, from.aliases[k]);
    models[i].setPipeline(from.pipeline);
  }
  frame->setAsksForKeys(terms.asks_for_keys);
  frame->setAnswerKey({reinterpret_cast<const kj::byte*>(terms.answer_key.data()), terms.answer_key.size()});
  frame->setCacheEpoch(terms.cache_epoch);
  frame->setFrameBytesMax(terms.frame_bytes_max);
  return std::move(frame).finish();
}

GatewayTerms decode(const schema::Frame<schema::GatewayTerms>& frame) {
  const schema::Reading read(frame);
  GatewayTerms terms;
  for (const auto from : read->getModels()) {
    ModelTerms& model = terms.models.emplace_back();
    model.id = from.getId();
    model.created = from.getCreated();
    model.context_tokens = static_cast<int64_t>(from.getContextTokens());
    model.vocab = static_cast<int64_t>(from.getVocab());
    for (const int32_t id : from.getEndTokens()) model.end_tokens.push_back(id);
    model.digest = from.getDigest();
    model.arithmetic = from.getArithmetic();
    model.tokenizer = from.getTokenizer();
    model.chat_template = from.getChatTemplate();
    for (const auto alias : from.getAliases()) model.aliases.emplace_back(alias);
    model.pipeline = from.getPipeline();
    if (model.context_tokens <= 0 || model.vocab <= 0)
      throw InputError("a model without a context or a vocabulary", "what the head said",
                       "run one version of Convoy on all machines");
  }
  if (terms.models.empty())
    throw InputError("no model", "what the head said", "run one version of Convoy on all machines");
  terms.asks_for_keys = read->getAsksForKeys();
  terms.answer_key = bytes_of(read->getAnswerKey());
  terms.cache_epoch = read->getCacheEpoch();
  terms.frame_bytes_max = read->getFrameBytesMax();
  return terms;
}

bool go_on(const GatewayTerms& ours, const GatewayTerms& theirs) {
  return ours.asks_for_keys == theirs.asks_for_keys && ours.answer_key == theirs.answer_key &&
         ours.cache_epoch == theirs.cache_epoch && ours.frame_bytes_max == theirs.frame_bytes_max &&
         std::equal(ours.models.begin(), ours.models.end(), theirs.models.begin(), theirs.models.end(),
                    same_model);
}

bool all_digests_known(const GatewayTerms& terms) {
  return std::ranges::none_of(terms.models, [](const ModelTerms& model) { return model.digest.empty(); });
}

}  // namespace convoy::gateway
