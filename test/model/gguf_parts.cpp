// A GGUF in several files, split as llama.cpp's gguf-split does it.

#include "model/format/gguf_parts.hpp"

#include "builders.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/tokenizer/tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using test::GgufBuilder;
using test::TemporaryFolder;
using test::tiny_gguf;

namespace {

struct Part {
  GgufBuilder header;
  std::string data;
  std::string bytes() const { return header.header() + data; }
};

/// Values that differ from tensor to tensor and from place to place.
std::string pattern(uint64_t bytes) {
  std::string data(bytes, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 % 251);
  return data;
}

/// An own head: without its part it would be taken for tied.
GgufBuilder whole_model() { return tiny_gguf("qwen2").tensor_f32("output.weight", {32, 8}); }

/// All metadata in the first; the tensors in turn, `each` to a part.
std::vector<Part> split(const GgufBuilder& whole, const std::string& data, size_t each) {
  const size_t count = (whole.tensors.size() + each - 1) / each;
  std::vector<Part> parts;
  for (size_t n = 0; n < count; ++n) {
    Part part;
    if (n == 0) part.header.keys = whole.keys;
    part.header.key("split.no", static_cast<uint16_t>(n))
        .key("split.count", static_cast<uint16_t>(count))
        .key("split.tensors.count", static_cast<int32_t>(whole.tensors.size()));
    for (size_t t = n * each; t < std::min((n + 1) * each, whole.tensors.size()); ++t) {
      const test::GgufTensor& tensor = whole.tensors[t];
      const uint64_t end = t + 1 < whole.tensors.size() ? whole.tensors[t + 1].offset : whole.data_bytes;
      part.header.tensor(tensor.name, tensor.dims, tensor.type, end - tensor.offset);
      part.data += data.substr(tensor.offset, end - tensor.offset);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

std::string name_of(size_t number, size_t count, const std::string& name = "m") {
  char text[64];
  std::snprintf(text, sizeof text, "-%05zu-of-%05zu.gguf", number, count);
  return name + text;
}

/// Four parts in a folder, as a test wants them, and the error or none of opening each.
struct Folder {
  TemporaryFolder folder;
  std::vector<Part> parts = split(whole_model(), pattern(whole_model().data_bytes), 8);

  void write() const {
    for (size_t n = 0; n < parts.size(); ++n) folder.write(name_of(n + 1, parts.size()), parts[n].bytes());
  }
  std::filesystem::path part(size_t number) const { return folder.path() / name_of(number, parts.size()); }
  std::shared_ptr<const Checkpoint> open(size_t number = 1) const { return Checkpoint::open(part(number)); }
  /// Whichever part is given, the error says both.
  void refused(const std::string& file, const std::string& problem) const {
    for (size_t number = 1; number <= parts.size(); ++number) {
      if (!std::filesystem::exists(part(number))) continue;
      CHECK_INPUT_ERROR(open(number), file);
      CHECK_INPUT_ERROR(open(number), problem);
    }
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(any_part_of_a_split_file_opens_the_whole_model) {
  const GgufBuilder whole = whole_model();
  const Folder split;
  split.write();
  BOOST_REQUIRE(split.parts.size() == 4u);
  const auto undivided =
      Checkpoint::open(split.folder.write("whole.gguf", whole.header() + pattern(whole.data_bytes)));
  const auto bytes_of = [](const Tensor& tensor) {
    return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  };
  for (size_t number = 1; number <= 4; ++number) {
    const auto checkpoint = split.open(number);
    BOOST_TEST(checkpoint->path() == split.part(1));
    BOOST_TEST(!checkpoint->config().tied_head);
    BOOST_TEST(checkpoint->files().size() == 4u);
    const StageWeights a = checkpoint->stage({0, 1}), b = undivided->stage({0, 1});
    BOOST_TEST((bytes_of(*a.head) == bytes_of(*b.head)));
    BOOST_TEST((bytes_of(*a.embedding) == bytes_of(*b.embedding)));
    BOOST_TEST((bytes_of(*a.final_norm) == bytes_of(*b.final_norm)));
    for (size_t n = 0; n < 2; ++n) {
      BOOST_TEST((bytes_of(a.layers[n].q) == bytes_of(b.layers[n].q)));
      BOOST_TEST((bytes_of(a.layers[n].down) == bytes_of(b.layers[n].down)));
      BOOST_TEST((bytes_of(*a.layers[n].v_bias) == bytes_of(*b.layers[n].v_bias)));
    }
    BOOST_TEST(checkpoint->weights_digest() == split.open(1)->weights_digest());
  }
}

BOOST_AUTO_TEST_CASE(the_metadata_is_that_of_the_first_part_whichever_is_given) {
  const Folder split;
  split.write();
  for (size_t number = 1; number <= 4; ++number)
    BOOST_TEST(read_gguf_metadata(split.part(number)).contains("tokenizer.ggml.tokens"));
  std::filesystem::remove(split.part(3));
  CHECK_INPUT_ERROR(Tokenizer::load(split.part(2)), name_of(3, 4));
}

BOOST_AUTO_TEST_CASE(a_first_part_without_tensors_and_a_split_that_was_merged_open) {
  Folder split;
  split.parts = ::split(whole_model(), pattern(whole_model().data_bytes), 16);
  Part first;
  first.header.keys = split.parts.front().header.keys;
  std::erase_if(split.parts.front().header.keys,
                [](const auto& key) { return !key.first.starts_with("split."); });
  split.parts.insert(split.parts.begin(), first);
  for (size_t n = 0; n < split.parts.size(); ++n)
    split.parts[n]
        .header.key("split.no", static_cast<uint16_t>(n))
        .key("split.count", static_cast<uint16_t>(split.parts.size()));
  split.write();
  BOOST_TEST(!split.open(2)->config().tied_head);

  for (const uint16_t count : {0, 1})
    BOOST_CHECK_NO_THROW(make_checkpoint(read_gguf(
        test::in_memory(whole_model().key("split.no", uint16_t{0}).key("split.count", count).bytes()))));
}

BOOST_AUTO_TEST_CASE(a_part_that_is_missing_is_named) {
  const Folder split;
  split.write();
  for (const size_t missing : {3, 1}) {
    std::filesystem::remove(split.part(missing));
    split.refused(name_of(missing, 4), "is missing: part " + std::to_string(missing) + " of 4");
  }
}

BOOST_AUTO_TEST_CASE(a_part_whose_name_is_not_its_number_is_refused) {
  const Folder split;
  split.write();
  std::filesystem::copy_file(split.part(2), split.part(3), std::filesystem::copy_options::overwrite_existing);
  CHECK_INPUT_ERROR(split.open(1), name_of(3, 4));  // part 2 twice
  CHECK_INPUT_ERROR(split.open(1), "says it is part 2 of 4");
  CHECK_INPUT_ERROR(split.open(3), "name does not say so");
  for (const char* name : {"model.gguf", "m-2-of-4.gguf", "m-00002-of-00004.bin", "m-00002-of-00005.gguf"}) {
    std::filesystem::copy_file(split.part(2), split.folder.path() / name);
    CHECK_INPUT_ERROR(Checkpoint::open(split.folder.path() / name), "-00002-of-00004.gguf");
  }
  CHECK_INPUT_ERROR(read_gguf(test::in_memory(split.parts[0].bytes())), "in memory");  // opens nothing
}

BOOST_AUTO_TEST_CASE(counts_that_cannot_be_or_do_not_agree_are_refused) {
  const auto with = [](size_t part, auto change) {
    Folder split;
    change(split.parts[part].header);
    split.write();
    return split.open(part + 1);
  };
  const auto key = [&](size_t part, const char* name, auto value) {
    CHECK_INPUT_ERROR(with(part, [&](GgufBuilder& file) { file.key(name, value); }), name_of(part + 1, 4));
  };
  for (const size_t part : {0, 1}) {
    key(part, "split.count", uint16_t{65535});
    key(part, "split.count", uint16_t{4097});
    key(part, "split.count", int32_t{-4});
    key(part, "split.count", std::string("4"));
    key(part, "split.no", uint16_t{65535});
    key(part, "split.no", int32_t{-1});
    key(part, "split.tensors.count", int32_t{-1});
    key(part, "split.tensors.count", int32_t{INT32_MAX});
    CHECK_INPUT_ERROR(with(part,
                           [](GgufBuilder& file) {
                             std::erase_if(file.keys,
                                           [](const auto& entry) { return entry.first == "split.no"; });
                           }),
                      "split.no");
  }
  Folder split;  // fewer tensors than all parts agree on
  split.parts[2].header.tensors.pop_back();
  split.write();
  split.refused(name_of(1, 4), "27 tensors; they have 26");
}

BOOST_AUTO_TEST_CASE(parts_of_two_models_and_a_tensor_in_two_parts_are_refused) {
  const auto with = [](auto change) {
    auto split = std::make_unique<Folder>();
    change(split->parts);
    split->write();
    return split;
  };
  with([](auto& parts) {
    parts[2].header.key("general.architecture", std::string("llama"));
  })->refused(name_of(3, 4), "general.architecture");
  with([](auto& parts) {
    parts[2].header.key("general.url", std::string("elsewhere"));
  })->refused(name_of(3, 4), "general.url");
  with([](auto& parts) { parts[1].header.key("general.architecture", std::string("qwen2")); })->open(4);
  const auto twice = with([](auto& parts) {
    const std::string name = parts[0].header.tensors[0].name;
    parts[3].header.tensors[0].name = name;
  });
  twice->refused(name_of(4, 4), "is in \"" + name_of(1, 4) + "\" too");
  with([](auto& parts) {  // one that no model of this kind has
    for (Part& part : parts) part.header.key("split.tensors.count", int32_t{28});
    parts[3].header.tensor_f32("blk.7.attn_q.weight", {8});
    parts[3].data += std::string(32, '\0');
  })
      ->refused(name_of(4, 4), "blk.7.attn_q.weight");
}
