#include "actors/link/authority.hpp"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>

#include "actors/link/link_tls.hpp"
#include "actors/process/file_lock.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace fs = std::filesystem;

namespace {

// A line for each certificate: serial number and node. A line for each token (join_token.hpp).
constexpr const char *issued_file = "issued", *tokens_file = "tokens", *lock_file = "lock";
constexpr const char* revoked_mark = " revoked";
constexpr const char* gateway_mark = "(gateway)";  // among nodes, of which none is called so

std::vector<std::string> lines_of(const fs::path& file) {
  std::vector<std::string> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void write_lines(const fs::path& file, const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  replace_private(file, text);
}

/// Of a line of issued_file. A node may have any name, that of the mark too.
bool is_revoked(const std::string& line) {
  const std::string_view mark = revoked_mark;
  return line.ends_with(mark) && line.find(' ') < line.size() - mark.size();
}
bool counts(const std::string& line, const std::string& node) {
  return !is_revoked(line) && line.ends_with(" " + node);
}

}  // namespace

Authority Authority::make(const fs::path& folder) {
  make_private_folder(folder);
  const Identity made = make_authority();
  replace_private(folder / authority_key_file, made.key);
  replace_private(folder / authority_file, made.certificate);
  return Authority(folder);
}

bool Authority::can_sign() const { return fs::exists(folder_ / authority_key_file); }

std::string Authority::certificate() const {
  return read_pem(folder_ / authority_file, false, "run this where `convoy init` made the cluster");
}

std::string Authority::revocations() const {
  const fs::path file = folder_ / revocations_file;
  return fs::exists(file) ? read_pem(file, false, "make it anew with `convoy ca revoke`") : std::string();
}

Identity Authority::identity() const {
  return {certificate(),
          read_pem(folder_ / authority_key_file, true, "run this where `convoy init` made the cluster")};
}

/// Before anybody has it: one that nobody knows of could not be revoked.
void Authority::note(const std::string& certificate, const std::string& node) {
  auto issued = lines_of(folder_ / issued_file);
  issued.push_back(serial_of(certificate) + " " + node);
  write_lines(folder_ / issued_file, issued);
}

void Authority::issue(const std::string& cluster, const std::string& node, int days) {
  const Identity authority = identity();
  const FileLock lock(folder_ / lock_file);
  const Identity issued = actors::issue(authority, cluster, node, std::chrono::days(days));
  note(issued.certificate, node);
  write_identity(folder_, node, issued);
}

void Authority::issue_gateway(const std::vector<std::string>& names) {
  const Identity authority = identity();
  const FileLock lock(folder_ / lock_file);
  const Identity issued = issue_server(authority, names);
  note(issued.certificate, gateway_mark);
  const fs::path folder = folder_ / gateway_folder;
  make_private_folder(folder);
  replace_private(folder / gateway_key_file, issued.key);
  replace_private(folder / gateway_certificate_file, issued.certificate);
}

std::optional<std::string> Authority::certify(const std::string& cluster, const std::string& node,
                                              const std::string& request) {
  return certify(cluster, node, request, false);
}

std::optional<std::string> Authority::renew(const std::string& cluster, const std::string& node,
                                            const std::string& request) {
  return certify(cluster, node, request, true);
}

std::optional<std::string> Authority::certify(const std::string& cluster, const std::string& node,
                                              const std::string& request, bool again) {
  const Identity authority = identity();
  const FileLock lock(folder_ / lock_file);
  if (has_issued(node) != again) return std::nullopt;
  std::string certificate = actors::certify(authority, cluster, node, request);
  note(certificate, node);
  return certificate;
}

bool Authority::has_issued(const std::string& node) const {
  const auto issued = lines_of(folder_ / issued_file);
  return std::any_of(issued.begin(), issued.end(), [&](const auto& line) { return counts(line, node); });
}

size_t Authority::revoke(const std::string& node) {
  const Identity authority = identity();
  const FileLock lock(folder_ / lock_file);
  auto issued = lines_of(folder_ / issued_file);
  size_t count = 0;
  std::vector<std::string> serials;
  for (std::string& line : issued) {
    if (counts(line, node)) {
      line += revoked_mark;
      ++count;
    }
    if (is_revoked(line)) serials.push_back(line.substr(0, line.find(' ')));
  }
  if (count == 0)
    throw InputError("no certificate of node \"" + node + "\" counts", (folder_ / issued_file).string(),
                     "name a node that `convoy ca issue` or `convoy join` made one for");
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto number = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  replace_private(folder_ / revocations_file,
                  actors::revoke(authority, serials, static_cast<uint64_t>(number)));
  write_lines(folder_ / issued_file, issued);
  return count;
}

std::vector<KnownToken> Authority::tokens() const {
  const fs::path file = folder_ / tokens_file;
  return fs::exists(file) ? read_known_tokens(read_pem(file, true, "rm " + file.string()))
                          : std::vector<KnownToken>();
}

void Authority::remember(const KnownToken& token, int64_t now_s) {
  const FileLock lock(folder_ / lock_file);
  auto known = tokens();
  if (!add_token(known, token, now_s))
    throw InputError(std::to_string(tokens_max) + " tokens are there already",
                     (folder_ / tokens_file).string(), "wait until some have expired, or delete the file");
  replace_private(folder_ / tokens_file, text_of(known));
}

TokenState Authority::spend(std::string_view token_id, int64_t now_s) {
  const FileLock lock(folder_ / lock_file);
  auto known = tokens();
  const FoundToken found = find_token(known, token_id, now_s);
  if (found.state == TokenState::good) {
    --known[found.index].uses;
    replace_private(folder_ / tokens_file, text_of(known));
  }
  return found.state;
}

}  // namespace convoy::actors
