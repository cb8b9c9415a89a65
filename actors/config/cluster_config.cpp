#include "actors/config/cluster_config.hpp"

#include <algorithm>
#include <cassert>
#include <map>
#include <set>

#include "actors/config/config_table.hpp"
#include "actors/config_check.hpp"
#include "model/chat/chat_template.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/error.hpp"
#include "model/nearest.hpp"
#include "model/text_file.hpp"

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

/// Collects problems, and where each key stood for the checks that come after.
class Reader {
 public:
  explicit Reader(ConfigResult& result) : result_(result) {}

  void read(const ParsedConfig& parsed);
  /// A contradiction, at its key, or at the file as a whole if nothing of it is there. One between values of
  /// which some are wrong already is none.
  void add(const ConfigConflict& conflict) {
    if (is_wrong(conflict.key) || std::any_of(conflict.others.begin(), conflict.others.end(),
                                              [&](const auto& key) { return is_wrong(key); }))
      return;
    const ConfigProblem place = place_of_key(conflict.key);
    result_.problems.push_back({place.line, place.column, conflict.text});
  }

 private:
  void problem(const ConfigEntry& at, std::string text) {
    result_.problems.push_back({at.line, at.column, std::move(text)});
  }
  /// Of a key that was left out: of what it would stand in.
  ConfigProblem place_of_key(std::string key) const {
    for (size_t end = key.size(); end != key.npos; end = key.find_last_of(".[")) {
      key.resize(end);
      if (const auto found = places_.find(key); found != places_.end()) return found->second;
    }
    return {};
  }
  /// Whether the value of that key, or of what it stands in, is not known.
  bool is_wrong(std::string key) const {
    for (size_t end = key.size(); end != key.npos; end = key.find_last_of(".["))
      if (key.resize(end), wrong_.contains(key)) return true;
    return false;
  }
  void add(const ConfigSyntaxError& error);
  template <class Owner>
  void fill(Owner& owner, std::span<const ConfigKey<Owner>> keys, const ConfigEntry& map,
            std::string_view section, const std::string& path);
  template <class Owner>
  void set(Owner& owner, const ConfigKey<Owner>& key, const ConfigEntry& entry, const std::string& path);
  template <class Entry>
  void read_list(std::vector<Entry>& list, std::span<const ConfigKey<Entry>> keys, const ConfigEntry& entry,
                 const std::string& path);
  template <class Owner>
  void require(std::span<const ConfigKey<Owner>> keys, const std::string& path, const ConfigEntry* at);

  ConfigResult& result_;
  std::map<std::string, ConfigProblem> places_;  // by path: "gateway.port", "cluster.nodes[0].listen"
  std::set<std::string> wrong_;                  // paths of values that are missing or cannot be used
};

/// What is allowed at a key that was given letters without quotes, as in `json = yes`, is what helps most.
void Reader::add(const ConfigSyntaxError& error) {
  ConfigProblem problem = error;
  if (!error.key.empty()) wrong_.insert(error.key);
  const auto keys = cluster_keys();
  const auto known = std::find_if(keys.begin(), keys.end(), [&](const auto& k) {
    return error.key == std::string(k.section) + "." + std::string(k.name);
  });
  if (!error.bare_word.empty() && known != keys.end())
    problem.text =
        "`" + error.key + "` is " + error.bare_word + " without quotes; allowed: " + allowed_values(*known);
  result_.problems.push_back(std::move(problem));
}

void Reader::read(const ParsedConfig& parsed) {
  for (const ConfigSyntaxError& error : parsed.syntax_errors) add(error);
  if (parsed.given_up) return;
  std::map<std::string_view, int> seen;
  for (const ConfigEntry& section : parsed.root.children) {
    if (section.key == "global") {
      for (const ConfigEntry& entry : section.children)
        problem(entry, "key `" + entry.key + "` stands outside a section; put it under a [section]");
      continue;
    }
    std::vector<std::string_view> names;
    for (const ConfigSection& s : config_sections()) names.push_back(s.name);
    if (std::find(names.begin(), names.end(), section.key) == names.end()) {
      problem(section, "unknown section [" + section.key + "]" + model::suggestion(section.key, names));
      continue;
    }
    if (const auto [first, fresh] = seen.emplace(section.key, section.line); !fresh) {
      problem(section, "section [" + section.key + "] stands here again, first on line " +
                           std::to_string(first->second) + "; join them");
    }
    fill(result_.config, cluster_keys(), section, section.key, section.key);
  }
  require(cluster_keys(), "", nullptr);
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
      problem(entry, "unknown key `" + at + "`" + model::suggestion(entry.key, names));
    else
      set(owner, *key, entry, at);
  }
}

template <class Owner>
void Reader::set(Owner& owner, const ConfigKey<Owner>& key, const ConfigEntry& entry,
                 const std::string& path) {
  const auto refuse = [&](const std::string& got) {
    const std::string unit = key.unit.empty() ? "" : " (" + std::string(key.unit) + ")";
    wrong_.insert(path);
    problem(entry, "`" + path + "` is " + got + "; allowed: " + allowed_values(key) + unit);
  };
  if (!key.get) {
    if (entry.kind != Kind::list) return refuse(std::string(kind_name(entry.kind)));
    auto& cluster = result_.config.cluster;
    if (key.name == "models") return read_list(cluster.models, model_keys(), entry, path);
    if (key.name == "pipelines") return read_list(cluster.pipelines, pipeline_keys(), entry, path);
    return read_list(cluster.nodes, node_keys(), entry, path);
  }

  const Setting type = key.get(Owner{});
  const auto is_choice = [&](const std::string& text) {
    if (key.accepts) return key.accepts(text);
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

template <class Entry>
void Reader::read_list(std::vector<Entry>& list, std::span<const ConfigKey<Entry>> keys,
                       const ConfigEntry& entry, const std::string& list_path) {
  for (const ConfigEntry& element : entry.children) {
    const std::string path = list_path + "[" + std::to_string(list.size()) + "]";
    Entry read;
    if (element.kind != Kind::map) {
      wrong_.insert(path);
      problem(element,
              "`" + path + "` is " + std::string(kind_name(element.kind)) + "; allowed: a map {name = …}");
    } else {
      fill(read, keys, element, "", path);
      require(keys, path + ".", &element);
    }
    list.push_back(std::move(read));
  }
}

template <class Owner>
void Reader::require(std::span<const ConfigKey<Owner>> keys, const std::string& path, const ConfigEntry* at) {
  for (const auto& key : keys) {
    const std::string name = path.empty() ? std::string(key.section) + "." : path;
    const std::string full = name + std::string(key.name);
    if (!key.required || places_.contains(full) || wrong_.contains(full)) continue;
    if (const std::string other = name + std::string(key.instead);
        !key.instead.empty() && (places_.contains(other) || wrong_.contains(other)))
      continue;
    wrong_.insert(full);
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

ClusterConfig::Gateway ClusterConfig::gateway_of(const NodeConfig& node) const {
  Gateway there = gateway;
  if (node.http.empty()) return there;
  const auto [host, port] = split_address(node.http);
  assert(port >= 0);  // checked by check_nodes
  there.host = host;
  there.port = static_cast<uint16_t>(port);
  return there;
}

bool ClusterConfig::has_own_gateway(const NodeConfig& node) const {
  return node.has_role("gateway") && node.name != head().name;
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

ConfigResult read_cluster_config(std::string_view text, const MoreChecks& more) {
  const ParsedConfig parsed = parse_config(text);
  ConfigResult result;
  Reader reader(result);
  reader.read(parsed);
  if (!parsed.given_up) {
    for (const ConfigConflict& conflict : check_forms(result.config)) reader.add(conflict);
    complete_models(result.config.cluster);
    for (const ConfigConflict& conflict : check_together(result.config)) reader.add(conflict);
    if (more)
      for (const ConfigConflict& conflict : more(result.config)) reader.add(conflict);
  }
  std::stable_sort(result.problems.begin(), result.problems.end(), [](const auto& a, const auto& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  return result;
}

ClusterConfig load_cluster_config(const std::filesystem::path& file, bool with_files) {
  // One byte more than allowed: parse_config says that it is too long.
  const std::string text = model::read_text_file(
      file, config_bytes_max + 1, "give the path of a configuration (convoy's own is cluster.conf)");
  const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
  MoreChecks more;
  if (with_files) more = [&](const ClusterConfig& config) { return check_files(config, folder); };
  ConfigResult result = read_cluster_config(text, more);
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
  for (ModelConfig& model : config.cluster.models) {
    model.path = model::resolve_model(model.path, config.file.parent_path());
    if (model::ChatTemplate::is_path(model.chat_template)) model.chat_template = resolve(model.chat_template);
  }
  config.cluster.run_dir = resolve(config.cluster.run_dir);
  config.cluster.tls_dir = resolve(config.cluster.tls_dir);
  for (std::string* file :
       {&config.gateway.keys_file, &config.gateway.tls_certificate, &config.gateway.tls_key})
    if (!file->empty()) *file = resolve(*file);
  config.store.dir = resolve(config.store.dir);
  std::string& disk = config.stage.kv_disk_dir;
  disk = disk.empty() ? config.cluster.run_dir : resolve(disk);
  if (!config.cluster.model.empty()) {
    const ModelConfig& only = config.cluster.models.front();
    config.cluster.model = only.path;
    config.cluster.model_id = only.id;
    config.cluster.chat_template = only.chat_template;
  }
  return std::move(result.config);
}

}  // namespace convoy::actors
