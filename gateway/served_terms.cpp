#include "gateway/served_terms.hpp"

#include "model/error.hpp"

namespace convoy::gateway {

ModelTerms terms_of(const ServedModel& model, std::string pipeline) {
  ModelTerms terms;
  terms.id = model.id;
  terms.aliases = model.aliases;
  terms.pipeline = std::move(pipeline);
  terms.created = model.created;
  terms.context_tokens = model.context_tokens;
  terms.vocab = model.vocab;
  terms.end_tokens = model.end_tokens;
  terms.digest = model.weights_digest.get();
  terms.arithmetic = model.kernel_variant;
  if (model.tokenizer) terms.tokenizer = model.tokenizer->digest();
  if (model.chat) terms.chat_template = model.chat->text();
  return terms;
}

ServedModel served_model(const ModelTerms& terms, std::shared_ptr<const model::Tokenizer> tokenizer) {
  const std::string here = tokenizer ? tokenizer->digest() : "";
  if (here != terms.tokenizer)
    throw InputError(here.empty() ? "there is no tokenizer here, and the head has one"
                                  : "the tokenizer here is another than the head's",
                     "cluster.model",
                     "give this machine the model that the head has, or leave it out: then it is fetched");
  ServedModel served;
  served.id = terms.id;
  served.aliases = terms.aliases;
  served.created = terms.created;
  served.context_tokens = terms.context_tokens;
  served.vocab = terms.vocab;
  served.tokenizer = std::move(tokenizer);
  if (served.tokenizer && !terms.chat_template.empty())
    served.chat =
        model::ChatTemplate::from_text(terms.chat_template, model::special_tokens(*served.tokenizer));
  served.end_tokens = terms.end_tokens;
  served.weights_digest.set(terms.digest);
  served.kernel_variant = terms.arithmetic;
  return served;
}

}  // namespace convoy::gateway
