// Stage: what its actor says to its neighbours, with mailboxes in the test in place of all of them.

#include "actors/stage/stage.hpp"

#include <boost/test/unit_test.hpp>
#include <mutex>
#include <thread>

#include "actors/stage/step_codec.hpp"
#include "test/cores.hpp"
#include "test/gpu/tiny_model.hpp"
#include "test/patience.hpp"

using namespace convoy;
using namespace convoy::actors;
using namespace std::chrono_literals;

namespace {

const auto checkpoint = std::make_shared<gpu::test::TinyCheckpoint>(model::DType::f32);

struct System {
  caf::actor_system_config config;
  caf::actor_system system{config};
};

/// One of two stages of a model of three layers.
struct Fixture : System {
  caf::scoped_actor head{system}, neighbour{system};
  std::shared_ptr<caf::scoped_actor> mortal;  // the neighbour, if there is one
  StageActor stage;
  std::mutex mutex;
  std::vector<std::string> connected;  // addresses, in order

  void start(uint32_t instance, std::optional<pthread_t> io_thread = {}) {
    StageOptions options;
    options.instance = instance;
    options.node = "here";
    options.device = gpu::cpu_device(gpu::Kernels::reference, 1);
    options.context_tokens = options.rows_per_step = 512;
    options.report_ms = 20;
    StageLinks links;
    links.pipeline = [this](const PeerIdentity&) { return caf::actor_cast<PipelineActor>(head); };
    links.next_stage = [this](const PeerIdentity&) {
      return caf::actor_cast<StageActor>(mortal ? *mortal : neighbour);
    };
    links.connect = [this](const std::string& host, uint16_t port) {
      const std::lock_guard lock(mutex);
      connected.push_back(host + ":" + std::to_string(port));
    };
    links.io_thread = io_thread;
    stage = system.spawn<caf::detached>(actors::stage, options, checkpoint, links);
    PeerIdentity node;
    node.role = schema::Role::NODE;
    caf::anon_send(stage, PeerUp{node});
  }

  ~Fixture() { caf::anon_send_exit(stage, caf::exit_reason::kill); }

  void assign(uint64_t epoch, model::LayerRange range, uint32_t next, const std::string& host,
              uint16_t port) {
    msg::FrameBuilder<msg::Assign> frame;
    frame->setEpoch(epoch);
    frame->setFirstLayer(static_cast<uint32_t>(range.first));
    frame->setLastLayer(static_cast<uint32_t>(range.last));
    frame->setKvBlocks(8);
    frame->setSlots(4);
    frame->setNextHost(host);
    frame->setNextPort(port);
    frame->setNextInstance(next);
    mail(stage, std::move(frame).finish());
  }

  void link(uint32_t instance, uint16_t port, const std::string& node = "here", uint64_t incarnation = 0) {
    PeerIdentity peer;
    peer.incarnation = incarnation;
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

/// Slot 1 with three prompt tokens in block 5.
gpu::StepPlan prompt() {
  return {.epoch = 1,
          .step = 0,
          .starts = {{1, 3, {}}},
          .block_changes = {{1, 0, 5}},
          .sequences = {{1, 0, {10, 20, 30}, 1}}};
}

gpu::Engine engine_of(model::LayerRange range) {
  return {gpu::cpu_device(gpu::Kernels::reference, 1), checkpoint, range, {8, 4, 512, 512}};
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(the_last_stage_sends_its_tokens_to_the_first_and_to_the_pipeline, Fixture) {
  start(1);
  assign(1, {1, 2}, 0, "", 1000);
  while (await(msg::Health::LOADING) != "connecting to the next stage") continue;
  BOOST_CHECK(connects().empty());  // its neighbour connects
  link(0, 1000);
  await(msg::Health::READY);
  gpu::Engine first = engine_of({0, 0}), last = engine_of({1, 2});
  const gpu::StepPlan plan = prompt();
  const auto hidden = first.run(plan, {}).hidden;
  mail(stage, encode_activations(plan, hidden));
  const int32_t expected = last.run(plan, hidden).result.sequences.at(0).tokens.at(0).id;
  for (auto* mailbox : {&neighbour, &head}) {
    const auto frame = next<msg::StepResult>(*mailbox);
    BOOST_REQUIRE(frame);
    BOOST_CHECK_EQUAL(decode(frame).sequences.at(0).tokens.at(0).id, expected);
  }
}

BOOST_FIXTURE_TEST_CASE(the_first_stage_waits_for_the_token_that_its_plan_lacks, Fixture) {
  start(0);
  link(1, 1001);  // before it is known that this one comes next
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::READY);
  BOOST_CHECK(connects().empty());
  mail(stage, encode(prompt()));
  BOOST_REQUIRE(next<msg::Activations>(neighbour));
  mail(stage, encode({.epoch = 1, .step = 1, .sequences = {{1, 3, {gpu::token_fed_back}, 1}}}));
  BOOST_CHECK(!next<msg::Activations>(neighbour, 50ms));
  const auto sampled = [](uint64_t epoch) {
    return encode(gpu::StepResult{.epoch = epoch, .step = 0, .sequences = {{1, {{.id = 77}}}}});
  };
  mail(stage, sampled(2));  // of another epoch
  BOOST_CHECK(!next<msg::Activations>(neighbour, 50ms));
  mail(stage, sampled(1));
  const auto frame = next<msg::Activations>(neighbour);
  BOOST_REQUIRE(frame);
  const msg::Reading step(frame);
  const gpu::StepPlan passed_on = decode(step->getPlan());
  BOOST_CHECK_EQUAL(passed_on.step, 1u);
  BOOST_CHECK_EQUAL(passed_on.sequences.at(0).tokens.at(0), 77);
  BOOST_CHECK_EQUAL(step->getData().size(), step->getHidden() * sizeof(float));
}

namespace {

/// Behind prompt(), and only its last row again: a step that may be run many times over.
gpu::StepPlan decode_of(uint64_t step, bool alone) {
  return {.epoch = 1, .step = step, .sequences = {{1, 2, {30}, 1}}, .alone = alone};
}

// A step on which other programs displaced the stage is not followed by one that stays: the tests below
// repeat it.
constexpr uint64_t tries = 1000;

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_first_stage_stays_on_its_core_while_steps_are_alone_and_tells_the_next_one,
                        Fixture) {
  convoy::test::SleepingThread io;  // stands for the thread of its links
  const std::set<int> before = io.cores();
  start(0, io.id());
  link(1, 1001);
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::READY);
  const auto core_of = [&](const gpu::StepPlan& plan) {
    mail(stage, encode(plan));
    const auto frame = next<msg::Activations>(neighbour);
    BOOST_REQUIRE(frame);
    return msg::Reading(frame)->getCore();
  };
  BOOST_CHECK_EQUAL(core_of(prompt()), -1);
  int core = -1;
  uint64_t step = 1;
  while (core == -1 && step < tries) core = core_of(decode_of(step++, true));
  BOOST_CHECK(io.cores() == std::set{core});
  BOOST_CHECK_EQUAL(core_of(decode_of(step, false)), -1);
  BOOST_CHECK(io.cores() == before);
}

BOOST_FIXTURE_TEST_CASE(a_stage_whose_next_one_is_elsewhere_has_no_core_to_stay_on, Fixture) {
  start(0);
  link(1, 1001, "elsewhere");
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::READY);
  mail(stage, encode(prompt()));
  BOOST_REQUIRE(next<msg::Activations>(neighbour));
  for (uint64_t step = 1; step < 10; ++step) {
    mail(stage, encode(decode_of(step, true)));
    const auto frame = next<msg::Activations>(neighbour);
    BOOST_REQUIRE(frame);
    BOOST_CHECK_EQUAL(msg::Reading(frame)->getCore(), -1);
  }
}

BOOST_FIXTURE_TEST_CASE(a_later_stage_follows_the_one_before_it, Fixture) {
  convoy::test::SleepingThread io;  // stands for the thread of its links
  const std::set<int> before = io.cores();
  const int core = *before.begin();
  start(1, io.id());
  assign(1, {1, 2}, 0, "", 1000);
  link(0, 1000);
  await(msg::Health::READY);
  const auto run = [&](const gpu::StepPlan& plan, std::optional<int> beside) {
    mail(stage, encode_activations(plan, std::vector<float>(static_cast<size_t>(plan.rows()) * 128), beside));
    BOOST_REQUIRE(next<msg::StepResult>(neighbour));
  };
  run(prompt(), std::nullopt);
  uint64_t step = 1;
  do run(decode_of(step, true), core);
  while (io.cores() != std::set{core} && ++step < tries);
  BOOST_CHECK(io.cores() == std::set{core});
  run(decode_of(++step, false), std::nullopt);
  BOOST_CHECK(io.cores() == before);
}

BOOST_FIXTURE_TEST_CASE(a_next_stage_that_refuses_is_tried_again_until_another_is_named, Fixture) {
  start(0);
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::LOADING);
  caf::anon_send(stage, PeerRefused{"127.0.0.1:1001", "refused"});
  BOOST_CHECK(convoy::test::comes_true([&] { return connects().size() == 2; }));
  assign(2, {0, 1}, 1, "127.0.0.1", 1002);
  caf::anon_send(stage, PeerRefused{"127.0.0.1:1001", "refused"});  // of the one that was named before
  std::this_thread::sleep_for(100ms);
  const std::vector<std::string> expected{"127.0.0.1:1001", "127.0.0.1:1001", "127.0.0.1:1002"};
  const auto tried = connects();
  BOOST_CHECK_EQUAL_COLLECTIONS(tried.begin(), tried.end(), expected.begin(), expected.end());
  link(1, 1002);
  await(msg::Health::READY);
}

// While stages load nobody raises the epoch for a connection that ended: the stage itself connects again.
BOOST_FIXTURE_TEST_CASE(a_link_to_the_next_stage_that_breaks_is_remade, Fixture) {
  mortal = std::make_shared<caf::scoped_actor>(system);
  start(0);
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  link(1, 1001);
  await(msg::Health::READY);
  mortal.reset();
  BOOST_CHECK_EQUAL(await(msg::Health::LOADING), "connecting to the next stage");
  BOOST_CHECK(convoy::test::comes_true([&] { return connects().size() == 2; }));
  link(1, 1001);
  await(msg::Health::READY);
}

BOOST_FIXTURE_TEST_CASE(a_successor_is_met_though_it_is_linked_before_its_predecessor_ends, Fixture) {
  mortal = std::make_shared<caf::scoped_actor>(system);
  start(1);
  assign(1, {1, 2}, 0, "", 1000);  // which connects to us
  link(0, 1000, "here", 1);
  await(msg::Health::READY);
  link(0, 2000, "here", 2);
  mortal.reset();
  await(msg::Health::LOADING);
  assign(2, {1, 2}, 0, "", 2000);
  await(msg::Health::READY);
}

BOOST_FIXTURE_TEST_CASE(a_stage_reports_what_its_steps_cost, Fixture) {
  start(1);
  assign(1, {1, 2}, 0, "", 1000);
  link(0, 1000);
  await(msg::Health::READY);
  mail(stage, encode_activations(prompt(), std::vector<float>(3 * 128)));
  float cost_us = 0;
  for (const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
       cost_us == 0 && std::chrono::steady_clock::now() < end;) {
    const auto frame = next<msg::StageReport>(head);
    BOOST_REQUIRE(frame);
    const msg::Reading report(frame);
    cost_us = report->getStepFixedUs() + report->getStepPerRowUs();
  }
  BOOST_CHECK_GT(cost_us, 0);
}

BOOST_FIXTURE_TEST_CASE(what_fits_no_stage_or_no_plan_takes_the_stage_down_with_a_reason, Fixture) {
  start(1);
  link(0, 1000);
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  assign(1, {1, 2}, 0, "", 1000);
  await(msg::Health::READY);
  mail(stage, encode(prompt()));
  BOOST_CHECK(contains(await(msg::Health::DOWN), "only the first stage takes plans"));
  assign(2, {1, 2}, 0, "", 1000);
  await(msg::Health::READY);
  gpu::StepPlan plan = prompt();
  plan.epoch = 2;
  mail(stage, encode_activations(plan, std::vector<float>(2 * 128)));
  BOOST_CHECK(contains(await(msg::Health::DOWN), "the plan has 3 rows"));
}
