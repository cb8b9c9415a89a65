#include "gpu/cuda/forward.hpp"

#include <algorithm>

#include "gpu/cuda/gemm_heads_stream.hpp"
#include "gpu/cuda/gemm_stream.hpp"
#include "gpu/cuda/gemm_wgmma.hpp"

namespace convoy::cuda {
namespace {

/// Steps of more rows compute shared experts for themselves.
constexpr int shared_rows_max = 64;

}  // namespace

void Forward::load(int64_t layer, std::span<const WeightRef> parts) {
  (layer < 0 ? ends_ : layers_[static_cast<size_t>(layer)]) = weights_.load(parts);
}

GemmKind Forward::kind(int64_t rows) const {
  return shape_.deterministic || rows <= skinny_rows ? GemmKind::few_rows : GemmKind::many_rows;
}

GemmCall Forward::call(const Launch& launch, const RowBuffer& in) const {
  GemmCall call;
  call.in = in.rows(), call.rows = launch.rows, call.kind = kind(launch.rows.max), call.blas = blas_.get();
  call.expanded = {expanded_.as<std::byte>(), static_cast<int64_t>(expanded_.bytes())};
  return call;
}

CacheStream Forward::stream(int64_t layer, size_t index) const {
  return {cache_[static_cast<size_t>(layer) * std::size(shape_.cache_widths) + index].as<void>(),
          limits_.kv_type, static_cast<int32_t>(shape_.cache_widths[index])};
}

Norm Forward::norm(const Launch& l, const float* weight) const {
  return {.in = x_.as<float>(),
          .pitch = shape_.hidden,
          .width = static_cast<int32_t>(shape_.hidden),
          .weight = weight,
          .eps = shape_.norm_eps,
          .out = h_.rows(),
          .rows = l.rows};
}

/// The call's rows are the norm's, made now if they cannot be made as they are read.
void Forward::normalised(GemmCall& call, const Norm& norm, cudaStream_t stream) const {
  if (halves_.tiles > 0 && halves_.norm.weight == norm.weight && takes_half(call))
    call.halved = &halves_;
  else if (!shape_.deterministic && takes_norm(call))
    call.norm = &norm;
  else
    normalise(norm, stream);
}

/// The call's product, which is added to x, leaves the first half of the norm behind it, if it can.
void Forward::halve(GemmCall& call, const Norm& norm) {
  halves_ = {.norm = norm, .squares = squares_.as<float>(), .pitch = wgmma_tiles_max};
  if (kind(norm.rows.max) == GemmKind::many_rows && norm.weight) call.halves = &halves_;
}

int Forward::layers_with_experts() const {
  return static_cast<int>(
      std::ranges::count_if(layers_, [](const LayerParts& layer) { return layer.has(Part::router); }));
}

void Forward::enqueue(const Bucket& bucket, const RowTables& tables, Sampled* results, cudaStream_t stream,
                      const StepWatch& watch) {
  expand_step(tables, bucket.rows, stream);
  if (bucket.rows == 0) return;
  Launch l{tables, {&tables.header->rows, 0, bucket.rows}, bucket, stream, watch};
  l.ended("tables");
  if (shape_.first)
    embed(ends_.matrix(Part::embedding), tables, l.rows, x_.as<float>(), shape_.hidden, stream);
  l.ended("embedding");
  halves_.tiles = 0;
  for (const LayerParts& layer : layers_) {
    l.layer++;
    shape_.has_latent ? latent_attention(l, layer) : grouped_attention(l, layer);
    GemmCall out = call(l, attended_);
    out.products[out.count++] = onto_x({layer.matrix(Part::o), layer.vector(Part::o_bias)});
    // Experts are told by rows that are whole.
    if (!layer.has(Part::router)) halve(out, norm(l, layer.vector(Part::mlp_norm)));
    multiply(out, stream);
    l.ended("o");
    mlp(l, layer);
    l.with_experts += layer.has(Part::router);
  }
  l.layer = -1;
  if (shape_.last && bucket.sampled > 0) head(l, results);
}

/// A product that is added to x.
Product Forward::onto_x(const Linear& linear) const {
  return {linear.weight, linear.bias, x_.as<float>(), shape_.hidden, true};
}

void Forward::grouped_attention(const Launch& l, const LayerParts& layer) {
  const Values q{projected_.f32(), projected_.pitch}, k = q.behind(padded(shape_.heads * shape_.head_dim)),
                                                      v = k.behind(padded(shape_.kv_heads * shape_.head_dim));
  GemmCall qkv = call(l, h_);
  qkv.products[qkv.count++] = {layer.matrix(Part::q), layer.vector(Part::q_bias), q.data, q.pitch};
  qkv.products[qkv.count++] = {layer.matrix(Part::k), layer.vector(Part::k_bias), k.data, k.pitch};
  qkv.products[qkv.count++] = {layer.matrix(Part::v), layer.vector(Part::v_bias), v.data, v.pitch};
  const Norm before = norm(l, layer.vector(Part::attention_norm));
  normalised(qkv, before, l.stream);
  multiply(qkv, l.stream);
  l.ended("qkv");
  const auto heads = static_cast<int32_t>(shape_.heads), kv_heads = static_cast<int32_t>(shape_.kv_heads),
             width = static_cast<int32_t>(shape_.head_dim);
  const GroupedWrite write{.q = q.data,
                           .k = k.data,
                           .v = v.data,
                           .q_pitch = q.pitch,
                           .kv_pitch = k.pitch,
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = width,
                           .q_norm = layer.vector(Part::q_norm),
                           .k_norm = layer.vector(Part::k_norm),
                           .eps = shape_.norm_eps,
                           .rotations = rotations_,
                           .keys = stream(l.layer, 0),
                           .values = stream(l.layer, 1),
                           .rows = l.rows};
  Attention attention{.q = q.data,
                      .q_pitch = q.pitch,
                      .heads = heads,
                      .kv_heads = kv_heads,
                      .key_width = width,
                      .value_width = width,
                      .scale = shape_.attention_scale,
                      .keys = write.keys,
                      .values = write.values,
                      .out = attended_.rows(),
                      .rows = l.rows,
                      .ordered = shape_.deterministic,
                      .runs = l.bucket.runs == Runs::many,
                      .part_tokens = part_tokens_,
                      .parts = l.bucket.parts,
                      .cluster = cluster(l.bucket),
                      .partial = partial_.as<float>(),
                      .arrived = arrived_.as<uint32_t>()};
  if (l.bucket.runs == Runs::one && attends_and_writes(attention, rotations_))
    attention.write = &write;
  else
    write_grouped(write, l.tables, l.stream);
  attend(attention, l.tables, l.stream);
  l.ended("attention");
}

void Forward::latent_attention(const Launch& l, const LayerParts& layer) {
  const model::LatentAttention& s = shape_.latent;
  const float eps = static_cast<float>(s.norm_eps);
  const bool two_steps = layer.has(Part::q_a);
  const Values first{projected_.f32(), projected_.pitch},
      q = two_steps ? Values{q_.f32(), q_.pitch} : first,
      kv_a = first.behind(padded(two_steps ? s.q_rank : shape_.heads * s.query()));
  GemmCall down = call(l, h_);
  down.products[down.count++] = {layer.matrix(two_steps ? Part::q_a : Part::q), nullptr, first.data,
                                 first.pitch};
  down.products[down.count++] = {layer.matrix(Part::kv_a), nullptr, kv_a.data, kv_a.pitch};
  const Norm before = norm(l, layer.vector(Part::attention_norm));
  normalised(down, before, l.stream);
  multiply(down, l.stream);
  l.ended("q_kv_a");
  if (two_steps) {
    normalise({.in = first.data,
               .pitch = first.pitch,
               .width = static_cast<int32_t>(s.q_rank),
               .weight = layer.vector(Part::q_a_norm),
               .eps = eps,
               .out = q_a_.rows(),
               .rows = l.rows},
              l.stream);
    GemmCall up = call(l, q_a_);
    up.products[up.count++] = {layer.matrix(Part::q), nullptr, q.data, q.pitch};
    multiply(up, l.stream);
    l.ended("q_b");
  }
  const auto heads = static_cast<int>(shape_.heads), latent = static_cast<int>(s.latent),
             nope = static_cast<int>(s.nope), value = static_cast<int>(s.value),
             cached = static_cast<int>(s.cached());
  const LatentWrite write{.q = q.data,
                          .kv_a = kv_a.data,
                          .absorbed = absorbed_.f32(),
                          .q_pitch = q.pitch,
                          .kv_pitch = kv_a.pitch,
                          .absorbed_pitch = absorbed_.pitch,
                          .heads = heads,
                          .latent = latent,
                          .nope = nope,
                          .rope = static_cast<int32_t>(s.rope),
                          .norm = layer.vector(Part::kv_a_norm),
                          .eps = eps,
                          .rotations = rotations_,
                          .entries = stream(l.layer, 0),
                          .rows = l.rows};
  const bool joint = layer.has(Part::kv_b), rounds = activations_ == Activations::bf16;
  const HeadProduct keys{.weight = layer.matrix(joint ? Part::kv_b : Part::k_b),
                         .heads = heads,
                         .row_stride = joint ? nope + value : latent,
                         .rows_of_head = joint ? nope : latent,
                         .in = q.data,
                         .in_pitch = q.pitch,
                         .in_head = s.query(),
                         .out = absorbed_.f32(),
                         .out_pitch = absorbed_.pitch,
                         .out_head = cached,
                         .rows = l.rows,
                         .rounds = rounds};
  if (!joint || !stream_heads_and_write(keys, write, l.tables, l.stream)) {
    write_latent(write, l.tables, l.stream);
    joint ? multiply_heads_transposed(keys, l.stream) : multiply_heads(keys, l.stream);
  }
  l.ended("into_latents");
  const HeadProduct values{.weight = layer.matrix(joint ? Part::kv_b : Part::v_b),
                           .heads = heads,
                           .row_stride = joint ? nope + value : value,
                           .row_first = joint ? nope : 0,
                           .rows_of_head = value,
                           .in = latents_.memory.as<void>(),
                           .in_type = latents_.type,
                           .in_pitch = latents_.pitch,
                           .in_head = latent,
                           .out = attended_.memory.as<void>(),
                           .out_type = activations_,
                           .out_pitch = attended_.pitch,
                           .out_head = value,
                           .rows = l.rows,
                           .rounds = rounds};
  const Attention attention{.q = absorbed_.f32(),
                            .q_pitch = absorbed_.pitch,
                            .heads = heads,
                            .kv_heads = 1,
                            .key_width = cached,
                            .value_width = latent,
                            .scale = shape_.attention_scale,
                            .latent = true,
                            .keys = write.entries,
                            .out = latents_.rows(),
                            .rows = l.rows,
                            .ordered = shape_.deterministic,
                            .part_tokens = part_tokens_,
                            .parts = l.bucket.parts,
                            .cluster = cluster(l.bucket),
                            .partial = partial_.as<float>(),
                            .arrived = arrived_.as<uint32_t>()};
  attend(attention, l.tables, l.stream);
  l.ended("attention");
  multiply_heads(values, l.stream);
  l.ended("out_of_latents");
}

void Forward::mlp(const Launch& l, const LayerParts& layer) {
  const auto next = static_cast<size_t>(l.layer) + 1;
  const Norm before = norm(l, layer.vector(Part::mlp_norm)),
             after = norm(l, next < layers_.size() ? layers_[next].vector(Part::attention_norm) : nullptr);
  if (!layer.has(Part::router)) {
    dense(l, {layer.matrix(Part::gate), layer.vector(Part::gate_bias)},
          {layer.matrix(Part::up), layer.vector(Part::up_bias)},
          {layer.matrix(Part::down), layer.vector(Part::down_bias)}, &before, &after);
    return;
  }
  halves_.tiles = 0;
  const bool together = shared_among_experts(l, layer);
  experts(l, layer, before, together ? static_cast<int32_t>(shape_.shared_experts) : 0);
  if (layer.has(Part::gate) && !together)
    dense(l, {layer.matrix(Part::gate), layer.vector(Part::gate_bias)},
          {layer.matrix(Part::up), layer.vector(Part::up_bias)},
          {layer.matrix(Part::down), layer.vector(Part::down_bias)});
}

/// Whether a layer's shared experts are computed as some more of those that rows choose. With few rows the
/// way to another launch takes longer; with many their weights would be read once for each tile.
bool Forward::shared_among_experts(const Launch& l, const LayerParts& layer) const {
  if (!layer.has(Part::gate) || !streams_experts(layer)) return false;
  for (const Part bias : {Part::gate_bias, Part::up_bias, Part::down_bias})
    if (layer.vector(bias)) return false;
  const int shared = static_cast<int>(shape_.shared_experts);
  if (shared == 0 || layer.matrix(Part::gate).rows != shared * shape_.expert_width) return false;
  for (const auto& [part, of_experts] : {std::pair{Part::gate, Part::expert_gate},
                                         {Part::up, Part::expert_up},
                                         {Part::down, Part::expert_down}}) {
    const Matrix& all = layer.matrix(part);
    if (all.type != layer.matrix(of_experts).type) return false;
    if (part == Part::down ? !columns_share(all, shared) : !rows_share(all, shared)) return false;
  }
  return shape_.routing.experts + shared <= experts_max &&
         (shape_.deterministic || l.rows.max <= shared_rows_max);
}

/// Whether there are kernels for experts' products at the speed of memory.
bool Forward::streams_experts(const LayerParts& layer) const {
  for (const Part part : {Part::expert_gate, Part::expert_up, Part::expert_down})
    if (!streams(layer.matrix(part), activations_)) return false;
  return layer.matrix(Part::expert_gate).type == layer.matrix(Part::expert_up).type &&
         streamed_tile(layer, 1) > 0;
}

/// The height of tiles for `rows` of an expert, 0: there is none.
int Forward::streamed_tile(const LayerParts& layer, int64_t rows) const {
  return std::min(stream_experts_tile(layer.matrix(Part::expert_gate).type, rows, shape_.hidden),
                  stream_experts_tile(layer.matrix(Part::expert_down).type, rows, shape_.expert_width));
}

/// Whether they lie as kernels need it that fetch whole tiles.
bool Forward::fetches_experts(const LayerParts& layer) const {
  return std::ranges::all_of(std::array{Part::expert_gate, Part::expert_up, Part::expert_down},
                             [&](Part part) { return takes_experts(layer.matrix(part)); });
}

/// x += down(silu(gate) ⊙ up) of h, or of the rows of the norm before, and what the norm behind will read.
void Forward::dense(const Launch& l, const Linear& gate, const Linear& up, const Linear& down,
                    const Norm* before, const Norm* after) {
  const int32_t width = gate.weight.rows;
  const Values gates{gates_.f32(), gates_.pitch}, ups = gates.behind(padded(width));
  GemmCall both = call(l, h_);
  both.products[both.count++] = {gate.weight, gate.bias, gates.data, gates.pitch};
  both.products[both.count++] = {up.weight, up.bias, ups.data, ups.pitch};
  if (before) normalised(both, *before, l.stream);
  if (!multiply_gated(both, gated_.rows(), l.stream)) {
    multiply(both, l.stream);
    gate_rows(gates.data, ups.data, gates.pitch, width, l.rows, gated_.rows(), l.stream);
  }
  l.ended("gate_up");
  GemmCall out = call(l, gated_);
  out.products[out.count++] = onto_x(down);
  if (after) halve(out, *after);
  multiply(out, l.stream);
  l.ended("down");
}

/// The router's logits, and the norm's rows in h, where the experts read them.
void Forward::score_experts(const Launch& l, const LayerParts& layer, const Norm& before) {
  GemmCall scores = call(l, h_);
  // Exact products, since which experts are chosen hangs on them.
  if (!blas_ || !streams(layer.matrix(Part::router), activations_)) scores.kind = GemmKind::few_rows;
  scores.products[scores.count++] = {layer.matrix(Part::router), nullptr, router_.f32(), router_.pitch};
  normalised(scores, before, l.stream);
  scores.keeps_norm = true;  // the experts read it
  multiply(scores, l.stream);
}

/// x += what the experts give that the norm's rows choose, and so many shared ones behind them. Leaves the
/// norm in h.
void Forward::experts(const Launch& l, const LayerParts& layer, const Norm& before, int32_t shared) {
  const model::Routing& routing = shape_.routing;
  // Experts' shares of the rows differ: a tile holds somewhat more than the average.
  const int64_t average = (l.rows.max * routing.chosen + routing.experts - 1) / routing.experts;
  GemmKind of_experts = kind(average);
  int height = tile_rows(of_experts);
  int by_tma = 0;
  if (streams_experts(layer)) {
    if (!shape_.deterministic && fetches_experts(layer)) by_tma = wgmma_experts_tile(l.rows.max, average);
    if (by_tma > 0) {
      of_experts = GemmKind::few_rows, height = by_tma;
    } else if (shape_.deterministic || average <= stream_rows_max) {
      of_experts = GemmKind::few_rows, height = streamed_tile(layer, average + average / 2);
    }
  }
  const Route route{
      .logits = router_.f32(),
      .bias = layer.vector(Part::router_bias),
      .routing = routing,
      .given = l.watch.replayed ? l.watch.replayed + l.with_experts * l.watch.replayed_pitch : nullptr,
      .shared = shared,
      .tables = routing_,
      .rows = l.rows,
      .tile_rows = height};
  if (!shape_.deterministic && score_and_route(route, layer.matrix(Part::router), before, l.stream)) {
    l.ended("router");
  } else {
    score_experts(l, layer, before);
    l.ended("router");
    route_rows(route, l.stream);
    l.ended("routing");
  }
  if (l.watch.after_routing) l.watch.after_routing(l.with_experts, routing_.expert, route.visits());
  const int tiles = tiles_max(route);
  const RowRange visited{routing_.visits, 0, l.rows.max * route.visits()};
  const auto routed = static_cast<int32_t>(routing.experts);
  const Visits of_rows{.tiles = routing_.tiles,
                       .tile_count = routing_.tile_count,
                       .rows = routing_.visit_row,
                       .tiles_max = tiles,
                       .experts = routed,
                       .all = routed + shared,
                       .max = visited.max,
                       .by_tma = by_tma > 0};
  Visits in_order = of_rows;
  in_order.rows = nullptr;
  GemmCall both = call(l, h_);
  both.visits = &of_rows, both.kind = of_experts, both.tile_rows = height;
  if (by_tma > 0 && l.rows.max > wgmma_rows_max) {
    gather_visits(h_.rows(), routing_, visited.max, gathered_.rows(), l.stream);
    both.in = gathered_.rows(), both.visits = &in_order;
  }
  const Values gate{expert_gates_.f32(), expert_gates_.pitch}, up = gate.behind(padded(shape_.expert_width));
  // A shared expert's part of the shared ones' matrices.
  const auto slice = [&](Part part) {
    const Matrix& m = layer.matrix(part);
    if (!m.data || shared == 0) return Matrix{};
    return part == Part::down ? shared_columns(m, shared) : shared_rows(m, shared);
  };
  both.products[both.count++] = {.weight = layer.matrix(Part::expert_gate),
                                 .out = gate.data,
                                 .pitch = gate.pitch,
                                 .shared = slice(Part::gate)};
  both.products[both.count++] = {
      .weight = layer.matrix(Part::expert_up), .out = up.data, .pitch = up.pitch, .shared = slice(Part::up)};
  if (multiply_gated(both, expert_gated_.rows(), l.stream)) {
    in_order.listed_before = by_tma == 0;
  } else {
    multiply(both, l.stream);
    gate_rows(gate.data, up.data, gate.pitch, static_cast<int32_t>(shape_.expert_width), visited,
              expert_gated_.rows(), l.stream);
  }
  l.ended("experts_gate_up");
  const Product product{.weight = layer.matrix(Part::expert_down),
                        .out = expert_out_.f32(),
                        .pitch = expert_out_.pitch,
                        .shared = slice(Part::down)};
  const JoinExperts join{.results = expert_out_.f32(),
                         .out = x_.as<float>(),
                         .pitch = shape_.hidden,
                         .width = static_cast<int32_t>(shape_.hidden),
                         .visits = route.visits(),
                         .tables = routing_,
                         .rows = l.rows};
  if (in_order.listed_before && multiply_and_join(product, expert_gated_.rows(), routed, join, l.stream))
    return l.ended("experts_down");
  GemmCall down = call(l, expert_gated_);
  down.visits = &in_order, down.kind = of_experts, down.tile_rows = height;
  down.products[down.count++] = product;
  multiply(down, l.stream);
  l.ended("experts_down");
  join_experts(join, l.stream);
  l.ended("join");
}

/// Logits and tokens of the sampled rows, so many at once as there is room for.
void Forward::head(const Launch& l, Sampled* results) {
  for (int first = 0; first < l.bucket.sampled; first += head_rows_) {
    const RowRange rows{&l.tables.header->sampled, first, std::min(head_rows_, l.bucket.sampled - first)};
    // Its rows are the chunk's own: they begin at the buffer's, so the count alone is shifted.
    GemmCall product = call(l, head_in_);
    product.rows = rows, product.kind = kind(rows.max);
    product.products[product.count++] = {ends_.matrix(Part::head), nullptr, logits_.f32(), logits_.pitch};
    Norm before = norm(l, ends_.vector(Part::final_norm));
    before.out = head_in_.rows(), before.rows = rows, before.chosen = l.tables.sampled_row;
    normalised(product, before, l.stream);
    multiply(product, l.stream);
    l.ended("head");
    if (l.watch.after_logits) l.watch.after_logits(first, rows.max, logits_.f32());
    sample_rows({.logits = logits_.f32(),
                 .vocab = static_cast<int32_t>(shape_.vocab),
                 .counts = counts_.as<uint32_t>(),
                 .results = results,
                 .rows = rows},
                l.tables, l.stream);
    l.ended("sampling");
  }
}

}  // namespace convoy::cuda
