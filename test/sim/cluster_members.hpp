#pragma once
// HeadMember, StageMember: the processes of a simulated cluster, each with its links and its production
// actors, as cli/head_process.cpp and cli/stage.cpp put them together.

#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "actors/pipeline.hpp"
#include "actors/router.hpp"
#include "actors/stage/stage.hpp"
#include "test/sim/cluster_device.hpp"
#include "test/sim/cluster_network.hpp"
#include "test/sim/cluster_world.hpp"

namespace sim {

inline constexpr const char* head_host = "head";
inline constexpr uint16_t head_port = 7000;

/// What all members are in.
struct Site {
  const ClusterWorld& world;
  Timeline& timeline;
  Random& random;
  Network& network;
};

/// Each stage is the only one of a node.
inline std::string node_of(uint32_t place) { return "node" + std::to_string(place); }
inline uint32_t place_of(std::string_view node) { return static_cast<uint32_t>(node.back() - '0'); }

class StageMember {
 public:
  struct Orders {
    std::function<void()> gives_up;  // no head takes it: its process leaves
    std::function<bool()> skips;     // DeviceSite
  };
  StageMember(const Site& site, convoy::actors::PeerIdentity self, Orders orders);
  ~StageMember() { end(); }

  Process& process() { return process_; }
  uint32_t place() const { return place_of(process_.self().node); }
  /// The next step that it begins never ends.
  void hang() { hangs_next_ = true; }
  bool hung() const { return hung_; }
  void end();

  uint64_t epoch_told = 0;  // by the latest Assign that reached it
  uint64_t steps_told = 0;  // since, of a later stage; counted for mistakes alone

 private:
  DeviceSite device_site(const Site& site, Orders& orders);
  void find_head() { links_.connect(head_host, head_port, head_timeout_ms); }

  static constexpr uint32_t head_timeout_ms = 5'000, handshake_timeout_ms = 200;
  Process process_;
  convoy::actors::StageActor actor_;
  SimLinks links_;
  bool hangs_next_ = false, hung_ = false;
};

class HeadMember {
 public:
  struct Orders {
    std::function<void(const caf::message&)> to_gateway;
    std::function<void(uint32_t place, uint64_t incarnation)> replace;
    std::function<void(uint32_t place, bool keep)> keep;  // that its stage shall run, or not
    std::function<void(const std::string& pipeline, const convoy::actors::Members&)> keep_members;
    convoy::actors::MembersByPipeline members;
    std::function<convoy::actors::ProcessState(const convoy::actors::PeerIdentity&)> process_state;
    bool believes_links = false;  // a mistake on purpose: it takes a stage that is linked for one of no epoch
  };
  HeadMember(const Site& site, convoy::actors::PeerIdentity self, Orders orders);
  ~HeadMember() { end(); }

  Process& process() { return process_; }
  const convoy::actors::RouterActor& router() const { return router_; }
  const std::vector<convoy::actors::PipelineActor>& pipelines() const { return pipelines_; }
  /// How often layers moved because stages are not equally fast.
  uint64_t rebalanced() const;
  void end();

 private:
  void start_pipeline(const std::string& name, const Site& site, const convoy::actors::Members& members,
                      const convoy::actors::PipelinePeers& peers);
  void stage_up(const convoy::actors::PeerIdentity& peer);

  const bool believes_links_;
  const std::shared_ptr<prometheus::Registry> metrics_ = std::make_shared<prometheus::Registry>();
  Process process_;
  convoy::actors::RouterActor router_;
  std::vector<convoy::actors::PipelineActor> pipelines_;  // in the world's order
  SimLinks links_;
};

}  // namespace sim
