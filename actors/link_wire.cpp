#include "actors/link_wire.hpp"

#include <bit>
#include <cstring>

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
  hello->setProtocolVersion(greeting.protocol_version);
  hello->setCluster(greeting.cluster);
  const PeerIdentity& peer = greeting.peer;
  hello->setNode(peer.node);
  hello->setRole(peer.role);
  hello->setInstance(peer.instance);
  hello->setIncarnation(peer.incarnation);
  hello->setPid(peer.pid);
  hello->setKernelVariant(peer.kernel_variant);
  hello->setListenHost(peer.listen_host);
  hello->setListenPort(peer.listen_port);
  hello->setBulk(greeting.bulk);
  hello->setLinkId(greeting.link_id);
  return std::move(hello).finish();
}

Greeting read_greeting(const schema::Frame<schema::Hello>& frame) {
  const schema::Reading hello(frame);
  return {.protocol_version = hello->getProtocolVersion(),
          .cluster = hello->getCluster(),
          .peer = {.node = hello->getNode(),
                   .role = hello->getRole(),
                   .instance = hello->getInstance(),
                   .incarnation = hello->getIncarnation(),
                   .pid = hello->getPid(),
                   .kernel_variant = hello->getKernelVariant(),
                   .listen_host = hello->getListenHost(),
                   .listen_port = hello->getListenPort()},
          .bulk = hello->getBulk(),
          .link_id = hello->getLinkId()};
}

std::optional<std::string> refuse_greeting(const Greeting& theirs, const std::string& our_cluster) {
  using schema::Role;
  if (theirs.protocol_version != protocol_version)
    return "protocol version " + std::to_string(theirs.protocol_version) + " there, " +
           std::to_string(protocol_version) + " here";
  const PeerIdentity& peer = theirs.peer;
  for (const auto* name : {&theirs.cluster, &peer.node, &peer.kernel_variant, &peer.listen_host})
    if (name->size() > name_bytes_max)
      return "a name of " + std::to_string(name->size()) + " bytes, the limit is " +
             std::to_string(name_bytes_max);
  if (theirs.cluster != our_cluster)
    return "cluster \"" + theirs.cluster + "\" there, \"" + our_cluster + "\" here";
  if (peer.node.empty()) return "a peer without a node name";
  if (peer.role != Role::NODE && peer.role != Role::STAGE && peer.role != Role::CLIENT)
    return "a peer must be a node, a stage or a client, not role " +
           std::to_string(static_cast<unsigned>(peer.role));
  return std::nullopt;
}

}  // namespace convoy::actors::wire
