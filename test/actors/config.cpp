// cluster.conf: the parser around CAF's, the table, and the checks across keys.

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <random>
#include <set>

#include "actors/config/cluster_config.hpp"
#include "actors/config/config_table.hpp"
#include "test/actors/config_text.hpp"

using namespace convoy;
using namespace convoy::actors;
using test::head_node;
using test::with;

namespace {

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
           "[stage]\nbackend = \"cpu-reference\"\nkv_host_bytes = 5\nkv_disk_bytes = "
           "70368744177664\nkv_disk_dir = \"/disk\"\n"
           "[pipeline]\nkv_moves_per_step = 9\n[redis]\nurl = \"redis://127.0.0.1:6379\"\n"
           "[link]\nbulk_window_bytes = 4294967296\n[cache]\nepoch = 9223372036854775807"));
  BOOST_TEST(result.problems.empty());
  BOOST_TEST(result.config.gateway.port == 9000);
  BOOST_TEST(result.config.gateway.control_tokens_in_prompts);
  BOOST_TEST(result.config.stage.backend == "cpu-reference");
  BOOST_TEST(result.config.stage.kv_host_bytes == 5u);
  BOOST_TEST(result.config.stage.kv_disk_bytes == 1ull << 46);
  BOOST_TEST(result.config.stage.kv_disk_dir == "/disk");
  BOOST_TEST(result.config.pipeline.kv_moves_per_step == 9u);
  BOOST_TEST(result.config.redis.url == "redis://127.0.0.1:6379");
  BOOST_TEST(result.config.link.bulk_window_bytes == 1ull << 32);
  BOOST_TEST(result.config.cache.epoch == 9223372036854775807ull);
}

BOOST_AUTO_TEST_CASE(a_second_tier_of_keys_and_values_is_off_unless_it_is_given_a_size_that_can_be) {
  const ConfigResult result = read_cluster_config(with(""));
  BOOST_TEST(result.config.stage.kv_host_bytes == 0u);
  BOOST_TEST(result.config.stage.kv_disk_bytes == 0u);
  BOOST_TEST(result.config.stage.kv_disk_dir.empty());
  expect_one(with("[stage]\nkv_disk_bytes = -1\n"), 6, {"`stage.kv_disk_bytes`", "0 to 70368744177664"});
  expect_one(with("[stage]\nkv_disk_bytes = 70368744177665\n"), 6, {"`stage.kv_disk_bytes`"});
  expect_one(with("[stage]\nkv_disk_bytes = \"1 GB\"\n"), 6, {"`stage.kv_disk_bytes`"});
  expect_one(with("[stage]\nkv_disk_dir = 1\n"), 6, {"`stage.kv_disk_dir`", "text"});
  expect_one(with("[pipeline]\nkv_moves_per_step = 0\n"), 6, {"`pipeline.kv_moves_per_step`", "1 to 1024"});
}

BOOST_AUTO_TEST_CASE(every_address_that_the_redis_client_takes_passes_the_check) {
  for (const std::string url : {"redis://127.0.0.1", "redis://127.0.0.1/", "redis://127.0.0.1:7000/",
                                "redis://[::1]", "redis://[::1]:7000", "unix:///run/redis.sock"})
    BOOST_TEST(problems(with("[redis]\nurl = \"" + url + "\"\n")).empty(), url);
}

BOOST_AUTO_TEST_CASE(all_problems_are_reported_at_once_each_with_its_line) {
  const auto found = problems(
      with("[gateway]\nprot = 80\nport = 70000\nport = 1\nthreads = \"two\"\n[stage]\nbackend = \"quick\"\n"
           "[gatway]\nport = 1\n[cache]\nttl_s = 2h\nenabled = 1\n"));
  std::vector<int> lines;
  for (const ConfigProblem& p : found) lines.push_back(p.line);
  const std::vector<int> expected = {6, 7, 8, 9, 11, 12, 15, 16};
  BOOST_TEST(lines == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_unknown_key_names_the_nearest_known_one_or_all_of_them) {
  expect_one(with("[gateway]\nprot = 80\n"), 6, {"gateway.prot", "did you mean `port`?"});
  expect_one(with("[stage]\nzzzzzz = 1\n"), 6, {"stage.zzzzzz", "backend, threads"});
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
  expect_one(nodes(other), 4, {"0 nodes have the roles of the head"});
  expect_one(nodes(head_node + R"(, {name = "a", listen = "127.0.0.1:7412"})"), 4,
             {"two nodes are named \"a\""});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "127.0.0.1:7411"})"), 4, {"two nodes listen on"});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "127.0.0.1:0"})"), 4, {"port 0"});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "10.0.0.1:7411"})"), 4, {"loopback"});
  expect_one(nodes(head_node + R"(, {name = "b", listen = "7411"})"), 4, {"HOST:PORT"});
  expect_one(nodes(head_node + R"(, {name = "b/c", listen = "127.0.0.1:7412"})"), 4, {"\"b/c\""});
  for (const std::string taken : {"ca", "revoked", "redis"})  // by files in the same folders
    expect_one(nodes(head_node + ", {name = \"" + taken + "\", listen = \"127.0.0.1:7412\"}"), 4,
               {"\"" + taken + "\""});
  expect_one(nodes(head_node + R"(, {name = "b"})"), 4, {"cluster.nodes[1].listen", "missing"});
  const std::string two_heads =
      head_node +
      R"(, {name = "b", listen = "127.0.0.1:7412", roles = ["gateway", "router", "cache", "pipeline"]})";
  expect_one(nodes(two_heads), 4, {"2 nodes have the roles of the head"});
  expect_one(nodes(R"({name = "a", listen = "127.0.0.1:1", roles = ["router"], stages = 1})"), 4,
             {"1 of the four roles"});
  expect_one(nodes(R"({name = "a", listen = "127.0.0.1:1", roles = ["gateway"], stages = 1})"), 4,
             {"0 nodes have the roles of the head"});
  expect_one(
      nodes(R"({name = "a", listen = "127.0.0.1:1", roles = ["gateway", "router", "cache", "pipeline"]})"), 4,
      {"no node has stages"});
  expect_one(with("[gateway]\nport = 7411\n"), 4, {"both listen"});
  const auto with_gateway = [&](const std::string& more) {
    return nodes(head_node + R"(, {name = "b", listen = "127.0.0.1:7412")" + more + "}");
  };
  BOOST_TEST(problems(with_gateway(R"(, roles = ["gateway"], http = "127.0.0.1:8081")")).empty());
  expect_one(with_gateway(R"(, roles = ["gateway"])"), 4, {"two gateways of one machine", "http"});
  expect_one(with_gateway(R"(, http = "127.0.0.1:8081")"), 4, {"without a gateway"});
  expect_one(with_gateway(R"(, roles = ["gateway"], http = "8081")"), 4, {"HOST:PORT"});
  expect_one(with_gateway(R"(, roles = ["gateway"], http = "0.0.0.0:8081")"), 4,
             {"cluster.nodes[1].http", "not a loopback address", "gateway.keys_file"});
  const std::string keys = "keys_file = \"k\"\n", tls = "tls_certificate = \"c\"\ntls_key = \"p\"\n";
  const std::string anywhere = "[gateway]\nhost = \"0.0.0.0\"\n";
  for (const std::string& less : {std::string(), keys, tls})
    expect_one(with(anywhere + less), 6, {"loopback", "gateway.keys_file", "gateway.tls_key", "convoy init"});
  BOOST_TEST(problems(with(anywhere + keys + tls)).empty());
  expect_one(with("[gateway]\nhost = \"a.name\"\n"), 6, {"no address", "127.0.0.1"});
  expect_one(with("[redis]\nurl = \"http://x\"\n"), 6, {"redis://HOST:PORT"});
  expect_one(with("[redis]\nurl = \"redis://127.0.0.1/2\"\n"), 6, {"database", "redis://HOST:PORT"});
  expect_one(with("[pipeline]\ncontext_tokens_max = 8192\nkv_tokens = 4096\n"), 6, {"8192", "4096"});
  BOOST_TEST(
      problems(with("[pipeline]\ncontext_tokens_max = 8192\nkv_tokens = 0\n")).empty());  // as many as fit
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
  expect_one(with("[pipeline]\nkv_tokens = -1\ncontext_tokens_max = 1000000\n"), 6, {"pipeline.kv_tokens"});
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
