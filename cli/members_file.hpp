#pragma once
// MembersFile: who belongs to which pipeline, as the head keeps it in the run directory for the next one. The
// pipelines write through it, each on its own thread; a node is a member of one of them.

#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/members.hpp"

namespace convoy::cli {

class MembersFile {
 public:
  /// config must outlive it. Throws InputError if there is a file, and it is none of ours.
  MembersFile(const actors::ClusterConfig& config, std::filesystem::path file);

  /// What a pipeline begins with: its members as cluster.conf says, and what an earlier head learnt beside.
  actors::Members begin(const actors::PipelineConfig& pipeline, actors::Members configured);
  /// Throws InputError if they cannot be kept: the disk is full, or a node is another pipeline's.
  void keep(const std::string& pipeline, const actors::Members& members);

  /// Name of the pipeline that has it, be it removed there; empty: none.
  std::string pipeline_of(const std::string& node) const;
  /// Those of cluster.conf, and those that were added.
  std::vector<actors::NodeConfig> nodes() const;
  const std::filesystem::path& path() const { return file_; }

 private:
  const actors::ClusterConfig& config_;
  const std::filesystem::path file_;
  mutable std::mutex mutex_;           // of the next
  actors::MembersByPipeline kept_;     // as the file says
  actors::MembersByPipeline members_;  // of those that have begun
};

}  // namespace convoy::cli
