// What a configuration means for the model that it names: its name, its context, its memory.

#include <boost/test/unit_test.hpp>
#include <set>

#include "actors/config/cluster_config.hpp"
#include "actors/config/placement.hpp"
#include "actors/config/plan_limits.hpp"
#include "actors/plan_check.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/error.hpp"
#include "test/actors/config_text.hpp"

using namespace convoy;
using namespace convoy::actors;

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
  config.pipeline.kv_moves_per_step = 7;
  BOOST_TEST(scheduler_limits(config, model).kv_tier.moves_per_step == 7u);
  BOOST_TEST(scheduler_limits(config, model).kv_tier.places == 0u);  // stages say how many they have
  model.context = 2048;
  BOOST_TEST(served_context(config, model) == 2048);
  config.pipeline.context_tokens_max = 100;
  BOOST_TEST(served_context(config, model) == 100);
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

BOOST_AUTO_TEST_CASE(a_stage_is_counted_among_those_of_its_machine) {
  const std::vector<NodeConfig> nodes{{.name = "a", .listen = "127.0.0.1:1", .stages = 2},
                                      {.name = "b", .listen = "127.0.0.2:2", .stages = 1},
                                      {.name = "c", .listen = "127.0.0.1:3", .stages = 0},
                                      {.name = "d", .listen = "127.0.0.1:4", .stages = 3}};
  const auto rank = [&](const char* node, uint32_t instance) {
    const gpu::LocalRank r = local_rank(nodes, node, instance);
    return std::pair(r.rank, r.size);
  };
  using Rank = std::pair<uint32_t, uint32_t>;
  BOOST_CHECK(rank("a", 0) == Rank(0, 5));
  BOOST_CHECK(rank("a", 1) == Rank(1, 5));
  BOOST_CHECK(rank("b", 0) == Rank(0, 1));
  BOOST_CHECK(rank("d", 0) == Rank(2, 5));
  BOOST_CHECK(rank("d", 2) == Rank(4, 5));
  BOOST_CHECK(rank("d", 3) == Rank(0, 1));  // of no node: the pipeline sends it away
  BOOST_CHECK(rank("e", 0) == Rank(0, 1));
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

BOOST_AUTO_TEST_CASE(a_cache_has_a_type_that_is_in_the_keys_of_answers) {
  const auto read = [](const std::string& kv_type) {
    return read_cluster_config(test::with("[stage]\nkv_type = \"" + kv_type + "\""));
  };
  const std::pair<const char*, std::optional<model::DType>> known[]{{"auto", std::nullopt},
                                                                    {"f32", model::DType::f32},
                                                                    {"bf16", model::DType::bf16},
                                                                    {"f16", model::DType::f16},
                                                                    {"f8_e4m3", model::DType::f8_e4m3}};
  std::set<std::string> arithmetic, settings;
  for (const auto& [name, type] : known) {
    const ConfigResult result = read(name);
    BOOST_TEST(result.problems.empty(), name);
    BOOST_CHECK(kv_type_named(result.config.stage.kv_type) == type);
    arithmetic.insert(arithmetic_of(result.config)), settings.insert(settings_of(result.config));
  }
  BOOST_TEST(arithmetic.size() == std::size(known));
  BOOST_TEST(settings.size() == std::size(known));
  for (const char* name : {"", "f8", "fp8", "F8_E4M3", "f8_e5m2", "f64", "q8_0"}) {
    const auto problems = read(name).problems;
    BOOST_TEST_REQUIRE(problems.size() == 1u, name);
    BOOST_TEST(problems[0].text.find("\"f16\" or \"f8_e4m3\"") != std::string::npos, problems[0].text);
  }
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
  config.stage.kv_type = "f8_e4m3";
  BOOST_TEST(scratch() == longer);
  config.stage.threads = 9;
  const uint64_t nine = scratch();
  config.stage.threads = 16;
  BOOST_TEST(nine > longer);
  BOOST_TEST(scratch() - nine == nine - longer);  // each thread takes as much
}

BOOST_AUTO_TEST_CASE(as_many_keys_and_values_as_fit_are_divided_among_stages_and_explained) {
  ClusterConfig config;
  config.cluster.model = "random:r1-distill-llama-8b:2";
  config.cluster.nodes = {{.name = "a", .stages = 2}};
  config.stage.threads = 1;
  config.pipeline.kv_tokens = 0;
  const auto checkpoint = model::Checkpoint::open(config.cluster.model);
  BOOST_TEST(served_context(config, checkpoint->config()) == checkpoint->config().context);
  BOOST_TEST(scheduler_limits(config, checkpoint->config()).kv_blocks == 0u);
  config.pipeline.context_tokens_max = 1024;
  config.pipeline.sequences_max = 16;
  const auto needs = [&](uint32_t stages) {
    return stage_memory(config, *checkpoint, {0, 0}, 1, {0, stages});
  };
  const StageMemory one = needs(1), many = needs(10'000'000);
  // Each of 34 slots could fill 16 blocks; a machine of 4 GB has room for these.
  BOOST_TEST(one.kv_blocks == 34u * 16);
  BOOST_TEST(one.kv_arithmetic.ends_with("could be used: 544 blocks"), one.kv_arithmetic);
  BOOST_TEST(one.kv == uint64_t{one.kv_blocks} * 64 * 2 * 8 * 128 * sizeof(uint16_t));  // keys, values; heads
  BOOST_TEST(many.kv_blocks == 0u);
  config.pipeline.kv_tokens = 640;
  BOOST_TEST(needs(1).kv_blocks == 11u);  // one is the canary's
  BOOST_TEST(needs(1).kv_arithmetic.empty());
}

BOOST_AUTO_TEST_CASE(a_plan_is_refused_whose_weights_do_not_fit_where_they_would_be) {
  ClusterConfig config;
  config.cluster.model = "random:deepseek-v2-lite:4";
  const auto checkpoint = model::Checkpoint::open(config.cluster.model);
  const std::vector<PlannedStage> plan{{{"a", 0}, {0, 1}}, {{"b", 0}, {2, 3}}};
  const uint64_t first = model::stage_bytes(*checkpoint, {0, 1}),
                 second = model::stage_bytes(*checkpoint, {2, 3});
  std::vector<PeerIdentity> peers(2);
  BOOST_TEST(!refuse_plan(config, *checkpoint, plan, peers));  // nobody knows
  for (size_t i = 0; i < 2; ++i) peers[i].node = plan[i].name.node, peers[i].memory_bytes = first + second;
  BOOST_TEST(!refuse_plan(config, *checkpoint, plan, peers));
  for (PeerIdentity& peer : peers) peer.machine = "same", peer.memory_bytes = first + second - 1;
  const auto why = refuse_plan(config, *checkpoint, plan, peers);
  BOOST_REQUIRE(why);
  BOOST_TEST(why->find("node b would have") != std::string::npos, *why);
  peers[1].machine = "another";
  BOOST_TEST(!refuse_plan(config, *checkpoint, plan, peers));
  config.link.bulk_frame_bytes_max = 1 << 20;
  BOOST_TEST(refuse_plan(config, *checkpoint, plan, peers)->find("bulk_frame_bytes_max") !=
             std::string::npos);
  BOOST_TEST(!refuse_plan(config, *checkpoint, {{{"a", 0}, {0, 3}}}, {PeerIdentity{}}));
}
