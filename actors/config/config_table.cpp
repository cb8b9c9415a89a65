#include "actors/config/config_table.hpp"

#include <limits>

#include "actors/config/config_keys.hpp"
#include "gpu/devices.hpp"
#include "gpu/kv_types.hpp"

namespace convoy::actors {

namespace {

using C = ClusterConfig;
constexpr int64_t hour_ms = 3'600'000;
constexpr int64_t KiB = 1 << 10, MiB = 1 << 20, GiB = 1 << 30;

void add_cluster_keys(std::vector<ClusterKey>& t) {
  using S = C::Cluster;
  constexpr auto s = &C::cluster;
  t.push_back(
      key<s, &S::name>("cluster", "name", "Name of the cluster. Processes of another name are refused."));
  t.back().required = true;
  t.push_back(key<s, &S::dev>(
      "cluster", "dev",
      "Links are plaintext and refuse every address but loopback. Without, TLS 1.3 is between machines."));
  t.push_back(key<s, &S::model>(
      "cluster", "model",
      "Model to serve: a GGUF file (of a split one any part), or a folder with config.json and safetensors, "
      "relative to this file; or "
      "random:NAME[:LAYERS], a model of random weights with the dimensions of a published one."));
  t.back().required = true;
  t.back().instead = "models";
  t.push_back(key<s, &S::model_id>(
      "cluster", "model_id",
      "What clients name the model. Empty: the name of its file (without .gguf, nor a part's number) or "
      "folder."));
  t.push_back(key<s, &S::chat_template>(
      "cluster", "chat_template",
      "Chat template: a Jinja file, relative to this one, whose path ends in .jinja or has a slash; or the "
      "name of "
      "one that comes with Convoy (chat-templates.md). Empty: the checkpoint's own."));
  t.push_back({.section = "cluster",
               .name = "models",
               .help =
                   "Several models to serve, in place of `model`, `model_id` and `chat_template`: one map "
                   "each (below). Requests that name the model \"default\" get the first."});
  t.push_back({.section = "cluster",
               .name = "pipelines",
               .help =
                   "What serves them: one map each (below). Each node is part of one; several of one model "
                   "are its replicas. None: one for each model, named like it."});
  t.push_back(key<s, &S::run_dir>(
      "cluster", "run_dir", "Folder for sockets, logs, process ids and secrets. Relative to this file."));
  t.push_back(key<s, &S::tls_dir>(
      "cluster", "tls_dir",
      "Folder of certificates, where dev is false: the authority's, ca.pem, and NODE.pem and NODE.key of "
      "nodes that run here (`convoy ca issue`). Relative to this file."));
  t.push_back({.section = "cluster",
               .name = "nodes",
               .help = "The machines, one map each (below). Layers are divided evenly over all stages of a "
                       "pipeline, in the order of the nodes.",
               .required = true});
}

void add_gateway_keys(std::vector<ClusterKey>& t) {
  using S = C::Gateway;
  constexpr auto s = &C::gateway;
  t.push_back(key<s, &S::host>(
      "gateway", "host",
      "Address to serve HTTP on, in numbers. Another one than loopback needs keys_file, tls_certificate and "
      "tls_key."));
  t.push_back(number<s, &S::port>("gateway", "port", "", 0, 65'535,
                                  "Port to serve HTTP on. 0 takes a free one, which `convoy status` tells."));
  t.push_back(number<s, &S::threads>("gateway", "threads", "", 1, 256, "Threads that serve HTTP."));
  t.push_back(number<s, &S::encoder_threads>(
      "gateway", "encoder_threads", "", 1, 256,
      "Threads that read and tokenise long requests, which would hold up the others."));
  t.push_back(number<s, &S::header_bytes_max>("gateway", "header_bytes_max", "bytes", 1 * KiB, 1 * MiB,
                                              "Longest header of a request; beyond it 431."));
  t.push_back(number<s, &S::body_bytes_max>("gateway", "body_bytes_max", "bytes", 1 * KiB, 1 * GiB,
                                            "Longest body of a request; beyond it 413."));
  t.push_back(number<s, &S::header_timeout_ms>(
      "gateway", "header_timeout_ms", "ms", 10, hour_ms,
      "From the connection, or a request's first byte, to its whole header; and as long for the handshake of "
      "TLS before that."));
  t.push_back(number<s, &S::keepalive_timeout_ms>("gateway", "keepalive_timeout_ms", "ms", 10, 24 * hour_ms,
                                                  "From an answer to the next request's first byte."));
  t.push_back(number<s, &S::body_timeout_ms>("gateway", "body_timeout_ms", "ms", 10, hour_ms,
                                             "From the header to the whole body; beyond it 408."));
  t.push_back(number<s, &S::request_timeout_ms>("gateway", "request_timeout_ms", "ms", 100, 24 * hour_ms,
                                                "A whole answer: the request's deadline."));
  t.push_back(
      number<s, &S::write_timeout_ms>("gateway", "write_timeout_ms", "ms", 10, hour_ms,
                                      "How long a client may read nothing before its request is cancelled."));
  t.push_back(number<s, &S::drain_timeout_ms>(
      "gateway", "drain_timeout_ms", "ms", 0, hour_ms,
      "How long answers under way may go on once a gateway is told to end (SIGTERM, `convoy down`); no other "
      "request is taken then. What is left after it ends with an error, as it does at once at a second "
      "SIGTERM."));
  t.push_back(number<s, &S::head_wait_ms>("gateway", "head_wait_ms", "ms", 0, hour_ms,
                                          "How long answers under way wait for a head that is away, in a "
                                          "gateway that is not the head's: they go on "
                                          "when another head serves, and end with an error after that."));
  t.push_back(number<s, &S::connections_max>("gateway", "connections_max", "", 1, 65'536,
                                             "Open connections; one more gets 503."));
  t.push_back(number<s, &S::descriptors_reserved>("gateway", "descriptors_reserved", "", 16, 65'536,
                                                  "File descriptors of the process that connections leave to "
                                                  "links, Redis and files: no more connections are open "
                                                  "than the system's limit less these."));
  t.push_back(number<s, &S::max_tokens_default>(
      "gateway", "max_tokens_default", "tokens", 1, 1 << 20,
      "Length of an answer whose request names none; never beyond the context."));
  t.push_back(number<s, &S::stop_strings_max>("gateway", "stop_strings_max", "", 1, 1024,
                                              "Stop strings of a request."));
  t.push_back(number<s, &S::prompts_max>("gateway", "prompts_max", "", 1, 65'536,
                                         "Prompts of a request to /v1/completions: each runs for itself."));
  t.push_back(number<s, &S::choices_max>("gateway", "choices_max", "", 1, 128,
                                         "Answers that a request may ask for to each prompt (`n`)."));
  t.push_back(
      key<s, &S::control_tokens_in_prompts>("gateway", "control_tokens_in_prompts",
                                            "Whether control tokens in the text prompt of /v1/completions "
                                            "are control tokens. Chat messages are always plain text."));
  t.push_back(number<s, &S::template_steps_max>(
      "gateway", "template_steps_max", "", 10'000, 10'000'000'000,
      "Statements, expressions and elements that the chat template may look at for one conversation."));
  t.push_back(number<s, &S::template_bytes_max>(
      "gateway", "template_bytes_max", "bytes", 1 * MiB, 64 * GiB,
      "Text and lists that the chat template may make or read for one conversation, all together."));
  t.push_back(number<s, &S::template_depth_max>(
      "gateway", "template_depth_max", "", 50, 1000,
      "Levels of the chat template that may be under way at once, macros that call macros included."));
  t.push_back(key<s, &S::allowed_hosts>(
      "gateway", "allowed_hosts",
      "Host names, beside localhost and loopback addresses, that requests may name in Host, and pages in "
      "their "
      "Origin. Others get 403, so that no web page can use the gateway through its reader's browser."));
  t.push_back(key<s, &S::keys_file>(
      "gateway", "keys_file",
      "File of API keys, which `convoy key` makes and changes: requests need one of them, and belong to its "
      "tenant. A change counts within a second. Relative to this file; empty: nobody is asked for a key, "
      "which "
      "is for loopback only."));
  t.push_back(key<s, &S::tls_certificate>(
      "gateway", "tls_certificate",
      "PEM file of the certificate, and those between it and its authority, with which the gateway serves "
      "HTTPS in place of HTTP. A new one counts within a second, for connections that come then. Relative to "
      "this file; empty: HTTP is plain, which is for loopback only."));
  t.push_back(key<s, &S::tls_key>(
      "gateway", "tls_key",
      "PEM file of the certificate's private key, which this user alone may read. Relative to this file."));
}

void add_pipeline_keys(std::vector<ClusterKey>& t) {
  using S = C::Pipeline;
  constexpr auto s = &C::pipeline;
  t.push_back(number<s, &S::context_tokens_max>("pipeline", "context_tokens_max", "tokens", 0, 1 << 20,
                                                "Prompt and answer of one request. At most the model's "
                                                "context and kv_tokens; 0: as much as these allow."));
  t.push_back(number<s, &S::sequences_max>("pipeline", "sequences_max", "", 1, 1024,
                                           "Requests that generate at once."));
  t.push_back(number<s, &S::queue_max>("pipeline", "queue_max", "", 0, 65'536,
                                       "Requests that wait while sequences_max run or no key and value block "
                                       "is left; one more is rejected with "
                                       "a Retry-After. 0: nobody waits."));
  t.push_back(number<s, &S::queue_max_ms>("pipeline", "queue_max_ms", "ms", 1, hour_ms,
                                          "Requests are rejected with a Retry-After while one more would "
                                          "wait longer than this until it begins, by "
                                          "how fast the pipeline reads prompts and finishes answers."));
  t.push_back(number<s, &S::prefill_tokens_per_step>("pipeline", "prefill_tokens_per_step", "tokens", 1,
                                                     16'384,
                                                     "Most prompt tokens in one step: longer chunks read "
                                                     "prompts faster and make running answers wait longer."));
  t.push_back(number<s, &S::prefill_share>(
      "pipeline", "prefill_share", "", 1, 64,
      "Into how many parts the prompt tokens of a step are dealt: a part always goes to the oldest prompt, "
      "the "
      "others to whoever was served least, so that a long prompt does not hold up short ones."));
  t.push_back(number<s, &S::prefill_stretch_percent>(
      "pipeline", "prefill_stretch_percent", "%", 100, 100'000,
      "How long a step of running answers may take with prompts beside, of what it takes without, by "
      "measured "
      "step times: higher reads prompts faster and makes running answers less even."));
  t.push_back(number<s, &S::pipeline_slack>(
      "pipeline", "pipeline_slack", "", 0, 16,
      "Steps in flight beyond one per stage, or per micro-batch where there are more: those that are planned "
      "ahead of their tokens."));
  t.push_back(number<s, &S::step_timeout_ms>(
      "pipeline", "step_timeout_ms", "ms", 100, hour_ms,
      "A stage that computes one step longer counts as hung and is replaced. Waiting "
      "behind other steps does not count."));
  t.push_back(number<s, &S::readiness_period_ms>(
      "pipeline", "readiness_period_ms", "ms", 100, 60'000,
      "Ready means: a token went through all stages within this time, or a step is under way. At rest a "
      "canary token is sent twice in this time, or as seldom as keeps canaries below 0.2 % of a core."));
  t.push_back(number<s, &S::failure_detection_ms>(
      "pipeline", "failure_detection_ms", "ms", 100, 60'000,
      "Silence of a link that ends its lease: the process behind it counts as dead."));
  t.push_back(number<s, &S::replays_max>("pipeline", "replays_max", "", 0, 100,
                                         "How often one request is computed again because it ran when a "
                                         "stage was lost. One that still runs then "
                                         "when a stage is lost ends with an error: it may be why."));
  t.push_back(number<s, &S::load_timeout_ms>(
      "pipeline", "load_timeout_ms", "ms", 1000, 24 * hour_ms,
      "A stage that does not link itself for longer, or loads its weights longer, is replaced."));
  t.push_back(number<s, &S::kv_tokens>(
      "pipeline", "kv_tokens", "tokens", 0, 1 << 26,
      "Keys and values held at once, over all requests, in blocks of 64 tokens. 0: as "
      "many as fit into the memory of the smallest stage, which its log explains."));
  t.push_back(
      number<s, &S::kv_moves_per_step>("pipeline", "kv_moves_per_step", "blocks", 1, 1024,
                                       "Blocks that one step brings to stage.kv_host_bytes or kv_disk_bytes "
                                       "and back from there at most, beside the rows that "
                                       "wait for it."));
  t.push_back(choice<s, &S::speculation>(
      "pipeline", "speculation", {"off", "prompt_lookup"},
      "For requests that don't say. `prompt_lookup`: how an answer goes on is guessed from where its last "
      "tokens occurred before, and steps check the guesses beside the token that they compute anyway. "
      "Answers "
      "stay the same; they come faster where they repeat their prompt."));
  t.push_back(number<s, &S::drafts_max>("pipeline", "drafts_max", "tokens", 1, 64,
                                        "Most tokens of one answer that are guessed in one step."));
}

void add_stage_keys(std::vector<ClusterKey>& t) {
  using S = C::Stage;
  constexpr auto s = &C::stage;
  const auto names = gpu::device_names();
  t.push_back(choice<s, &S::backend>(
      "stage", "backend", {names.begin(), names.end()},
      "Device that computes. `auto`: the best there is; `cpu` computes on quantised weights as stored, "
      "`cpu-reference` in float32, and slowly; `cuda` on NVIDIA GPUs in bf16, which a "
      "machine's stages share out among them, `cuda-f32` without rounding activations, `cuda:N` all on the "
      "GPU "
      "of that number."));
  t.back().accepts = gpu::is_device_name;
  t.push_back(number<s, &S::threads>(
      "stage", "threads", "", 0, 1024,
      "Threads of each stage process. 0: as many as the machine has cores, each bound to one, since with one "
      "request at a time only one stage computes; with many requests at once, cores divided by stages is "
      "better."));
  t.push_back(number<s, &S::spares>("stage", "spares", "", 0, 64,
                                    "Processes of each node that has stages which wait, with the model "
                                    "mapped, to take the place of a stage "
                                    "that ends."));
  std::vector<std::string_view> types{"auto"};
  for (const gpu::KvType& type : gpu::kv_types) types.push_back(type.name);
  t.push_back(choice<s, &S::kv_type>(
      "stage", "kv_type", types,
      "How cached keys and values are stored. bf16 and f16 take half of the memory that f32 does and round; "
      "f8_e4m3 takes a quarter, and rounds enough to change answers (docs/gpu.md says how much). `auto`: as "
      "the device is quickest with, f16 with `cpu`, bf16 with `cuda`, f32 with `cpu-reference` and "
      "`cuda-f32`."));
  t.push_back(key<s, &S::deterministic>(
      "stage", "deterministic",
      "Whether an answer may not depend on the chunks that its prompt was computed in, nor on what is "
      "computed beside it. Prompts are then computed as decodes are, which is slower for long ones: on a "
      "CPU DeepSeek's, where other models are always so; on a GPU all."));
  t.push_back(choice<s, &S::edges>(
      "stage", "edges", {"auto", "frames"},
      "How hidden states go from one GPU to another of the same machine. `auto`: straight, by NCCL, where it "
      "is "
      "found and comes up; `frames`: over the stages' link, as between all other devices."));
  t.push_back(number<s, &S::edge_timeout_ms>(
      "stage", "edge_timeout_ms", "ms", 100, hour_ms,
      "How long two stages try to bring up such an edge before they use their link."));
  t.push_back(number<s, &S::kv_host_bytes>(
      "stage", "kv_host_bytes", "bytes", 0, 64 * 1024 * GiB,
      "Keys and values that each stage on a GPU keeps in its machine's memory when pipeline.kv_tokens has no "
      "more room for them, until a prompt asks for them again. Page-locked when the stage starts. 0: none. "
      "For stages on a CPU raise pipeline.kv_tokens instead."));
  t.push_back(number<s, &S::kv_disk_bytes>("stage", "kv_disk_bytes", "bytes", 0, 64 * 1024 * GiB,
                                           "The same on disk, behind those of stage.kv_host_bytes. Taken "
                                           "when the stage starts, encrypted, and gone "
                                           "when it ends. 0: none."));
  t.push_back(key<s, &S::kv_disk_dir>("stage", "kv_disk_dir",
                                      "Folder on that disk. Relative to this file. Empty: cluster.run_dir."));
}

void add_store_keys(std::vector<ClusterKey>& t) {
  using S = C::Store;
  constexpr auto s = &C::store;
  t.push_back(key<s, &S::dir>(
      "store", "dir",
      "Folder for weights that came from the head, where cluster.model is not on this machine. Relative to "
      "this file."));
  t.push_back(number<s, &S::bytes_max>(
      "store", "bytes_max", "bytes", 1 * MiB, 1024 * 1024 * GiB,
      "Most that it holds: beyond it goes what no stage of this machine needs, longest unused first."));
  t.push_back(number<s, &S::part_bytes>("store", "part_bytes", "bytes", 64 * KiB, 16 * MiB,
                                        "Weights that a stage asks for at once."));
  t.push_back(number<s, &S::parts_in_flight>("store", "parts_in_flight", "", 1, 1024,
                                             "So many of those on their way to a stage."));
  t.push_back(number<s, &S::attempts_max>(
      "store", "attempts_max", "", 1, 100,
      "How often a tensor may come with the wrong bytes before that is an error."));
  t.push_back(number<s, &S::silence_ms>(
      "store", "silence_ms", "ms", 100, hour_ms,
      "How long a stage waits for weights that it asked for before it connects to the head anew."));
}

void add_cache_keys(std::vector<ClusterKey>& t) {
  using S = C::Cache;
  constexpr auto s = &C::cache;
  t.push_back(key<s, &S::enabled>("cache", "enabled",
                                  "Whether answers of deterministic requests are kept in Redis."));
  t.push_back(number<s, &S::ttl_s>("cache", "ttl_s", "s", 1, 31'536'000, "How long an answer is kept."));
  t.push_back(number<s, &S::entry_bytes_max>("cache", "entry_bytes_max", "bytes", 1 * KiB, 64 * MiB,
                                             "Longer answers are not kept."));
  t.push_back(number<s, &S::in_flight_max>(
      "cache", "in_flight_max", "", 1, 65'536,
      "Commands sent to Redis and not answered; beyond them requests go on as misses."));
  t.push_back(
      number<s, &S::redis_timeout_ms>("cache", "redis_timeout_ms", "ms", 1, 10'000,
                                      "How long a request waits for Redis before it goes on as a miss."));
  t.push_back(number<s, &S::circuit_failures>("cache", "circuit_failures", "", 1, 1000,
                                              "Failures in a row after which Redis is no longer asked."));
  t.push_back(number<s, &S::circuit_retry_ms>(
      "cache", "circuit_retry_ms", "ms", 10, hour_ms,
      "How often Redis is probed, in the background, while it is not asked."));
  t.push_back(number<s, &S::epoch>("cache", "epoch", "", 0, std::numeric_limits<int64_t>::max(),
                                   "Part of every key: raise it to forget all answers."));
}

void add_redis_keys(std::vector<ClusterKey>& t) {
  using S = C::Redis;
  constexpr auto s = &C::redis;
  t.push_back(
      key<s, &S::url>("redis", "url",
                      "Redis to use: \"redis://HOST[:PORT]\" or \"unix:///PATH\". Empty: Convoy starts "
                      "one of its own in run_dir, without persistence."));
  t.push_back(number<s, &S::memory_bytes_max>(
      "redis", "memory_bytes_max", "bytes", 1 * MiB, 1024 * GiB,
      "Memory of Convoy's own Redis; the least recently used answers go first."));
}

void add_link_keys(std::vector<ClusterKey>& t) {
  using S = C::Link;
  constexpr auto s = &C::link;
  t.push_back(number<s, &S::handshake_timeout_ms>("link", "handshake_timeout_ms", "ms", 10, 60'000,
                                                  "Connecting, and both sides' hello."));
  t.push_back(number<s, &S::control_frame_bytes_max>("link", "control_frame_bytes_max", "bytes", 4 * KiB,
                                                     16 * MiB, "Longest frame on the control connection."));
  t.push_back(number<s, &S::bulk_frame_bytes_max>(
      "link", "bulk_frame_bytes_max", "bytes", 64 * KiB, 1 * GiB,
      "Longest frame on the bulk connection: the hidden states of a step."));
  t.push_back(number<s, &S::bulk_window_bytes>(
      "link", "bulk_window_bytes", "bytes", 64 * KiB, 4 * GiB,
      "Bulk bytes sent and not yet taken by the receiver. If two processes have "
      "different limits, the smaller one counts."));
  t.push_back(number<s, &S::queue_bytes_max>(
      "link", "queue_bytes_max", "bytes", 64 * KiB, 16 * GiB,
      "Bytes that wait to be written on one link; beyond them the link fails."));
  t.push_back(number<s, &S::inbox_bytes_max>(
      "link", "inbox_bytes_max", "bytes", 1 * MiB, 16 * GiB,
      "Control bytes received on one link that still wait in mailboxes; beyond them the link fails."));
  t.push_back(number<s, &S::head_timeout_ms>("link", "head_timeout_ms", "ms", 100, 24 * hour_ms,
                                             "How long a node or a stage tries to reach the head node, which "
                                             "may start later; then it ends."));
  t.push_back(number<s, &S::links_max>("link", "links_max", "", 1, 65'536, "Links of one process."));
  t.push_back(number<s, &S::handshakes_max>(
      "link", "handshakes_max", "", 1, 65'536,
      "Connections that have not said yet who they are, over TCP and over Unix-domain sockets each; one "
      "more is closed."));
  t.push_back(number<s, &S::retry_first_ms>("link", "retry_first_ms", "ms", 1, 60'000,
                                            "Pause before a failed connection is tried again; each one "
                                            "after it is twice as long."));
  t.push_back(number<s, &S::retry_max_ms>("link", "retry_max_ms", "ms", 1, 60'000,
                                          "Longest pause between two such tries."));
  t.push_back(number<s, &S::farewell_ms>("link", "farewell_ms", "ms", 0, 60'000,
                                         "How long a process that ends lets its last frames leave."));
}

void add_log_keys(std::vector<ClusterKey>& t) {
  using S = C::Log;
  constexpr auto s = &C::log;
  t.push_back(choice<s, &S::level>("log", "level", {"debug", "info", "warn", "error"},
                                   "Least severe event that is logged."));
  t.push_back(key<s, &S::json>("log", "json", "One JSON object an event instead of text."));
  t.push_back(number<s, &S::file_bytes_max>("log", "file_bytes_max", "bytes", 64 * KiB, 64 * GiB,
                                            "A node's log that is longer is put aside as NAME.log.1."));
  t.push_back(number<s, &S::files_max>("log", "files_max", "", 0, 1000,
                                       "How many of those are kept, the oldest goes first."));
}

}  // namespace

std::span<const ConfigSection> config_sections() {
  static constexpr ConfigSection sections[] = {
      {"cluster", "What the cluster is: its name, its model, its machines."},
      {"gateway", "The HTTP server that applications talk to."},
      {"pipeline", "Requests, steps and the memory for keys and values; health of the stages."},
      {"stage", "How each stage process computes."},
      {"store", "Weights on machines that have not the model's files."},
      {"cache", "The answer cache."},
      {"redis", "Where cached answers live."},
      {"link", "Connections between Convoy's own processes."},
      {"log", "What is written to the logs. Never prompts, never keys."},
  };
  return sections;
}

std::span<const ConfigKey<ClusterConfig>> cluster_keys() {
  static const std::vector<ClusterKey> table = [] {
    std::vector<ClusterKey> t;
    add_cluster_keys(t);
    add_gateway_keys(t);
    add_pipeline_keys(t);
    add_stage_keys(t);
    add_store_keys(t);
    add_cache_keys(t);
    add_redis_keys(t);
    add_link_keys(t);
    add_log_keys(t);
    return t;
  }();
  return table;
}

std::span<const ConfigKey<NodeConfig>> node_keys() {
  static const std::vector<ConfigKey<NodeConfig>> table = [] {
    std::vector<ConfigKey<NodeConfig>> t;
    t.push_back(node_key<&NodeConfig::name>("name", "Name of the machine, unlike all others.", true));
    t.push_back(
        node_key<&NodeConfig::listen>("listen",
                                      "HOST:PORT where other processes of the cluster reach it. Loopback in "
                                      "this version; port 0 takes a free one in a cluster of one node.",
                                      true));
    t.push_back(node_key<&NodeConfig::roles>("roles",
                                             "What runs on the node beside stages. Exactly one node, the "
                                             "head's, has all four roles; others may have [\"gateway\"]."));
    t.back().choices = {"gateway", "router", "cache", "pipeline"};
    t.push_back(
        node_key<&NodeConfig::stages>("stages", "Stage processes that the node starts and supervises."));
    t.back().least = 0;
    t.back().most = node_stages_max;
    t.push_back(node_key<&NodeConfig::pipeline>(
        "pipeline",
        "Which of `pipelines` its stages serve. Empty: the first. Of one machine that has stages of "
        "several, each is a node with a port of its own."));
    t.back().required = false;
    t.push_back(node_key<&NodeConfig::http>(
        "http",
        "HOST:PORT where the node's own gateway serves HTTP, for a node that is not the head's and has the "
        "role gateway. Empty: as gateway.host and gateway.port say, and under the same conditions."));
    t.back().required = false;
    return t;
  }();
  return table;
}

std::span<const ConfigKey<ModelConfig>> model_keys() {
  using M = ModelConfig;
  static const std::vector<ConfigKey<M>> table = {
      entry_key<M, &M::id>("id", "As `model_id` of a cluster of one.", false),
      entry_key<M, &M::path>("path", "As `model` of a cluster of one.", true),
      entry_key<M, &M::aliases>("aliases", "Further names by which clients may ask for it.", false),
      entry_key<M, &M::chat_template>("chat_template", "As that of a cluster of one.", false)};
  return table;
}

std::span<const ConfigKey<PipelineConfig>> pipeline_keys() {
  using P = PipelineConfig;
  static const std::vector<ConfigKey<P>> table = {
      entry_key<P, &P::name>("name", "Its name, unlike all others: in `convoy status`, logs and metrics.",
                             true),
      entry_key<P, &P::model>("model", "Id of the model that it serves. Empty: the first one's.", false)};
  return table;
}

template <class Owner>
std::string allowed_values(const ConfigKey<Owner>& key) {
  if (!key.get) return "a list of maps";
  const Setting type = key.get(Owner{});
  if (std::holds_alternative<bool>(type)) return "true or false";
  if (std::holds_alternative<int64_t>(type))
    return std::to_string(key.least) + " to " + std::to_string(key.most);
  std::string choices;
  for (size_t i = 0; i < key.choices.size(); ++i) {
    choices += i == 0 ? "" : i + 1 == key.choices.size() ? " or " : ", ";
    choices += '"' + std::string(key.choices[i]) + '"';
  }
  if (std::holds_alternative<std::string>(type)) return choices.empty() ? "a text in double quotes" : choices;
  return choices.empty() ? "a list of texts" : "a list of " + choices;
}
template std::string allowed_values(const ConfigKey<ClusterConfig>&);
template std::string allowed_values(const ConfigKey<NodeConfig>&);
template std::string allowed_values(const ConfigKey<ModelConfig>&);
template std::string allowed_values(const ConfigKey<PipelineConfig>&);

}  // namespace convoy::actors
