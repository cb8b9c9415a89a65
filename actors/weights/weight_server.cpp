#include "actors/weights/weight_server.hpp"

#include <prometheus/counter.h>

#include <algorithm>
#include <vector>

#include "actors/process/log.hpp"
#include "actors/weights/outline_codec.hpp"
#include "actors/weights/tensor_hasher.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

constexpr size_t waiting_max = 1 << 16;           // for digests, over all who ask
constexpr size_t outlines_waiting_max = 1 << 10;  // for the model's
constexpr uint32_t part_bytes_max = 16 << 20;
constexpr size_t read_ahead_bytes = 8 << 20;

}  // namespace

/// What one server knows. Runs only inside its actor.
struct WeightServerData {
  using Asker = caf::strong_actor_ptr;

  WeightServerActor::stateful_pointer<WeightServerState> self;
  WeightServerOptions options;
  std::shared_ptr<const model::Checkpoint> checkpoint;
  model::TensorMap tensors = model::tensors_in_files(*checkpoint);
  std::string digest{};  // empty: not known yet
  Frame<msg::ModelOutline> outline{};
  std::vector<std::pair<Asker, Frame<msg::OutlineQuery>>> outline_askers{};
  std::map<std::string, std::vector<Asker>, std::less<>> askers{};  // by tensor
  size_t waiting = 0;
  prometheus::Counter& sent_bytes = prometheus::BuildCounter()
                                        .Name("convoy_weights_sent_bytes_total")
                                        .Help("Bytes of weights sent to machines without the model")
                                        .Register(*options.metrics)
                                        .Add({});
  TensorHasher hasher{checkpoint, tensors, options.run_dir,
                      [to = caf::actor_cast<WeightServerActor>(self)](const auto& name, const auto& found,
                                                                      const auto& reason) {
                        caf::anon_send(to, TensorHashed{name, found, reason});
                      }};

  void outline_asked(const Asker& asker, const Frame<msg::OutlineQuery>& query) {
    if (!digest.empty()) return tell_outline(asker, query);
    if (outline_askers.size() < outlines_waiting_max) outline_askers.emplace_back(asker, query);
  }

  void known(const ModelDigest& model) {
    digest = model.digest;
    for (const auto& [asker, query] : std::exchange(outline_askers, {})) tell_outline(asker, query);
  }

  void tell_outline(const Asker& asker, const Frame<msg::OutlineQuery>& query) {
    const msg::Reading asked(query);
    bool is_known = false;
    for (const auto& one : asked->getKnown()) is_known = is_known || digest == one.cStr();
    if (is_known) {
      msg::FrameBuilder<msg::ModelOutline> same;
      same->setDigest(digest);
      return self->send(caf::actor_cast<WeightFetcherActor>(asker), std::move(same).finish());
    }
    if (!outline) outline = encode(model::outline_of(*checkpoint, digest));
    if (const size_t bytes = outline.bytes()->size(); bytes > options.frame_bytes_max) {
      msg::FrameBuilder<msg::ModelOutline> refused;
      refused->setRefused("the headers of the model's files have " + std::to_string(bytes) +
                          " bytes; raise link.bulk_frame_bytes_max on all machines");
      return self->send(caf::actor_cast<WeightFetcherActor>(asker), std::move(refused).finish());
    }
    log::info("weights.outline_sent", {{"bytes", outline.bytes()->size()}});
    self->send(caf::actor_cast<WeightFetcherActor>(asker), outline);
  }

  void asked(const Asker& asker, const msg::TensorQuery::Reader& query) {
    const std::string name = query.getName();
    const auto found = tensors.find(name);
    if (digest.empty() || digest != query.getModel().cStr())
      return refuse(asker, name, "the head serves another model by now");
    if (found == tensors.end()) return refuse(asker, name, "the model has no such tensor");
    const auto bytes = found->second.bytes;
    if (query.getBytes() == 0) {
      if (waiting >= waiting_max) return refuse(asker, name, "too many wait for digests; try again");
      ++waiting;
      askers[name].push_back(asker);
      return hasher.ask(name);
    }
    if (query.getBytes() > part_bytes_max || query.getBegin() > bytes.size() ||
        query.getBytes() > bytes.size() - query.getBegin())
      return refuse(asker, name, "the tensor has no such part");
    send_part(asker, name, found->second, query.getBegin(), query.getBytes());
  }

  void send_part(const Asker& asker, const std::string& name, const model::Tensor& tensor, uint64_t begin,
                 uint32_t bytes) {
    const auto part = tensor.bytes.subspan(begin, bytes);
    const auto behind = tensor.bytes.subspan(begin + bytes);
    tensor.owner->will_need(behind.first(std::min(behind.size(), read_ahead_bytes)));
    try {
      model::fetch(part);
    } catch (const InputError& e) {
      return refuse(asker, name, e.what());
    }
    constexpr size_t words_beside = 64;
    msg::DataFrameBuilder<msg::TensorPart> frame(words_beside + name.size() / sizeof(capnp::word), bytes);
    std::ranges::copy(part, frame.data().begin());
    frame->setName(name);
    frame->setBegin(begin);
    self->send(caf::actor_cast<WeightFetcherActor>(asker), std::move(frame).finish());
    tensor.owner->forget(part);
    sent_bytes.Increment(bytes);
  }

  void hashed(const TensorHashed& done) {
    const auto found = askers.find(done.name);
    if (found == askers.end()) return;
    waiting -= found->second.size();
    for (const Asker& asker : found->second) {
      if (done.digest.empty()) {
        refuse(asker, done.name, done.reason);
        continue;
      }
      msg::FrameBuilder<msg::TensorPart> frame;
      frame->setName(done.name);
      frame->setDigest(done.digest);
      self->send(caf::actor_cast<WeightFetcherActor>(asker), std::move(frame).finish());
    }
    askers.erase(found);
  }

  void refuse(const Asker& asker, const std::string& name, const std::string& why) {
    log::warn_limited("weights.refused", {{"tensor", name}, {"reason", why}});
    msg::FrameBuilder<msg::TensorPart> frame;
    frame->setName(name);
    frame->setRefused(why);
    self->send(caf::actor_cast<WeightFetcherActor>(asker), std::move(frame).finish());
  }
};

WeightServerState::WeightServerState() = default;
WeightServerState::~WeightServerState() = default;

WeightServerActor::behavior_type weight_server(WeightServerActor::stateful_pointer<WeightServerState> self,
                                               WeightServerOptions options,
                                               std::shared_ptr<const model::Checkpoint> checkpoint) {
  self->state.data.reset(new WeightServerData{self, std::move(options), std::move(checkpoint)});
  WeightServerData* data = self->state.data.get();
  return {
      [=](const Frame<msg::OutlineQuery>& frame) { data->outline_asked(self->current_sender(), frame); },
      [=](const Frame<msg::TensorQuery>& frame) {
        data->asked(self->current_sender(), *msg::Reading(frame));
      },
      [=](const ModelDigest& digest) { data->known(digest); },
      [=](const TensorHashed& done) { data->hashed(done); },
  };
}

}  // namespace convoy::actors
