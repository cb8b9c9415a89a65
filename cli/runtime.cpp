#include "cli/runtime.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "actors/link/link_tls.hpp"
#include "actors/process/log.hpp"
#include "actors/process/memory_reserve.hpp"
#include "actors/process/secret.hpp"
#include "model/parallel.hpp"

namespace convoy::cli {

ActorSystemConfig::ActorSystemConfig() {
  set("scheduler.policy",
      caf::atom("sharing"));                    // stealing polls: five times the latency from outside threads
  set("scheduler.max-throughput", size_t{50});  // unlimited, a busy actor starves the others
  set("scheduler.max-threads", std::max<size_t>(4, model::all_cores()));
}

actors::LinkOptions link_options(const actors::ClusterConfig& config, const std::string& node) {
  actors::LinkOptions options;
  options.cluster = config.cluster.name;
  options.secret =
      actors::load_or_create_secret(std::filesystem::path(config.cluster.run_dir) / actors::secret_file);
  options.dev = config.cluster.dev;
  if (!options.dev)
    options.tls = std::make_shared<actors::LinkTls>(config.cluster.tls_dir, config.cluster.name, node);
  // Whose stages they are says their node's certificate. How many a node has that came later than
  // cluster.conf is the pipeline's to know, which takes none beside those of its members.
  options.places = {config.head().name,
                    [nodes = config.cluster.nodes](const std::string& node, uint32_t instance) {
                      const auto at = std::ranges::find(nodes, node, &actors::NodeConfig::name);
                      return at == nodes.end() || instance < at->stages;
                    },
                    [config](const std::string& node) {
                      const auto* const at = config.find_node(node);
                      return at && config.has_own_gateway(*at);
                    }};
  options.limits = {config.link, config.pipeline.failure_detection_ms};
  return options;
}

namespace {

constexpr auto drain_poll = std::chrono::milliseconds(20);

sigset_t awaited_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

}  // namespace

void block_signals() {
  const sigset_t set = awaited_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "convoy");  // what `top` shows; started from /proc/self/exe, it would be "exe"
}

int await_signal(std::chrono::milliseconds timeout) {
  const sigset_t set = awaited_signals();
  const timespec time{timeout.count() / 1000, timeout.count() % 1000 * 1'000'000};
  const int signal = sigtimedwait(&set, nullptr, &time);
  return signal < 0 ? 0 : signal;
}

void tend_until_told(log::LogFile& log, const std::function<bool()>& every_second) {
  actors::MemoryReserve reserve;
  for (;;) {
    reserve.refill();
    const int signal = await_signal(std::chrono::seconds(1));
    if (signal == SIGTERM || signal == SIGINT) return;
    if (signal == SIGHUP)
      log.reopen();
    else
      log.tend();
    if (!every_second()) return;
  }
}

void await_drained(const std::string& process, const std::future<void>& answers, uint32_t timeout_ms,
                   const std::function<bool()>& also) {
  const auto began = std::chrono::steady_clock::now();
  const auto took_ms = [began] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began)
        .count();
  };
  const auto have_ended = [&] { return answers.wait_for(drain_poll) == std::future_status::ready && also(); };
  log::info(process + ".draining", {{"timeout_ms", timeout_ms}});
  bool told_again = false, over = false;
  while (!(over = have_ended()) && !told_again && took_ms() < timeout_ms) {
    const int signal = await_signal(also() ? std::chrono::milliseconds(0) : drain_poll);
    told_again = signal == SIGTERM || signal == SIGINT;
  }
  if (over) return log::info(process + ".drained", {{"took_ms", took_ms()}});
  log::warn(
      process + ".answers_cut",
      {{"after_ms", took_ms()}, {"reason", told_again ? "told to end again" : "gateway.drain_timeout_ms"}});
}

uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const auto before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return limit.rlim_cur;
  log::warn("process.descriptor_limit",
            {{"limit", uint64_t{before}}, {"not_raised_to", uint64_t{limit.rlim_max}}});
  return before;
}

}  // namespace convoy::cli
