#pragma once
// One line an event: log::info("stage.ready", {{"stage", 1}, {"pid", pid}}). Text or JSON, through spdlog, to
// stderr. Never prompts, never keys. Any thread.

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace convoy::log {

struct Field {
  std::string_view name;
  std::variant<int64_t, uint64_t, double, bool, std::string> value;
  Field(std::string_view n, std::string_view v) : name(n), value(std::string(v)) {}
  Field(std::string_view n, const char* v) : name(n), value(std::string(v)) {}
  Field(std::string_view n, const std::string& v) : name(n), value(v) {}
  Field(std::string_view n, bool v) : name(n), value(v) {}
  Field(std::string_view n, double v) : name(n), value(v) {}
  template <class T>
  requires std::is_integral_v<T> Field(std::string_view n, T v) : name(n) {
    if constexpr (std::is_signed_v<T>)
      value = static_cast<int64_t>(v);
    else
      value = static_cast<uint64_t>(v);
  }
};
using Fields = std::initializer_list<Field>;

/// Called by main, and by nodes and stages anew once they know their configuration; before other threads
/// start. level: debug, info, warn or error.
void configure(std::string_view level, bool json, std::string_view process);

void debug(std::string_view event, Fields fields = {});
void info(std::string_view event, Fields fields = {});
void warn(std::string_view event, Fields fields = {});
void error(std::string_view event, Fields fields = {});

/// warn() for what a peer can cause as often as it likes: within the event's LineBudget. A line that follows
/// left out ones says how many they were (`left_out`).
void warn_limited(std::string_view event, Fields fields = {});

/// Lines of this process that nobody can read, so far: standard error did not take them, or there was no
/// memory to write them in.
uint64_t lines_lost();

/// How many lines an event may write: `burst` at once, then one each `pause`. For one thread at a time.
class LineBudget {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr uint64_t burst = 10;
  static constexpr std::chrono::milliseconds pause{1000};

  /// How many lines of this event were left out since its last one; nullopt: leave this one out too.
  std::optional<uint64_t> take(std::string_view event, Clock::time_point now);

 private:
  struct Bucket {
    Clock::time_point since;  // when it had `lines`
    uint64_t lines = burst;
    uint64_t left_out = 0;
  };
  std::map<std::string, Bucket, std::less<>> buckets_;  // events are our code's words: there are few
};

}  // namespace convoy::log
