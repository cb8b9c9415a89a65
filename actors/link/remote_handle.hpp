#pragma once
// The two ends of a frame's way: a RemoteHandle is the CAF handle that stands for an actor behind a link, and
// frame_type() says how a received frame becomes mail of its type. Handles are used by any thread.

#include <caf/actor_proxy.hpp>
#include <caf/all.hpp>
#include <memory>
#include <optional>

#include "actors/link/link_stream.hpp"
#include "actors/messages.hpp"

namespace convoy::actors {

class LinkPort;

/// A message type that may travel to actors.
struct FrameType {
  uint16_t id;
  schema::Lane lane;
  const char* name;
  std::optional<std::string> (*refuse)(const schema::FrameBytes& bytes);  // why it cannot be read
  /// As Frame<T>, one-way. An actor that wakes by it runs on `unit`.
  void (*deliver)(const caf::actor& to, caf::strong_actor_ptr sender, schema::FrameBytes bytes,
                  caf::execution_unit* unit);
};

/// The type of that number, or null if this version does not know it (a newer peer's, or not for actors).
const FrameType* frame_type(uint16_t id);

/// An actor behind a link. Mail becomes frames on the link; the handle goes down when the actor or its link
/// ends, and is silent from then on. Requests are answered with an error at once: control exchanges are
/// one-way pairs.
class RemoteHandle final : public caf::actor_proxy {
 public:
  RemoteHandle(caf::actor_config& config, std::shared_ptr<LinkPort> port, schema::Role role,
               uint32_t instance);
  void enqueue(caf::mailbox_element_ptr what, caf::execution_unit* host) override;
  void kill_proxy(caf::execution_unit* host, caf::error reason) override;
  const char* name() const override { return "remote_handle"; }

 private:
  std::shared_ptr<LinkPort> port_;
  schema::Role role_;
  uint32_t instance_;
};

/// port may be null: then kill the handle before giving it away.
caf::actor make_remote_handle(caf::actor_system& system, std::shared_ptr<LinkPort> port, schema::Role role,
                              uint32_t instance);

/// Takes the handle down; monitors see remote_link_unreachable, or `unknown` when the actor itself ended. An
/// empty reason is a normal end.
void take_down(const caf::actor& handle, caf::exit_reason kind, const std::string& reason);

}  // namespace convoy::actors
