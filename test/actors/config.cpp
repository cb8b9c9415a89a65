// cluster.conf: the parser around CAF's, the table, and the checks across keys.

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>

#include "actors/config/cluster_config.hpp"
#include "actors/config/config_table.hpp"
#include "actors/config/plan_limits.hpp"
#include "model/error.hpp"
#include "test/model/files.hpp"

using namespace convoy;
using namespace convoy::actors;

namespace {

const std::string head_node =
    R"({name = "a", listen = "127.0.0.1:7411", roles = ["gateway", "router", "cache", "pipeline"], stages = 2})";

/// A configuration that is right, with more lines behind it. The first of them is line 5.
std::string with(const std::string& more) {
  return "[cluster]\nname = \"c\"\nmodel = \"m.gguf\"\nnodes = [" + head_node + "]\n" + more;
}

std::vector<ConfigProblem> problems(const std::string& text) { return read_cluster_config(text).problems; }

/// The only problem, which must stand on that line and speak of each of the words.
void expect_one(const std::string& text, int line, const std::vector<std::string>& words) {
  const auto found = problems(text);
  BOOST_TEST_CONTEXT(text) {
    BOOST_TEST_REQUIRE(found.size() == 1u);
    BOOST_TEST(found[0].line == line);
    for (const std::string& word : words)
      BOOST_TEST(found[0].text.find(word) != std::string::npos, "no '" << word << "' in: " << found[0].text);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_minimal_configuration_has_the_documented_defaults) {
  const ConfigResult result = read_cluster_config(with(""));
  BOOST_TEST(result.problems.empty());
  BOOST_TEST(result.config.cluster.name == "c");
  BOOST_TEST(result.config.gateway.port == 8080);
  BOOST_TEST(result.config.cache.redis_timeout_ms == 10u);
  BOOST_TEST(result.config.pipeline.failure_detection_ms == 800u);
  BOOST_TEST(result.config.stage_count() == 2u);
  BOOST_TEST(result.config.head().name == "a");
  BOOST_TEST(result.config.head().listen_host() == "127.0.0.1");
  BOOST_TEST(result.config.head().listen_port() == 7411);
}

BOOST_AUTO_TEST_CASE(every_kind_of_value_reaches_its_field) {
  const ConfigResult result = read_cluster_config(
      with("; a comment\n[gateway]\nport = 9000 ; behind a value\ncontrol_tokens_in_prompts = true\n"
           "[stage]\nkernels = \"reference\"\n[redis]\nurl = \"redis://127.0.0.1:6379\"\n"
           "[link]\nbulk_window_bytes = 4294967296\n[cache]\nepoch = 9223372036854775807"));
  BOOST_TEST(result.problems.empty());
  BOOST_TEST(result.config.gateway.port == 9000);
  BOOST_TEST(result.config.gateway.control_tokens_in_prompts);
  BOOST_TEST(result.config.stage.kernels == "reference");
  BOOST_TEST(result.config.redis.url == "redis://127.0.0.1:6379");
  BOOST_TEST(result.config.link.bulk_window_bytes == 1ull << 32);
  BOOST_TEST(result.config.cache.epoch == 9223372036854775807ull);
}

BOOST_AUTO_TEST_CASE(every_address_that_the_redis_client_takes_passes_the_check) {
  for (const std::string url : {"redis://127.0.0.1", "redis://127.0.0.1/", "redis://127.0.0.1:7000/",
                                "redis://[::1]", "redis://[::1]:7000", "unix:///run/redis.sock"})
    BOOST_TEST(problems(with("[redis]\nurl = \"" + url + "\"\n")).empty(), url);
}

BOOST_AUTO_TEST_CASE(all_problems_are_reported_at_once_each_with_its_line) {
  const auto found = problems(
      with("[gateway]\nprot = 80\nport = 70000\nport = 1\nthreads = \"two\"\n[stage]\nkernels = \"quick\"\n"
           "[gatway]\nport = 1\n[cache]\nttl_s = 2h\nenabled = 1\n"));
  std::vector<int> lines;
  for (const ConfigProblem& p : found) lines.push_back(p.line);
  const std::vector<int> expected = {6, 7, 8, 9, 11, 12, 15, 16};
  BOOST_TEST(lines == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_unknown_key_names_the_nearest_known_one_or_all_of_them) {
  expect_one(with("[gateway]\nprot = 80\n"), 6, {"gateway.prot", "did you mean `port`?"});
  expect_one(with("[stage]\nzzzzzz = 1\n"), 6, {"stage.zzzzzz", "backend, kernels, threads"});
  expect_one(with("[redsi]\n"), 5, {"[redsi]", "did you mean `redis`?"});
  expect_one("name = \"x\"\n" + with(""), 1, {"name", "[section]"});
}

BOOST_AUTO_TEST_CASE(the_column_of_a_problem_is_that_of_its_key) {
  const auto found = problems(with("[gateway]\n  prot = 80\n"));
  BOOST_TEST_REQUIRE(found.size() == 1u);
  BOOST_TEST(found[0].column == 3);
}

BOOST_AUTO_TEST_CASE(a_key_or_a_section_that_stands_twice_is_a_problem_that_names_the_first_line) {
  expect_one(with("[gateway]\nport = 80\n\nport = 81\n"), 8, {"gateway.port", "line 6"});
  expect_one(with("[gateway]\nport = 80\n[log]\n[gateway]\n"), 8, {"[gateway]", "line 5"});
  const std::string twice = "[cluster]\nname = \"c\"\nmodel = \"m\"\nnodes = [" +
                            head_node.substr(0, head_node.size() - 1) + ", stages = 3}]\n";
  expect_one(twice, 4, {"cluster.nodes[0].stages", "line 4"});
}

BOOST_AUTO_TEST_CASE(a_wrong_type_names_what_it_is_and_what_is_allowed) {
  expect_one(with("[gateway]\nport = \"80\"\n"), 6, {"a text", "0 to 65535"});
  expect_one(with("[gateway]\nport = 80.5\n"), 6, {"fraction", "0 to 65535"});
  expect_one(with("[gateway]\nheader_timeout_ms = 250ms\n"), 6, {"a time with a unit", "(ms)"});
  expect_one(with("[cache]\nttl_s = 2h\n"), 6, {"a time with a unit", "1 to 31536000 (s)"});
  expect_one(with("[log]\njson = 1\n"), 6, {"a whole number", "true or false"});
  expect_one(with("[log]\nlevel = 'info'\n"), 6, {"single quotes", "\"debug\""});
  expect_one(with("[log]\nlevel {\n}\n"), 6, {"a map"});
  expect_one("[cluster]\nname = \"c\"\nmodel = \"m\"\nnodes = {}\n", 4, {"cluster.nodes", "a list of maps"});
  expect_one("[cluster]\nname = \"c\"\nmodel = \"m\"\nnodes = [7]\n", 4,
             {"cluster.nodes[0]", "whole number"});
}

BOOST_AUTO_TEST_CASE(the_ends_of_a_range_are_allowed_and_the_values_beyond_them_are_not) {
  size_t checked = 0;
  for (const auto& key : cluster_keys()) {
    if (!key.get || !std::holds_alternative<int64_t>(key.get(ClusterConfig{}))) continue;
    const int64_t fallback = std::get<int64_t>(key.get(ClusterConfig{}));
    BOOST_TEST((fallback >= key.least && fallback <= key.most), key.name << "'s default is out of its range");
    const auto about_this_key = [&](int64_t value) {
      const std::string section = "[" + std::string(key.section) + "]\n";
      const auto found =
          problems(with(section + std::string(key.name) + " = " + std::to_string(value) + "\n"));
      const std::string path = "`" + std::string(key.section) + "." + std::string(key.name) + "` is " +
                               std::to_string(value) + "; allowed";
      return std::any_of(found.begin(), found.end(), [&](const auto& p) { return p.text.starts_with(path); });
    };
    BOOST_TEST(!about_this_key(key.least));
    BOOST_TEST(!about_this_key(key.most));
    BOOST_TEST(about_this_key(key.least - 1));
    if (key.most < std::numeric_limits<int64_t>::max()) BOOST_TEST(about_this_key(key.most + 1));
    ++checked;
  }
  BOOST_TEST(checked > 30u);
}

BOOST_AUTO_TEST_CASE(the_table_has_no_key_twice_and_only_known_sections) {
  std::set<std::string> seen;
  for (const auto& key : cluster_keys()) {
    BOOST_TEST(seen.insert(std::string(key.section) + "." + std::string(key.name)).second, key.name);
    const auto sections = config_sections();
    BOOST_TEST(
        std::any_of(sections.begin(), sections.end(), [&](const auto& s) { return s.name == key.section; }));
    BOOST_TEST(!key.help.empty());
  }
}

BOOST_AUTO_TEST_CASE(syntax_errors_say_what_the_parser_does_not_read) {
  expect_one(with("[gateway]\n# port\n"), 6, {"'#'", "';'"});
  expect_one(with("[gateway]\nport = 80 # here\n"), 6, {"'#'"});
  expect_one(with("[gateway]\r\nport = 80\r\n"), 5, {"Windows line end"});
  expect_one(with("[gateway]\nbody_bytes_max = 64KB\n"), 6, {"letters behind a number"});
  expect_one(with("[log]\nlevel = info\n"), 6, {"`log.level` is info without quotes", "\"debug\""});
  expect_one(with("[log]\njson = yes ; of course\n"), 6, {"`log.json` is yes", "allowed: true or false"});
  expect_one(with("[log]\nlevel = \"info\njson = true\n"), 6, {"ends in the middle"});
  expect_one(with("[cache]\nepoch = 9223372036854775808\n"), 6, {"64 bits"});
  expect_one(with(std::string("[cache]\n") + '\0' + "epoch = 1\n"), 6, {"zero byte"});
  BOOST_TEST(problems(with(std::string("[cache]\nepo") + '\0' + "ch = 1\n"))[0].column == 4);
  expect_one(with("[cache]\nepoch = " + std::string(100'000, '[') + "\n"), 6, {"deep"});
  expect_one(std::string(config_bytes_max + 1, ' '), 0, {"bytes"});
  expect_one("\xef\xbb\xbf" + with(""), 1, {"BOM"});
  expect_one(std::string("\xff\xfe[\0c\0", 6), 1, {"UTF-16"});
}

BOOST_AUTO_TEST_CASE(an_unclosed_list_or_map_is_named_by_its_key_where_it_begins) {
  const std::string before = "[cluster]\nname = \"c\"\nmodel = \"m\"\n";
  const std::string open_node = head_node.substr(0, head_node.size() - 1);
  expect_one(before + "nodes = [" + head_node + "\n[gateway]\nport = 81\n", 4,
             {"the list `cluster.nodes` is not closed before line 5", "put ]"});
  expect_one(before + "nodes = [" + head_node + ",\n[gateway]\nport = 81\n", 4,
             {"`cluster.nodes`", "line 5"});
  expect_one(before + "nodes = [" + head_node + "\ndev = true\n", 4, {"`cluster.nodes`", "line 5"});
  expect_one(before + "nodes = [\n" + open_node + "\n[gateway]\nport = 81\n", 5,
             {"the map `cluster.nodes[0]` is not closed before line 6", "put }"});
  expect_one(before + "nodes = [" + head_node + "\n\n", 4, {"`cluster.nodes`", "the end of the file"});
  expect_one(with("[cache]\nepoch = [1, 2\n"), 6, {"the list `cache.epoch`", "the end of the file"});
  // The bracket is there; something else is wrong inside.
  expect_one(before + "nodes = [{name = \"a\", stages = many}]\n[gateway]\nport = 81\n", 4,
             {"unexpected 'm'", "`cluster.nodes`"});
}

BOOST_AUTO_TEST_CASE(what_stands_behind_syntax_errors_is_checked_too) {
  const auto found =
      problems(with("[log]\njson = yes\nlevel = \"loud\"\n# a comment\n[gate way]\nport = 1\n[gateway]\nport "
                    "80\nprot = 80\n"
                    "[pipeline]\nkv_tokens = 4096\ncontext_tokens_max = 8192\n"));
  std::vector<int> lines;
  for (const ConfigProblem& p : found) lines.push_back(p.line);
  const std::vector<int> expected = {6, 7, 8, 9, 12, 13, 16};
  BOOST_TEST(lines == expected, boost::test_tools::per_element());
  std::string many = with("");
  for (int i = 0; i < 1000; ++i) many += "#\n";
  BOOST_TEST(problems(many).size() == config_syntax_errors_max);
}

BOOST_AUTO_TEST_CASE(what_is_wrong_before_a_syntax_error_is_reported_with_it) {
  const auto found = problems(with("[gateway]\nprot = 80\n# x\n"));
  BOOST_TEST_REQUIRE(found.size() == 2u);
  BOOST_TEST(found[0].line == 6);
  BOOST_TEST(found[1].line == 7);
}

BOOST_AUTO_TEST_CASE(an_empty_file_misses_what_has_no_default) {
  const auto found = problems("");
  BOOST_TEST_REQUIRE(found.size() == 3u);
  BOOST_TEST(found[0].text.find("cluster.name") != std::string::npos);
  BOOST_TEST(found[1].text.find("cluster.model") != std::string::npos);
  BOOST_TEST(found[2].text.find("cluster.nodes") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(values_that_contradict_each_other_are_reported) {
  const auto nodes = [](const std::string& list) {
    return "[cluster]\nname = \"c\"\nmodel = \"m\"\nnodes = [" + list + "]\n";
  };
  const std::string other = R"({name = "b", listen = "127.0.0.1:7412", stages = 1})";
  BOOST_TEST(problems(nodes(head_node + ", " + other)).empty());
  expect_one(nodes(other), 4, {"0 nodes have roles"});
  expect_one(nodes(head_node + R"(, {name = "a", listen = "127.0.0.1:7412"})"), 4,
             {"two nodes are named \"a\""});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "127.0.0.1:7411"})"), 4, {"two nodes listen on"});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "127.0.0.1:0"})"), 4, {"port 0"});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "10.0.0.1:7411"})"), 4, {"loopback"});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "7411"})"), 4, {"HOST:PORT"});
  expect_one(nodes(head_node + R"(, {name = "b/c", listen = "127.0.0.1:7412"})"), 4, {"\"b/c\""});
  expect_one(nodes(head_node + R"(, {name = "b"})"), 4, {"cluster.nodes[1].listen", "missing"});
  const std::string two_heads =
      head_node +
      R"(, {name = "b", listen = "127.0.0.1:7412", roles = ["gateway", "router", "cache", "pipeline"]})";
  expect_one(nodes(two_heads), 4, {"2 nodes have roles"});
  expect_one(nodes(R"({name = "a", listen = "127.0.0.1:1", roles = ["gateway"], stages = 1})"), 4,
             {"1 of the four roles"});
  expect_one(
      nodes(R"({name = "a", listen = "127.0.0.1:1", roles = ["gateway", "router", "cache", "pipeline"]})"), 4,
      {"no node has stages"});
  expect_one(with("[gateway]\nport = 7411\n"), 4, {"both listen"});
  expect_one(with("[gateway]\nhost = \"0.0.0.0\"\n"), 6, {"loopback"});
  expect_one(with("[redis]\nurl = \"http://x\"\n"), 6, {"redis://HOST:PORT"});
  expect_one(with("[redis]\nurl = \"redis://127.0.0.1/2\"\n"), 6, {"database", "redis://HOST:PORT"});
  expect_one(with("[pipeline]\ncontext_tokens_max = 8192\nkv_tokens = 4096\n"), 6, {"8192", "4096"});
  expect_one(with("[link]\nbulk_window_bytes = 65536\n"), 6, {"bulk_frame_bytes_max"});
}

BOOST_AUTO_TEST_CASE(contradictions_are_reported_beside_wrong_values_but_not_about_them) {
  const auto found = problems(with(
      "[gateway]\nhost = \"0.0.0.0\"\nprot = 80\n[pipeline]\nkv_tokens = 4096\ncontext_tokens_max = 8192\n"));
  BOOST_TEST_REQUIRE(found.size() == 3u);
  BOOST_TEST(found[0].text.find("loopback") != std::string::npos);
  BOOST_TEST(found[1].text.find("gateway.prot") != std::string::npos);
  BOOST_TEST(found[2].text.find("8192") != std::string::npos);
  // kv_tokens is not known: whether the other one fits it is not either.
  expect_one(with("[pipeline]\nkv_tokens = 1\ncontext_tokens_max = 1000000\n"), 6, {"pipeline.kv_tokens"});
  expect_one(with("[pipeline]\ncontext_tokens_max = 1000000\nkv_tokens = lots\n"), 7, {"pipeline.kv_tokens"});
}

BOOST_AUTO_TEST_CASE(an_unknown_template_or_random_model_is_reported_with_the_nearest) {
  expect_one(with("chat_template = \"smollm\"\n"), 5, {"`cluster.chat_template`", "did you mean `smollm2`?"});
  BOOST_TEST(problems(with("chat_template = \"own.jinja\"\n"))
                 .empty());  // a path: whether it is there is asked later
  expect_one("[cluster]\nname = \"c\"\nmodel = \"random:qwenn\"\nnodes = [" + head_node + "]\n", 3,
             {"`cluster.model`", "qwenn"});
}

BOOST_AUTO_TEST_CASE(localhost_is_a_loopback_address) {
  BOOST_TEST(problems(with("[gateway]\nhost = \"localhost\"\n")).empty());
}

BOOST_AUTO_TEST_CASE(a_file_is_read_with_its_paths_relative_to_its_folder) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("convoy-config-" + std::to_string(std::random_device{}()));
  std::filesystem::create_directories(folder);
  const auto file = folder / "c.conf";
  std::ofstream(file) << with("[cache]\nenabled = false\n");
  const ClusterConfig config = load_cluster_config(file);
  BOOST_TEST(config.cluster.model == (folder / "m.gguf").string());
  BOOST_TEST(config.cluster.run_dir == (folder / "run").string());
  BOOST_TEST(config.cluster.model_id == "m");
  std::ofstream(file) << with("[gateway]\nprot = 1\n[log]\nlevle = 1\n");
  const auto names_both = [&](const InputError& e) {
    const std::string text = e.what();
    return text.starts_with(file.string() + ":6:1: unknown key") &&
           text.find("\n" + file.string() + ":8:1: unknown key") != text.npos;
  };
  BOOST_CHECK_EXCEPTION(load_cluster_config(file), InputError, names_both);
  const auto says = [](const std::string& word) {
    return [word](const InputError& e) { return std::string(e.what()).find(word) != std::string::npos; };
  };
  BOOST_CHECK_EXCEPTION(load_cluster_config(folder / "missing.conf"), InputError,
                        says("No such file or directory"));
  BOOST_CHECK_EXCEPTION(load_cluster_config(folder), InputError, says("Is a directory"));
  // The model is not there; together with the rest, where it is asked for.
  std::ofstream(file) << with("[gateway]\nprot = 1\n");
  BOOST_CHECK_EXCEPTION(load_cluster_config(file, true), InputError,
                        says(":3:1: `cluster.model` is \"m.gguf\": "));
  BOOST_CHECK_EXCEPTION(load_cluster_config(file, true), InputError, says("No such file or directory"));
  BOOST_CHECK_EXCEPTION(load_cluster_config(file, true), InputError, says(":6:1: unknown key"));
  std::ofstream(folder / "m.gguf") << "<html>";
  BOOST_CHECK_EXCEPTION(load_cluster_config(file, true), InputError, says("neither a GGUF file"));
  std::filesystem::remove(folder / "m.gguf");
  std::filesystem::create_directory(folder / "m.gguf");
  BOOST_CHECK_EXCEPTION(load_cluster_config(file, true), InputError, says("config.json"));
  std::ofstream(file).close();
  BOOST_CHECK_THROW(load_cluster_config(file), InputError);  // empty: keys are missing
  std::filesystem::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(a_templates_file_is_relative_to_the_configuration_and_its_mistakes_stand_at_its_key) {
  const test::TemporaryFolder folder;
  const auto with_template = [&](const std::string& chosen) {
    return folder.write("c.conf",
                        "[cluster]\nname = \"c\"\nmodel = \"random:deepseek-llm-7b:1\"\nchat_template = \"" +
                            chosen + "\"\nnodes = [" + head_node + "]\n");
  };
  const auto mistake = [&](const std::string& chosen) -> std::string {
    try {
      load_cluster_config(with_template(chosen), true);
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  std::filesystem::create_directory(folder.path() / "sub");
  folder.write("sub/own.jinja", "{{ messages }}");
  BOOST_TEST(load_cluster_config(with_template("sub/own.jinja"), true).cluster.chat_template ==
             (folder.path() / "sub/own.jinja").string());
  BOOST_TEST(load_cluster_config(with_template("smollm2"), true).cluster.chat_template == "smollm2");
  for (const auto& [chosen, part] : {std::pair("nope.jinja", "No such file"), {"sub/", "directory"}}) {
    BOOST_TEST(mistake(chosen).find(":4:1: `cluster.chat_template` is ") != std::string::npos,
               mistake(chosen));
    BOOST_TEST(mistake(chosen).find(part) != std::string::npos, mistake(chosen));
  }
  folder.write("own.jinja", "a\n{{ b");
  BOOST_TEST(mistake("own.jinja").find("own.jinja: chat template, line 2: ") != std::string::npos,
             mistake("own.jinja"));
  folder.write("own.jinja", "a\xff");
  BOOST_TEST(mistake("own.jinja").find("UTF-8") != std::string::npos, mistake("own.jinja"));
  BOOST_CHECK_NO_THROW(
      load_cluster_config(with_template("nope.jinja")));  // ending a cluster needs no template
}

BOOST_AUTO_TEST_CASE(a_model_is_named_after_its_file_or_folder) {
  BOOST_TEST(default_model_id("/x/SmolLM2.Q4_1.gguf") == "SmolLM2.Q4_1");
  BOOST_TEST(default_model_id("/x/R1.Q4_K-00002-of-00009.gguf") == "R1.Q4_K");
  BOOST_TEST(default_model_id("/x/R1-0002-of-00009.gguf") == "R1-0002-of-00009");
  BOOST_TEST(default_model_id("/x/DeepSeek-V2.5") == "DeepSeek-V2.5");
  BOOST_TEST(default_model_id("/x/dir/") == "dir");
}

BOOST_AUTO_TEST_CASE(the_served_context_is_what_model_and_cache_and_operator_allow) {
  ClusterConfig config;
  config.pipeline.kv_tokens = 4096;
  model::Config model;
  model.context = 8192;
  BOOST_TEST(served_context(config, model) == 4096);
  BOOST_TEST(scheduler_limits(config, model).context_tokens == 4096);
  model.context = 2048;
  BOOST_TEST(served_context(config, model) == 2048);
  config.pipeline.context_tokens_max = 100;
  BOOST_TEST(served_context(config, model) == 100);
}

BOOST_AUTO_TEST_CASE(damaged_texts_are_refused_or_read_but_never_crash) {
  const unsigned seed = std::getenv("CONVOY_TEST_SEED")
                            ? static_cast<unsigned>(std::atoi(std::getenv("CONVOY_TEST_SEED")))
                            : 20260101u;
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const std::string good = with("[gateway]\nport = 80 ; x\n[link]\nlinks_max = 3\n[log]\nlevel = \"info\"\n");
  const std::string bytes = "[]{}\"'=,;<>#\n\r\\ .-+0f1tx\x80";
  size_t refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = bytes[random() % bytes.size()];
          break;
        case 1:
          text.insert(at, 1, bytes[random() % bytes.size()]);
          break;
        default:
          text.erase(at, 1 + random() % 9);
      }
    }
    const auto found = problems(text);
    refused += !found.empty();
    const int lines = static_cast<int>(std::count(text.begin(), text.end(), '\n')) + 1;
    for (const ConfigProblem& p : found) {
      BOOST_TEST_REQUIRE(!p.text.empty());
      BOOST_TEST_REQUIRE((p.line >= 0 && p.line <= lines),
                         "line " << p.line << " of " << lines << ", seed " << seed << ", round " << round);
    }
  }
  BOOST_TEST(refused > 1000u);
}

BOOST_AUTO_TEST_CASE(steps_that_fit_no_frame_are_refused_with_the_keys) {
  ClusterConfig config;
  config.file = "cluster.conf";
  config.cluster.nodes = {{.name = "a", .stages = 2}};
  model::Config model;
  model.layers = 60;
  model.hidden = 7168;
  model.context = 4096;
  config.pipeline.prefill_tokens_per_step = 512;
  BOOST_CHECK_NO_THROW(check_stages(config, model));
  config.pipeline.prefill_tokens_per_step = 8192;  // 235 MB of hidden states
  const auto names_the_keys = [](const InputError& e) {
    const std::string text = e.what();
    return text.find("prefill_tokens_per_step") != std::string::npos &&
           text.find("bulk_frame_bytes_max") != std::string::npos;
  };
  BOOST_CHECK_EXCEPTION(check_stages(config, model), InputError, names_the_keys);
  config.cluster.nodes[0].stages = 1;  // passes nothing on
  BOOST_CHECK_NO_THROW(check_stages(config, model));
  config.cluster.nodes[0].stages = 61;
  BOOST_CHECK_THROW(check_stages(config, model), InputError);
}

BOOST_AUTO_TEST_CASE(a_context_whose_table_is_larger_than_the_model_is_refused) {
  class Claims final : public model::Checkpoint {  // the weights of one model, the configuration of another
   public:
    explicit Claims(const char* name) : real_(Checkpoint::open(name)), config_(real_->config()) {}
    model::Config& claim() { return config_; }
    const model::Config& config() const override { return config_; }
    model::StageWeights stage(model::LayerRange range) const override { return real_->stage(range); }
    model::StageWeights layout(model::LayerRange range) const override { return real_->layout(range); }
    uint64_t prediction_parameters() const override { return 0; }
    std::string weights_digest(std::stop_token) const override { return {}; }
    const model::NamedFiles& files() const override { return real_->files(); }
    const std::filesystem::path& path() const override { return real_->path(); }
    bool is_gguf() const override { return false; }
    const model::GgufMetadata& metadata() const override { return real_->metadata(); }

   private:
    std::shared_ptr<const Checkpoint> real_;
    model::Config config_;
  };
  ClusterConfig config;
  config.pipeline.kv_tokens = 1 << 24;
  Claims model("random:deepseek-v2-lite:1");  // some 500 MB
  BOOST_CHECK_NO_THROW(check_rotary_table(config, model));
  model.claim().context = model::context_max;
  model.claim().head_dim = model::head_dim_max;
  BOOST_CHECK_THROW(check_rotary_table(config, model), InputError);
  config.pipeline.context_tokens_max = 16384;  // which takes as much as is free
  BOOST_CHECK_NO_THROW(check_rotary_table(config, model));
  model.claim().head_dim = 64;
  config.pipeline.context_tokens_max = 0;
  model.claim().context = 1 << 20;
  BOOST_CHECK_NO_THROW(check_rotary_table(config, model));
}

BOOST_AUTO_TEST_CASE(a_model_larger_than_memory_is_a_warning_with_the_numbers) {
  ClusterConfig config;
  config.cluster.model = "random:deepseek-v2-lite:2";
  config.cluster.nodes = {{.name = "a", .stages = 1}};
  const auto checkpoint = model::Checkpoint::open(config.cluster.model);
  const auto warning = [&](const model::MemoryLimit& limit) {
    return memory_warning(config, *checkpoint, {"a"}, limit);
  };
  BOOST_TEST(!warning({uint64_t{1} << 40, "MemTotal"}));
  BOOST_TEST(!warning({}));  // the system does not say
  const auto text = warning({64 << 20, "/sys/fs/cgroup/job/memory.max"});
  BOOST_REQUIRE(text);
  for (const char* part : {"node a", "for weights", "64 MiB (/sys/fs/cgroup/job/memory.max)", "kv_tokens"})
    BOOST_TEST(text->find(part) != std::string::npos, *text << " says nothing of " << part);
}

BOOST_AUTO_TEST_CASE(a_node_needs_memory_for_its_own_stages_alone) {
  ClusterConfig config;
  config.cluster.model = "random:deepseek-v2-lite:4";
  config.stage.threads = 2;
  config.cluster.nodes = {{.name = "a", .stages = 1}, {.name = "b", .stages = 2}, {.name = "c", .stages = 0}};
  const auto checkpoint = model::Checkpoint::open(config.cluster.model);
  const StageMemory a = memory_of_nodes(config, *checkpoint, {"a"}),
                    b = memory_of_nodes(config, *checkpoint, {"b"}),
                    both = memory_of_nodes(config, *checkpoint, {"a", "b", "c"});
  BOOST_TEST(memory_of_nodes(config, *checkpoint, {"c"}).sum() == 0u);
  const int64_t rows = scheduler_limits(config, checkpoint->config()).rows();
  BOOST_TEST(a.sum() == stage_memory(config, *checkpoint, {0, 1}, rows).sum());
  BOOST_TEST(a.weights + b.weights == both.weights);
  BOOST_TEST(a.sum() + b.sum() == both.sum());
  BOOST_TEST(a.scratch > 0u);
  const model::MemoryLimit between{(std::max(a.sum(), b.sum()) + both.sum()) / 2, "MemTotal"};
  BOOST_TEST(!memory_warning(config, *checkpoint, {"a"}, between));
  BOOST_TEST(!memory_warning(config, *checkpoint, {"b"}, between));
  BOOST_TEST(memory_warning(config, *checkpoint, {"a", "b"}, between).has_value());
}

BOOST_AUTO_TEST_CASE(more_threads_and_longer_contexts_take_more_to_compute_in) {
  ClusterConfig config;
  config.cluster.model = "random:r1-distill-llama-8b:2";
  config.cluster.nodes = {{.name = "a", .stages = 1}};
  config.stage.threads = 2, config.stage.kv_type = "f32";
  config.pipeline.kv_tokens = 65536, config.pipeline.context_tokens_max = 4096;
  const auto checkpoint = model::Checkpoint::open(config.cluster.model);
  const auto scratch = [&] { return memory_of_nodes(config, *checkpoint, {"a"}).scratch; };
  const uint64_t before = scratch();
  config.pipeline.context_tokens_max = 65536;
  const uint64_t longer = scratch();
  BOOST_TEST(longer > before);
  config.stage.kv_type = "bf16";
  BOOST_TEST(scratch() == longer);  // narrow caches are read as they are stored
  config.stage.threads = 9;
  const uint64_t nine = scratch();
  config.stage.threads = 16;
  BOOST_TEST(nine > longer);
  BOOST_TEST(scratch() - nine == nine - longer);  // each thread takes as much
}
