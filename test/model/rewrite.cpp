#include "model/rewrite/rewrite.hpp"

#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <set>

#include "builders.hpp"
#include "files.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/format/gguf_writer.hpp"
#include "model/format/safetensors.hpp"
#include "model/mapping.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "small_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using test::golden;
using test::TemporaryFolder;

namespace {

namespace fs = std::filesystem;

RewriteOptions options_for(const fs::path& source, RewriteTarget target, const fs::path& out) {
  return {.source = source, .out = out, .target = target, .threads = 2};
}

std::shared_ptr<const Checkpoint> rewrite(const fs::path& source, RewriteTarget target, const fs::path& out) {
  Rewriter rewriter(options_for(source, target, out));
  rewriter.run([](const auto&) {});
  rewriter.finish();
  return Checkpoint::open(out);
}

std::vector<float> values_of(const Tensor& tensor) {
  const auto columns = static_cast<size_t>(tensor.columns());
  std::vector<float> values(columns * static_cast<size_t>(tensor.rows()));
  for (int64_t r = 0; r < tensor.rows(); ++r)
    dequantize_row(tensor, r, std::span(values).subspan(static_cast<size_t>(r) * columns, columns));
  return values;
}

/// Every weight of two checkpoints of one model, in pairs, under a name for messages.
void for_each_weight(const Checkpoint& a, const Checkpoint& b, const auto& use) {
  const LayerRange all{0, a.config().layers - 1};
  const StageWeights from = a.stage(all), to = b.stage(all);
  use("embedding", *from.embedding, *to.embedding);
  use("final norm", *from.final_norm, *to.final_norm);
  use("head", *from.head, *to.head);
  for (size_t n = 0; n < from.layers.size(); ++n) {
    const LayerWeights &x = from.layers[n], &y = to.layers[n];
    const std::string layer = std::to_string(n) + " ";
    use(layer + "attention norm", x.attention_norm, y.attention_norm);
    use(layer + "mlp norm", x.mlp_norm, y.mlp_norm);
    use(layer + "q", x.q, y.q);
    use(layer + "o", x.o, y.o);
    if (!x.gate.shape.empty()) {
      use(layer + "gate", x.gate, y.gate);
      use(layer + "up", x.up, y.up);
      use(layer + "down", x.down, y.down);
      if (x.gate_bias) {
        use(layer + "gate bias", *x.gate_bias, *y.gate_bias);
        use(layer + "up bias", *x.up_bias, *y.up_bias);
        use(layer + "down bias", *x.down_bias, *y.down_bias);
      }
    }
    if (x.latent) {
      if (x.latent->q_a) use(layer + "q_a", *x.latent->q_a, *y.latent->q_a);
      use(layer + "kv_a", x.latent->kv_a, y.latent->kv_a);
      if (x.latent->kv_b && y.latent->kv_b) use(layer + "kv_b", *x.latent->kv_b, *y.latent->kv_b);
    } else {
      use(layer + "k", x.k, y.k);
      use(layer + "v", x.v, y.v);
      if (x.q_bias) {
        use(layer + "q bias", *x.q_bias, *y.q_bias);
        use(layer + "k bias", *x.k_bias, *y.k_bias);
        use(layer + "v bias", *x.v_bias, *y.v_bias);
      }
      if (x.o_bias) use(layer + "o bias", *x.o_bias, *y.o_bias);
      if (x.q_norm) {
        use(layer + "q norm", *x.q_norm, *y.q_norm);
        use(layer + "k norm", *x.k_norm, *y.k_norm);
      }
    }
    if (!x.experts) continue;
    use(layer + "router", x.experts->router, y.experts->router);
    if (x.experts->router_bias) use(layer + "router bias", *x.experts->router_bias, *y.experts->router_bias);
    for (size_t e = 0; e < x.experts->gate.size(); ++e) {
      const std::string expert = layer + "expert " + std::to_string(e) + " ";
      use(expert + "gate", x.experts->gate[e], y.experts->gate[e]);
      use(expert + "up", x.experts->up[e], y.experts->up[e]);
      use(expert + "down", x.experts->down[e], y.experts->down[e]);
    }
  }
}

double relative_error(const Tensor& from, const Tensor& to) {
  const std::vector<float> x = values_of(from), y = values_of(to);
  BOOST_REQUIRE(x.size() == y.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    power += double{x[i]} * x[i];
  }
  return std::sqrt(error / power);
}

std::map<std::string, std::string> contents(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    std::ifstream in(entry.path(), std::ios::binary);
    files[entry.path().filename()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return files;
}

struct Interruption {};

/// Runs until so many tensors are finished, as if the process were killed there.
void interrupt_after(size_t tensors, const RewriteOptions& options) {
  Rewriter rewriter(options);
  size_t done = 0;
  BOOST_CHECK_THROW(rewriter.run([&](const auto&) {
    if (++done == tensors) throw Interruption{};
  }),
                    Interruption);
}

struct Counts {
  size_t kept = 0, written = 0;
};
Counts run_to_the_end(const RewriteOptions& options) {
  Rewriter rewriter(options);
  Counts counts;
  rewriter.run([&](const Rewriter::Progress& p) { ++(p.kept ? counts.kept : counts.written); });
  rewriter.finish();
  return counts;
}

}  // namespace

BOOST_AUTO_TEST_CASE(bf16_weights_written_as_bf16_are_the_same_to_the_bit) {
  for (const char* name : {"llama-gqa", "qwen2-bias", "llama-bias", "llama-mlp-bias", "mistral", "qwen3",
                           "qwen3-moe-mixed", "deepseek-v2-lite", "deepseek-v3"}) {
    const TemporaryFolder folder;
    const auto source = Checkpoint::open(golden(name)),
               result = rewrite(golden(name), RewriteTarget::bf16, folder.path() / "out");
    BOOST_TEST(result->config().end_tokens == source->config().end_tokens, boost::test_tools::per_element());
    for_each_weight(*source, *result, [&](const std::string& weight, const Tensor& a, const Tensor& b) {
      BOOST_TEST((values_of(a) == values_of(b)), name << " " << weight);
    });
  }
}

BOOST_AUTO_TEST_CASE(fp8_blocks_are_read_back_within_half_a_step) {
  const TemporaryFolder folder;
  const auto source = Checkpoint::open(golden("deepseek-v3")),
             result = rewrite(golden("deepseek-v3"), RewriteTarget::fp8_block, folder.path() / "out");
  size_t in_fp8 = 0;
  for_each_weight(*source, *result, [&](const std::string& weight, const Tensor& a, const Tensor& b) {
    const std::vector<float> x = values_of(a), y = values_of(b);
    if (b.type != DType::f8_e4m3) {
      BOOST_TEST((x == y), weight);
      return;
    }
    ++in_fp8;
    float largest = 0;
    for (const float value : x) largest = std::max(largest, std::fabs(value));
    // Three bits behind the leading one; below 2^-6 of the scaled number a fixed step of 2^-9.
    const float smallest_step = largest / 448 * 0x1p-9f;
    for (size_t i = 0; i < x.size(); ++i)
      if (std::fabs(x[i] - y[i]) > std::max(std::fabs(x[i]) * 0x1p-4f, smallest_step / 2) * 1.0001f) {
        BOOST_TEST(x[i] == y[i], weight << " at " << i);
        return;
      }
  });
  BOOST_TEST(in_fp8 > 100u);
}

BOOST_AUTO_TEST_CASE(int8_rows_are_read_back_within_half_a_step_of_a_scale_that_bf16_holds) {
  const TemporaryFolder folder;
  const auto source = Checkpoint::open(golden("qwen2-bias")),
             result = rewrite(golden("qwen2-bias"), RewriteTarget::int8, folder.path() / "out");
  size_t in_int8 = 0;
  for_each_weight(*source, *result, [&](const std::string& weight, const Tensor& a, const Tensor& b) {
    const std::vector<float> x = values_of(a), y = values_of(b);
    if (b.type != DType::i8) {
      BOOST_TEST((x == y), weight);
      return;
    }
    ++in_int8;
    for (size_t i = 0; i < x.size(); ++i) {
      float scale;
      std::memcpy(&scale, b.scales.data() + i / static_cast<size_t>(b.columns()) * sizeof scale,
                  sizeof scale);
      if (bf16_to_f32(f32_to_bf16(scale)) == scale && std::fabs(x[i] - y[i]) <= scale * 0.5001f) continue;
      BOOST_TEST(x[i] == y[i], weight << " at " << i);
      return;
    }
  });
  BOOST_TEST(in_int8 == 3u * 7);
}

BOOST_AUTO_TEST_CASE(a_gguf_and_the_safetensors_made_of_it_have_the_weights_in_their_places) {
  for (const char* name : {"llama-gqa", "qwen2-bias", "llama-bias", "llama-mlp-bias", "mistral", "qwen3",
                           "qwen3-yarn", "qwen3-moe", "deepseek-v2-lite", "deepseek-v2", "deepseek-v3"}) {
    const TemporaryFolder folder;
    const auto source = Checkpoint::open(golden(name)),
               gguf = rewrite(golden(name), RewriteTarget::q8_0, folder.path() / "a.gguf"),
               back = rewrite(folder.path() / "a.gguf", RewriteTarget::bf16, folder.path() / "back");
    BOOST_TEST(gguf->is_gguf());
    const std::string family = source->config().architecture;
    BOOST_TEST(back->config().architecture == (family == "mistral" ? "llama" : family));  // one to a GGUF
    BOOST_TEST(attention_scale(back->config()) == attention_scale(source->config()));
    BOOST_TEST(rope_magnitude(back->config().rope) == rope_magnitude(source->config().rope),
               boost::test_tools::tolerance(1e-7));
    BOOST_TEST(rope_frequencies(back->config().rope, source->config().head_dim) ==
                   rope_frequencies(source->config().rope, source->config().head_dim),
               boost::test_tools::per_element());
    size_t compared = 0;
    for_each_weight(*source, *back, [&](const std::string& weight, const Tensor& a, const Tensor& b) {
      BOOST_TEST(relative_error(a, b) < 0.01, name << " " << weight);
      ++compared;
    });
    BOOST_TEST(compared >= 3u + 9 * static_cast<size_t>(source->config().layers));
  }
}

BOOST_AUTO_TEST_CASE(what_a_gguf_of_qwen3_with_experts_cannot_say_is_refused) {
  const TemporaryFolder folder;
  CHECK_INPUT_ERROR(rewrite(golden("qwen3-moe-mixed"), RewriteTarget::q8_0, folder.path() / "a.gguf"),
                    "does not normalise");
  const fs::path source = folder.path() / "source";
  fs::copy(golden("qwen3-moe-mixed"), source);
  auto config = boost::json::parse(Mapping::open(source / "config.json")->text()).as_object();
  config["norm_topk_prob"] = true;
  std::ofstream(source / "config.json") << config;
  CHECK_INPUT_ERROR(rewrite(source, RewriteTarget::q8_0, folder.path() / "a.gguf"), "layers without experts");
}

BOOST_AUTO_TEST_CASE(a_gguf_of_llama_with_biases_on_some_projections_cannot_go_back) {
  const TemporaryFolder folder;
  auto file = test::tiny_gguf("llama", {.layers = 1});
  file.tensor_f32("blk.0.attn_q.bias", {64}).tensor_f32("blk.0.attn_k.bias", {32});
  const auto source = folder.write("a.gguf", file.tensor_f32("blk.0.attn_v.bias", {32}).bytes());
  BOOST_TEST(Checkpoint::open(source)->stage({0, 0}).layers[0].q_bias.has_value());
  CHECK_INPUT_ERROR(rewrite(source, RewriteTarget::bf16, folder.path() / "out"), "all or none");
}

BOOST_AUTO_TEST_CASE(q4_k_falls_back_to_q8_0_where_rows_are_no_whole_blocks) {
  const TemporaryFolder folder;
  const auto result = rewrite(golden("deepseek-v2"), RewriteTarget::q4_k, folder.path() / "a.gguf");
  const LayerWeights layer = result->stage({0, 0}).layers.front();
  BOOST_TEST((layer.o.type == DType::q4_k));             // 256 columns
  BOOST_TEST((layer.latent->v_b->type == DType::q4_k));  // 512
  BOOST_TEST((layer.gate.type == DType::q8_0));          // 128
  BOOST_TEST((result->stage({0, 0}).embedding->type == DType::q8_0));
  BOOST_TEST((layer.attention_norm.type == DType::f32));
}

BOOST_AUTO_TEST_CASE(llama3_frequencies_survive_in_a_gguf_and_cannot_go_back) {
  const TemporaryFolder folder;
  const auto source = Checkpoint::open(golden("llama3-rope")),
             gguf = rewrite(golden("llama3-rope"), RewriteTarget::q8_0, folder.path() / "a.gguf");
  const int64_t width = source->config().head_dim;
  const auto expected = rope_frequencies(source->config().rope, width),
             found = rope_frequencies(gguf->config().rope, width);
  for (size_t i = 0; i < expected.size(); ++i)
    BOOST_TEST(found[i] == expected[i], boost::test_tools::tolerance(1e-6));
  CHECK_INPUT_ERROR(rewrite(folder.path() / "a.gguf", RewriteTarget::bf16, folder.path() / "back"),
                    "rotary frequencies");
}

BOOST_AUTO_TEST_CASE(an_interrupted_run_goes_on_and_gives_the_same_bytes) {
  const TemporaryFolder folder;
  RewriteOptions options =
      options_for(golden("deepseek-v2"), RewriteTarget::fp8_block, folder.path() / "out");
  options.shard_bytes_max = 1 << 20;
  interrupt_after(20, options);
  BOOST_TEST(!fs::exists(options.out));
  const Counts counts = run_to_the_end(options);
  BOOST_TEST(counts.kept == 20u);
  BOOST_TEST(counts.written > 50u);
  BOOST_TEST(!fs::exists(folder.path() / "out.partial"));
  BOOST_TEST(!fs::exists(folder.path() / "out.partial.journal"));

  options.out = folder.path() / "at once";
  BOOST_TEST(run_to_the_end(options).kept == 0u);
  const auto resumed = contents(folder.path() / "out"), at_once = contents(options.out);
  BOOST_TEST(resumed.size() > 3u);  // shards, index, config.json
  BOOST_TEST((resumed == at_once));
}

BOOST_AUTO_TEST_CASE(a_tensor_that_was_damaged_between_two_runs_is_written_again) {
  const TemporaryFolder folder;
  const RewriteOptions options =
      options_for(golden("llama-gqa"), RewriteTarget::q8_0, folder.path() / "a.gguf");
  interrupt_after(5, options);
  {
    const fs::path partial = folder.path() / "a.gguf.partial";
    const GgufFile file = GgufFile::open(partial);
    const Tensor& embedding = file.tensors.find("token_embd.weight")->second;
    std::fstream damage(partial, std::ios::in | std::ios::out | std::ios::binary);
    damage.seekp(embedding.bytes.data() - file.file->bytes().data() + 100);
    damage.put('\x55');
  }
  const Counts counts = run_to_the_end(options);
  BOOST_TEST(counts.kept == 4u);
  const auto source = Checkpoint::open(golden("llama-gqa")), result = Checkpoint::open(options.out);
  BOOST_TEST(relative_error(*source->stage({0, 0}).embedding, *result->stage({0, 0}).embedding) < 0.01);
}

BOOST_AUTO_TEST_CASE(a_run_of_another_plan_starts_anew_and_what_exists_is_not_overwritten) {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "out";
  interrupt_after(5, options_for(golden("llama-gqa"), RewriteTarget::int8, out));
  BOOST_TEST(run_to_the_end(options_for(golden("llama-gqa"), RewriteTarget::bf16, out)).kept == 0u);
  CHECK_INPUT_ERROR(Rewriter(options_for(golden("llama-gqa"), RewriteTarget::bf16, out)), "exists");
  const Rewriter first(options_for(golden("llama-gqa"), RewriteTarget::bf16, folder.path() / "two"));
  CHECK_INPUT_ERROR(Rewriter(options_for(golden("llama-gqa"), RewriteTarget::bf16, folder.path() / "two")),
                    "another process");
}

BOOST_AUTO_TEST_CASE(losses_stand_under_the_kind_of_weight_that_lost) {
  const TemporaryFolder folder;
  Rewriter rewriter(options_for(golden("deepseek-v3"), RewriteTarget::fp8_block, folder.path() / "out"));
  rewriter.run([](const auto&) {});
  const auto loss = [&](WeightKind kind) { return rewriter.losses()[static_cast<size_t>(kind)].relative(); };
  for (const WeightKind kind : {WeightKind::attention, WeightKind::dense_mlp, WeightKind::experts}) {
    BOOST_TEST(loss(kind) > 0.01);
    BOOST_TEST(loss(kind) < 0.04);  // a number of three bits is wrong by 2.6 % in the mean
  }
  BOOST_TEST(loss(WeightKind::embedding) == 0);
  BOOST_TEST(loss(WeightKind::rest) == 0);
}

BOOST_AUTO_TEST_CASE(a_gguf_without_a_tokenizer_says_so_and_keeps_the_tokens_that_end_an_answer) {
  const TemporaryFolder folder;
  const fs::path source = folder.path() / "source";
  fs::copy(golden("llama-gqa"), source);
  auto config = boost::json::parse(Mapping::open(source / "config.json")->text()).as_object();
  config["eos_token_id"] = boost::json::array{7, 9};
  config["bos_token_id"] = 5;
  std::ofstream(source / "config.json") << config;
  run_to_the_end(options_for(source, RewriteTarget::q8_0, folder.path() / "a.gguf"));
  const auto written = Checkpoint::open(folder.path() / "a.gguf");
  BOOST_TEST(!Checkpoint::open(source)->has_tokenizer());
  BOOST_TEST(!written->has_tokenizer());
  BOOST_TEST(inspect_text(*written).tokenizer == "none");
  BOOST_TEST(std::get<std::string>(written->metadata().at("tokenizer.ggml.model").value) == "none");
  BOOST_TEST(written->config().end_tokens == (std::vector<int32_t>{7, 9}), boost::test_tools::per_element());
  BOOST_TEST(written->config().bos_token == 5);
}

BOOST_AUTO_TEST_CASE(what_a_gguf_cannot_say_of_a_token_is_named) {
  const auto lost = [](const std::vector<AddedToken>& tokens, bool nfc = false) {
    TokenizerParts parts = test::small_parts();
    parts.added = tokens;
    if (nfc) parts.normalizer = {{NormalStep::Kind::nfc, "", ""}};
    return lost_in_gguf({parts}, Config{});
  };
  const AddedToken plain{.id = 300, .content = "<|a|>", .special = true};
  BOOST_TEST(lost({plain}).empty());
  BOOST_TEST(lost({plain, {.id = 301, .content = "<b>", .lstrip = true, .rstrip = true}}) ==
                 std::vector<std::string>{"lstrip and rstrip of the token \"<b>\""},
             boost::test_tools::per_element());
  BOOST_TEST(lost({{.id = 301, .content = "b", .single_word = true}}) ==
                 std::vector<std::string>{"single_word of the token \"b\""},
             boost::test_tools::per_element());
  // Sought after the others: that shows only where two can meet, or in a text that is normalised first.
  const AddedToken late{.id = 301, .content = "|>x", .normalized = true};
  BOOST_TEST(lost({plain, late}) == std::vector<std::string>{"normalized of the token \"|>x\""},
             boost::test_tools::per_element());
  BOOST_TEST(lost({plain, {.id = 301, .content = "x<|", .normalized = true}}).size() == 1u);
  BOOST_TEST(lost({plain, {.id = 301, .content = "|", .normalized = true}}).size() == 1u);
  BOOST_TEST(lost({plain, {.id = 301, .content = "[b]", .normalized = true}}).empty());
  BOOST_TEST(lost({late, {.id = 302, .content = "x|>", .normalized = true}}).empty());
  BOOST_TEST(lost({plain, {.id = 301, .content = "[b]", .normalized = true}}, true).size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_gguf_that_lacks_something_of_the_tokenizer_is_written_only_if_forced) {
  const TemporaryFolder folder;
  const fs::path source = folder.path() / "source";
  fs::copy(golden("llama-gqa"), source);
  std::ofstream(source / "tokenizer.json") << tokenizer_json(test::small_parts());
  RewriteOptions options = options_for(source, RewriteTarget::q8_0, folder.path() / "a.gguf");
  CHECK_INPUT_ERROR(Rewriter{options}, "single_word of the token \"word\"");
  CHECK_INPUT_ERROR(Rewriter{options}, "lstrip and rstrip of the token \"[strip]\"");
  BOOST_TEST(!fs::exists(folder.path() / "a.gguf.partial"));
  options.force = true;
  BOOST_TEST(Rewriter(options).notes().front().find("single_word of the token") != std::string::npos);
  run_to_the_end(options);
  BOOST_TEST(Checkpoint::open(options.out)->has_tokenizer());
  run_to_the_end(options_for(source, RewriteTarget::bf16, folder.path() / "b"));  // which can say it all
}

BOOST_AUTO_TEST_CASE(a_tokenizer_survives_the_way_through_a_gguf) {
  TokenizerParts parts = test::small_parts();
  for (AddedToken& added : parts.added) added.single_word = added.lstrip = added.rstrip = false;
  std::erase_if(parts.added, [](const AddedToken& added) { return added.normalized; });  // GGUF has no such
  parts.bos = parts.eos = "<|x|>";
  parts.chat_template = "{{ messages }}";
  Config config;
  config.vocab = 310;
  config.end_tokens = {301};
  GgufWriter gguf;
  write_gguf_tokenizer({parts}, config, gguf);
  const auto file = GgufFile::parse(test::in_memory(gguf.header()));
  const TokenizerParts in_gguf = read_tokenizer_gguf(file.metadata, "gguf");
  const auto original = make_tokenizer(parts), through_gguf = make_tokenizer(in_gguf),
             through_json = make_tokenizer(parse_tokenizer_json(tokenizer_json(in_gguf), "json"));
  const std::string text = "abc a bc<|x|>y, <think>word 42's\n  ab</think>ü";
  BOOST_TEST(original->encode(text, true).size() > 10u);
  BOOST_TEST(through_gguf->encode(text, true) == original->encode(text, true),
             boost::test_tools::per_element());
  BOOST_TEST(through_json->encode(text, true) == original->encode(text, true),
             boost::test_tools::per_element());
  BOOST_TEST(*through_gguf->eos() == 300);
  BOOST_TEST(*through_gguf->chat_template() == "{{ messages }}");
  const auto& eot = file.metadata.find("tokenizer.ggml.eot_token_id")->second;
  BOOST_TEST(std::get<uint64_t>(eot.value) == 301u);
  parts.rules = {{.expression = "[a-z]+"}};
  CHECK_INPUT_ERROR(write_gguf_tokenizer({parts}, config, gguf), "no name for");
}
