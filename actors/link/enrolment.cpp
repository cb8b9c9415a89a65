#include "actors/link/enrolment.hpp"

#include <kj/exception.h>

#include <algorithm>

#include "actors/config/added_node.hpp"
#include "actors/process/log.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

const char* const another_token = "make another with `convoy token create` on the head's machine";

EnrolRefusal refusal(TokenState state) {
  switch (state) {
    case TokenState::expired:
      return {EnrolReason::EXPIRED_TOKEN, std::string("the token has expired; ") + another_token};
    case TokenState::used:
      return {EnrolReason::USED_TOKEN,
              std::string("the token was used as often as it may be; ") + another_token};
    case TokenState::unknown:
    case TokenState::good:
      break;
  }
  return {EnrolReason::UNKNOWN_TOKEN, std::string("the head does not know this token; ") + another_token};
}

}  // namespace

/// cluster.conf, with those of the nodes that it does not list.
std::string Enrolment::configuration_with(const std::vector<NodeConfig>& nodes) const {
  std::string text = options_.configuration;
  const ClusterConfig listed = read_cluster_config(text).config;
  for (const NodeConfig& node : nodes)
    if (!listed.find_node(node.name)) text = with_node(text, node);
  return text;
}

/// Nothing is written before all that can be refused has been looked at. Then the token is spent before the
/// certificate is signed: if a disk fails in between, it is a token less, not a certificate that nobody asked
/// for.
std::variant<Enrolment::Accepted, EnrolRefusal> Enrolment::decide(const std::string& connection_key,
                                                                  const schema::FrameBytes& said,
                                                                  const schema::FrameBytes& proof) {
  EnrolRequest request;
  try {
    request = read_enrol(said);
  } catch (const InputError& e) {
    return EnrolRefusal{EnrolReason::MALFORMED, e.what()};
  }
  Authority authority(options_.tls_dir);
  if (!authority.can_sign())
    return EnrolRefusal{EnrolReason::NO_AUTHORITY,
                        "the key that signs certificates is not on the head's machine; use `convoy ca issue` "
                        "where `convoy init` was"};
  const auto tokens = authority.tokens();
  const FoundToken found = find_token(tokens, request.token_id, options_.now_s());
  if (found.state == TokenState::unknown) return refusal(found.state);
  const std::string verifier = tokens[found.index].verifier;
  if (!is_proved(verifier, EnrolEnd::machine, connection_key, said, proof))
    return refusal(TokenState::unknown);
  if (found.state != TokenState::good) return refusal(found.state);

  auto nodes = options_.nodes();
  const bool known = std::any_of(nodes.begin(), nodes.end(),
                                 [&](const NodeConfig& node) { return node.name == request.node; });
  if (!known && !options_.add_member)
    return EnrolRefusal{EnrolReason::UNKNOWN_NODE,
                        "cluster.conf of the head lists no node \"" + request.node +
                            "\"; add it there and start the cluster again, or join with the --name of one"};
  const std::string taken = "node \"" + request.node +
                            "\" has a certificate; choose another --name, or first `convoy ca revoke` it on "
                            "the head's machine";
  if (authority.has_issued(request.node)) return EnrolRefusal{EnrolReason::NAME_TAKEN, taken};
  if (!is_request(request.request))
    return EnrolRefusal{EnrolReason::MALFORMED, "the request for a certificate is none"};
  std::string configuration;
  try {
    if (!known)
      nodes.push_back(
          with_roles({request.node, request.listen, {}, request.stages, request.pipeline, request.http}));
    configuration = configuration_with(nodes);
    if (!known) options_.add_member(nodes.back());
  } catch (const InputError& e) {
    return EnrolRefusal{EnrolReason::MALFORMED, e.problem()};
  }

  if (const TokenState spent = authority.spend(request.token_id, options_.now_s()); spent != TokenState::good)
    return refusal(spent);
  const auto certificate = authority.certify(options_.cluster, request.node, request.request);
  if (!certificate) return EnrolRefusal{EnrolReason::NAME_TAKEN, taken};
  log::info("enrolment.joined", {{"node", request.node}, {"listed", known}});
  return Accepted{{*certificate, authority.certificate(), authority.revocations(), configuration}, verifier};
}

std::vector<Outgoing> Enrolment::answer(const std::string& connection_key, const schema::FrameBytes& said,
                                        const schema::FrameBytes& proof) {
  EnrolRefusal refused;
  try {
    const auto decision = decide(connection_key, said, proof);
    if (const auto* accepted = std::get_if<Accepted>(&decision)) {
      const auto frame = encode(accepted->answer);
      return {outgoing(frame),
              outgoing(prove_enrolment(accepted->verifier, EnrolEnd::head, connection_key, frame.bytes()))};
    }
    refused = std::get<EnrolRefusal>(decision);
  } catch (const kj::Exception&) {
    refused = {EnrolReason::MALFORMED, "these bytes are no request"};
  } catch (const std::exception& e) {  // a disk, most likely: whoever joins need not know where
    log::error("enrolment.failed", {{"reason", e.what()}});
    refused = {EnrolReason::FAILED, "the head could not do it; its log says why"};
  }
  log::warn_limited("enrolment.refused", {{"reason", refused.text}});
  return {outgoing(encode(refused))};
}

std::string Enrolment::renew(const std::string& node, const std::string& request) {
  std::string why = "no certificate of it counts";
  try {
    Authority authority(options_.tls_dir);
    if (const auto certificate = authority.renew(options_.cluster, node, request)) {
      log::info("enrolment.renewed", {{"node", node}});
      return *certificate;
    }
  } catch (const std::exception& e) {  // the authority's key is elsewhere, or a disk is full
    why = e.what();
  }
  log::warn_limited("enrolment.not_renewed", {{"node", node}, {"reason", why}});
  return {};
}

bool EnrolmentPace::take(Clock::time_point now) {
  const auto more = static_cast<uint64_t>(std::max<Clock::rep>(0, (now - since_) / pause));
  if (left_ + more >= burst) {
    left_ = burst;
    since_ = now;
  } else {
    left_ += static_cast<uint32_t>(more);
    since_ += more * pause;
  }
  if (left_ == 0) return false;
  --left_;
  return true;
}

}  // namespace convoy::actors
