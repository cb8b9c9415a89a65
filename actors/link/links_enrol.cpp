#include <algorithm>

#include "actors/link/links_impl.hpp"
#include "actors/process/log.hpp"

namespace convoy::actors {

using schema::FrameTraits;
using std::chrono::milliseconds;

namespace {

// For a disk that is slow, and for a machine that reads slowly.
constexpr milliseconds enrolled_within{10'000};
constexpr milliseconds renewal_asked_again{60'000};

}  // namespace

/// Of a connection in TLS that shows no certificate: it can become no link, whatever it says.
asio::awaitable<Links::Impl::Refusal> Links::Impl::enrol(Connection connection) {
  const Heard said = co_await hear_frame(*connection);
  if (!said.refused.empty()) co_return Refusal{.reason = said.refused, .silent = true};
  const Heard proof = co_await hear_frame(*connection);
  if (!proof.refused.empty()) co_return Refusal{.reason = proof.refused, .silent = true};
  if (said.type != FrameTraits<schema::Enrol>::type_id || proof.type != FrameTraits<schema::Proof>::type_id)
    co_return Refusal{.reason = "shows no certificate and does not ask for one", .silent = true};
  close_after(connection, enrolled_within);
  std::vector<Outgoing> answer;
  if (enrolments.take(EnrolmentPace::Clock::now())) {
    const std::string key = connection->connection.shared_key();
    const auto at_the_desk = [&]() -> asio::awaitable<void> {
      answer = options.enrol(key, said.bytes, proof.bytes);
      co_return;
    };
    co_await asio::co_spawn(*desk, at_the_desk(), asio::use_awaitable);
  } else {
    log::warn_limited("enrolment.busy", {{"address", address_of(connection->connection.socket())}});
    answer = {outgoing(encode(EnrolRefusal{EnrolReason::BUSY, "too many ask; try again in a few seconds"}))};
  }
  if (connection->connection.is_open()) co_await write_frames(connection->connection, answer);
  give_up(*connection);
  co_return Refusal{};
}

// ---- renewal ----

void Links::Impl::ask_renewal() {
  const auto now = std::chrono::steady_clock::now();
  if (options.renew || self.role != schema::Role::NODE || now < ask_renewal_after) return;
  const auto head = std::find_if(links.begin(), links.end(), [this](const auto& link) {
    return link->peer().role == schema::Role::NODE && link->peer().node == options.places.head;
  });
  if (head == links.end()) return;
  try {
    const auto request = options.tls->renewal();
    if (!request) return;
    ask_renewal_after = now + renewal_asked_again;
    schema::FrameBuilder<schema::Renew> frame(request->size() / sizeof(capnp::word) + 8);
    frame->setRequest({reinterpret_cast<const kj::byte*>(request->data()), request->size()});
    (*head)->port()->put(schema::Lane::control, outgoing(std::move(frame).finish()));
    log::info("link.certificate_asked");
  } catch (const std::exception& e) {
    ask_renewal_after = now + renewal_asked_again;
    log::warn("link.certificate_not_asked", {{"reason", e.what()}});
  }
}

/// Not before it is time: each certificate is a line in the authority's books.
void Links::Impl::renew(PeerLink& link, const std::string& request) {
  const auto left = std::chrono::seconds(link.peer().certificate_until_s) -
                    std::chrono::system_clock::now().time_since_epoch();
  if (options.renew && request.size() <= enrol_request_bytes_max && left < std::chrono::days(node_days) / 3)
    spawn(renew_at_desk(link.shared_from_this(), request));
}

asio::awaitable<void> Links::Impl::renew_at_desk(std::shared_ptr<PeerLink> link, std::string request) {
  std::string certificate;
  const auto at_the_desk = [&]() -> asio::awaitable<void> {
    certificate = options.renew(link->peer().node, request);
    co_return;
  };
  co_await asio::co_spawn(*desk, at_the_desk(), asio::use_awaitable);
  if (certificate.empty()) co_return;
  schema::FrameBuilder<schema::Renewed> frame(certificate.size() / sizeof(capnp::word) + 8);
  frame->setCertificate({reinterpret_cast<const kj::byte*>(certificate.data()), certificate.size()});
  link->port()->put(schema::Lane::control, outgoing(std::move(frame).finish()));
}

/// The link is made anew with it, so that the head sees it too: nothing that hurries goes over it.
void Links::Impl::renewed(PeerLink& link, const std::string& certificate) {
  try {
    options.tls->take_certificate(certificate);
    log::info("link.certificate_renewed");
    link.end("the certificate was renewed");
  } catch (const std::exception& e) {
    log::warn_limited("link.certificate_refused", {{"reason", e.what()}});
  }
}

}  // namespace convoy::actors
