// convoy inspect: what a model is and what a stage of it needs, from its headers: no weight is read.

#include "model/checkpoint/inspect.hpp"

#include <boost/json.hpp>
#include <charconv>
#include <cstdio>
#include <map>

#include "actors/config/plan_limits.hpp"
#include "cli/backend_option.hpp"
#include "cli/commands.hpp"
#include "cli/model_option.hpp"
#include "gpu/kv_types.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/memory_limit.hpp"

namespace convoy::cli {

namespace json = boost::json;
using model::DType;

namespace {

struct InspectOptions {
  ModelOption model;
  std::string stage, kv_type = "bf16";
  BackendOption backend{actors::ClusterConfig::Stage{}.backend};
  uint32_t kv_tokens = actors::ClusterConfig::Pipeline{}.kv_tokens;
  uint32_t rows = 0, context = 0, threads = actors::ClusterConfig::Stage{}.threads;
  bool json = false;
};

struct StageNeeds {
  model::LayerRange range;
  actors::StageMemory memory;
  model::MemoryLimit limit;  // of what runs here
};

model::LayerRange parse_range(const std::string& text, int64_t layers) {
  model::LayerRange range{-1, -1};
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, range.first);
  const bool dash = first.ec == std::errc() && first.ptr != end && *first.ptr == '-';
  const auto last = dash ? std::from_chars(first.ptr + 1, end, range.last) : first;
  if (!dash || last.ec != std::errc() || last.ptr != end || range.first < 0 || range.first > range.last ||
      range.last >= layers)
    throw InputError("is \"" + text + "\"", "--stage",
                     "give the first and the last layer, as 0-" + std::to_string(layers - 1));
  return range;
}

StageNeeds stage_needs(const model::Checkpoint& checkpoint, const InspectOptions& options) {
  // The limits that a stage would get from a configuration with these values.
  actors::ClusterConfig cluster;
  cluster.pipeline.kv_tokens = options.kv_tokens;
  cluster.pipeline.context_tokens_max = options.context;
  cluster.stage.kv_type = options.kv_type;
  cluster.stage.backend = options.backend.name;
  cluster.stage.threads = options.threads;
  const model::LayerRange range = parse_range(options.stage, checkpoint.config().layers);
  const int64_t rows =
      options.rows > 0 ? options.rows : actors::scheduler_limits(cluster, checkpoint.config()).rows();
  return {range, actors::stage_memory(cluster, checkpoint, range, rows), model::memory_limit()};
}

json::array to_json(const std::vector<std::pair<int32_t, std::string>>& ends) {
  json::array tokens;
  for (const auto& [id, text] : ends) tokens.push_back({{"id", id}, {"text", text}});
  return tokens;
}

json::object to_json(const model::Config& config, const model::Inspection& found,
                     const model::TextParts& text, uint64_t kv_bytes) {
  json::object quantization;
  for (const auto& [type, bytes] : found.types) quantization[model::info(type).name] = bytes;
  return {{"architecture", config.architecture},
          {"layers", config.layers},
          {"parameters", found.parameters},
          {"parameters_active", found.parameters_active},
          {"prediction_parameters", found.prediction_parameters},
          {"bytes", found.bytes},
          {"layer_bytes", json::value_from(found.layer_bytes)},
          {"expert_bytes", found.expert_bytes},
          {"kv_bytes_per_token", kv_bytes},
          {"context", config.context},
          {"quantization", quantization},
          {"tokenizer", text.tokenizer},
          {"chat_template", text.chat_template},
          {"end_tokens", to_json(text.ends)}};
}

json::object to_json(const StageNeeds& needs) {
  const actors::StageMemory& memory = needs.memory;
  return {{"first_layer", needs.range.first},       {"last_layer", needs.range.last},
          {"weights_bytes", memory.weights},        {"kv_bytes", memory.kv},
          {"kv_blocks", memory.kv_blocks},          {"buffer_bytes", memory.buffers},
          {"scratch_bytes", memory.scratch},        {"resident_bytes", memory.sum()},
          {"memory_limit_bytes", needs.limit.bytes}};
}

/// "671.0 B" parameters, "1.50 GB": three digits at least, and the giga without a unit as people write it.
std::string short_number(uint64_t value, const std::string& unit) {
  const char* const scales[] = {"", "k", "M", unit.empty() ? "B" : "G", "T"};
  size_t scale = 0;
  double number = static_cast<double>(value);
  while (number >= 1000 && scale + 1 < std::size(scales)) number /= 1000, scale++;
  const int digits = scale == 0 ? 0 : number < 100 ? 2 : 1;
  char text[64];
  std::snprintf(text, sizeof text, "%.*f %s%s", digits, number, scales[scale], unit.c_str());
  return text;
}

void print_line(const char* name, const std::string& value) {
  std::printf("%-18s %s\n", name, value.c_str());
}

void print(const model::Config& config, const model::Inspection& found, const model::TextParts& text,
           uint64_t kv_bytes, const std::string& kv_type) {
  const auto bytes = [](uint64_t count) { return short_number(count, "B"); };
  print_line("architecture", config.architecture + ", " + std::to_string(config.layers) + " layers");
  std::string parameters = short_number(found.parameters, "");
  if (found.parameters_active != found.parameters)
    parameters += ", " + short_number(found.parameters_active, "") + " active for a token";
  print_line("parameters", parameters);
  if (found.prediction_parameters > 0)
    print_line("", short_number(found.prediction_parameters, "") + " more in prediction layers, never run");
  print_line("bytes", bytes(found.bytes));
  std::map<uint64_t, int64_t> layers_of;  // bytes → layers
  for (const uint64_t layer : found.layer_bytes) layers_of[layer]++;
  for (const auto& [size, count] : layers_of)
    print_line("", bytes(size) + " in each of " + std::to_string(count) + " layer(s)");
  if (found.expert_bytes > 0) print_line("", bytes(found.expert_bytes) + " in an expert");
  std::string types;
  for (const auto& [type, size] : found.types)
    types += (types.empty() ? "" : ", ") + std::string(model::info(type).name) + " " + bytes(size);
  print_line("types", types);
  print_line("keys and values", std::to_string(kv_bytes) + " B a token in " + kv_type);
  print_line("context", std::to_string(config.context) + " tokens");
  print_line("tokenizer", text.tokenizer);
  print_line("chat template", text.chat_template);
  std::string ends;
  for (const auto& [id, token] : text.ends)
    ends += (ends.empty() ? "" : ", ") + std::to_string(id) +
            (token.empty() ? "" : " " + model::in_quotes(token));
  print_line("ends of an answer", ends.empty() ? "none: every answer is as long as it may be" : ends);
}

void print(const StageNeeds& needs) {
  const auto bytes = [](uint64_t count) { return short_number(count, "B"); };
  print_line("stage",
             "layers " + std::to_string(needs.range.first) + " to " + std::to_string(needs.range.last));
  print_line("  weights", bytes(needs.memory.weights));
  print_line("  keys and values", bytes(needs.memory.kv) + " in " + std::to_string(needs.memory.kv_blocks) +
                                      " blocks of " + std::to_string(gpu::kv_block_tokens) + " tokens");
  if (!needs.memory.kv_arithmetic.empty()) print_line("", needs.memory.kv_arithmetic);
  print_line("  buffers", bytes(needs.memory.buffers));
  print_line("  scratch", bytes(needs.memory.scratch));
  print_line("  resident", bytes(needs.memory.sum()));
  if (needs.limit.bytes > 0)
    print_line("  allowed here", bytes(needs.limit.bytes) + " (" + needs.limit.set_by + ")");
  if (const auto warning = actors::memory_warning("it", needs.memory, needs.limit))
    print_line("  warning", *warning);
}

int run_inspect(const InspectOptions& options) {
  const DType kv_type = actors::kv_type_named(options.kv_type).value();
  const auto checkpoint = model::Checkpoint::open(options.model.model);
  const model::Config& config = checkpoint->config();
  const model::Inspection found = model::inspect(*checkpoint);
  const model::TextParts text = model::inspect_text(*checkpoint);
  const uint64_t kv_bytes = model::kv_bytes_per_token(config, config.layers, kv_type);
  const std::vector<std::string> notes = checkpoint->notes();
  std::optional<StageNeeds> needs;
  if (!options.stage.empty()) needs = stage_needs(*checkpoint, options);
  if (options.json) {
    json::object line = to_json(config, found, text, kv_bytes);
    if (!notes.empty()) line["notes"] = json::value_from(notes);
    if (needs) line["stage"] = to_json(*needs);
    std::printf("%s\n", json::serialize(line).c_str());
  } else {
    print(config, found, text, kv_bytes, options.kv_type);
    for (const std::string& note : notes) print_line("note", note);
    if (needs) print(*needs);
  }
  return ok;
}

}  // namespace

void add_inspect(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "What a model is, and what a stage of it needs");
  options->model.add_to(*command, true, "MODEL,--model");
  CLI::Option* stage = command->add_option("--stage", options->stage, "Layers of a stage, such as 0-15");
  command->add_option("--kv-type", options->kv_type, "How keys and values are kept")
      ->check(CLI::IsMember(gpu::kv_types_by_name()))
      ->capture_default_str();
  command
      ->add_option("--kv-tokens", options->kv_tokens,
                   "Tokens that a stage keeps, as pipeline.kv_tokens; 0: as many as fit")
      ->check(CLI::NonNegativeNumber)
      ->needs(stage)
      ->capture_default_str();
  options->backend.add_to(*command, "As stage.backend")->needs(stage);
  command->add_option("--threads", options->threads, "As stage.threads (default: all cores)")
      ->check(CLI::Range(1, 1024))
      ->needs(stage);
  command->add_option("--context", options->context, "As pipeline.context_tokens_max")->needs(stage);
  command
      ->add_option(
          "--rows", options->rows,
          "Rows of a step: prefill_tokens_per_step + sequences_max + 1 of the pipeline (default: theirs)")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(stage);
  command->add_flag("--json", options->json, "One JSON object");
  command->callback([options, &exit_code] { exit_code = run_inspect(*options); });
}

}  // namespace convoy::cli
