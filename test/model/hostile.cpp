// Model files made to hurt: each has to load or to throw InputError. Anything else (a crash, another
// exception, memory without bound) fails here, or under the sanitizers.

#include <random>

#include "builders.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/config.hpp"
#include "model/format/safetensors.hpp"

using namespace convoy;
using namespace convoy::model;
using test::GgufBuilder;
using test::raw;
using test::safetensors;
using test::tiny_gguf;

namespace {

/// Numbers at which sizes, offsets and counts go wrong.
constexpr uint64_t edges[] = {0,
                              1,
                              0x7fffffff,
                              0xffffffff,
                              uint64_t{1} << 32,
                              (uint64_t{1} << 62) - 1,
                              uint64_t{1} << 62,
                              (uint64_t{1} << 63) - 32,
                              (uint64_t{1} << 63) - 1,
                              uint64_t{1} << 63,
                              ~uint64_t{0} - 31,
                              ~uint64_t{0}};

/// Reads every value, so that a view that leaves the file is noticed.
void read_all(const Tensor& tensor) {
  std::vector<float> row(static_cast<size_t>(tensor.columns()));
  for (int64_t i = 0; i < tensor.rows(); ++i) dequantize_row(tensor, i, row);
}

bool loads_gguf(const std::string& bytes) {
  try {
    const auto checkpoint = make_checkpoint(read_gguf(test::in_memory(bytes)));
    const StageWeights weights = checkpoint->stage({0, checkpoint->config().layers - 1});
    for (const LayerWeights& layer : weights.layers)
      for (const Tensor* tensor : {&layer.attention_norm, &layer.q, &layer.k, &layer.v, &layer.o,
                                   &layer.mlp_norm, &layer.gate, &layer.up, &layer.down})
        read_all(*tensor);
    read_all(*weights.head);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

bool loads_safetensors(const std::string& bytes) {
  try {
    const auto file = SafetensorsFile::parse(test::in_memory(bytes));
    for (const auto& [name, tensor] : file.tensors())
      if (tensor.shape.size() <= 2 && !tensor.bytes.empty()) read_all(tensor);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

bool loads_config(const std::string& text) {
  try {
    const Config config = parse_config_json(text, "", "config.json");
    rope_frequencies(config.rope, config.head_dim);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

const std::string two_tensors =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";

const std::string plain_config =
    R"({"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,)"
    R"("vocab_size":100,"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":1e4,"eos_token_id":[1,2],)"
    R"("rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
    R"("original_max_position_embeddings":16}})";

/// Flips one to three bits of the first `header_bytes` bytes, thousands of times.
template <class Loads>
void flip_bits(const std::string& good, size_t header_bytes, Loads loads) {
  BOOST_REQUIRE(loads(good));
  constexpr uint64_t seed = 20260611;
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  constexpr int rounds = 5000;
  int loaded = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string bytes = good;
    for (uint64_t flips = random() % 3 + 1; flips > 0; --flips)
      bytes[random() % header_bytes] ^= static_cast<char>(1 << random() % 8);
    BOOST_TEST_CONTEXT("seed " << seed << ", round " << round) { loaded += loads(bytes); }
  }
  BOOST_TEST_MESSAGE(loaded << " of " << rounds << " loaded");
  BOOST_TEST(loaded < rounds);
}

SafetensorsFile parse_safetensors(const std::string& header, size_t data_bytes) {
  return SafetensorsFile::parse(test::in_memory(safetensors(header, data_bytes)));
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_gguf_file_cut_anywhere_is_refused) {
  const GgufBuilder file = tiny_gguf("llama");
  const std::string good = file.bytes();
  BOOST_REQUIRE(loads_gguf(good));
  for (size_t size = 1; size < file.header().size() + 64; ++size)
    BOOST_TEST(!loads_gguf(good.substr(0, size)), "loaded with " << size << " bytes");
  BOOST_TEST(!loads_gguf(good.substr(0, good.size() - 1)));
}

BOOST_AUTO_TEST_CASE(a_gguf_file_with_flipped_bits_loads_or_is_refused) {
  const GgufBuilder file = tiny_gguf("llama", {.layers = 1});
  flip_bits(file.bytes(), file.header().size(), loads_gguf);
}

BOOST_AUTO_TEST_CASE(a_gguf_file_with_an_extreme_number_anywhere_loads_or_is_refused) {
  const GgufBuilder file = tiny_gguf("qwen2", {.layers = 1});
  const std::string good = file.bytes();
  const size_t header_bytes = file.header().size();
  BOOST_REQUIRE(loads_gguf(good));
  size_t loaded = 0, tried = 0;
  for (size_t at = 4; at + 8 <= header_bytes; ++at)
    for (const uint64_t edge : edges) {
      std::string bytes = good;
      bytes.replace(at, 8, raw(edge));
      loaded += loads_gguf(bytes);
      ++tried;
    }
  BOOST_TEST_MESSAGE(loaded << " of " << tried << " loaded");
  BOOST_TEST(loaded < tried / 10);
}

BOOST_AUTO_TEST_CASE(gguf_counts_and_sizes_beyond_the_file_are_refused_before_memory_is_taken) {
  const auto file_of = [](uint64_t tensors, uint64_t keys, const std::string& rest) {
    return test::in_memory("GGUF" + raw(uint32_t{3}) + raw(tensors) + raw(keys) + rest);
  };
  const auto array = [](uint32_t type, uint64_t count) { return raw(uint32_t{9}) + raw(type) + raw(count); };
  for (const uint64_t edge : edges) {
    if (edge <= 1) continue;
    CHECK_INPUT_ERROR(GgufFile::parse(file_of(edge, 0, "")), "in memory");
    CHECK_INPUT_ERROR(GgufFile::parse(file_of(0, edge, "")), "in memory");
    CHECK_INPUT_ERROR(GgufFile::parse(file_of(0, 1, raw(edge))), "string");
    for (uint32_t type = 0; type <= 12; ++type)
      CHECK_INPUT_ERROR(GgufFile::parse(file_of(0, 1, test::counted("k") + array(type, edge))), "array");
    const std::string tensor =
        test::counted("t") + raw(uint32_t{2}) + raw(edge) + raw(edge) + raw(uint32_t{0});
    CHECK_INPUT_ERROR(GgufFile::parse(file_of(1, 0, tensor + raw(uint64_t{0}))), "\"t\"");
  }
}

BOOST_AUTO_TEST_CASE(gguf_arrays_nested_deep_are_refused) {
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += raw(uint32_t{9}) + raw(uint64_t{1});
  GgufBuilder file = tiny_gguf("llama").key("deep", test::gguf_array, nested);
  CHECK_INPUT_ERROR(GgufFile::parse(test::in_memory(file.bytes())), "deep");
}

BOOST_AUTO_TEST_CASE(gguf_names_that_stand_twice_are_refused) {
  GgufBuilder file = tiny_gguf("llama");
  file.keys.push_back(file.keys.front());
  CHECK_INPUT_ERROR(GgufFile::parse(test::in_memory(file.bytes())), "twice");
  file = tiny_gguf("llama");
  file.find("blk.0.attn_k.weight").name = "blk.0.attn_v.weight";
  CHECK_INPUT_ERROR(GgufFile::parse(test::in_memory(file.bytes())), "twice");
}

BOOST_AUTO_TEST_CASE(gguf_tensors_that_overlap_or_leave_the_file_or_are_empty_are_refused) {
  const auto changed = [](auto change) {
    GgufBuilder file = tiny_gguf("llama");
    change(file.find("blk.1.attn_k.weight"), file);
    return GgufFile::parse(test::in_memory(file.bytes()));
  };
  CHECK_INPUT_ERROR(changed([](auto& t, auto& file) { t.offset = file.find("blk.1.attn_q.weight").offset; }),
                    "overlaps");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.offset -= 32; }), "overlaps");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.offset += 4; }), "aligned");
  CHECK_INPUT_ERROR(changed([](auto& t, auto& file) { t.offset = file.data_bytes; }), "offset");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.offset = ~uint64_t{31}; }), "offset");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.dims[1] = 0; }), "dimension");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.dims[1] = uint64_t{1} << 63; }), "dimension");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) {
                      t.dims = {uint64_t{1} << 31, uint64_t{1} << 31};
                    }),
                    "shape");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.dims = {}; }), "dimensions");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.dims = {1, 1, 1, 1, 1}; }), "dimensions");
  CHECK_INPUT_ERROR(changed([](auto& t, auto&) { t.dims[0] = 33, t.type = test::ggml_q8_0; }), "shape");
}

BOOST_AUTO_TEST_CASE(a_gguf_alignment_that_is_no_power_of_two_is_refused) {
  for (const uint32_t alignment : {0u, 1u, 7u, 33u, 1u << 21, ~0u})
    CHECK_INPUT_ERROR(
        GgufFile::parse(test::in_memory(tiny_gguf("llama").key("general.alignment", alignment).bytes())),
        "general.alignment");
}

BOOST_AUTO_TEST_CASE(a_safetensors_file_cut_anywhere_is_refused) {
  const std::string good = safetensors(two_tensors, 32);
  BOOST_REQUIRE(loads_safetensors(good));
  for (size_t size = 1; size < good.size(); ++size)
    BOOST_TEST(!loads_safetensors(good.substr(0, size)), "loaded with " << size << " bytes");
  BOOST_TEST(!loads_safetensors(good + "x"));
}

BOOST_AUTO_TEST_CASE(a_safetensors_file_with_flipped_bits_loads_or_is_refused) {
  flip_bits(safetensors(two_tensors, 32), 8 + two_tensors.size(), loads_safetensors);
}

BOOST_AUTO_TEST_CASE(a_config_with_flipped_bits_loads_or_is_refused) {
  flip_bits(plain_config, plain_config.size(), loads_config);
}

BOOST_AUTO_TEST_CASE(a_config_with_an_extreme_number_anywhere_loads_or_is_refused) {
  size_t refused = 0;
  for (size_t at = plain_config.find(':'); at != plain_config.npos; at = plain_config.find(':', at + 1)) {
    const size_t end = plain_config.find_first_of(",}", at);
    for (const std::string number :
         {"0", "-1", "1e308", "-1e308", "1e-308", "9223372036854775807", "4294967295", "18446744073709551615",
          "99999999999999999999", "null", "true", "\"\"", "[]", "{}"})
      refused += !loads_config(plain_config.substr(0, at + 1) + number + plain_config.substr(end));
  }
  BOOST_TEST(refused > 100u);
}

BOOST_AUTO_TEST_CASE(a_safetensors_header_longer_than_the_file_or_the_limit_is_refused) {
  for (const uint64_t edge : edges) {
    if (edge <= 1) continue;
    CHECK_INPUT_ERROR(SafetensorsFile::parse(test::in_memory(raw(edge) + two_tensors)), "header");
  }
  CHECK_INPUT_ERROR(SafetensorsFile::parse(test::in_memory(raw(uint64_t{0}))), "JSON");
}

BOOST_AUTO_TEST_CASE(safetensors_entries_that_lie_about_their_bytes_are_refused) {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets,
                      size_t data) {
    return parse_safetensors(
        R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", data);
  };
  BOOST_CHECK_NO_THROW(one("\"F32\"", "[2]", "[0,8]", 8));
  BOOST_CHECK_NO_THROW(one("\"F32\"", "[0,5]", "[0,0]", 0));  // empty, which the format allows
  CHECK_INPUT_ERROR(one("\"F32\"", "[2]", "[0,9]", 9), "bytes");
  CHECK_INPUT_ERROR(one("\"F32\"", "[3]", "[0,8]", 8), "bytes");
  CHECK_INPUT_ERROR(one("\"F32\"", "[2]", "[0,8]", 7), "data_offsets");
  CHECK_INPUT_ERROR(one("\"F32\"", "[2]", "[8,0]", 8), "data_offsets");
  CHECK_INPUT_ERROR(one("\"F32\"", "[2]", "[-8,0]", 8), "data_offsets");
  CHECK_INPUT_ERROR(one("\"F32\"", "[2]", "[0,8,8]", 8), "data_offsets");
  CHECK_INPUT_ERROR(one("\"F32\"", "[2]", "[0,18446744073709551615]", 8), "data_offsets");
  CHECK_INPUT_ERROR(one("\"F32\"", "[2.0]", "[0,8]", 8), "dimension");
  CHECK_INPUT_ERROR(one("\"F32\"", "[-2]", "[0,8]", 8), "dimension");
  CHECK_INPUT_ERROR(one("\"F32\"", "[9223372036854775808]", "[0,8]", 8), "dimension");
  CHECK_INPUT_ERROR(one("\"F32\"", "[4611686018427387904,4]", "[0,0]", 0), "bytes");  // 2^66 bytes wrap to 0
  CHECK_INPUT_ERROR(one("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]", 8), "shape");
  CHECK_INPUT_ERROR(one("\"F8_E5M2\"", "[8]", "[0,8]", 8), "F8_E5M2");
  BOOST_CHECK_NO_THROW(one("\"F8_E4M3\"", "[8]", "[0,8]", 8));
  CHECK_INPUT_ERROR(one("\"Q8_0\"", "[32]", "[0,34]", 34), "Q8_0");
  CHECK_INPUT_ERROR(one("7", "[8]", "[0,8]", 8), "type");
  CHECK_INPUT_ERROR(parse_safetensors(R"({"t":[]})", 0), "object");
  CHECK_INPUT_ERROR(parse_safetensors(R"({"t":{"dtype":"F32","shape":[]}})", 4), "data_offsets");
  CHECK_INPUT_ERROR(parse_safetensors("[]", 0), "object");
}

BOOST_AUTO_TEST_CASE(safetensors_entries_that_overlap_or_leave_holes_are_refused) {
  const auto two = [](const std::string& first, const std::string& second, size_t data) {
    const std::string head = R"({"dtype":"F32","shape":[2],"data_offsets":)";
    return parse_safetensors(R"({"a":)" + head + first + R"(},"b":)" + head + second + "}}", data);
  };
  BOOST_CHECK_NO_THROW(two("[8,16]", "[0,8]", 16));
  CHECK_INPUT_ERROR(two("[0,8]", "[0,8]", 8), "begins");
  CHECK_INPUT_ERROR(two("[0,8]", "[4,12]", 12), "begins");
  CHECK_INPUT_ERROR(two("[0,8]", "[12,20]", 20), "begins");
  CHECK_INPUT_ERROR(two("[4,12]", "[12,20]", 20), "begins");
  CHECK_INPUT_ERROR(two("[0,8]", "[8,16]", 20), "bytes of data");
}

BOOST_AUTO_TEST_CASE(a_safetensors_header_with_a_name_twice_or_nested_deep_is_refused) {
  const std::string entry = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  CHECK_INPUT_ERROR(parse_safetensors(R"({"a":)" + entry + R"(,"a":)" + entry + "}", 8), "twice");
  CHECK_INPUT_ERROR(parse_safetensors(R"({"a":)" + entry + R"(,"\u0061":)" + entry + "}", 8), "twice");
  CHECK_INPUT_ERROR(parse_safetensors(R"({"a":)" + std::string(1'000'000, '['), 0), "JSON");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  CHECK_INPUT_ERROR(parse_safetensors(objects, 0), "JSON");
}

BOOST_AUTO_TEST_CASE(a_name_in_a_message_is_one_printable_line) {
  const std::string entry = R"({"dtype":"F99","shape":[2],"data_offsets":[0,8]})";
  try {
    parse_safetensors(R"({"x\n\u001b[31m)" + std::string(1000, 'y') + "\":" + entry + "}", 8);
    BOOST_TEST(false, "loaded");
  } catch (const InputError& error) {
    const std::string_view message = error.what();
    BOOST_TEST(message.find('\n') == message.npos);
    BOOST_TEST(message.find('\x1b') == message.npos);
    BOOST_TEST(message.size() < 300u);
  }
}
