#pragma once
// GatewayTerms: what the head tells a gateway of another process of the model and of what else shapes
// answers, as a value and as a frame. Pure; any thread.

#include <cstdint>
#include <string>
#include <vector>

#include "schema/frame.hpp"

namespace convoy::gateway {

struct ModelTerms {
  std::string id;
  std::vector<std::string> aliases;
  std::string pipeline;  // one that serves it
  int64_t created = 0;   // Unix seconds
  int64_t context_tokens = 0, vocab = 0;
  std::vector<int32_t> end_tokens;
  std::string digest;         // of the weights; empty: not known yet
  std::string arithmetic;     // ServedModel::kernel_variant
  std::string tokenizer;      // its digest; empty: there is none
  std::string chat_template;  // Jinja; empty: there is none
};

struct GatewayTerms {
  std::vector<ModelTerms> models;
  bool asks_for_keys = false;
  std::string answer_key;  // answer_key_of()'s; empty: no answers are kept
  uint64_t cache_epoch = 0;
  uint64_t frame_bytes_max = 0;  // of a Generate or a Store
};

schema::Frame<schema::GatewayTerms> encode(const GatewayTerms& terms);
/// Throws InputError if they cannot be a head's, kj::Exception if the bytes are malformed.
GatewayTerms decode(const schema::Frame<schema::GatewayTerms>& frame);

/// Whether a gateway that began with `ours` may go on by `theirs`, under which the same request has the same
/// answer. A digest that one of them does not know yet is no difference.
bool go_on(const GatewayTerms& ours, const GatewayTerms& theirs);
bool all_digests_known(const GatewayTerms& terms);

}  // namespace convoy::gateway
