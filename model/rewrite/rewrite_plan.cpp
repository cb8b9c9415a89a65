#include "model/rewrite/rewrite_plan.hpp"

#include <algorithm>
#include <cassert>

#include "model/checkpoint/checkpoint_weights.hpp"
#include "model/checkpoint/weight_names.hpp"
#include "model/error.hpp"
#include "model/families.hpp"

namespace convoy::model {

namespace {

std::span<float> row_of(std::span<float> rows, int64_t index, int64_t columns) {
  return rows.subspan(static_cast<size_t>(index * columns), static_cast<size_t>(columns));
}

int64_t count_of(std::span<float> rows, int64_t columns) {
  return static_cast<int64_t>(rows.size()) / columns;
}

/// Row r is row place(r) of the tensor.
ReadRows moved(const Tensor& tensor, const std::function<int64_t(int64_t)>& place) {
  return [tensor, place](int64_t first, std::span<float> out) {
    const int64_t columns = tensor.columns();
    for (int64_t i = 0; i < count_of(out, columns); ++i)
      dequantize_row(tensor, place(first + i), row_of(out, i, columns));
  };
}

/// Value i of a vector is its value place(i).
ReadRows moved_values(const Tensor& tensor, const std::function<int64_t(int64_t)>& place) {
  return [tensor, place](int64_t, std::span<float> out) {
    std::vector<float> values(out.size());
    dequantize_row(tensor, 0, values);
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = values[static_cast<size_t>(place(static_cast<int64_t>(i)))];
  };
}

/// One tensor after the other; they have one shape.
ReadRows stacked(const std::vector<Tensor>& tensors) {
  return [tensors](int64_t first, std::span<float> out) {
    const int64_t columns = tensors.front().columns(), rows = tensors.front().rows();
    for (int64_t i = 0; i < count_of(out, columns); ++i) {
      const int64_t row = first + i;
      dequantize_row(tensors[static_cast<size_t>(row / rows)], row % rows, row_of(out, i, columns));
    }
  };
}

ReadRows constant(const std::vector<float>& values) {
  return [values](int64_t, std::span<float> out) { std::ranges::copy(values, out.begin()); };
}

/// The parts of attention's matrix of keys and values, a head at a time: keys [nope, latent] of the joint
/// form are [latent, nope] in the split one.
struct LatentParts {
  int64_t nope, value, latent;
  int64_t joint_rows() const { return nope + value; }
};

/// Row (head, l) of k_b out of kv_b. Reads the head's keys once for the rows that are asked for.
ReadRows keys_of_joint(const Tensor& kv_b, const LatentParts& p) {
  return [kv_b, p](int64_t first, std::span<float> out) {
    std::vector<float> row(static_cast<size_t>(p.latent));
    const int64_t end = first + count_of(out, p.nope);
    for (int64_t head = first / p.latent; head * p.latent < end; ++head) {
      const int64_t from = std::max(first, head * p.latent), to = std::min(end, (head + 1) * p.latent);
      for (int64_t n = 0; n < p.nope; ++n) {
        dequantize_row(kv_b, head * p.joint_rows() + n, row);
        for (int64_t r = from; r < to; ++r)
          out[static_cast<size_t>((r - first) * p.nope + n)] = row[static_cast<size_t>(r % p.latent)];
      }
    }
  };
}

/// Row (head, key or value) of kv_b out of k_b and v_b.
ReadRows joint_of_split(const Tensor& k_b, const Tensor& v_b, const LatentParts& p) {
  return [k_b, v_b, p](int64_t first, std::span<float> out) {
    std::vector<float> row(static_cast<size_t>(p.nope));
    const int64_t end = first + count_of(out, p.latent);
    for (int64_t head = first / p.joint_rows(); head * p.joint_rows() < end; ++head) {
      const int64_t begin = head * p.joint_rows();
      const int64_t from = std::max(first, begin), to = std::min(end, begin + p.joint_rows());
      const int64_t keys_end = std::min(to, begin + p.nope);
      for (int64_t l = 0; from < keys_end && l < p.latent; ++l) {
        dequantize_row(k_b, head * p.latent + l, row);
        for (int64_t r = from; r < keys_end; ++r)
          out[static_cast<size_t>((r - first) * p.latent + l)] = row[static_cast<size_t>(r - begin)];
      }
      for (int64_t r = std::max(from, begin + p.nope); r < to; ++r)
        dequantize_row(v_b, head * p.value + r - begin - p.nope, row_of(out, r - first, p.latent));
    }
  };
}

class Planner {
 public:
  Planner(const CheckpointParts& source, RewriteTarget target)
      : source_(source), c_(source.config), target_(target), naming_(naming_of(target)) {}

  std::vector<std::vector<PlannedTensor>> plan() {
    if (gguf() && c_.latent && c_.rope.pairs != RopePairs::interleaved)
      throw InputError("rotates halves of a head, which a GGUF of DeepSeek cannot say", source_.path.string(),
                       "write safetensors instead");
    if (gguf() && c_.architecture == "qwen3_moe") check_gguf_of_qwen3_moe();
    UsedTensors used;
    for (int64_t n = 0; n < c_.layers; ++n) {
      const StageWeights weights = collect_weights(source_, {n, n}, used);
      if (weights.embedding) {
        prefix_.clear();
        matrix(names::embedding, WeightKind::embedding, *weights.embedding);
        divisors();
        next_group();
      }
      prefix_ = layer_prefix(naming_, n);
      layer(weights.layers.front());
      next_group();
      if (!weights.final_norm) continue;
      prefix_.clear();
      vector(names::final_norm, *weights.final_norm);
      if (!c_.tied_head) matrix(names::head, WeightKind::embedding, *weights.head);
      next_group();
    }
    widen_scales(source_, used);
    return std::move(groups_);
  }

 private:
  bool gguf() const { return naming_ == Naming::gguf; }

  /// Readers of the format take every layer for one with experts, and divide the weights of the chosen by
  /// their sum.
  void check_gguf_of_qwen3_moe() const {
    const auto refuse = [&](const char* problem) {
      throw InputError(std::string(problem) + ", which a GGUF of qwen3moe cannot say", source_.path.string(),
                       "write safetensors instead");
    };
    if (!c_.moe->routing.normalised) refuse("does not normalise the weights of experts");
    for (int64_t n = 0; n < c_.layers; ++n)
      if (!has_experts(c_, n)) refuse("has layers without experts");
  }

  void next_group() {
    groups_.push_back(std::move(group_));
    group_.clear();
  }

  DType vector_type() const { return gguf() ? DType::f32 : DType::bf16; }

  /// A block that doesn't fit a row's width makes way for the next larger type.
  DType matrix_type(WeightKind kind, int64_t columns) const {
    const bool ends = kind == WeightKind::embedding;
    if (!gguf()) {
      if (ends || target_ == RewriteTarget::bf16) return DType::bf16;
      return target_ == RewriteTarget::int8 ? DType::i8 : DType::f8_e4m3;
    }
    for (const DType type : {DType::q4_k, DType::q8_0})
      if ((type != DType::q4_k || (target_ == RewriteTarget::q4_k && !ends)) &&
          columns % info(type).block_values == 0)
        return type;
    return DType::f16;
  }

  void add(const std::string& name, std::vector<int64_t> shape, DType type, WeightKind kind,
           std::vector<Tensor> sources, ReadRows read) {
    group_.push_back({prefix_ + name, std::move(shape), type, kind, std::move(sources), std::move(read)});
  }

  void vector(const WeightName& name, const Tensor& tensor, std::optional<DType> type = {}) {
    add(name.in(naming_), tensor.shape, type.value_or(vector_type()), WeightKind::rest, {tensor},
        stacked({tensor}));
  }
  void matrix(const std::string& name, WeightKind kind, const Tensor& tensor) {
    add(name, tensor.shape, matrix_type(kind, tensor.columns()), kind, {tensor}, stacked({tensor}));
  }
  void matrix(const WeightName& name, WeightKind kind, const Tensor& tensor) {
    matrix(name.in(naming_), kind, tensor);
  }

  void layer(const LayerWeights& w) {
    vector(names::attention_norm, w.attention_norm);
    vector(names::mlp_norm, w.mlp_norm);
    if (w.latent)
      latent_attention(*w.latent, w);
    else
      grouped_attention(w);
    matrix(names::o, WeightKind::attention, w.o);
    mlp(w.experts ? shared_experts() : dense_mlp(), w.experts ? WeightKind::experts : WeightKind::dense_mlp,
        w);
    if (w.gate_bias) vector(names::gate_bias, *w.gate_bias);
    if (w.up_bias) vector(names::up_bias, *w.up_bias);
    if (w.down_bias) vector(names::down_bias, *w.down_bias);
    if (w.experts) experts(*w.experts);
  }

  void grouped_attention(const LayerWeights& w) {
    rotated(names::q, w.q);
    rotated(names::k, w.k);
    matrix(names::v, WeightKind::attention, w.v);
    if (w.q_bias) rotated_bias(names::q_bias, *w.q_bias);
    if (w.k_bias) rotated_bias(names::k_bias, *w.k_bias);
    if (w.v_bias) vector(names::v_bias, *w.v_bias);
    if (w.o_bias) vector(names::o_bias, *w.o_bias);
    if (w.q_norm) vector(names::q_norm, *w.q_norm);
    if (w.k_norm) vector(names::k_norm, *w.k_norm);
  }

  /// GGUF has the rows of llama's heads in such an order that pairs that rotate together are neighbours.
  /// Where a row of the output stands in the source; empty: where it stood.
  std::function<int64_t(int64_t)> rotated_rows() const {
    const bool interleaved = gguf() && family_of(c_).gguf_pairs == RopePairs::interleaved;
    if ((c_.rope.pairs == RopePairs::interleaved) == interleaved) return {};
    const int64_t d = c_.head_dim, half = d / 2;
    return [=](int64_t row) {
      const int64_t head = row / d * d, i = row % d;
      return head + (interleaved ? i / 2 + i % 2 * half : i % half * 2 + i / half);
    };
  }
  void rotated(const WeightName& name, const Tensor& tensor) {
    const auto place = rotated_rows();
    if (!place) return matrix(name, WeightKind::attention, tensor);
    add(name.in(naming_), tensor.shape, matrix_type(WeightKind::attention, tensor.columns()),
        WeightKind::attention, {tensor}, moved(tensor, place));
  }
  void rotated_bias(const WeightName& name, const Tensor& tensor) {
    const auto place = rotated_rows();
    if (!place) return vector(name, tensor);
    add(name.in(naming_), tensor.shape, vector_type(), WeightKind::rest, {tensor},
        moved_values(tensor, place));
  }

  void latent_attention(const LatentWeights& own, const LayerWeights& w) {
    if (own.q_a) {
      matrix(names::q_a, WeightKind::attention, *own.q_a);
      vector(names::q_a_norm, *own.q_a_norm);
    }
    matrix(own.q_a ? names::q_b : names::q, WeightKind::attention, w.q);
    matrix(names::kv_a, WeightKind::attention, own.kv_a);
    vector(names::kv_a_norm, own.kv_a_norm);
    const LatentParts p{c_.latent->nope, c_.latent->value, c_.latent->latent};
    const auto put = [&](const WeightName& name, std::vector<int64_t> shape, std::vector<Tensor> sources,
                         ReadRows read) {
      const DType type = matrix_type(WeightKind::attention, shape.back());
      add(name.in(naming_), std::move(shape), type, WeightKind::attention, std::move(sources),
          std::move(read));
    };
    if (!gguf()) {
      if (own.kv_b) return matrix(names::kv_b, WeightKind::attention, *own.kv_b);
      return put(names::kv_b, {c_.heads * p.joint_rows(), p.latent}, {*own.k_b, *own.v_b},
                 joint_of_split(*own.k_b, *own.v_b, p));
    }
    const std::vector<int64_t> k_shape{c_.heads, p.latent, p.nope}, v_shape{c_.heads, p.value, p.latent};
    if (own.kv_b) {
      put(names::k_b, k_shape, {*own.kv_b}, keys_of_joint(*own.kv_b, p));
      put(names::v_b, v_shape, {*own.kv_b}, moved(*own.kv_b, [p](int64_t row) {
            return row / p.value * p.joint_rows() + p.nope + row % p.value;
          }));
    } else {
      put(names::k_b, k_shape, {*own.k_b}, stacked({*own.k_b}));
      put(names::v_b, v_shape, {*own.v_b}, stacked({*own.v_b}));
    }
  }

  void mlp(const MlpName& name, WeightKind kind, const LayerWeights& w) {
    if (w.gate.shape.empty()) return;  // experts, and none that every token goes to
    matrix(name.in(naming_, "gate"), kind, w.gate);
    matrix(name.in(naming_, "up"), kind, w.up);
    matrix(name.in(naming_, "down"), kind, w.down);
  }

  void experts(const ExpertWeights& own) {
    vector(names::router, own.router);
    if (own.router_bias) vector(names::router_bias, *own.router_bias, DType::f32);
    for (const auto& [part, weights] : {std::pair{"gate", &own.gate}, {"up", &own.up}, {"down", &own.down}}) {
      if (gguf()) {
        const Tensor& one = weights->front();
        add(expert(0).in(naming_, part), {static_cast<int64_t>(weights->size()), one.rows(), one.columns()},
            matrix_type(WeightKind::experts, one.columns()), WeightKind::experts, *weights,
            stacked(*weights));
      } else {
        for (size_t e = 0; e < weights->size(); ++e)
          matrix(expert(static_cast<int64_t>(e)).in(naming_, part), WeightKind::experts, (*weights)[e]);
      }
    }
  }

  /// Llama 3's scaling: config.json has its parameters, a GGUF what each frequency is divided by.
  void divisors() {
    if (!gguf()) {
      if (!c_.rope.frequency_divisors.empty())
        throw InputError("has rotary frequencies with a divisor each, which config.json cannot say",
                         source_.path.string(), "write a GGUF, or begin with the safetensors");
      return;
    }
    std::vector<float> values = c_.rope.frequency_divisors;
    if (c_.rope.llama3) {
      Rope plain = c_.rope;
      plain.llama3.reset();
      const auto scaled = rope_frequencies(c_.rope, c_.head_dim), base = rope_frequencies(plain, c_.head_dim);
      for (size_t i = 0; i < base.size(); ++i) values.push_back(static_cast<float>(base[i] / scaled[i]));
    }
    if (values.empty()) return;
    add(std::string(names::rope_divisors), {static_cast<int64_t>(values.size())}, DType::f32,
        WeightKind::rest, {}, constant(values));
  }

  const CheckpointParts& source_;
  const Config& c_;
  const RewriteTarget target_;
  const Naming naming_;
  std::string prefix_;
  std::vector<PlannedTensor> group_;
  std::vector<std::vector<PlannedTensor>> groups_;
};

}  // namespace

int64_t PlannedTensor::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::string PlannedTensor::scales_name() const {
  const std::string_view suffix = model::scales_suffix(type);
  return suffix.empty() ? "" : name + std::string(suffix);
}

std::vector<int64_t> PlannedTensor::scales_shape() const {
  return model::scales_shape(type, rows(), columns());
}

Naming naming_of(RewriteTarget target) {
  return target == RewriteTarget::q8_0 || target == RewriteTarget::q4_k ? Naming::gguf : Naming::hugging_face;
}

std::vector<std::vector<PlannedTensor>> plan_tensors(const CheckpointParts& source, RewriteTarget target) {
  return Planner(source, target).plan();
}

}  // namespace convoy::model
