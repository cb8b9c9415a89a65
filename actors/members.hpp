#pragma once
// Members: which nodes a pipeline has, with the stages that each offers, and what commands make of them; and
// the plan that follows: which stage is where in the pipeline, and which layers it has. The pipeline owns
// them, and its process keeps those of all pipelines in the run directory. Values and pure functions.
// docs/decisions/0032

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/balance.hpp"
#include "actors/config/cluster_config.hpp"
#include "actors/stage_name.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::actors {

/// joining: its stages are started, and have no part in the plan before all of them are there; serving: they
/// have; drained: they have none any more, and end; removed: the same of a node that cluster.conf names and
/// the operator does not want to see again.
enum class MemberState : uint8_t { joining, serving, drained, removed };

struct Member {
  std::string node;
  std::string listen;       // host:port
  uint32_t stages = 0;      // processes that it runs
  bool configured = false;  // by cluster.conf
  MemberState state = MemberState::serving;
  std::string http = {};  // HOST:PORT of its gateway, of a node that was added; empty: it runs none

  bool operator==(const Member&) const = default;
};

struct Members {
  uint64_t revision = 0;  // rises with each change
  std::vector<Member> list;

  const Member* find(std::string_view node) const;
  /// Of those that serve.
  uint32_t stages() const;
  bool operator==(const Members&) const = default;
};

struct MemberCommand {
  enum class Kind : uint8_t {
    add,      // a node that nobody knew
    undrain,  // back into the plan, as soon as its stages are there
    drain,    // out of the plan: its layers go to others
    remove,   // forget it
    arrived,  // all its stages are there
  };
  Kind kind{};
  std::string node;
  std::string listen = {};  // to add
  uint32_t stages = 0;      // to add
  std::string http = {};    // to add
};

/// Why a command is refused, and what to do.
struct MemberRefused {
  std::string why;
};

/// stages_max: the model's layers, of which each stage has one at least.
std::variant<Members, MemberRefused> apply(const Members& members, const MemberCommand& command,
                                           uint32_t stages_max);

/// As cluster.conf says, of ClusterConfig::of_pipeline().
Members configured_members(const ClusterConfig& config);
/// What a head begins with. Of a node that cluster.conf names it says where it is and what it runs, and
/// `kept` whether it serves; nodes that were added are kept.
Members members_at_start(Members configured, const Members& kept);

/// By the pipeline's name.
using MembersByPipeline = std::map<std::string, Members>;
/// One line of JSON with its own SHA-256, and back. Throws InputError, at `place`, if it is none of ours or
/// has changed. Of a version that knew one pipeline, the name is empty.
std::string text_of(const MembersByPipeline& all);
MembersByPipeline read_members(const std::string& text, const std::string& place);

/// Of one stage.
struct PlannedStage {
  StageName name;
  model::LayerRange layers;
};
/// The stages of all who serve, in the order of the pipeline, but for those that are left out. known: what is
/// known of them.
std::vector<PlannedStage> plan_of(const Members& members, const LayerCosts& costs,
                                  const std::vector<StageOffer>& known = {});
/// Those of all who serve, by members' order: as known, pooled.
std::vector<StageOffer> offers_of(const Members& members, const std::vector<StageOffer>& known);
std::vector<StageName> names_of(const std::vector<PlannedStage>& plan);

}  // namespace convoy::actors
