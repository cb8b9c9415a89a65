#pragma once
// A head's machine for tests of enrolment: an authority in a folder, a configuration, a clock, and tokens.

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "actors/link/enrolment.hpp"
#include "actors/link/link_tls.hpp"
#include "test/model/files.hpp"

namespace rig {

inline const std::string configuration = R"([cluster]
name = "test"
dev = false
model = "/srv/model.gguf"  ; "nodes" = [ ] } in a comment
nodes = [
  { name = "here", listen = "127.0.0.1:7411", roles = ["gateway", "router", "cache", "pipeline"], stages = 1 },
  { name = "listed", listen = "127.0.0.1:7412", roles = [], stages = 2 }  ; the last one
]
)";

struct HeadsMachine {
  explicit HeadsMachine(bool takes_others = true) {
    authority.issue("test", "here", 30);
    options.cluster = "test";
    options.tls_dir = folder.path() / "tls";
    options.configuration = configuration;
    options.nodes = [this] {
      auto nodes = convoy::actors::read_cluster_config(configuration).config.cluster.nodes;
      nodes.insert(nodes.end(), added.begin(), added.end());
      return nodes;
    };
    options.now_s = [this] { return now_s.load(); };
    if (takes_others)
      options.add_member = [this](const convoy::actors::NodeConfig& node) { added.push_back(node); };
  }

  convoy::actors::JoinToken token(uint32_t uses = 1, int64_t ttl_s = 60) {
    using namespace convoy::actors;
    const JoinToken token = draw_token(fingerprint_of(authority.certificate()));
    authority.remember({verifier_of(token), uses, now_s + ttl_s}, now_s);
    return token;
  }

  const convoy::test::TemporaryFolder folder;
  convoy::actors::Authority authority = convoy::actors::Authority::make(folder.path() / "tls");
  std::atomic<int64_t> now_s = 1'700'000'000;
  std::vector<convoy::actors::NodeConfig> added;
  convoy::actors::EnrolmentOptions options;
};

}  // namespace rig
