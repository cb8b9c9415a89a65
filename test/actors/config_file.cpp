// cluster.conf as a file: the paths in it, and the files that it names.

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <random>

#include "actors/config/cluster_config.hpp"
#include "model/error.hpp"
#include "test/actors/config_text.hpp"
#include "test/model/files.hpp"

using namespace convoy;
using namespace convoy::actors;
using test::head_node;
using test::with;

BOOST_AUTO_TEST_CASE(a_file_is_read_with_its_paths_relative_to_its_folder) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("convoy-config-" + std::to_string(std::random_device{}()));
  std::filesystem::create_directories(folder);
  const auto file = folder / "c.conf";
  std::ofstream(file) << with("[cache]\nenabled = false\n");
  const ClusterConfig config = load_cluster_config(file);
  BOOST_TEST(config.cluster.model == (folder / "m.gguf").string());
  BOOST_TEST(config.cluster.run_dir == (folder / "run").string());
  BOOST_TEST(config.stage.kv_disk_dir == config.cluster.run_dir);
  std::ofstream(file) << with("[stage]\nkv_disk_dir = \"disk\"\n");
  BOOST_TEST(load_cluster_config(file).stage.kv_disk_dir == (folder / "disk").string());
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
