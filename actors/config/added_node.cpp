#include "actors/config/added_node.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "actors/config_check.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

/// Behind the last element of the list that opens at or behind `from`: past texts and comments, whatever
/// brackets these hold. npos: there is none.
size_t end_of_last_element(std::string_view text, size_t from) {
  size_t last = text.npos;
  int depth = 0;
  for (size_t at = from; at < text.size(); ++at) {
    const char c = text[at];
    if (c == ';') {
      at = std::min(text.find('\n', at), text.size());
    } else if (c == '"') {
      while (++at < text.size() && text[at] != '"')
        if (text[at] == '\\') ++at;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      if (--depth == 0) return last;
      if (depth == 1) last = at + 1;
    }
  }
  return text.npos;
}

/// Where a line and column, from 1, are in the text.
size_t offset_of(std::string_view text, int line, int column) {
  size_t at = 0;
  while (--line > 0) at = text.find('\n', at) + 1;
  return at + static_cast<size_t>(column) - 1;
}

size_t place_of_nodes(std::string_view text) {
  for (const ConfigEntry& section : parse_config(text).root.children)
    for (const ConfigEntry& entry : section.children)
      if (section.key == "cluster" && entry.key == "nodes" && entry.kind == ConfigEntry::Kind::list)
        return end_of_last_element(text, text.find('[', offset_of(text, entry.line, entry.column)));
  return text.npos;
}

}  // namespace

std::string quoted(const std::string& text) { return boost::json::serialize(boost::json::string(text)); }

NodeConfig with_roles(NodeConfig node) {
  if (!node.http.empty()) node.roles = {"gateway"};
  return node;
}

std::string with_node(std::string_view text, const NodeConfig& node) {
  const size_t place = place_of_nodes(text);
  if (place == text.npos)
    throw InputError("has no list of nodes that another could be added to", "cluster.nodes",
                     "add the node there by hand");
  std::string changed(text.substr(0, place));
  changed += ",\n  { name = " + quoted(node.name) + ", listen = " + quoted(node.listen) + ", roles = [" +
             (node.has_role("gateway") ? quoted("gateway") : "") +
             "], stages = " + std::to_string(node.stages) +
             (node.http.empty() ? "" : ", http = " + quoted(node.http)) +
             (node.pipeline.empty() ? "" : ", pipeline = " + quoted(node.pipeline)) + " }";
  changed += text.substr(place);
  const auto read = read_cluster_config(changed, check_together);
  if (!read.problems.empty()) throw InputError(read.problems.front().text, "cluster.nodes", "");
  return changed;
}

}  // namespace convoy::actors
