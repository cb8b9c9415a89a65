#include "actors/cluster_config.hpp"

#include <algorithm>
#include <cassert>
#include <fstream>
#include <map>
#include <numeric>

#include "actors/config_check.hpp"
#include "actors/config_table.hpp"
#include "model/error.hpp"
#include "model/random_model.hpp"

namespace convoy::actors {

namespace {

using Kind = ConfigEntry::Kind;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::integer:
      return "a whole number";
    case Kind::real:
      return "a number with a fraction";
    case Kind::boolean:
      return "true or false";
    case Kind::text:
      return "a text";
    case Kind::timespan:
      return "a time with a unit";
    case Kind::atom:
      return "an atom in single quotes";
    case Kind::uri:
      return "a URI in angle brackets";
    case Kind::list:
      return "a list";
    case Kind::map:
      return "a map";
  }
  assert(false);
  return "";
}

/// Changes of one character that turn a into b: to find what a misspelt key was meant to be.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

/// "; did you mean `port`?", or all names if none is near.
std::string suggestion(std::string_view name, const std::vector<std::string_view>& known) {
  assert(!known.empty());
  const auto near = [&](std::string_view a, std::string_view b) {
    return edit_distance(name, a) < edit_distance(name, b);
  };
  const std::string_view best = *std::min_element(known.begin(), known.end(), near);
  if (edit_distance(name, best) <= std::max<size_t>(2, best.size() / 3))
    return "; did you mean `" + std::string(best) + "`?";
  std::string all;
  for (const std::string_view k : known) all += (all.empty() ? "" : ", ") + std::string(k);
  return "; there are " + all;
}

/// Collects problems, and where each key stood for the checks that come after.
class Reader {
 public:
  explicit Reader(ConfigResult& result) : result_(result) {}

  void read(const ConfigEntry& root, bool complete);
  void problem(const ConfigEntry& at, std::string text) {
    result_.problems.push_back({at.line, at.column, std::move(text)});
  }
  /// A problem at that key, or at the file as a whole if the key is not there.
  void problem_at(const std::string& key, std::string text) {
    const auto found = places_.find(key);
    const ConfigProblem place = found == places_.end() ? ConfigProblem{} : found->second;
    result_.problems.push_back({place.line, place.column, std::move(text)});
  }

 private:
  template <class Owner>
  void fill(Owner& owner, std::span<const ConfigKey<Owner>> keys, const ConfigEntry& map,
            std::string_view section, const std::string& path);
  template <class Owner>
  void set(Owner& owner, const ConfigKey<Owner>& key, const ConfigEntry& entry, const std::string& path);
  void read_nodes(const ConfigEntry& entry);
  template <class Owner>
  void require(std::span<const ConfigKey<Owner>> keys, const std::string& path, const ConfigEntry* at);

  ConfigResult& result_;
  std::map<std::string, ConfigProblem> places_;  // by path: "gateway.port", "cluster.nodes[0].listen"
};

void Reader::read(const ConfigEntry& root, bool complete) {
  std::map<std::string_view, int> seen;
  for (const ConfigEntry& section : root.children) {
    if (section.key == "global") {
      for (const ConfigEntry& entry : section.children)
        problem(entry, "key `" + entry.key + "` stands outside a section; put it under a [section]");
      continue;
    }
    std::vector<std::string_view> names;
    for (const ConfigSection& s : config_sections()) names.push_back(s.name);
    if (std::find(names.begin(), names.end(), section.key) == names.end()) {
      problem(section, "unknown section [" + section.key + "]" + suggestion(section.key, names));
      continue;
    }
    if (const auto [first, fresh] = seen.emplace(section.key, section.line); !fresh) {
      problem(section, "section [" + section.key + "] stands here again, first on line " +
                           std::to_string(first->second) + "; join them");
    }
    fill(result_.config, cluster_keys(), section, section.key, section.key);
  }
  if (complete) require(cluster_keys(), "", nullptr);
}

template <class Owner>
void Reader::fill(Owner& owner, std::span<const ConfigKey<Owner>> keys, const ConfigEntry& map,
                  std::string_view section, const std::string& path) {
  std::vector<std::string_view> names;
  for (const auto& key : keys) {
    if (key.section == section) names.push_back(key.name);
  }
  for (const ConfigEntry& entry : map.children) {
    const std::string at = path + "." + entry.key;
    if (const auto [first, fresh] = places_.emplace(at, ConfigProblem{entry.line, entry.column, {}});
        !fresh) {
      problem(entry, "key `" + at + "` stands here again, first on line " +
                         std::to_string(first->second.line) + "; keep one");
      continue;
    }
    const auto key = std::find_if(keys.begin(), keys.end(),
                                  [&](const auto& k) { return k.section == section && k.name == entry.key; });
    if (key == keys.end())
      problem(entry, "unknown key `" + at + "`" + suggestion(entry.key, names));
    else
      set(owner, *key, entry, at);
  }
}

template <class Owner>
void Reader::set(Owner& owner, const ConfigKey<Owner>& key, const ConfigEntry& entry,
                 const std::string& path) {
  const auto refuse = [&](const std::string& got) {
    const std::string unit = key.unit.empty() ? "" : " (" + std::string(key.unit) + ")";
    problem(entry, "`" + path + "` is " + got + "; allowed: " + allowed_values(key) + unit);
  };
  if (!entry.complete) return;  // the syntax error says more
  if (!key.get)
    return entry.kind == Kind::list ? read_nodes(entry) : refuse(std::string(kind_name(entry.kind)));

  const Setting type = key.get(Owner{});
  const auto is_choice = [&](const std::string& text) {
    return key.choices.empty() ||
           std::find(key.choices.begin(), key.choices.end(), text) != key.choices.end();
  };
  if (std::holds_alternative<int64_t>(type)) {
    if (entry.kind != Kind::integer) return refuse(std::string(kind_name(entry.kind)));
    if (entry.integer < key.least || entry.integer > key.most) return refuse(std::to_string(entry.integer));
    key.set(owner, entry.integer);
  } else if (std::holds_alternative<bool>(type)) {
    if (entry.kind != Kind::boolean) return refuse(std::string(kind_name(entry.kind)));
    key.set(owner, entry.boolean);
  } else if (std::holds_alternative<std::string>(type)) {
    if (entry.kind != Kind::text) return refuse(std::string(kind_name(entry.kind)));
    if (!is_choice(entry.text)) return refuse('"' + entry.text + '"');
    if (key.required && entry.text.empty()) return refuse("empty");
    key.set(owner, entry.text);
  } else {
    if (entry.kind != Kind::list) return refuse(std::string(kind_name(entry.kind)));
    std::vector<std::string> texts;
    for (const ConfigEntry& element : entry.children) {
      if (element.kind != Kind::text) return refuse("a list with " + std::string(kind_name(element.kind)));
      if (!is_choice(element.text)) return refuse("a list with \"" + element.text + '"');
      if (std::find(texts.begin(), texts.end(), element.text) != texts.end())
        return refuse("a list with \"" + element.text + "\" twice");
      texts.push_back(element.text);
    }
    key.set(owner, texts);
  }
}

void Reader::read_nodes(const ConfigEntry& entry) {
  for (const ConfigEntry& element : entry.children) {
    const std::string path = "cluster.nodes[" + std::to_string(result_.config.cluster.nodes.size()) + "]";
    NodeConfig node;
    if (element.kind != Kind::map) {
      problem(element,
              "`" + path + "` is " + std::string(kind_name(element.kind)) + "; allowed: a map {name = …}");
    } else {
      fill(node, node_keys(), element, "", path);
      require(node_keys(), path + ".", &element);
    }
    result_.config.cluster.nodes.push_back(std::move(node));
  }
}

template <class Owner>
void Reader::require(std::span<const ConfigKey<Owner>> keys, const std::string& path, const ConfigEntry* at) {
  for (const auto& key : keys) {
    const std::string name = path.empty() ? std::string(key.section) + "." : path;
    const std::string full = name + std::string(key.name);
    if (!key.required || places_.contains(full)) continue;
    const ConfigProblem place = at ? ConfigProblem{at->line, at->column, {}} : ConfigProblem{};
    result_.problems.push_back(
        {place.line, place.column, "`" + full + "` is missing; give " + allowed_values(key)});
  }
}

}  // namespace

std::string NodeConfig::listen_host() const { return split_address(listen).first; }

uint16_t NodeConfig::listen_port() const {
  const int port = split_address(listen).second;
  assert(port >= 0);  // checked by check_nodes
  return static_cast<uint16_t>(port);
}

bool NodeConfig::has_role(std::string_view role) const {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

const NodeConfig& ClusterConfig::head() const {
  const auto found = std::find_if(cluster.nodes.begin(), cluster.nodes.end(),
                                  [](const NodeConfig& n) { return n.has_role("pipeline"); });
  assert(found != cluster.nodes.end());  // checked by check_nodes
  return *found;
}

const NodeConfig* ClusterConfig::find_node(std::string_view name) const {
  for (const NodeConfig& node : cluster.nodes) {
    if (node.name == name) return &node;
  }
  return nullptr;
}

uint32_t ClusterConfig::stage_count() const {
  uint32_t count = 0;
  for (const NodeConfig& node : cluster.nodes) count += node.stages;
  return count;
}

ConfigResult read_cluster_config(std::string_view text) {
  const ParsedConfig parsed = parse_config(text);
  ConfigResult result;
  Reader reader(result);
  reader.read(parsed.root, !parsed.syntax_error);
  if (parsed.syntax_error) {
    // Of the line where the parser stopped only half a value was seen: what the table says about it misleads.
    std::erase_if(result.problems, [&](const auto& p) { return p.line == parsed.syntax_error->line; });
    result.problems.push_back(*parsed.syntax_error);
  }
  if (result.problems.empty()) {
    for (ConfigConflict& conflict : check_together(result.config))
      reader.problem_at(conflict.key, std::move(conflict.text));
  }
  std::stable_sort(result.problems.begin(), result.problems.end(), [](const auto& a, const auto& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  return result;
}

ClusterConfig load_cluster_config(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text(config_bytes_max + 1, '\0');  // one more: parse_config refuses what is longer
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  const bool read = in.gcount() > 0 || in.eof();  // an empty file is read, and then lacks its keys
  if (!read || in.bad() || std::filesystem::is_directory(file))
    throw InputError("cannot be read", file.string(),
                     "give the path of a configuration (convoy's own is cluster.conf)");
  ConfigResult result = read_cluster_config(text);
  if (!result.problems.empty()) {
    const auto place = [&](const ConfigProblem& p) {
      return p.line == 0 ? file.string()
                         : file.string() + ":" + std::to_string(p.line) + ":" + std::to_string(p.column);
    };
    std::string all = result.problems[0].text;
    for (size_t i = 1; i < result.problems.size(); ++i)
      all += "\n" + place(result.problems[i]) + ": " + result.problems[i].text;
    throw InputError(all, place(result.problems[0]), "");
  }
  ClusterConfig& config = result.config;
  config.file = std::filesystem::absolute(file).lexically_normal();
  const auto resolve = [&](const std::string& path) {
    return (config.file.parent_path() / path).lexically_normal().string();  // an absolute path stays as it is
  };
  config.cluster.model = model::resolve_model(config.cluster.model, config.file.parent_path());
  config.cluster.run_dir = resolve(config.cluster.run_dir);
  if (config.cluster.model_id.empty()) config.cluster.model_id = default_model_id(config.cluster.model);
  return std::move(result.config);
}

std::string default_model_id(const std::filesystem::path& model) {
  const auto named = model.has_filename() ? model : model.parent_path();
  return named.extension() == ".gguf" ? named.stem().string() : named.filename().string();
}

}  // namespace convoy::actors
