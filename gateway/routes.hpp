#pragma once
// The one table of what is served where: sessions dispatch by it, metrics take their labels from it, a 405
// its Allow, admission what key it asks for, and docs/http-api.md is held against it. Immutable; any thread.

#include <cstdint>
#include <span>
#include <string_view>

namespace convoy::gateway {

/// What a request has to show where keys are asked for. A route that does not say it asks for a user's.
enum class Access : uint8_t {
  users,    // a key of the role user or admin
  metrics,  // of the role metrics or admin
  open,     // nothing
};
std::string_view name_of(Access access);

struct Route {
  enum class Action { chat, completions, models, model, livez, readyz, metrics };
  Action action;
  std::string_view path;     // "{id}" at its end: whatever stands there
  std::string_view methods;  // as Allow has them; the first is the one that documents name
  std::string_view label;    // of the metrics
  std::string_view help;     // for the document, in Markdown
  Access access;

  bool allows(std::string_view method) const;
};

std::span<const Route> routes();

struct Destination {
  const Route* route = nullptr;  // null: there is nothing
  std::string_view id;           // what stands for {id}: a part of the path
};
/// path: path_of()'s. What is under /v1 is found without it too.
Destination find_route(std::string_view path);

}  // namespace convoy::gateway
