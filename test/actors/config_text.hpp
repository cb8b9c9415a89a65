#pragma once
// A cluster.conf to change.

#include <string>

namespace convoy::test {

inline const std::string head_node =
    R"({name = "a", listen = "127.0.0.1:7411", roles = ["gateway", "router", "cache", "pipeline"], stages = 2})";

/// A configuration that is right, with more lines behind it. The first of them is line 5.
inline std::string with(const std::string& more) {
  return "[cluster]\nname = \"c\"\nmodel = \"m.gguf\"\nnodes = [" + head_node + "]\n" + more;
}

}  // namespace convoy::test
