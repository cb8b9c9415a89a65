#include "actors/weights/weight_fetcher.hpp"

#include <cstdio>
#include <mutex>
#include <optional>

#include "actors/process/log.hpp"
#include "actors/weights/outline_codec.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

using std::chrono::milliseconds;
using Clock = caf::actor_clock::clock_type;

constexpr milliseconds look_again{100};  // at the clock, and at what other processes fetch
constexpr milliseconds report_interval{250};
constexpr milliseconds try_again{5000};  // after a disk that is full, say

std::string size_text(uint64_t bytes) {
  constexpr double mega = 1e6, giga = 1e9;
  const auto value = static_cast<double>(bytes);
  char text[32];
  if (value < giga)
    std::snprintf(text, sizeof text, "%.0f MB", value / mega);
  else
    std::snprintf(text, sizeof text, "%.1f GB", value / giga);
  return text;
}

}  // namespace

/// Which tensors of the model are in the store, for whoever loads them.
struct FetchedTensors {
  explicit FetchedTensors(std::filesystem::path store) : folder(std::move(store)) {}
  const std::filesystem::path folder;
  std::mutex mutex;  // guards the rest
  model::TensorDigests digests;

  std::shared_ptr<const model::Mapping> open(const model::NeededTensor& needed) {
    std::string digest;
    {
      const std::lock_guard lock(mutex);
      if (const auto found = digests.find(needed.name); found != digests.end()) digest = found->second;
    }
    const auto file = find_tensor(folder, {digest, needed.bytes});
    return file ? model::Mapping::open(*file) : nullptr;
  }
};

/// What one fetcher does. Runs only inside its actor.
struct WeightFetcherData {
  WeightFetcherActor::stateful_pointer<WeightFetcherState> self;
  FetcherOptions options;
  FetcherLinks links;
  std::shared_ptr<FoundModel> found;  // null once it is told

  WeightStore& store = *options.store;
  std::shared_ptr<const model::StoredCheckpoint> checkpoint{};
  std::optional<WeightFetch> fetch{};
  std::shared_ptr<FetchedTensors> fetched = std::make_shared<FetchedTensors>(store.folder());
  std::optional<PeerIdentity> head{};
  WeightServerActor server{};
  std::optional<FetchLayers> wanted{};  // until it is there
  std::string problem{};                // why it does not go on
  Clock::time_point began{}, heard{}, reported{}, again_at{};
  uint64_t bytes_before = 0;  // received before what is fetched now

  Clock::time_point now() const { return self->clock().now(); }

  // ---- the head ----

  void peer_up(const PeerIdentity& peer) {
    head = peer;
    server = links.server(peer);
    heard = now();
    if (!fetch) {
      msg::FrameBuilder<msg::OutlineQuery> query;
      const auto known = store.models();
      auto list = query->initKnown(static_cast<unsigned>(known.size()));
      for (unsigned i = 0; i < list.size(); ++i) list.set(i, known[i]);
      self->send(server, std::move(query).finish());
    }
    go_on();
  }

  void peer_down(const std::string& reason) {
    if (wanted) log::warn("weights.head_lost", {{"reason", reason}});
    head.reset();
    server = nullptr;
    if (fetch) fetch->disconnected();
  }

  void outline(const Frame<msg::ModelOutline>& frame) {
    if (fetch) return;
    try {
      learn_model(frame);
    } catch (const InputError&) {
      tell_failed();
    } catch (const kj::Exception& e) {
      log::error("weights.outline_malformed", {{"reason", e.getDescription().cStr()}});
      tell_failed();
    }
  }

  void learn_model(const Frame<msg::ModelOutline>& frame) {
    const msg::Reading told(frame);
    const std::string digest = told->getDigest(), refused = told->getRefused();
    if (!refused.empty()) throw InputError(refused, "the head", "");
    if (!is_digest(digest)) throw InputError("names no model", "the head", "run one version of Convoy");
    const bool is_known = told->getFiles().size() == 0;
    const auto kept = is_known ? store.outline(digest) : frame;
    checkpoint = model::StoredCheckpoint::open(
        decode(kept),
        [fetched = fetched](const model::NeededTensor& needed) { return fetched->open(needed); });
    if (!is_known) store.keep(digest, frame);
    fetch.emplace(store, digest, options.limits);
    log::info("weights.model", {{"digest", digest}, {"outline", is_known ? "kept" : "fetched"}});
    std::exchange(found, nullptr)->set_value(checkpoint);
  }

  void tell_failed() {
    if (found) std::exchange(found, nullptr)->set_exception(std::current_exception());
  }

  // ---- weights ----

  void want(const FetchLayers& order) {
    const bool again = wanted && wanted->layers == order.layers;
    if (again && problem.empty()) return;
    wanted = order;
    problem.clear();
    heard = now();
    if (!again) {
      began = now();
      bytes_before = fetch->bytes_received();
    }
    guarded([&] { fetch->want(checkpoint->needs(order.layers)); });
    go_on();
  }

  void part(const Frame<msg::TensorPart>& frame) {
    heard = now();
    if (!problem.empty()) return;  // until the link is another
    const msg::Reading part(frame);
    const std::string name = part->getName(), refused = part->getRefused();
    const auto data = part->getData();
    guarded([&] {
      if (!refused.empty()) throw InputError(refused, "tensor " + name, "");
      if (part->getDigest().size() > 0)
        fetch->digest(name, part->getDigest());
      else
        fetch->part(name, part->getBegin(), {reinterpret_cast<const std::byte*>(data.begin()), data.size()});
    });
    go_on();
  }

  /// What keeps it is said to the stage, and tried again after a while, over another connection: of what is
  /// on its way on this one nobody could tell what it answers.
  template <class Work>
  void guarded(Work work) {
    try {
      work();
    } catch (const InputError& e) {
      problem = std::string(e.what()) + (head ? " (from node " + head->node + ")" : "");
      log::error("weights.stuck", {{"reason", problem}});
      again_at = now() + try_again;
      if (head) links.drop(*head, "weights cannot be taken");
    }
  }

  void go_on() {
    if (!wanted || !problem.empty()) return report();
    guarded([&] {
      for (const auto& ask : fetch->asks(server != nullptr)) send(ask);
    });
    if (wanted && problem.empty() && fetch->done()) return finish();
    report();
  }

  void send(const WeightFetch::Ask& ask) {
    msg::FrameBuilder<msg::TensorQuery> query;
    query->setModel(checkpoint->weights_digest());
    query->setName(ask.name);
    query->setBegin(ask.begin);
    query->setBytes(ask.bytes);
    self->send(server, std::move(query).finish());
  }

  void finish() {
    const FetchLayers order = *std::exchange(wanted, std::nullopt);
    const double seconds = std::chrono::duration<double>(now() - began).count();
    const uint64_t received = fetch->bytes_received() - bytes_before;
    {
      const std::lock_guard lock(fetched->mutex);
      fetched->digests = fetch->digests();
    }
    log::info("weights.fetched",
              {{"first", order.layers.first},
               {"last", order.layers.last},
               {"bytes", fetch->progress().of},
               {"received", received},
               {"wrong", fetch->wrong()},
               {"took_s", seconds},
               {"mb_per_s", seconds > 0 ? static_cast<double>(received) / seconds / 1e6 : 0}});
    self->send(order.stage, FetchReport{order.layers, true, 0, ""});
  }

  void report() {
    if (!wanted || now() - reported < report_interval) return;
    reported = now();
    const auto progress = fetch->progress();
    self->send(wanted->stage, FetchReport{wanted->layers, false, progress.digests + progress.bytes, text()});
  }

  std::string text() const {
    if (!problem.empty()) return "does not get its layers: " + problem;
    const auto progress = fetch->progress();
    if (progress.digests < progress.tensors)
      return "fetches its layers: knows " + std::to_string(progress.digests) + " of " +
             std::to_string(progress.tensors) + " tensors" + (server ? "" : ", and waits for the head");
    const double seconds = std::chrono::duration<double>(now() - began).count();
    const double rate =
        seconds > 0 ? static_cast<double>(fetch->bytes_received() - bytes_before) / seconds : 0;
    std::string text = "fetches its layers: " + size_text(progress.bytes) + " of " + size_text(progress.of);
    if (!server) return text + ", and waits for the head";
    if (rate > 0)
      text +=
          ", " + size_text(static_cast<uint64_t>(rate)) + "/s, " +
          std::to_string(static_cast<int64_t>(static_cast<double>(progress.of - progress.bytes) / rate) + 1) +
          " s left";
    return text;
  }

  void tick() {
    if (!problem.empty() && wanted && now() >= again_at) return want(*wanted);
    if (server && fetch && wanted && fetch->waits() && now() - heard > milliseconds(options.silence_ms))
      links.drop(*head, "gave no weights within store.silence_ms");
    go_on();
  }
};

WeightFetcherState::WeightFetcherState() = default;
WeightFetcherState::~WeightFetcherState() = default;

WeightFetcherActor::behavior_type weight_fetcher(
    WeightFetcherActor::stateful_pointer<WeightFetcherState> self, FetcherOptions options, FetcherLinks links,
    std::shared_ptr<FoundModel> found) {
  self->state.data.reset(new WeightFetcherData{self, std::move(options), std::move(links), std::move(found)});
  WeightFetcherData* data = self->state.data.get();
  self->delayed_send(self, look_again, caf::tick_atom_v);
  return {
      [=](const Frame<msg::ModelOutline>& frame) { data->outline(frame); },
      [=](const Frame<msg::TensorPart>& frame) { data->part(frame); },
      [=](const FetchLayers& order) { data->want(order); },
      [=](const PeerUp& up) { data->peer_up(up.peer); },
      [=](const PeerDown& down) { data->peer_down(down.reason); },
      [=](caf::tick_atom) {
        data->tick();
        self->delayed_send(self, look_again, caf::tick_atom_v);
      },
  };
}

}  // namespace convoy::actors
