#pragma once
// Folders of certificates, as `convoy ca` leaves them, in a folder that ends with the test.

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "actors/link/link_tls.hpp"
#include "actors/process/private_files.hpp"
#include "test/model/files.hpp"

namespace rig {

class TlsFiles {
 public:
  TlsFiles() : authority_(convoy::actors::make_authority()) {
    convoy::actors::replace_private(folder() / convoy::actors::authority_file, authority_.certificate);
  }

  const std::filesystem::path& folder() const { return folder_.path(); }

  /// Makes the node's key and certificate, under another name if one is given.
  void issue(const std::string& node, int days = convoy::actors::node_days,
             const std::string& as = "") const {
    write(as.empty() ? node : as, convoy::actors::issue(authority_, "test", node, std::chrono::days(days)));
  }
  void write(const std::string& node, const convoy::actors::Identity& identity) const {
    convoy::actors::write_identity(folder(), node, identity);
  }
  /// Of a gateway that clients know by those names.
  convoy::actors::Identity server(const std::vector<std::string>& names) const {
    return convoy::actors::issue_server(authority_, names);
  }
  std::string certificate_of(const std::string& node) const {
    std::ifstream file(folder() / convoy::actors::certificate_file(node));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  /// The authority's list of those nodes' certificates.
  std::string revoked(const std::vector<std::string>& nodes, uint64_t number) const {
    std::vector<std::string> serials;
    for (const auto& node : nodes) serials.push_back(convoy::actors::serial_of(certificate_of(node)));
    return convoy::actors::revoke(authority_, serials, number);
  }
  /// The same files in a folder of another machine.
  void copy_to(const TlsFiles& other) const {
    std::filesystem::copy(
        folder(), other.folder(),
        std::filesystem::copy_options::overwrite_existing | std::filesystem::copy_options::recursive);
  }
  std::shared_ptr<convoy::actors::LinkTls> tls(const std::string& node) const {
    return std::make_shared<convoy::actors::LinkTls>(folder(), "test", node);
  }

 private:
  const convoy::actors::Identity authority_;
  const convoy::test::TemporaryFolder folder_;
};

}  // namespace rig
