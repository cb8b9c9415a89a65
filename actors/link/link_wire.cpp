#include "actors/link/link_wire.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "model/version.hpp"

namespace convoy::actors::wire {

static_assert(std::endian::native == std::endian::little, "headers are copied as they lie in memory");

namespace {

struct RawHeader {
  uint32_t magic;
  uint16_t header_version;
  uint16_t type;
  uint16_t role;
  uint16_t zero;
  uint32_t instance;
  uint64_t payload_bytes;
  uint64_t more_zero;
};
static_assert(sizeof(RawHeader) == header_bytes);

}  // namespace

HeaderBytes encode(const Header& header) {
  const RawHeader raw{magic, header_version,  header.type,          static_cast<uint16_t>(header.role),
                      0,     header.instance, header.payload_bytes, 0};
  HeaderBytes bytes;
  std::memcpy(bytes.data(), &raw, header_bytes);
  return bytes;
}

std::optional<std::string> refuse_header(const HeaderBytes& bytes, uint64_t payload_bytes_max,
                                         Header& header) {
  RawHeader raw;
  std::memcpy(&raw, bytes.data(), header_bytes);
  if (raw.magic != magic) return "these bytes are not a frame's header";
  if (raw.header_version != header_version)
    return "header version " + std::to_string(raw.header_version) + ", here it is " +
           std::to_string(header_version);
  if (raw.type == 0 || raw.type > message_type_max)
    return "frame type " + std::to_string(raw.type) + " is out of range";
  if (raw.payload_bytes > payload_bytes_max)
    return "a frame of " + std::to_string(raw.payload_bytes) + " bytes, the limit is " +
           std::to_string(payload_bytes_max);
  if (raw.payload_bytes < 16 || raw.payload_bytes % sizeof(capnp::word) != 0)
    return "a frame of " + std::to_string(raw.payload_bytes) + " bytes cannot hold a message";
  header = {raw.type, static_cast<schema::Role>(raw.role), raw.instance, raw.payload_bytes};
  return std::nullopt;
}

schema::Frame<schema::Hello> encode(const Greeting& greeting) {
  schema::FrameBuilder<schema::Hello> hello;
  hello->setProtocolVersion(greeting.versions.newest);
  hello->setLowestVersion(greeting.versions.lowest);
  hello->setCluster(greeting.cluster);
  const PeerIdentity& peer = greeting.peer;
  hello->setNode(peer.node);
  hello->setRole(peer.role);
  hello->setInstance(peer.instance);
  hello->setIncarnation(peer.incarnation);
  hello->setPid(peer.pid);
  hello->setKernelVariant(peer.kernel_variant);
  hello->setDevice(peer.device);
  hello->setHiddenForm(peer.hidden_form);
  hello->setMachine(peer.machine);
  hello->setCard(peer.card);
  hello->setEdges(peer.edges);
  hello->setMemoryBytes(peer.memory_bytes);
  hello->setModel(peer.model);
  hello->setSettings(peer.settings);
  hello->setListenHost(peer.listen_host);
  hello->setListenPort(peer.listen_port);
  hello->setProgram(std::string(version()));
  hello->setControlFrameBytesMax(greeting.terms.control_frame_bytes_max);
  hello->setBulkFrameBytesMax(greeting.terms.bulk_frame_bytes_max);
  hello->setBulkWindowBytes(greeting.terms.bulk_window_bytes);
  hello->setLeaseMs(greeting.terms.lease_ms);
  hello->setPipeline(peer.pipeline);
  hello->setBulk(greeting.bulk);
  hello->setLinkId(greeting.link_id);
  return std::move(hello).finish();
}

Greeting read_greeting(const schema::Frame<schema::Hello>& frame) {
  const schema::Reading hello(frame);
  return {.versions = {hello->getLowestVersion(), hello->getProtocolVersion()},
          .cluster = hello->getCluster(),
          .peer = {.node = hello->getNode(),
                   .role = hello->getRole(),
                   .instance = hello->getInstance(),
                   .incarnation = hello->getIncarnation(),
                   .pid = hello->getPid(),
                   .kernel_variant = hello->getKernelVariant(),
                   .device = hello->getDevice(),
                   .hidden_form = hello->getHiddenForm(),
                   .machine = hello->getMachine(),
                   .card = hello->getCard(),
                   .edges = hello->getEdges(),
                   .memory_bytes = hello->getMemoryBytes(),
                   .model = hello->getModel(),
                   .settings = hello->getSettings(),
                   .listen_host = hello->getListenHost(),
                   .listen_port = hello->getListenPort(),
                   .version = hello->getProgram(),
                   .pipeline = hello->getPipeline()},
          .terms = {hello->getControlFrameBytesMax(), hello->getBulkFrameBytesMax(),
                    hello->getBulkWindowBytes(), hello->getLeaseMs()},
          .bulk = hello->getBulk(),
          .link_id = hello->getLinkId()};
}

std::optional<uint16_t> common_version(Versions ours, Versions theirs) {
  const uint16_t highest = std::min(ours.newest, theirs.newest);
  if (highest < std::max(ours.lowest, theirs.lowest)) return std::nullopt;
  return highest;
}

namespace {

std::string text_of(Versions versions) {
  const std::string newest = std::to_string(versions.newest);
  return versions.lowest == versions.newest ? newest : std::to_string(versions.lowest) + " to " + newest;
}

std::optional<GreetingRefused> refuse_shape(const Greeting& theirs) {
  using schema::Role;
  const PeerIdentity& peer = theirs.peer;
  for (const auto* text :
       {&theirs.cluster, &peer.node, &peer.kernel_variant, &peer.device, &peer.machine, &peer.card,
        &peer.listen_host, &peer.model, &peer.settings, &peer.version, &peer.pipeline})
    if (text->size() > text_bytes_max)
      return GreetingRefused{"a text of " + std::to_string(text->size()) + " bytes, the limit is " +
                             std::to_string(text_bytes_max)};
  if (peer.node.empty()) return GreetingRefused{"a peer without a node name"};
  if (peer.role != Role::NODE && peer.role != Role::STAGE && peer.role != Role::GATEWAY &&
      peer.role != Role::CLIENT)
    return GreetingRefused{"a peer must be a node, a stage, a gateway or a client, not role " +
                           std::to_string(static_cast<unsigned>(peer.role))};
  const Terms& terms = theirs.terms;
  if (terms.control_frame_bytes_max == 0 || terms.bulk_frame_bytes_max == 0 || terms.bulk_window_bytes == 0 ||
      terms.lease_ms == 0)
    return GreetingRefused{"a peer that takes no frames, or has no lease"};
  return std::nullopt;
}

/// A cluster's processes read one configuration and one model, but each at its own time and on its own
/// machine.
std::optional<GreetingRefused> refuse_another_model(const PeerIdentity& theirs, const PeerIdentity& ours) {
  using schema::Role;
  if (theirs.role == Role::CLIENT || ours.role == Role::CLIENT) return std::nullopt;
  if (theirs.settings != ours.settings)
    return GreetingRefused{"settings \"" + theirs.settings + "\" there, \"" + ours.settings +
                           "\" here: cluster.conf was changed; end the cluster and start it again"};
  if (theirs.role != Role::STAGE && ours.role != Role::STAGE) return std::nullopt;  // nodes load nothing
  if (theirs.model == ours.model) return std::nullopt;
  if (theirs.model.empty() || ours.model.empty())
    return GreetingRefused{"the digest of the model is not known yet", true};
  return GreetingRefused{"model " + theirs.model + " there, " + ours.model +
                         " here: its files were changed or differ between machines; give all machines the "
                         "same, end the cluster and start it again"};
}

}  // namespace

std::optional<GreetingRefused> refuse_greeting(const Greeting& theirs, const Greeting& ours) {
  if (!common_version(ours.versions, theirs.versions))
    return GreetingRefused{"protocol versions " + text_of(theirs.versions) + " there, " +
                           text_of(ours.versions) + " here: run one version of Convoy on all machines"};
  if (auto refused = refuse_shape(theirs)) return refused;
  if (theirs.cluster != ours.cluster)
    return GreetingRefused{"cluster \"" + theirs.cluster + "\" there, \"" + ours.cluster + "\" here"};
  return refuse_another_model(theirs.peer, ours.peer);
}

}  // namespace convoy::actors::wire
