#include "actors/link/remote_handle.hpp"

#include <algorithm>
#include <array>

#include "actors/link/link_port.hpp"
#include "actors/process/log.hpp"
#include "schema/frame_walk.hpp"

namespace convoy::actors {

namespace {

template <class T>
void deliver_as(const caf::actor& to, caf::strong_actor_ptr sender, schema::FrameBytes bytes,
                caf::execution_unit* unit) {
  caf::actor_cast<caf::abstract_actor*>(to)->enqueue(
      caf::make_mailbox_element(std::move(sender), caf::make_message_id(), {}, Frame<T>{std::move(bytes)}),
      unit);
}

template <class... Ts>
constexpr auto table_of(TypeList<Ts...>) {
  using schema::FrameTraits;
  return std::array{FrameType{FrameTraits<Ts>::type_id, FrameTraits<Ts>::lane, FrameTraits<Ts>::name,
                              &schema::refuse_message<Ts>, &deliver_as<Ts>}...};
}
constexpr auto types = table_of(ActorMessages{});

template <class T>
bool take_as(const caf::type_erased_tuple& content, Outgoing& out, schema::Lane& lane) {
  if (!content.match_elements<Frame<T>>()) return false;
  out.type = schema::FrameTraits<T>::type_id;
  out.bytes = content.get_as<Frame<T>>(0).bytes();
  lane = schema::FrameTraits<T>::lane;
  return true;
}

template <class... Ts>
bool take_frame(TypeList<Ts...>, const caf::type_erased_tuple& content, Outgoing& out, schema::Lane& lane) {
  return (take_as<Ts>(content, out, lane) || ...);
}

}  // namespace

const FrameType* frame_type(uint16_t id) {
  const auto found =
      std::find_if(types.begin(), types.end(), [id](const FrameType& t) { return t.id == id; });
  return found == types.end() ? nullptr : &*found;
}

RemoteHandle::RemoteHandle(caf::actor_config& config, std::shared_ptr<LinkPort> port, schema::Role role,
                           uint32_t instance)
    : actor_proxy(config), port_(std::move(port)), role_(role), instance_(instance) {}

void RemoteHandle::enqueue(caf::mailbox_element_ptr what, caf::execution_unit*) {
  if (what->mid.is_request()) {
    log::error("link.request_refused", {{"role", static_cast<unsigned>(role_)}, {"instance", instance_}});
    bounce(what, caf::make_error(caf::sec::bad_function_call, "a remote handle takes one-way frames only"));
    return;
  }
  // CAF answers every one-way message that has a sender, with an empty one if the handler returns nothing.
  if (getf(is_terminated_flag) || what->content().empty()) return;
  Outgoing out{.role = role_, .instance = instance_};
  schema::Lane lane{};
  if (!take_frame(ActorMessages{}, what->content(), out, lane) || !out.bytes) {
    log::error("link.foreign_mail", {{"role", static_cast<unsigned>(role_)}, {"instance", instance_}});
    return;
  }
  port_->put(lane, std::move(out));
}

void RemoteHandle::kill_proxy(caf::execution_unit* host, caf::error reason) {
  cleanup(std::move(reason), host);
}

caf::actor make_remote_handle(caf::actor_system& system, std::shared_ptr<LinkPort> port, schema::Role role,
                              uint32_t instance) {
  // A node id that is nobody's: the handle is not local, and no CAF node is behind it.
  const auto node = caf::make_node_id(1, "0000000000000000000000000000000000000001");
  caf::actor_config config;
  return caf::make_actor<RemoteHandle, caf::actor>(system.next_actor_id(), *node, &system, config,
                                                   std::move(port), role, instance);
}

void take_down(const caf::actor& handle, caf::exit_reason kind, const std::string& reason) {
  auto* proxy = static_cast<RemoteHandle*>(caf::actor_cast<caf::abstract_actor*>(handle));
  if (reason.empty())
    proxy->kill_proxy(nullptr, caf::error{});
  else
    proxy->kill_proxy(
        nullptr, {static_cast<uint8_t>(kind), caf::make_error(kind).category(), caf::make_message(reason)});
}

}  // namespace convoy::actors
