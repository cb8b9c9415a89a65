#pragma once
// One step, as the pipeline plans it and every stage executes it, and what the last stage gives back.
// Rows of all sequences lie one after the other, nothing is padded.

#include <cstdint>
#include <vector>

#include "gpu/kv_block.hpp"
#include "gpu/token_ids.hpp"
#include "model/sampling.hpp"

namespace convoy::gpu {

/// Takes a free slot for a new sequence. Everything the slot held before is forgotten.
///
/// The sequence may begin behind cached tokens: the blocks that the plan gives it hold their keys and values,
/// which another sequence wrote, or this one before it lost its slot. So they may reach beyond the prompt, or
/// end within it. Nobody writes a block that lies in several slots' tables.
struct SeqStart {
  uint32_t slot = 0;
  uint32_t prompt_tokens = 0;  // tokens at positions below are prompt: penalties treat them apart
  model::Sampling sampling;
  uint32_t cached_tokens = 0;         // rows begin here; less than the context
  std::vector<int32_t> history = {};  // ids of the cached tokens if needs_history(sampling); else empty
};

/// Stands for the token that the sequence sampled last, behind all tokens that it has: the step was planned
/// before that one was known. Behind a draft it is the last row's, so whoever says it takes the whole draft
/// for accepted. The first stage puts it in (Engine::resolve).
inline constexpr int32_t token_fed_back = -1;

/// The tokens of one sequence in this step: a decode brings 1, a draft several, a chunk of a prompt many.
struct SeqStep {
  uint32_t slot = 0;
  uint32_t first_position = 0;
  TokenIds tokens;            // or token_fed_back alone
  uint32_t sampled_rows = 0;  // the last so many rows get logits and a sampled token each

  bool fed_back() const { return tokens.size() == 1 && tokens[0] == token_fed_back; }
};

struct BlockChange {
  uint32_t slot = 0, index = 0, block = 0;  // the slot's block table: table[index] = block
};

/// A block's keys and values go to a place of the stage's second tier, or come back from there.
struct BlockMove {
  enum class Way : uint8_t { save, load };
  Way way = Way::save;
  uint32_t block = 0, place = 0;
  bool operator==(const BlockMove&) const = default;
};

/// A plan may have moves, and no rows.
struct StepPlan {
  uint64_t epoch = 0, step = 0;
  std::vector<SeqStart> starts;            // applied first
  std::vector<BlockChange> block_changes;  // then these
  std::vector<BlockMove> moves = {};       // then these, in their order
  std::vector<SeqStep> sequences;          // then the rows run
  std::vector<uint32_t> ends;              // then these slots are free

  int64_t rows() const {
    int64_t n = 0;
    for (const SeqStep& s : sequences) n += static_cast<int64_t>(s.tokens.size());
    return n;
  }
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

/// Why a row gave no token. It ends its sequence, if that comes to it: not behind a draft that was not
/// accepted. The others of the step are not touched.
enum class RowFault : uint8_t {
  none,
  not_finite,  // a logit is infinite or not a number
  all_masked,  // no token is left to choose
};

/// One sampled token. Log-probabilities are of the model's distribution before temperature, penalties and
/// filters.
struct SampledToken {
  int32_t id = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;  // best first; as many as Sampling::top_logprobs
  RowFault fault =
      RowFault::none;  // then the id is 0: a step that was planned ahead may still be fed with it
};

struct SampledTokens {
  uint32_t slot = 0;
  std::vector<SampledToken> tokens;

  /// The first of the tokens'.
  RowFault fault() const {
    for (const SampledToken& token : tokens)
      if (token.fault != RowFault::none) return token.fault;
    return RowFault::none;
  }
};

struct StepResult {
  uint64_t epoch = 0, step = 0;
  std::vector<SampledTokens> sequences;
};

}  // namespace convoy::gpu
