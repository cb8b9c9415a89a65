// What the kernels of a model's decode take on a GPU: each group of launches alone, over the layers one after
// the other so that its weights and cache come from memory, and in its step, as what the step is the quicker
// without it. Prints JSON lines, each with the least time that the card's measured ceilings allow. Linked
// with the device's own objects: it takes a step's captured graph apart.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <iostream>
#include <memory>

#include "bench/gpu_card.hpp"
#include "bench/step_floor.hpp"
#include "gpu/cuda/check.hpp"
#include "gpu/stage_shape.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/version.hpp"

namespace {

using namespace convoy;
using bench::Group;
using gpu::Part;

constexpr size_t instances_min = 16;  // of a group in a chain that is timed

struct Options {
  std::string like = "r1-distill-qwen-7b", model;
  int64_t layers = 8, context = 1024;
  std::vector<uint32_t> rows{1, 8, 32};
  int repeats = 30, card = 0;
};

/// What a group has to do at least.
struct Work {
  double bytes = 0, flop = 0;
};

/// What groups of a step have to do, by their names (gpu/cuda/forward.cu). Bytes are those of weights as they
/// lie in the file, of the cache, and of rows that products read in bf16 and give in float32.
class Accounts {
 public:
  Accounts(const model::Checkpoint& checkpoint, int64_t rows, int64_t context)
      : shape_(gpu::stage_shape(checkpoint.config(), {0, checkpoint.config().layers - 1}, false)),
        weights_(checkpoint.layout({0, checkpoint.config().layers - 1})),
        rows_(static_cast<double>(rows)),
        context_(static_cast<double>(context)) {}

  /// shared_apart: the layer's shared experts are launches of their own.
  Work of(const Group& group, bool shared_apart) const {
    if (group.name == "attention") return attention();
    std::vector<Part> parts = parts_of(group);
    if (!shared_apart && group.name == "experts_gate_up") parts.insert(parts.end(), {Part::gate, Part::up});
    if (!shared_apart && group.name == "experts_down") parts.push_back(Part::down);
    const auto refs = group.layer < 0 ? gpu::end_parts_of(weights_)
                                      : gpu::parts_of(weights_.layers[static_cast<size_t>(group.layer)]);
    Work work;
    for (const gpu::WeightRef& ref : refs)
      if (std::ranges::find(parts, ref.part) != parts.end()) add(work, group, ref);
    return work;
  }

 private:
  std::vector<Part> parts_of(const Group& group) const {
    const bool low_rank = shape_.has_latent && shape_.latent.q_rank > 0;
    if (group.name == "embedding") return {Part::embedding};
    if (group.name == "qkv") return {Part::q, Part::k, Part::v};
    if (group.name == "q_kv_a") return {low_rank ? Part::q_a : Part::q, Part::kv_a};
    if (group.name == "q_b") return {Part::q};
    if (group.name == "into_latents") return {Part::kv_b, Part::k_b};
    if (group.name == "out_of_latents") return {Part::kv_b, Part::v_b};
    if (group.name == "o") return {Part::o};
    if (group.name == "gate_up") return {Part::gate, Part::up};
    if (group.name == "down") return {Part::down};
    if (group.name == "router") return {Part::router};
    if (group.name == "experts_gate_up") return {Part::expert_gate, Part::expert_up};
    if (group.name == "experts_down") return {Part::expert_down};
    if (group.name == "head") return {Part::head};
    return {};
  }

  void add(Work& work, const Group& group, const gpu::WeightRef& ref) const {
    const auto columns = static_cast<double>(ref.columns), outputs = static_cast<double>(ref.rows);
    double read = 1, rows = rows_;  // of the weight, and that go through it
    if (ref.part == Part::embedding) read = rows_ / outputs;
    if (ref.part == Part::kv_b) {
      const auto keys = static_cast<double>(shape_.latent.nope),
                 values = static_cast<double>(shape_.latent.value);
      read = (group.name == "into_latents" ? keys : values) / (keys + values);
    }
    if (ref.expert >= 0) {
      const auto all = static_cast<double>(shape_.routing.experts);
      read = bench::experts_met(shape_.routing, rows_) / all;
      rows *= static_cast<double>(shape_.routing.chosen) / all;
    }
    work.bytes += read * static_cast<double>(ref.bytes.size() + ref.scales.size());
    if (ref.part == Part::embedding) {
      work.bytes += rows * columns * sizeof(float);
      return;
    }
    work.bytes += rows * (columns * 2 + outputs * read * sizeof(float));
    work.flop += 2 * rows * columns * outputs * (ref.part == Part::kv_b ? read : 1);
  }

  Work attention() const {
    const auto cached = static_cast<double>(shape_.cache_widths[0] + shape_.cache_widths[1]);
    const double of_key = shape_.has_latent
                              ? static_cast<double>(2 * shape_.latent.latent + shape_.latent.rope)
                              : 2 * static_cast<double>(shape_.head_dim);
    return {rows_ * context_ * cached * 2, 2 * rows_ * context_ * static_cast<double>(shape_.heads) * of_key};
  }

  gpu::StageShape shape_;
  model::StageWeights weights_;
  double rows_, context_;
};

/// Groups of the same name and work: one, and how often it comes.
struct Kind {
  std::string name;
  Work work;
  std::vector<size_t> members;  // of the step's groups
};

std::vector<Kind> kinds_of(const std::vector<Group>& groups, const Accounts& accounts) {
  std::vector<Kind> kinds;
  for (size_t i = 0; i < groups.size(); i++) {
    const bool shared_apart = std::ranges::any_of(groups, [&](const Group& other) {
      return other.layer == groups[i].layer && other.name == "gate_up";
    });
    const Work work = accounts.of(groups[i], shared_apart);
    const auto same = std::ranges::find_if(kinds, [&](const Kind& kind) {
      return kind.name == groups[i].name && kind.work.bytes == work.bytes;
    });
    if (same == kinds.end())
      kinds.push_back({groups[i].name, work, {i}});
    else
      same->members.push_back(i);
  }
  return kinds;
}

class Measurement {
 public:
  Measurement(const std::vector<Group>& groups, const std::vector<Kind>& kinds, cudaStream_t stream,
              int repeats)
      : groups_(groups), timer_(stream, repeats), whole_(timer_.graph(without(nullptr))) {
    int card = 0;
    cuda::check(cudaGetDevice(&card), "cudaGetDevice");
    cuda::check(cudaDeviceGetAttribute(&l2_bytes_, cudaDevAttrL2CacheSize, card), "cudaDeviceGetAttribute");
    for (const Kind& kind : kinds)
      if (fills_l2(kind, 1) && (!flush_ || kind.work.bytes < flush_->work.bytes)) flush_ = &kind;
    if (!flush_) throw std::runtime_error("no launch of this model reads twice what the card's cache holds");
  }

  /// Seconds, as all that follow.
  double step() const { return timer_.median(whole_); }
  /// What the step is the quicker without them, for each.
  double in_step(const Kind& kind) const {
    const double all = timer_.median_difference(whole_, timer_.graph(without(&kind)));
    timer_.run(whole_);  // what was left undone is done
    return all / static_cast<double>(kind.members.size());
  }
  /// Of each where they run one after the other and none begins early. Those that read too little to come
  /// from memory run behind launches that read enough, whose own time is subtracted.
  double alone(const Kind& kind) const {
    bench::Chain own, behind, flushes;
    const auto add = [this](bench::Chain& to, size_t group) {
      to.insert(to.end(), groups_[group].launches.begin(), groups_[group].launches.end());
    };
    size_t count = 0;
    while (count < instances_min)
      for (const size_t member : kind.members) {
        const size_t flush = flush_->members[count++ % flush_->members.size()];
        add(own, member), add(flushes, flush), add(behind, flush), add(behind, member);
      }
    const auto graph = [this](const bench::Chain& chain) { return timer_.graph(bench::apart(chain)); };
    const double all = fills_l2(kind, static_cast<double>(kind.members.size()))
                           ? timer_.median(graph(own))
                           : timer_.median_difference(graph(behind), graph(flushes));
    timer_.run(whole_);
    return all / static_cast<double>(count);
  }

 private:
  /// Whether so many leave nothing in the second-level cache of what was there before.
  bool fills_l2(const Kind& kind, double times) const { return kind.work.bytes * times >= 2.0 * l2_bytes_; }
  bench::Chain without(const Kind* kind) const {
    bench::Chain chain;
    for (size_t i = 0; i < groups_.size(); i++)
      if (!kind || std::ranges::find(kind->members, i) == kind->members.end())
        chain.insert(chain.end(), groups_[i].launches.begin(), groups_[i].launches.end());
    return chain;
  }

  const std::vector<Group>& groups_;
  bench::ChainTimer timer_;
  bench::GraphExec whole_;
  const Kind* flush_ = nullptr;
  int l2_bytes_ = 0;
};

void measure(bench::Card& card, const Options& options, const model::Checkpoint& checkpoint, uint32_t rows) {
  const std::vector<Group> groups = card.step(rows);
  const auto kinds = kinds_of(groups, Accounts(checkpoint, rows, options.context + 1));
  const Measurement measurement(groups, kinds, card.stream(), options.repeats);
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, options.card), "cudaGetDeviceProperties");
  const auto print = [&](boost::json::object line) {
    if (options.model.empty())
      line["like"] = options.like;
    else
      line["model"] = options.model;
    line["layers"] = checkpoint.config().layers, line["rows"] = rows;
    line["context_tokens"] = options.context + 1;
    line["card"] = properties.name, line["commit"] = std::string(commit());
    std::cout << boost::json::serialize(line) << std::endl;
  };
  double alone_all = 0, in_step_all = 0;
  for (const Kind& kind : kinds) {
    const auto count = static_cast<double>(kind.members.size());
    const double alone = measurement.alone(kind), in_step = measurement.in_step(kind);
    const double floor =
        std::max(kind.work.bytes / bench::h200.bytes_per_s, kind.work.flop / bench::h200.flop_per_s);
    alone_all += alone * count, in_step_all += in_step * count;
    boost::json::array names;
    for (const bench::Launch& launch : groups[kind.members.front()].launches)
      names.push_back(boost::json::string(bench::kernel_name(launch.node)));
    print({{"group", kind.name},
           {"kernels", names},
           {"of_a_step", kind.members.size()},
           {"bytes", kind.work.bytes},
           {"flop", kind.work.flop},
           {"alone_us", alone * 1e6},
           {"gb_per_s", kind.work.bytes / alone / 1e9},
           {"tflop_per_s", kind.work.flop / alone / 1e12},
           {"floor_us", floor * 1e6},
           {"percent_of_floor", 100 * floor / alone},
           {"in_step_us", in_step * 1e6}});
  }
  print({{"step_us", measurement.step() * 1e6},
         {"all_alone_us", alone_all * 1e6},
         {"all_in_step_us", in_step_all * 1e6}});
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app{"Measures the kernels of a model's decodes on a GPU, beside the floor of an H200"};
  app.add_option("--like", options.like, "whose dimensions: one of make-model's")->capture_default_str();
  app.add_option("--layers", options.layers, "of it, at most; 0: all")->capture_default_str();
  app.add_option("--model", options.model, "a checkpoint in place of random weights")
      ->excludes("--like")
      ->excludes("--layers");
  app.add_option("--rows", options.rows, "sequences of a step")->delimiter(',')->check(CLI::Range(1, 256));
  app.add_option("--context", options.context, "tokens in each sequence's cache")
      ->check(CLI::Range(1, 1 << 17))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "of each chain, of which the median counts")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--card", options.card, "as CUDA counts them")->check(CLI::Range(0, 999));
  CLI11_PARSE(app, argc, argv);
  const std::string random =
      "random:" + options.like + (options.layers > 0 ? ":" + std::to_string(options.layers) : "");
  const auto checkpoint = model::Checkpoint::open(options.model.empty() ? random : options.model);
  bench::Card card(options.card, *checkpoint, std::ranges::max(options.rows), options.context);
  for (const uint32_t rows : options.rows) measure(card, options, *checkpoint, rows);
} catch (const std::exception& e) {
  std::cerr << "convoy_bench_gpu_kernels: " << e.what() << '\n';
  return 1;
}
