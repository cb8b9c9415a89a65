#pragma once
// Where links are accepted, and who is at the other end of a connection. Beside its TCP address a process
// accepts links on a Unix-domain socket, which costs less. Its name follows from the address and is free if
// the address is, so nobody has to be told it; it is an abstract one (man 7 unix), so no file stays behind
// however the process ends. Called by Links; loopback_endpoint by the gateway and the configuration's checks
// too.

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>

#include "actors/link/link_stream.hpp"

namespace convoy::actors {

/// The address ("localhost" or numeric); names are not looked up.
std::optional<asio::ip::tcp::endpoint> numeric_endpoint(const std::string& host, uint16_t port);

/// The same, if it is a loopback one.
std::optional<asio::ip::tcp::endpoint> loopback_endpoint(const std::string& host, uint16_t port);

/// As "127.0.0.1:7411".
std::string text_of(const asio::ip::tcp::endpoint& address);

/// The name of the Unix-domain socket beside that address.
asio::local::stream_protocol::endpoint unix_beside(const asio::ip::tcp::endpoint& address);

/// What a TCP socket says of its ends, with its type.
asio::ip::tcp::endpoint tcp_endpoint(const LinkEndpoint& at);

/// Listens there; not inherited by child processes. Throws InputError naming `where` if it is taken.
LinkAcceptor listen_at(asio::io_context& io, const LinkEndpoint& at, const std::string& where);

/// Connects to the Unix-domain socket beside that address, at once or not at all: false if nobody listens
/// there, or a process of another user does.
bool connect_beside(LinkSocket& socket, const asio::ip::tcp::endpoint& address);

/// The process at the other end of a Unix-domain connection; nothing if it is a TCP connection.
std::optional<ucred> unix_peer(LinkSocket& socket);

/// Any user's processes may try an abstract name, as they may a port: unlike there, we know whose they are.
bool of_another_user(LinkSocket& socket);

/// The other end, for logs: "127.0.0.1:4711" or "pid 7 (Unix-domain)".
std::string address_of(LinkSocket& socket);

/// Child processes must not inherit a connection: it would outlive us.
void not_for_children(int descriptor);

}  // namespace convoy::actors
