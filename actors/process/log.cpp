#include "actors/process/log.hpp"

#include <spdlog/fmt/chrono.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "model/error.hpp"

namespace convoy::log {

namespace {

/// Lines that standard error did not take, and its latest reason.
struct Lost {
  uint64_t lines = 0;
  std::string reason;
};

/// Writes to standard error. A full disk, a closed pipe or a lack of memory cost lines and nothing else; how
/// many, the log says once it takes lines again.
class StandardError final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  /// What was lost until the latest line, if that was written; it is told once.
  std::optional<Lost> take_lost() {
    const std::lock_guard lock(mutex_);
    if (failing_ || lost_.lines == 0) return std::nullopt;
    return std::exchange(lost_, {});
  }
  void lose(const char* reason) {
    const std::lock_guard lock(mutex_);
    count(reason);
  }
  uint64_t all_lost() const { return all_lost_; }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    if (torn_) line.push_back('\n');
    formatter_->format(message, line);
    const char* rest = line.data();
    const char* const end = rest + line.size();
    while (rest < end) {
      const ssize_t written = ::write(STDERR_FILENO, rest, static_cast<size_t>(end - rest));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) break;
      rest += written;
    }
    failing_ = rest < end;
    if (!failing_) return void(torn_ = false);
    torn_ = torn_ || rest != line.data();
    count(std::strerror(errno));
  }
  void count(const char* reason) {
    ++lost_.lines;
    ++all_lost_;
    lost_.reason = reason;
  }
  void flush_() override {}

  Lost lost_;
  std::atomic<uint64_t> all_lost_ = 0;
  bool failing_ = false;
  bool torn_ = false;  // the last thing written is no whole line
};

struct Output {
  std::shared_ptr<StandardError> sink;
  std::shared_ptr<spdlog::logger> logger;
  bool json = false;
  std::string process;
};

// The one log of the process. configure() changes it before other threads start.
Output& output() {
  static Output the_output = [] {
    auto sink = std::make_shared<StandardError>();
    auto logger = std::make_shared<spdlog::logger>("convoy", sink);
    logger->set_pattern("%v");
    return Output{std::move(sink), std::move(logger)};
  }();
  return the_output;
}

const char* name_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warn";
    default:
      return "error";
  }
}

std::string utc_now() {
  const auto now = std::chrono::system_clock::now();
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(now)),
                     ms);
}

boost::json::value to_json(const Field& field) {
  return std::visit([](const auto& v) { return boost::json::value(v); }, field.value);
}

// A plain word stands for itself; anything else (blanks, quotes, control characters of a hostile peer) is
// quoted.
std::string to_text(const Field& field) {
  const auto* text = std::get_if<std::string>(&field.value);
  if (!text) return boost::json::serialize(to_json(field));
  const bool plain =
      !text->empty() && text->find_first_of(" \"\\=") == std::string::npos &&
      std::all_of(text->begin(), text->end(), [](unsigned char c) { return c > 0x20 && c != 0x7f; });
  return plain ? *text : boost::json::serialize(boost::json::value(*text));
}

std::string line_of(spdlog::level::level_enum level, std::string_view event, Fields fields,
                    uint64_t left_out) {
  const Output& out = output();
  if (out.json) {
    boost::json::object line{{"time", utc_now()}, {"level", name_of(level)}, {"event", event}};
    if (!out.process.empty()) line["process"] = out.process;
    for (const auto& field : fields) line[field.name] = to_json(field);
    if (left_out) line["left_out"] = left_out;
    return boost::json::serialize(line);
  }
  std::string line = fmt::format("{} {} {}", utc_now(), name_of(level), event);
  for (const auto& field : fields) line += fmt::format(" {}={}", field.name, to_text(field));
  if (left_out) line += fmt::format(" left_out={}", left_out);
  if (!out.process.empty()) line += fmt::format(" process={}", out.process);
  return line;
}

/// Never throws for want of memory: who reports that would fail once more.
void write(spdlog::level::level_enum level, std::string_view event, Fields fields,
           uint64_t left_out = 0) try {
  const Output& out = output();
  if (!out.logger->should_log(level)) return;
  out.logger->log(level, line_of(level, event, fields, left_out));
  if (const auto lost = out.sink->take_lost())
    out.logger->log(spdlog::level::err, line_of(spdlog::level::err, "log.lines_lost",
                                                {{"lines", lost->lines}, {"reason", lost->reason}}, 0));
} catch (const std::bad_alloc&) {
  output().sink->lose("out of memory");
}

}  // namespace

void configure(std::string_view level, bool json, std::string_view process) {
  Output& out = output();
  if (level == "debug")
    out.logger->set_level(spdlog::level::debug);
  else if (level == "info")
    out.logger->set_level(spdlog::level::info);
  else if (level == "warn")
    out.logger->set_level(spdlog::level::warn);
  else if (level == "error")
    out.logger->set_level(spdlog::level::err);
  else
    throw InputError("unknown level \"" + std::string(level) + "\"", "log level",
                     "use debug, info, warn or error");
  out.json = json;
  out.process = process;
}

void debug(std::string_view event, Fields fields) { write(spdlog::level::debug, event, fields); }
void info(std::string_view event, Fields fields) { write(spdlog::level::info, event, fields); }
void warn(std::string_view event, Fields fields) { write(spdlog::level::warn, event, fields); }
void error(std::string_view event, Fields fields) { write(spdlog::level::err, event, fields); }

uint64_t lines_lost() { return output().sink->all_lost(); }

void warn_limited(std::string_view event, Fields fields) try {
  static std::mutex mutex;
  static LineBudget budget;  // of the one log of the process
  std::optional<uint64_t> left_out;
  {
    const std::lock_guard lock(mutex);
    left_out = budget.take(event, LineBudget::Clock::now());
  }
  if (left_out) write(spdlog::level::warn, event, fields, *left_out);
} catch (const std::bad_alloc&) {  // of its budget
  output().sink->lose("out of memory");
}

std::optional<uint64_t> LineBudget::take(std::string_view event, Clock::time_point now) {
  auto found = buckets_.find(event);
  if (found == buckets_.end()) found = buckets_.emplace(event, Bucket{now}).first;
  Bucket& bucket = found->second;
  const auto earned = static_cast<uint64_t>((now - bucket.since) / pause);
  bucket.lines += earned;
  bucket.since += earned * pause;
  if (bucket.lines >= burst) {
    bucket.lines = burst;
    bucket.since = now;
  }
  if (bucket.lines == 0) {
    ++bucket.left_out;
    return std::nullopt;
  }
  --bucket.lines;
  return std::exchange(bucket.left_out, 0);
}

}  // namespace convoy::log
