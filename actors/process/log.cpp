#include "actors/process/log.hpp"

#include <spdlog/fmt/chrono.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <boost/json.hpp>
#include <chrono>
#include <mutex>
#include <utility>

#include "model/error.hpp"

namespace convoy::log {

namespace {

struct Output {
  std::shared_ptr<spdlog::logger> logger;
  bool json = false;
  std::string process;
};

// The one log of the process. configure() changes it before other threads start.
Output& output() {
  static Output the_output = [] {
    auto logger =
        std::make_shared<spdlog::logger>("convoy", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_pattern("%v");
    return Output{std::move(logger)};
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

void write(spdlog::level::level_enum level, std::string_view event, Fields fields, uint64_t left_out = 0) {
  const Output& out = output();
  if (!out.logger->should_log(level)) return;
  if (out.json) {
    boost::json::object line{{"time", utc_now()}, {"level", name_of(level)}, {"event", event}};
    if (!out.process.empty()) line["process"] = out.process;
    for (const auto& field : fields) line[field.name] = to_json(field);
    if (left_out) line["left_out"] = left_out;
    out.logger->log(level, boost::json::serialize(line));
    return;
  }
  std::string line = fmt::format("{} {} {}", utc_now(), name_of(level), event);
  for (const auto& field : fields) line += fmt::format(" {}={}", field.name, to_text(field));
  if (left_out) line += fmt::format(" left_out={}", left_out);
  if (!out.process.empty()) line += fmt::format(" process={}", out.process);
  out.logger->log(level, line);
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

void warn_limited(std::string_view event, Fields fields) {
  static std::mutex mutex;
  static LineBudget budget;  // of the one log of the process
  std::optional<uint64_t> left_out;
  {
    const std::lock_guard lock(mutex);
    left_out = budget.take(event, LineBudget::Clock::now());
  }
  if (left_out) write(spdlog::level::warn, event, fields, *left_out);
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
