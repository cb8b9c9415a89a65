#include "actors/link/link_address.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <system_error>

#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {

std::string text_of(const asio::ip::tcp::endpoint& address) {
  std::ostringstream text;
  text << address;
  return text.str();
}

std::optional<asio::ip::tcp::endpoint> numeric_endpoint(const std::string& host, uint16_t port) {
  boost::system::error_code error;
  const auto address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  return error ? std::nullopt : std::optional(asio::ip::tcp::endpoint(address, port));
}

std::optional<asio::ip::tcp::endpoint> loopback_endpoint(const std::string& host, uint16_t port) {
  const auto endpoint = numeric_endpoint(host, port);
  return endpoint && endpoint->address().is_loopback() ? endpoint : std::nullopt;
}

asio::local::stream_protocol::endpoint unix_beside(const asio::ip::tcp::endpoint& address) {
  return {std::string(1, '\0') + "convoy/" + text_of(address)};
}

LinkAcceptor listen_at(asio::io_context& io, const LinkEndpoint& at, const std::string& where) {
  LinkAcceptor acceptor(io);
  boost::system::error_code error;
  acceptor.open(at.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(at, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error)
    throw InputError("cannot listen: " + error.message(), where,
                     mend_of(error.value(), "choose a free port"));
  not_for_children(acceptor.native_handle());
  return acceptor;
}

bool connect_beside(LinkSocket& socket, const asio::ip::tcp::endpoint& address) {
  const LinkEndpoint beside = unix_beside(address);
  boost::system::error_code error;
  socket.open(beside.protocol(), error);
  // The kernel connects Unix-domain sockets at once; only for room in the listener's queue it would wait.
  if (!error) socket.native_non_blocking(true, error);
  if (!error) socket.connect(beside, error);
  if (!error && !of_another_user(socket)) return true;
  socket.close(error);
  return false;
}

std::optional<ucred> unix_peer(LinkSocket& socket) {
  int domain = AF_UNSPEC;
  socklen_t size = sizeof domain;
  getsockopt(socket.native_handle(), SOL_SOCKET, SO_DOMAIN, &domain, &size);
  if (domain != AF_UNIX) return std::nullopt;
  ucred peer{0, uid_t(-1), gid_t(-1)};  // nobody's, should the kernel not say
  size = sizeof peer;
  getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size);
  return peer;
}

bool of_another_user(LinkSocket& socket) {
  const auto peer = unix_peer(socket);
  return peer && peer->uid != geteuid();
}

std::string address_of(LinkSocket& socket) {
  boost::system::error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return "a closed connection";
  if (const auto peer = unix_peer(socket)) return "pid " + std::to_string(peer->pid) + " (Unix-domain)";
  return text_of(tcp_endpoint(endpoint));
}

asio::ip::tcp::endpoint tcp_endpoint(const LinkEndpoint& at) {
  asio::ip::tcp::endpoint endpoint;
  endpoint.resize(at.size());
  std::memcpy(endpoint.data(), at.data(), at.size());
  return endpoint;
}

void not_for_children(int descriptor) {
  if (fcntl(descriptor, F_SETFD, FD_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "fcntl(F_SETFD)");
}

}  // namespace convoy::actors
