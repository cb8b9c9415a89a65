// docs/configuration.md, from the table of keys.

#include "actors/config/config_table.hpp"

namespace convoy::actors {

namespace {

std::string default_text(const Setting& value) {
  struct Show {
    std::string operator()(int64_t x) const { return std::to_string(x); }
    std::string operator()(bool x) const { return x ? "true" : "false"; }
    std::string operator()(const std::string& x) const { return '"' + x + '"'; }
    std::string operator()(const std::vector<std::string>&) const { return "[]"; }
  };
  return '`' + std::visit(Show{}, value) + '`';
}

template <class Owner>
void print_keys(std::string& page, std::span<const ConfigKey<Owner>> keys, std::string_view section) {
  page += "| key | default | allowed | unit | meaning |\n|---|---|---|---|---|\n";
  for (const auto& key : keys) {
    if (key.section != section) continue;
    const std::string fallback = key.required && !key.instead.empty()
                                     ? "must be given, or `" + std::string(key.instead) + "`"
                                 : key.required ? "must be given"
                                 : key.get      ? default_text(key.get(Owner{}))
                                                : "`[]`";
    page += "| `" + std::string(key.name) + "` | " + fallback + " | " + allowed_values(key) + " | " +
            std::string(key.unit) + " | " + std::string(key.help) + " |\n";
  }
}

}  // namespace

std::string configuration_page() {
  std::string page =
      "# cluster.conf\n\n"
      "<!-- Printed by `convoy check-config --print-docs` from the table in actors/config/config_table.cpp; "
      "a test "
      "compares. -->\n\n"
      "The syntax is CAF 0.17's: sections `[name]`, `key = value` lines, comments after `;`. Texts stand in "
      "double\n"
      "quotes, numbers are plain whole numbers whose unit is in the key's name, lists are `[a, b]` and maps\n"
      "`{key = value, …}`. `convoy check-config FILE` reports every syntax error, unknown key, "
      "duplicate,\n"
      "wrong type, value out of range and contradiction at once, each with its line, and a model that is not "
      "there.\n";
  for (const ConfigSection& section : config_sections()) {
    page += "\n## [" + std::string(section.name) + "]\n" + std::string(section.help) + "\n\n";
    print_keys(page, cluster_keys(), section.name);
    if (section.name == "cluster") {
      page += "\nEach entry of `nodes`:\n\n";
      print_keys(page, node_keys(), "");
      page += "\nEach entry of `models`:\n\n";
      print_keys(page, model_keys(), "");
      page += "\nEach entry of `pipelines`:\n\n";
      print_keys(page, pipeline_keys(), "");
    }
  }
  return page;
}

}  // namespace convoy::actors
