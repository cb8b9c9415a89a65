#pragma once
// A stage actor with mailboxes in the test in place of its neighbours.

#include <boost/test/unit_test.hpp>
#include <mutex>
#include <thread>

#include "actors/stage/stage.hpp"
#include "actors/stage/step_codec.hpp"
#include "test/gpu/tiny_model.hpp"
#include "test/patience.hpp"

namespace convoy::actors::test {

using namespace std::chrono_literals;

inline const auto checkpoint = std::make_shared<gpu::test::TinyCheckpoint>(model::DType::f32);

struct System {
  caf::actor_system_config config;
  caf::actor_system system{config};
};

/// A stage of a model of three layers.
struct StageRig : System {
  caf::scoped_actor head{system}, neighbour{system};
  std::shared_ptr<caf::scoped_actor> mortal;  // the neighbour, if there is one
  StageActor stage;
  std::mutex mutex;
  std::vector<std::string> connected;  // addresses, in order
  PeerIdentity own;                    // the stage's, before it starts
  uint32_t edge_timeout_ms = 60'000;

  void start(uint32_t instance, std::vector<pthread_t> threads = {},
             gpu::DeviceFactory device = gpu::cpu_device(gpu::Kernels::reference, 1)) {
    StageOptions options;
    options.instance = instance;
    options.node = "here";
    options.device = std::move(device);
    options.context_tokens = options.rows_per_step = 512;
    options.report_ms = 20;
    options.own = own;
    options.edge_timeout_ms = edge_timeout_ms;
    StageLinks links;
    // The stage's reporter asks for it, which may outlive this rig.
    links.pipeline = [pipeline = caf::actor_cast<PipelineActor>(head)](const PeerIdentity&) {
      return pipeline;
    };
    links.next_stage = [this](const PeerIdentity&) {
      return caf::actor_cast<StageActor>(mortal ? *mortal : neighbour);
    };
    links.connect = [this](const std::string& host, uint16_t port) {
      const std::lock_guard lock(mutex);
      connected.push_back(host + ":" + std::to_string(port));
    };
    links.threads = std::move(threads);
    stage = system.spawn<caf::detached>(actors::stage, options, checkpoint, links);
    PeerIdentity node;
    node.role = schema::Role::NODE;
    caf::anon_send(stage, PeerUp{node});
  }

  /// Once the stage is gone, nobody asks this rig for anything.
  ~StageRig() {
    caf::anon_send_exit(stage, caf::exit_reason::kill);
    head->wait_for(stage);
  }

  void assign(uint64_t epoch, model::LayerRange range, uint32_t next, const std::string& host, uint16_t port,
              const std::string& next_node = "here") {
    msg::FrameBuilder<msg::Assign> frame;
    frame->setEpoch(epoch);
    frame->setFirstLayer(static_cast<uint32_t>(range.first));
    frame->setLastLayer(static_cast<uint32_t>(range.last));
    frame->setKvBlocks(8);
    frame->setSlots(4);
    frame->setStepsInFlight(4);
    frame->setNextNode(next_node);
    frame->setNextHost(host);
    frame->setNextPort(port);
    frame->setNextInstance(next);
    mail(stage, std::move(frame).finish());
  }

  void link(uint32_t instance, uint16_t port, const std::string& node = "here", uint64_t incarnation = 0,
            msg::HiddenForm form = msg::HiddenForm::FLOAT32) {
    PeerIdentity peer;
    peer.incarnation = incarnation;
    peer.hidden_form = form;
    peer.node = node;
    peer.role = schema::Role::STAGE;
    peer.instance = instance;
    peer.listen_port = port;
    caf::anon_send(stage, PeerUp{peer});
  }

  /// The next message of that type, if one comes; others that come first are dropped.
  template <class T>
  Frame<T> next(caf::scoped_actor& mailbox, std::chrono::milliseconds time = convoy::test::patience) {
    Frame<T> found;
    const auto end = std::chrono::steady_clock::now() + time;
    while (!found && std::chrono::steady_clock::now() < end)
      mailbox->receive(
          [&](const Frame<T>& frame) { found = frame; },
          caf::others >> [](caf::message_view&) -> caf::result<caf::message> { return caf::message{}; },
          caf::after(10ms) >> [] {});
    return found;
  }

  /// Waits for a report of that health; its reason.
  std::string await(msg::Health health) {
    for (const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
         std::chrono::steady_clock::now() < end;) {
      const auto frame = next<msg::StageReport>(head);
      BOOST_REQUIRE(frame);
      const msg::Reading report(frame);
      if (report->getHealth() == health) return report->getReason();
    }
    BOOST_FAIL("no such report came");
    return {};
  }

  std::vector<std::string> connects() {
    const std::lock_guard lock(mutex);
    return connected;
  }
};

/// Slot 1 with three tokens of a prompt, in block 5.
inline gpu::StepPlan prompt(uint64_t epoch = 1) {
  return {.epoch = epoch,
          .step = 0,
          .starts = {{1, 3, {}}},
          .block_changes = {{1, 0, 5}},
          .sequences = {{1, 0, {10, 20, 30}, 1}}};
}

}  // namespace convoy::actors::test
