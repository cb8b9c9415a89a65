#include "cli/members_file.hpp"

#include <algorithm>

#include "actors/config/added_node.hpp"
#include "actors/process/log.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/text_file.hpp"

namespace convoy::cli {

namespace {

constexpr uint64_t members_bytes_max = 1 << 20;

}  // namespace

MembersFile::MembersFile(const actors::ClusterConfig& config, std::filesystem::path file)
    : config_(config), file_(std::move(file)) {
  if (!std::filesystem::exists(file_)) return;
  kept_ = actors::read_members(model::read_text_file(file_, members_bytes_max, "it is the head's own"),
                               file_.string());
  const auto& pipelines = config_.cluster.pipelines;
  for (auto& [name, members] :
       kept_)  // who was added once, and stands in cluster.conf by now, is where it says
    std::erase_if(members.list, [&](const actors::Member& m) {
      const auto* const node = config_.find_node(m.node);
      return node && !m.configured && config_.pipeline_of(*node) != name;
    });
  // Of a version that knew one pipeline; or the only one, and was renamed with its model.
  const auto& first = pipelines.front().name;
  const bool renamed = pipelines.size() == 1 && kept_.size() == 1;
  if (kept_.contains(first) || !(renamed || kept_.contains(""))) return;
  auto entry = kept_.extract(renamed ? kept_.begin() : kept_.find(""));
  entry.key() = first;
  kept_.insert(std::move(entry));
}

actors::Members MembersFile::begin(const actors::PipelineConfig& pipeline, actors::Members configured) {
  const std::lock_guard lock(mutex_);
  actors::Members& members = members_[pipeline.name] = std::move(configured);
  if (const auto kept = kept_.find(pipeline.name); kept != kept_.end()) {
    members = actors::members_at_start(std::move(members), kept->second);
    log::info("head.members",
              {{"pipeline", pipeline.name}, {"revision", members.revision}, {"stages", members.stages()}});
  }
  return members;
}

void MembersFile::keep(const std::string& pipeline, const actors::Members& members) {
  const std::lock_guard lock(mutex_);
  for (const auto& [other, theirs] : members_)
    for (const actors::Member& m : theirs.list)
      if (other != pipeline && members.find(m.node))
        throw InputError("node " + m.node + " belongs to pipeline " + other, "node " + m.node,
                         "give the new one another name");
  auto next = members_;
  next[pipeline] = members;
  actors::replace_private(file_, actors::text_of(next));
  members_ = std::move(next);
}

std::string MembersFile::pipeline_of(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, members] : members_)
    if (members.find(node)) return name;
  return {};
}

std::vector<actors::NodeConfig> MembersFile::nodes() const {
  std::vector<actors::NodeConfig> nodes = config_.cluster.nodes;
  const std::string& first = config_.cluster.pipelines.front().name;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, members] : members_)
    for (const actors::Member& m : members.list)
      if (!m.configured)
        nodes.push_back(
            actors::with_roles({m.node, m.listen, {}, m.stages, name == first ? "" : name, m.http}));
  return nodes;
}

}  // namespace convoy::cli
