#pragma once
// Names that stand in files, logs and addresses as they are: of clusters, nodes, tenants and keys. Pure.

#include <string_view>

namespace convoy::actors {

inline constexpr const char* plain_name_rule =
    "use at most 63 letters, digits, '-', '_' and '.', a letter or digit first";

bool is_plain_name(std::string_view name);

inline constexpr const char* node_name_rule =
    "use at most 63 letters, digits, '-', '_' and '.', a letter or digit first, and none of the names ca, "
    "revoked and redis, whose files stand beside the nodes'";

bool is_node_name(std::string_view name);

}  // namespace convoy::actors
