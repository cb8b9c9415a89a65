// WeightServer and WeightFetcher: what a machine without the model's files asks for and gets, without links
// in between.

#include "actors/weights/weight_server.hpp"

#include <boost/test/unit_test.hpp>
#include <fstream>

#include "actors/weights/outline_codec.hpp"
#include "actors/weights/weight_fetcher.hpp"
#include "model/checkpoint/kept_digest.hpp"
#include "model/digest.hpp"
#include "test/model/files.hpp"
#include "test/patience.hpp"

using namespace convoy;
using namespace convoy::actors;
namespace fs = std::filesystem;

namespace {

const std::string served_digest(64, 'd');

struct Rig {
  caf::actor_system_config config;
  caf::actor_system system{config};
  test::TemporaryFolder folder;
  fs::path files = folder.path() / "model";
  std::shared_ptr<const model::Checkpoint> checkpoint;
  std::shared_ptr<prometheus::Registry> metrics = std::make_shared<prometheus::Registry>();
  caf::scoped_actor self{system};
  WeightServerActor server;

  explicit Rig(const char* name = "qwen2-bias") {
    fs::copy(test::golden(name), files, fs::copy_options::recursive);
    checkpoint = model::Checkpoint::open(files);
  }
  ~Rig() { end(); }
  void end() { end_and_wait(system, std::exchange(server, {})); }
  void start() {
    server = system.spawn<caf::detached>(
        weight_server, WeightServerOptions{folder.path(), 64ull << 20, metrics}, checkpoint);
  }
  void know() { caf::anon_send(server, ModelDigest{served_digest}); }

  void ask_outline(const std::string& known = "") {
    msg::FrameBuilder<msg::OutlineQuery> query;
    if (!known.empty()) query->initKnown(1).set(0, known);
    self->send(server, std::move(query).finish());
  }
  void ask(const std::string& name, uint64_t begin, uint32_t bytes,
           const std::string& model = served_digest) {
    msg::FrameBuilder<msg::TensorQuery> query;
    query->setModel(model);
    query->setName(name);
    query->setBegin(begin);
    query->setBytes(bytes);
    self->send(server, std::move(query).finish());
  }
  template <class T>
  Frame<T> next(std::chrono::milliseconds time = convoy::test::patience) {
    Frame<T> found;
    self->receive([&](const Frame<T>& frame) { found = frame; }, caf::after(time) >> [] {});
    return found;
  }
  std::string refused() { return msg::Reading(next<msg::TensorPart>())->getRefused(); }
  std::string digest() { return msg::Reading(next<msg::TensorPart>())->getDigest(); }
};

std::string sha256_of(std::span<const std::byte> bytes) {
  model::Sha256 sha;
  sha.update(bytes);
  return sha.hex();
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(the_outline_comes_once_the_model_is_known_and_once_only, Rig) {
  start();
  ask_outline();
  BOOST_CHECK(!next<msg::ModelOutline>(std::chrono::milliseconds(50)));
  know();
  const auto frame = next<msg::ModelOutline>();
  BOOST_REQUIRE(frame);
  BOOST_CHECK_EQUAL(decode(frame).digest, served_digest);
  BOOST_CHECK_EQUAL(decode(frame).files.size(), checkpoint->files().size());
  ask_outline(served_digest);
  const auto same = next<msg::ModelOutline>();
  BOOST_CHECK_EQUAL(decode(same).digest, served_digest);
  BOOST_CHECK(decode(same).files.empty());
}

BOOST_FIXTURE_TEST_CASE(parts_and_digests_are_those_of_the_files_and_odd_wishes_are_refused, Rig) {
  start(), know();
  const auto tensors = model::tensors_in_files(*checkpoint);
  const auto& [name, tensor] = *tensors.begin();
  ask(name, 16, 32);
  const auto frame = next<msg::TensorPart>();
  const auto data = msg::Reading(frame)->getData();
  BOOST_REQUIRE_EQUAL(data.size(), 32u);
  BOOST_CHECK(std::memcmp(data.begin(), tensor.bytes.data() + 16, 32) == 0);
  ask(name, 0, 0);
  BOOST_CHECK_EQUAL(digest(), sha256_of(tensor.bytes));
  ask("no.such.weight", 0, 32);
  BOOST_CHECK_EQUAL(refused(), "the model has no such tensor");
  for (const uint64_t begin : {uint64_t{tensor.bytes.size()} - 31, ~uint64_t{0}, uint64_t{1} << 63}) {
    ask(name, begin, 32);
    BOOST_CHECK_EQUAL(refused(), "the tensor has no such part");
  }
  ask(name, 0, ~uint32_t{0});
  BOOST_CHECK_EQUAL(refused(), "the tensor has no such part");
  ask(name, 0, 32, std::string(64, 'e'));
  BOOST_CHECK_EQUAL(refused(), "the head serves another model by now");
}

BOOST_FIXTURE_TEST_CASE(digests_are_computed_once_and_kept_beside_the_model, Rig) {
  start(), know();
  const auto tensors = model::tensors_in_files(*checkpoint);
  BOOST_CHECK(model::kept_tensor_digests(*checkpoint, folder.path()).empty());  // nobody asked
  ask(tensors.rbegin()->first, 0, 0);
  BOOST_CHECK_EQUAL(digest(), sha256_of(tensors.rbegin()->second.bytes));
  const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
  while (!fs::exists(files / ".convoy-tensors") && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  auto kept = model::kept_tensor_digests(*checkpoint, folder.path());
  BOOST_CHECK_EQUAL(kept.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) BOOST_CHECK_EQUAL(kept[name], sha256_of(tensor.bytes));

  // The next head reads them there, unless the files are others.
  const std::string name = tensors.begin()->first, mark(64, 'a');
  kept[name] = mark;
  BOOST_REQUIRE(model::keep_tensor_digests(*checkpoint, folder.path(), kept));
  end_and_wait(system, std::exchange(server, {}));
  metrics = std::make_shared<prometheus::Registry>();
  start(), know();
  ask(name, 0, 0);
  BOOST_CHECK_EQUAL(digest(), mark);
  const auto weights = files / "model-00001-of-00002.safetensors";
  fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::nanoseconds(1000));
  BOOST_CHECK(model::kept_tensor_digests(*model::Checkpoint::open(files), folder.path()).empty());
}

BOOST_FIXTURE_TEST_CASE(a_fetcher_gets_a_model_that_gives_the_same_weights, Rig) {
  start(), know();
  const auto found = std::make_shared<FoundModel>();
  auto model = found->get_future();
  FetcherOptions options;
  options.store = std::make_shared<WeightStore>(folder.path() / "store", 1 << 30);
  options.limits.part_bytes = 1000;
  FetcherLinks links;
  links.server = [this](const PeerIdentity&) { return server; };
  links.drop = [](const PeerIdentity&, const std::string&) {};
  auto fetcher = system.spawn<caf::detached>(weight_fetcher, options, links, found);
  caf::anon_send(fetcher, PeerUp{PeerIdentity{.node = "head"}});
  BOOST_REQUIRE(model.wait_for(convoy::test::patience) == std::future_status::ready);
  const auto stored = model.get();
  BOOST_CHECK_EQUAL(stored->weights_digest(), served_digest);
  CHECK_INPUT_ERROR(stored->stage({1, 1}), "is not in the store");
  caf::anon_send(fetcher, FetchLayers{caf::actor_cast<StageActor>(self), {1, 1}});
  for (bool done = false; !done;)
    self->receive([&](const FetchReport& report) { done = report.done; },
                  caf::after(convoy::test::patience) >> [] { BOOST_FAIL("no report came"); });
  const auto ours = stored->stage({1, 1}), theirs = checkpoint->stage({1, 1});
  BOOST_CHECK(std::ranges::equal(ours.layers[0].down.bytes, theirs.layers[0].down.bytes));
  BOOST_CHECK(std::ranges::equal(ours.layers[0].q_bias->bytes, theirs.layers[0].q_bias->bytes));
  // Layers that no model has are said, and nothing breaks.
  caf::anon_send(fetcher, FetchLayers{caf::actor_cast<StageActor>(self), {1, 999}});
  for (std::string text; text.empty();)
    self->receive([&](const FetchReport& report) { text = report.text; },
                  caf::after(convoy::test::patience) >> [] { BOOST_FAIL("no report came"); });
  end_and_wait(system, fetcher);
}
