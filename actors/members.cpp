#include "actors/members.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cassert>

#include "model/digest.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace json = boost::json;

namespace {

constexpr std::string_view member_state_names[] = {"joining", "serving", "drained", "removed"};

bool offers(const Member& m) { return m.state == MemberState::joining || m.state == MemberState::serving; }

std::string known_nodes(const Members& members) {
  std::string names;
  for (const Member& m : members.list)
    if (m.state != MemberState::removed) names += (names.empty() ? "" : ", ") + m.node;
  return names;
}

/// The member that the command is about, in a copy that may be changed.
Member* member_of(Members& members, const std::string& node) {
  const auto found = std::ranges::find(members.list, node, &Member::node);
  return found == members.list.end() ? nullptr : &*found;
}

/// Why so many stages more are too many.
std::optional<std::string> too_many(const Members& members, uint32_t more, uint32_t stages_max) {
  uint64_t all = more;
  for (const Member& m : members.list)
    if (offers(m)) all += m.stages;
  if (all <= stages_max) return std::nullopt;
  return "there would be " + std::to_string(all) + " stages, and the model has " +
         std::to_string(stages_max) + " layers; let it have fewer stages";
}

std::optional<std::string> add(Members& members, const MemberCommand& c, uint32_t stages_max) {
  if (c.node.empty() || c.listen.empty()) return "a node that is added needs a name and an address";
  if (c.stages == 0 || c.stages > node_stages_max)
    return "a node that is added needs 1 to " + std::to_string(node_stages_max) + " stages";
  if (const Member* const known = members.find(c.node))
    return "there is a node " + c.node + " (" +
           std::string(member_state_names[static_cast<size_t>(known->state)]) +
           (offers(*known) ? "); give the new one another name"
                           : "); undrain that one, or take another name");
  if (const auto same = std::ranges::find(members.list, c.listen, &Member::listen);
      same != members.list.end())
    return "node " + same->node + " listens on " + c.listen + "; give the new one an address of its own";
  if (auto why = too_many(members, c.stages, stages_max)) return why;
  members.list.push_back({c.node, c.listen, c.stages, false, MemberState::joining, c.http});
  return std::nullopt;
}

std::optional<std::string> leaves_none(const Members& members, const Member& leaving) {
  if (leaving.state != MemberState::serving || members.stages() > leaving.stages) return std::nullopt;
  return "no stage would be left; add a node, or undrain one, before this one goes";
}

std::optional<std::string> change(Members& members, const MemberCommand& c, uint32_t stages_max) {
  if (c.kind == MemberCommand::Kind::add) return add(members, c, stages_max);
  Member* const m = member_of(members, c.node);
  if (!m || (m->state == MemberState::removed && c.kind != MemberCommand::Kind::undrain))
    return "there is no node " + c.node + "; there are " + known_nodes(members);
  switch (c.kind) {
    case MemberCommand::Kind::add:
      break;  // above
    case MemberCommand::Kind::undrain:
      if (offers(*m)) return "node " + c.node + " is not drained";
      if (auto why = too_many(members, m->stages, stages_max)) return why;
      m->state = MemberState::joining;
      return std::nullopt;
    case MemberCommand::Kind::drain:
      if (m->state == MemberState::drained) return "node " + c.node + " is drained already";
      if (auto why = leaves_none(members, *m)) return why;
      m->state = MemberState::drained;
      return std::nullopt;
    case MemberCommand::Kind::remove:
      if (auto why = leaves_none(members, *m)) return why;
      if (m->configured)
        m->state = MemberState::removed;  // or cluster.conf would bring it back
      else
        members.list.erase(members.list.begin() + (m - members.list.data()));
      return std::nullopt;
    case MemberCommand::Kind::arrived:
      if (m->state != MemberState::joining) return "node " + c.node + " does not join";
      m->state = MemberState::serving;
      return std::nullopt;
  }
  assert(false);
  return std::nullopt;
}

}  // namespace

const Member* Members::find(std::string_view node) const {
  const auto found = std::ranges::find(list, node, &Member::node);
  return found == list.end() ? nullptr : &*found;
}

uint32_t Members::stages() const {
  uint32_t count = 0;
  for (const Member& m : list)
    if (m.state == MemberState::serving) count += m.stages;
  return count;
}

std::variant<Members, MemberRefused> apply(const Members& members, const MemberCommand& command,
                                           uint32_t stages_max) {
  Members next = members;
  if (auto why = change(next, command, stages_max)) return MemberRefused{std::move(*why)};
  ++next.revision;
  return next;
}

Members configured_members(const ClusterConfig& config) {
  Members members;
  const auto& pipelines = config.cluster.pipelines;
  for (const NodeConfig& n : config.cluster.nodes)
    if (pipelines.empty() || config.pipeline_of(n) == pipelines.front().name)
      members.list.push_back({n.name, n.listen, n.stages, true, MemberState::serving});
  return members;
}

Members members_at_start(Members configured, const Members& kept) {
  Members members = configured;
  members.revision = kept.revision;
  for (Member& m : members.list)
    if (const Member* const before = kept.find(m.node)) m.state = before->state;
  for (const Member& m : kept.list)
    if (!m.configured && !members.find(m.node)) members.list.push_back(m);
  if (members.stages() > 0) return members;
  configured.revision = kept.revision + 1;  // whoever served is in cluster.conf no more
  return configured;
}

namespace {

json::object to_json(const Members& members) {
  json::array list;
  for (const Member& m : members.list)
    list.push_back({{"node", m.node},
                    {"listen", m.listen},
                    {"stages", m.stages},
                    {"configured", m.configured},
                    {"state", member_state_names[static_cast<size_t>(m.state)]},
                    {"http", m.http}});
  return {{"revision", members.revision}, {"members", list}};
}

std::string sha256_of(const json::value& value) {
  model::Sha256 digest;
  digest.update(json::serialize(value));
  return digest.hex();
}

Members from_json(const json::value& value) {
  Members members;
  members.revision = value.at("revision").to_number<uint64_t>();
  for (const json::value& v : value.at("members").as_array()) {
    const auto state = std::ranges::find(member_state_names, std::string_view(v.at("state").as_string()));
    if (state == std::end(member_state_names)) throw std::runtime_error("an unknown state");
    Member m{json::value_to<std::string>(v.at("node")), json::value_to<std::string>(v.at("listen")),
             v.at("stages").to_number<uint32_t>(), v.at("configured").as_bool(),
             static_cast<MemberState>(state - std::begin(member_state_names))};
    const auto* const http = v.as_object().if_contains("http");  // none in one of an older version
    if (http) m.http = json::value_to<std::string>(*http);
    if (members.find(m.node)) throw std::runtime_error("node " + m.node + " comes twice");
    members.list.push_back(std::move(m));
  }
  return members;
}

}  // namespace

std::string text_of(const MembersByPipeline& all) {
  json::object pipelines;
  for (const auto& [name, members] : all) pipelines[name] = to_json(members);
  return json::serialize(json::object{{"pipelines", pipelines}, {"sha256", sha256_of(pipelines)}}) + "\n";
}

MembersByPipeline read_members(const std::string& text, const std::string& place) {
  try {
    const json::value value = json::parse(text);
    const json::value* const pipelines = value.as_object().if_contains("pipelines");
    if (!pipelines) return {{"", from_json(value)}};  // as versions before wrote it
    if (value.at("sha256").as_string() != sha256_of(*pipelines))
      throw std::runtime_error("their SHA-256 is another one");
    MembersByPipeline all;
    for (const auto& [name, members] : pipelines->as_object()) all[name] = from_json(members);
    return all;
  } catch (const std::exception& e) {
    throw InputError("these are no members of a cluster (" + std::string(e.what()) + ")", place,
                     "delete it: then the nodes of cluster.conf are the members");
  }
}

std::vector<StageOffer> offers_of(const Members& members, const std::vector<StageOffer>& known) {
  std::vector<StageOffer> offers;
  for (const Member& m : members.list)
    for (uint32_t i = 0; m.state == MemberState::serving && i < m.stages; ++i) {
      const StageName name{m.node, i};
      const auto found = std::ranges::find(known, name, &StageOffer::name);
      offers.push_back(found != known.end() ? *found : StageOffer{.name = name, .machine = m.node});
    }
  pool_speeds(offers);
  return offers;
}

std::vector<PlannedStage> plan_of(const Members& members, const LayerCosts& costs,
                                  const std::vector<StageOffer>& known) {
  const auto offers = offers_of(members, known);
  const Balance layers = balance(costs, offers);
  std::vector<PlannedStage> plan;
  for (size_t i = 0; i < offers.size(); ++i)
    if (layers[i]) plan.push_back({offers[i].name, *layers[i]});
  return plan;
}

std::vector<StageName> names_of(const std::vector<PlannedStage>& plan) {
  std::vector<StageName> names;
  for (const PlannedStage& stage : plan) names.push_back(stage.name);
  return names;
}

}  // namespace convoy::actors
