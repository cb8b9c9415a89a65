#include "gateway/routes.hpp"

namespace convoy::gateway {

namespace {

using Action = Route::Action;

constexpr std::string_view version = "/v1", id = "{id}";

constexpr Route table[] = {
    {Action::chat, "/v1/chat/completions", "POST", "chat_completions",
     "messages of the roles system (or developer), user, assistant; text only", Access::users},
    {Action::completions, "/v1/completions", "POST", "completions",
     "`prompt`: a text or an array of token ids, or up to `prompts_max` of these in an array", Access::users},
    {Action::models, "/v1/models", "GET, HEAD", "models",
     "the models that this cluster serves, by their ids and aliases", Access::users},
    {Action::model, "/v1/models/{id}", "GET, HEAD", "models", "one of them, by its id or an alias",
     Access::users},
    {Action::livez, "/livez", "GET, HEAD", "livez", "200: this process answers", Access::open},
    {Action::readyz, "/readyz", "GET, HEAD", "readyz",
     "200 `{\"ready\":true}` only if, of each model, a token went through all stages within "
     "`readiness_period_ms`; else 503 with a reason",
     Access::open},
    {Action::metrics, "/metrics", "GET, HEAD", "metrics", "Prometheus' text format: `docs/metrics.md`",
     Access::metrics},
};

bool leads_to(const Route& route, std::string_view pattern, std::string_view path, Destination& found) {
  if (pattern.ends_with(id)) {
    pattern.remove_suffix(id.size());
    if (!path.starts_with(pattern) || path.size() == pattern.size()) return false;
    found = {&route, path.substr(pattern.size())};
    return true;
  }
  if (path != pattern) return false;
  found = {&route, {}};
  return true;
}

}  // namespace

std::string_view name_of(Access access) {
  return access == Access::open ? "none" : access == Access::metrics ? "metrics" : "user";
}

bool Route::allows(std::string_view method) const {
  for (std::string_view rest = methods; !rest.empty();) {
    const size_t end = rest.find(", ");
    if (rest.substr(0, end) == method) return true;
    rest = end == rest.npos ? std::string_view() : rest.substr(end + 2);
  }
  return false;
}

std::span<const Route> routes() { return table; }

Destination find_route(std::string_view path) {
  Destination found;
  for (const Route& route : table) {
    if (leads_to(route, route.path, path, found)) break;
    if (route.path.starts_with(version) && leads_to(route, route.path.substr(version.size()), path, found))
      break;
  }
  return found;
}

}  // namespace convoy::gateway
