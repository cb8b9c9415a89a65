#pragma once
// One line an event: log::info("stage.ready", {{"stage", 1}, {"pid", pid}}). Text or JSON, through spdlog, to
// stderr. Never prompts, never keys. Any thread.

#include <cstdint>
#include <initializer_list>
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

/// Called once by main. level: debug, info, warn or error.
void configure(std::string_view level, bool json, std::string_view process);

void debug(std::string_view event, Fields fields = {});
void info(std::string_view event, Fields fields = {});
void warn(std::string_view event, Fields fields = {});
void error(std::string_view event, Fields fields = {});

}  // namespace convoy::log
