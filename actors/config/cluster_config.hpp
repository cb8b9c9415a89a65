#pragma once
// ClusterConfig: cluster.conf as values. Read once by each command before it starts anything, on its main
// thread; immutable afterwards. The keys' defaults stand here; a struct of options that repeats one does so
// for tests. Types, ranges and help stand in config_table.cpp.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "actors/config/config_parser.hpp"

namespace convoy::actors {

inline constexpr uint32_t node_stages_max = 64;

/// One machine's supervisor: where it listens and what runs under it.
struct NodeConfig {
  std::string name;
  std::string listen;              // host:port; port 0 takes a free one (a cluster of one node only)
  std::vector<std::string> roles;  // of gateway, router, cache, pipeline
  uint32_t stages = 0;             // stage processes under this node
  std::string pipeline = {};       // that they serve; empty: the cluster's first
  std::string http = {};           // HOST:PORT of its gateway; empty: as [gateway] says

  std::string listen_host() const;
  uint16_t listen_port() const;
  bool has_role(std::string_view role) const;
};

/// A model that the cluster serves.
struct ModelConfig {
  std::string id;    // what clients name it; what pipelines do
  std::string path;  // as ClusterConfig's `model`
  std::vector<std::string> aliases;
  std::string chat_template;
};

/// Several pipelines of one model are its replicas.
struct PipelineConfig {
  std::string name;
  std::string model = {};  // its id; empty: the first one's
};

struct ClusterConfig {
  struct Cluster {
    std::string name;
    bool dev = true;
    // Of one model: in place of `models`, and what of_pipeline() says of that pipeline's.
    std::string model;  // a GGUF file or a checkpoint's directory; absolute after load_cluster_config()
    std::string model_id;
    std::string chat_template;              // a name, or a path: absolute after load_cluster_config()
    std::vector<ModelConfig> models;        // the first is the default; never empty once it is read
    std::vector<PipelineConfig> pipelines;  // as well
    std::string run_dir = "run";            // absolute after load_cluster_config()
    std::string tls_dir = "tls";            // as well
    std::vector<NodeConfig> nodes;
    std::vector<NodeConfig> others;  // of_pipeline()'s: those that serve other pipelines
  } cluster;

  struct Gateway {
    std::string host = "127.0.0.1";
    uint16_t port = 8080;
    uint32_t threads = 1;
    uint32_t encoder_threads = 4;
    uint64_t header_bytes_max = 16 << 10;
    uint64_t body_bytes_max = 4 << 20;
    uint32_t header_timeout_ms = 10'000;
    uint32_t keepalive_timeout_ms = 75'000;
    uint32_t body_timeout_ms = 30'000;
    uint32_t request_timeout_ms = 600'000;
    uint32_t write_timeout_ms = 30'000;
    uint32_t drain_timeout_ms = 10'000;
    uint32_t head_wait_ms = 30'000;
    uint32_t connections_max = 1024;
    uint32_t descriptors_reserved = 128;
    uint32_t max_tokens_default = 512;
    uint32_t stop_strings_max = 16;
    uint32_t prompts_max = 32;
    uint32_t choices_max = 16;
    bool control_tokens_in_prompts = false;
    uint64_t template_steps_max = 10'000'000;
    uint64_t template_bytes_max = 256 << 20;
    uint32_t template_depth_max = 400;
    std::vector<std::string> allowed_hosts;
    // Absolute after load_cluster_config(); empty: no keys are asked for, HTTP is plain.
    std::string keys_file, tls_certificate, tls_key;
  } gateway;

  struct Pipeline {
    uint32_t context_tokens_max = 0;  // 0: the model's
    uint32_t sequences_max = 64;
    uint32_t queue_max = 64;
    uint32_t queue_max_ms = 30'000;
    uint32_t prefill_tokens_per_step = 512;
    uint32_t prefill_share = 4;
    uint32_t prefill_stretch_percent = 250;
    uint32_t pipeline_slack = 1;
    uint32_t step_timeout_ms = 30'000;
    uint32_t readiness_period_ms = 1000;
    uint32_t failure_detection_ms = 800;
    uint32_t load_timeout_ms = 600'000;
    uint32_t replays_max = 3;
    uint32_t kv_tokens = 65'536;
    uint32_t kv_moves_per_step = 64;
    std::string speculation = "off";
    uint32_t drafts_max = 4;
  } pipeline;

  struct Stage {
    std::string backend = "auto";  // gpu::device_named
    uint32_t threads = 0;          // 0: all cores of the machine
    uint32_t spares = 0;
    std::string kv_type = "auto";
    bool deterministic = false;
    std::string edges = "auto";
    uint32_t edge_timeout_ms = 10'000;
    uint64_t kv_host_bytes = 0, kv_disk_bytes = 0;
    std::string kv_disk_dir;  // absolute after load_cluster_config(): cluster.run_dir if it was empty
  } stage;

  struct Store {
    std::string dir = "store";  // absolute after load_cluster_config()
    uint64_t bytes_max = 1ull << 40;
    uint64_t part_bytes = 1 << 20;
    uint32_t parts_in_flight = 8;
    uint32_t attempts_max = 3;
    uint32_t silence_ms = 30'000;
  } store;

  struct Cache {
    bool enabled = true;
    uint32_t ttl_s = 86'400;
    uint64_t entry_bytes_max = 1 << 20;
    uint32_t in_flight_max = 1024;
    uint32_t redis_timeout_ms = 10;
    uint32_t circuit_failures = 3;
    uint32_t circuit_retry_ms = 500;
    uint64_t epoch = 0;
  } cache;

  struct Redis {
    std::string url;  // empty: Convoy starts its own
    uint64_t memory_bytes_max = 256ull << 20;
  } redis;

  struct Link {
    uint32_t handshake_timeout_ms = 2000;
    uint64_t control_frame_bytes_max = 1ull << 20;
    uint64_t bulk_frame_bytes_max = 64ull << 20;
    uint64_t bulk_window_bytes = 128ull << 20;
    uint64_t queue_bytes_max = 256ull << 20;
    uint64_t inbox_bytes_max = 64ull << 20;
    uint32_t links_max = 256;
    uint32_t handshakes_max = 64;
    uint32_t retry_first_ms = 20;
    uint32_t retry_max_ms = 250;
    uint32_t farewell_ms = 1000;
    uint32_t head_timeout_ms = 60'000;
  } link;

  struct Log {
    std::string level = "info";
    bool json = false;
    uint64_t file_bytes_max = 64ull << 20;
    uint32_t files_max = 4;
  } log;

  std::filesystem::path file;  // absolute; empty if it came from text

  /// The node that runs gateway, router, cache and pipeline.
  const NodeConfig& head() const;
  /// [gateway] as it is on that node, which has a gateway.
  Gateway gateway_of(const NodeConfig& node) const;
  /// Whether the node runs a gateway in a process of its own: the head's is the head's.
  bool has_own_gateway(const NodeConfig& node) const;
  /// Null if there is no such node.
  const NodeConfig* find_node(std::string_view name) const;
  /// Null if there is none of that name; the first one if it is empty.
  const PipelineConfig* find_pipeline(std::string_view name) const;
  const ModelConfig& model_of(const PipelineConfig& pipeline) const;
  /// Name of the one that the node's stages serve.
  const std::string& pipeline_of(const NodeConfig& node) const;
  /// The cluster as one of its pipelines sees it: with its model as the only one, and its own nodes beside
  /// the head's, which has no stages then if they are another pipeline's.
  ClusterConfig of_pipeline(const PipelineConfig& pipeline) const;
  /// Stage processes over all nodes.
  uint32_t stage_count() const;
};

struct ConfigResult {
  ClusterConfig config;
  std::vector<ConfigProblem> problems;  // in the file's order; config is usable only if empty
};

/// Values that contradict each other, or the world.
struct ConfigConflict {
  std::string key;  // where to show it: "gateway.port", "cluster.nodes[0].listen"
  std::string text;
  std::vector<std::string> others = {};  // the further keys that it is about
};
using MoreChecks = std::function<std::vector<ConfigConflict>(const ClusterConfig&)>;

/// Reads and checks everything at once. Pure but for `more`: touches no file.
ConfigResult read_cluster_config(std::string_view text, const MoreChecks& more = nullptr);

/// Reads the file; resolves `model`, `chat_template`, `run_dir`, `store.dir` and `kv_disk_dir` relative to
/// its folder; sets model_id. with_files: a model or a template that is not there is a problem too (to end a
/// cluster, nobody needs them). Throws InputError whose text has a line `FILE:LINE:COLUMN: …` for every
/// problem.
ClusterConfig load_cluster_config(const std::filesystem::path& file, bool with_files = false);

/// What an OpenAI client calls this model if the configuration does not say: the file's name without .gguf
/// and, of a split one, without the part's number.
std::string default_model_id(const std::filesystem::path& model);

/// Fills in what follows from what is given: the one model as a list, ids, and who serves each.
void complete_models(ClusterConfig::Cluster& cluster);

/// A model in place of the configured one. Throws InputError if there are several.
void replace_model(ClusterConfig& config, const std::string& path);

/// docs/configuration.md, printed from the table of keys.
std::string configuration_page();

}  // namespace convoy::actors
