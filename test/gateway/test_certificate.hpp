#pragma once
// A certificate for the gateway of a test, in files that end with it. CONVOY_TEST_TLS set: all gateways of
// the program serve HTTPS with it, and all clients ask so.

#include <boost/asio/ssl.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "actors/link/certificates.hpp"
#include "actors/process/private_files.hpp"

namespace convoy::gateway::test {

inline bool over_tls() { return std::getenv("CONVOY_TEST_TLS") != nullptr; }

class TestCertificate {
 public:
  explicit TestCertificate(const std::string& name)
      : folder_(std::filesystem::temp_directory_path() / (name + std::to_string(::getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    issue({"localhost", "127.0.0.1", "::1"});
  }
  ~TestCertificate() { std::filesystem::remove_all(folder_); }
  TestCertificate(const TestCertificate&) = delete;
  TestCertificate& operator=(const TestCertificate&) = delete;

  /// Another key and certificate, in place of those that were there.
  void issue(const std::vector<std::string>& names) const {
    const auto issued = actors::issue_server(authority_, names);
    actors::replace_private(key, issued.key);
    actors::replace_private(certificate, issued.certificate);
  }
  /// Of a client that wants the server to show it.
  boost::asio::ssl::context trusting(const std::string& host = "127.0.0.1") const {
    namespace ssl = boost::asio::ssl;
    ssl::context context(ssl::context::tls_client);
    context.add_certificate_authority(boost::asio::buffer(authority_.certificate));
    context.set_verify_mode(ssl::verify_peer);
    context.set_verify_callback(ssl::host_name_verification(host));
    return context;
  }

 private:
  const actors::Identity authority_ = actors::make_authority();
  const std::filesystem::path folder_;

 public:
  const std::filesystem::path certificate = folder_ / "http.pem", key = folder_ / "http.key";
};

inline const TestCertificate& test_certificate() {
  static const TestCertificate one("convoy-test-certificate-");
  return one;
}

}  // namespace convoy::gateway::test
