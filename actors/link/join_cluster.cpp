#include "actors/link/join_cluster.hpp"

#include <kj/exception.h>
#include <openssl/ssl.h>

#include "actors/config/cluster_config.hpp"
#include "actors/link/certificates.hpp"
#include "actors/link/link_address.hpp"
#include "actors/link/link_connection.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

using schema::FrameTraits;
namespace ssl = asio::ssl;

/// TLS 1.3 that shows no certificate. Whose certificate it sees is looked at afterwards: the authority comes
/// with it, and the token names that.
ssl::context anonymous() {
  ssl::context context(ssl::context::tls_client);
  if (SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_3_VERSION) != 1)
    throw std::runtime_error("OpenSSL has no TLS 1.3");
  context.set_verify_mode(ssl::verify_none);
  return context;
}

std::string listen_of(const JoinOrder& order, LinkSocket& socket) {
  if (!order.listen.starts_with(':')) return order.listen;
  const auto here = tcp_endpoint(socket.local_endpoint()).address();
  return (here.is_v6() ? "[" + here.to_string() + "]" : here.to_string()) + order.listen;
}

class Joining {
 public:
  Joining(const JoinOrder& order, asio::io_context& io) : order_(order), connection_(io) {}

  asio::awaitable<void> run() {
    joined.failed = co_await reach();
    if (!joined.failed.empty()) co_return;
    const CertificateRequest made = make_request();
    joined.key = made.key;
    joined.listen = listen_of(order_, connection_.socket());
    const auto ask = encode(EnrolRequest{token_id(verifier_), order_.node, made.request, joined.listen,
                                         order_.stages, order_.pipeline, order_.http});
    const std::string key = connection_.shared_key();
    const Outgoing frames[] = {outgoing(ask),
                               outgoing(prove_enrolment(verifier_, EnrolEnd::machine, key, ask.bytes()))};
    if (const auto error = co_await write_frames(connection_, frames)) {
      joined.failed = "the request could not be written: " + error.message();
      co_return;
    }
    joined.failed = co_await hear_answer(key);
  }

  void close() { connection_.close(); }
  Joined joined;

 private:
  /// Returns why no head of the token's cluster is at the other end, or nothing.
  asio::awaitable<std::string> reach() {
    const auto to = numeric_endpoint(order_.host, order_.port);
    auto [error] = co_await connection_.socket().async_connect(*to, asio::as_tuple(asio::use_awaitable));
    if (error) co_return error.message();
    if (auto failed = co_await connection_.encrypt(context_, ssl::stream_base::client); !failed.empty())
      co_return failed;
    authority_ = authority_in(connection_.peer_chain(), order_.token.authority);
    if (authority_.empty())
      co_return "who is there is not of the cluster that the token names: the address or the token is wrong";
    co_return std::string();
  }

  asio::awaitable<std::string> hear_answer(const std::string& key) {
    auto in = co_await read_frame(connection_, enrolled_bytes_max);
    if (!in.refused.empty()) co_return in.refused + ": it enrols nobody; name the address of the head's node";
    const schema::FrameBytes said(std::move(in.buffer));
    try {
      if (in.header.type == FrameTraits<schema::EnrolRefused>::type_id) {
        joined.refused = read_enrol_refused(said).text;
        co_return std::string();
      }
    } catch (const kj::Exception&) {
      co_return "a malformed refusal";
    }
    if (in.header.type != FrameTraits<schema::Enrolled>::type_id)
      co_return "an unexpected frame of type " + std::to_string(in.header.type);
    auto proof = co_await read_frame(connection_, wire::hello_bytes_max);
    if (!proof.refused.empty()) co_return proof.refused;
    try {
      if (proof.header.type != FrameTraits<schema::Proof>::type_id ||
          !is_proved(verifier_, EnrolEnd::head, key, said, schema::FrameBytes(std::move(proof.buffer))))
        co_return "who answered does not know the token";
      co_return take(read_enrolled(said));
    } catch (const kj::Exception&) {
      co_return "a malformed answer";
    }
  }

  std::string take(const EnrolAnswer& answer) {
    const auto read = read_cluster_config(answer.configuration);
    if (!read.problems.empty())
      return "its configuration: " + read.problems.front().text +
             "; run one version of Convoy on all machines";
    if (!read.config.find_node(order_.node)) return "its configuration has no node \"" + order_.node + "\"";
    try {
      if (const auto refused = refuse_certificate(answer.certificate, authority_, joined.key,
                                                  read.config.cluster.name, order_.node))
        return "the certificate that it gave " + *refused;
    } catch (const InputError& e) {
      return "what it gave " + e.problem();
    }
    joined.certificate = answer.certificate;
    joined.authority = authority_;
    joined.revocations = answer.revocations;
    joined.configuration = answer.configuration;
    return {};
  }

  const JoinOrder& order_;
  const std::string verifier_ = verifier_of(order_.token);
  ssl::context context_ = anonymous();
  LinkConnection connection_;
  std::string authority_;
};

}  // namespace

Joined join_cluster(const JoinOrder& order) {
  if (!numeric_endpoint(order.host, order.port))
    return {.failed = "\"" + order.host + "\" is not a numeric address"};
  asio::io_context io;
  Joining joining(order, io);
  bool over = false;
  asio::co_spawn(io, joining.run(), [&](std::exception_ptr failure) {
    over = true;
    if (failure) std::rethrow_exception(failure);
  });
  io.run_for(order.timeout);
  if (!over) {
    joining.close();
    io.run();
    joining.joined = {.failed = "no answer within " + std::to_string(order.timeout.count()) + " ms"};
  }
  return std::move(joining.joined);
}

}  // namespace convoy::actors
