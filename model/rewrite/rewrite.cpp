#include "model/rewrite/rewrite.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cassert>
#include <cmath>
#include <cstring>

#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/format/quantize.hpp"
#include "model/json.hpp"
#include "model/parallel.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "model/rewrite/rewrite_output.hpp"
#include "model/rewrite/rewrite_plan.hpp"

namespace convoy::model {

namespace {

namespace fs = std::filesystem;

/// What one helper encodes at once: whole blocks of FP8's rows, of about so many values.
constexpr int64_t band_values = 1 << 19;
/// Bands that each helper has in a batch: a batch lies in memory until it is written.
constexpr size_t bands_per_thread = 2;

struct Band {
  int64_t first = 0, rows = 0;
  std::vector<std::byte> bytes, scales;
  RewriteLoss loss;
};

std::span<float> as_floats(std::vector<std::byte>& bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

void encode(const PlannedTensor& tensor, Band& band) {
  const int64_t columns = tensor.columns();
  const auto width = static_cast<size_t>(columns);
  std::vector<float> values(static_cast<size_t>(band.rows) * width), back(width);
  tensor.read(band.first, values);
  Tensor written{tensor.type, {band.rows, columns}, {}, nullptr};
  const size_t row_bytes = written.row_bytes();
  band.bytes.resize(static_cast<size_t>(band.rows) * row_bytes);
  band.scales.resize(scale_count(tensor.type, band.rows, columns) * sizeof(float));
  const std::span<float> scales = as_floats(band.scales);
  const auto row = [&](size_t r) { return std::span(values).subspan(r * width, width); };
  if (tensor.type == DType::f8_e4m3) {
    quantize_block_fp8(values, band.rows, columns, band.bytes, scales);
  } else {
    for (size_t r = 0; r < static_cast<size_t>(band.rows); ++r) {
      const auto out = std::span(band.bytes).subspan(r * row_bytes, row_bytes);
      if (tensor.type == DType::i8)
        scales[r] = quantize_row_i8(row(r), out);
      else
        quantize_row(tensor.type, row(r), out);
    }
  }
  written.bytes = band.bytes;
  written.scales = band.scales;
  for (size_t r = 0; r < static_cast<size_t>(band.rows); ++r) {
    dequantize_row(written, static_cast<int64_t>(r), back);
    for (size_t i = 0; i < width; ++i) {
      const double value = row(r)[i], difference = value - back[i];
      band.loss += {difference * difference, value * value};
    }
  }
}

std::vector<fs::path> companions(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const char* name :
       {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"})
    if (fs::exists(directory / name)) files.push_back(directory / name);
  return files;
}

std::optional<TokenizerParts> read_tokenizer(const CheckpointParts& source) {
  if (source.naming == Naming::gguf) {
    if (!has_tokenizer_gguf(source.metadata)) return std::nullopt;
    return read_tokenizer_gguf(source.metadata, source.path.string());
  }
  const fs::path file = source.path / "tokenizer.json";
  return fs::exists(file) ? std::optional(read_tokenizer_json(file)) : std::nullopt;
}

/// Everything that decides the output's bytes: a run that goes on has to have the same.
std::string fingerprint(const CheckpointParts& source, const std::vector<OutputFile>& files) {
  Sha256 digest;
  for (const auto& [name, file] : source.files) {
    const auto changed = fs::last_write_time(file->path()).time_since_epoch().count();
    digest.update(name + '\0' + std::to_string(file->bytes().size()) + '\0' + std::to_string(changed) + '\0');
  }
  for (const OutputFile& file : files) digest.update(file.name + '\0' + file.header);
  return digest.hex();
}

}  // namespace

double RewriteLoss::relative() const { return power > 0 ? std::sqrt(error / power) : 0; }

RewriteLoss& RewriteLoss::operator+=(const RewriteLoss& other) {
  error += other.error;
  power += other.power;
  return *this;
}

struct Rewriter::State {
  RewriteOptions options;
  CheckpointParts source;
  std::vector<std::vector<PlannedTensor>> groups;
  std::optional<TokenizerParts> tokenizer;
  std::vector<std::string> notes;
  std::unique_ptr<Output> output;
  std::array<RewriteLoss, weight_kinds> losses{};

  bool gguf() const { return naming_of(options.target) == Naming::gguf; }

  explicit State(const RewriteOptions& o) : options(o), source(read_parts(o.source)) {
    assert(o.threads > 0);
    make_checkpoint(source);  // for its checks
    groups = plan_tensors(source, o.target);
    tokenizer = read_tokenizer(source);
    notes = source.notes;
    std::vector<OutputFile> files = gguf() ? gguf_file() : safetensors_files(groups, o.shard_bytes_max);
    const std::string plan = fingerprint(source, files);
    output = std::make_unique<Output>(o.out, gguf() ? Output::Kind::file : Output::Kind::directory,
                                      std::move(files), plan);
  }

  void check_loss(const std::vector<std::string>& lost) {
    constexpr size_t named_max = 5;
    std::string names;
    for (size_t i = 0; i < std::min(lost.size(), named_max); ++i) names += (i > 0 ? ", " : "") + lost[i];
    if (lost.size() > named_max) names += " and " + std::to_string(lost.size() - named_max) + " more";
    if (!lost.empty() && !options.force)
      throw InputError("a GGUF cannot say " + names, tokenizer ? tokenizer->where : source.path.string(),
                       "write safetensors, or go on without it with --force");
    if (!lost.empty()) notes.push_back("the GGUF lacks " + names);
  }

  std::vector<OutputFile> gguf_file() {
    GgufWriter gguf;
    write_gguf_config(source, options.target, gguf);
    const GgufTokenizer written(tokenizer);
    check_loss(lost_in_gguf(written, source.config));
    write_gguf_tokenizer(written, source.config, gguf);
    if (const auto with_bos = tokenizer ? begins_with_bos(source) : std::nullopt)
      gguf.key("tokenizer.ggml.add_bos_token", *with_bos);
    for (const auto& group : groups)
      for (const PlannedTensor& tensor : group) gguf.tensor(tensor.name, tensor.shape, tensor.type);
    OutputFile file{.name = "", .header = gguf.header()};
    file.bytes = file.header.size() + gguf.data_bytes();
    for (const auto& group : groups)
      for (const PlannedTensor& tensor : group)
        file.places.emplace(tensor.name, Place{file.header.size() + gguf.offset(tensor.name),
                                               *byte_size(tensor.type, tensor.shape)});
    return {std::move(file)};
  }

  /// Band by band: read and encoded by the helpers, digested and written in order.
  void write(const PlannedTensor& tensor) {
    const int64_t rows = tensor.rows(), columns = tensor.columns();
    const int64_t wanted = std::max<int64_t>(band_values / std::max<int64_t>(columns, 1), 1);
    const int64_t band_rows = fp8_blocks(wanted) * fp8_block;
    for (const Tensor& from : tensor.sources) from.owner->will_need(from.bytes);
    Output::Writing out = output->begin(tensor.name);
    std::vector<std::byte> scales;
    RewriteLoss loss;
    for (int64_t row = 0; row < rows;) {
      std::vector<Band> bands;
      while (row < rows && bands.size() < static_cast<size_t>(options.threads) * bands_per_thread) {
        bands.push_back({row, std::min(band_rows, rows - row), {}, {}, {}});
        row += bands.back().rows;
      }
      in_parallel(bands.size(), static_cast<size_t>(options.threads),
                  [&](size_t i) { encode(tensor, bands[i]); });
      for (const Band& band : bands) {
        out.write(band.bytes);
        scales.insert(scales.end(), band.scales.begin(), band.scales.end());
        loss += band.loss;
      }
      for (const Tensor& from : tensor.sources) from.owner->forget(from.bytes);
    }
    if (!scales.empty()) out.write_scales(tensor.scales_name(), scales);
    out.finish(loss);
  }

  void write_companions() {
    if (gguf()) return;
    output->write_file("config.json", rewritten_config_json(source, options.target));
    if (source.naming == Naming::hugging_face) {
      for (const fs::path& file : companions(source.path))
        output->write_file(file.filename().string(), std::string(Mapping::open(file)->text()));
    } else if (tokenizer) {
      output->write_file("tokenizer.json", tokenizer_json(*tokenizer));
      output->write_file("tokenizer_config.json", tokenizer_config_json(*tokenizer, begins_with_bos(source)));
    }
  }
};

Rewriter::Rewriter(const RewriteOptions& options) : state_(std::make_unique<State>(options)) {}
Rewriter::~Rewriter() = default;

void Rewriter::run(const std::function<void(const Progress&)>& report) {
  State& s = *state_;
  uint64_t done = 0;
  for (const auto& group : s.groups) {
    for (const PlannedTensor& tensor : group) {
      auto kept = s.output->kept(tensor.name, tensor.scales_name());
      if (!kept) {
        try {
          s.write(tensor);
        } catch (const InputError& e) {  // an encoder knows the value, not the tensor
          throw InputError(e.problem() + " (" + e.where() + ")",
                           s.source.path.string() + ": for the tensor " + in_quotes(tensor.name), e.mend());
        }
      }
      s.losses[static_cast<size_t>(tensor.kind)] += s.output->loss(tensor.name);
      done += s.output->bytes_of(tensor.name);
      report({tensor.name, done, s.output->bytes(), kept});
    }
  }
  s.write_companions();
}

const std::vector<std::string>& Rewriter::notes() const { return state_->notes; }
const std::array<RewriteLoss, weight_kinds>& Rewriter::losses() const { return state_->losses; }
const fs::path& Rewriter::partial() const { return state_->output->partial(); }
void Rewriter::finish() { state_->output->finish(); }

}  // namespace convoy::model
