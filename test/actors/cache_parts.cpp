// The answer cache's parts that need no Redis: the circuit, sealing, the secret's file, addresses.

#include <sys/stat.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include "actors/cache/answer_seal.hpp"
#include "actors/cache/circuit.hpp"
#include "actors/cache/redis_client.hpp"
#include "actors/cache/redis_server.hpp"
#include "actors/process/private_files.hpp"
#include "actors/process/secret.hpp"
#include "model/error.hpp"

using namespace convoy;
using namespace convoy::actors;
namespace fs = std::filesystem;

namespace {

struct Folder {
  Folder() {
    std::string pattern = fs::temp_directory_path() / "convoy-cache-XXXXXX";
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

schema::Frame<schema::Answer> answer(unsigned tokens) {
  schema::FrameBuilder<schema::Answer> builder;
  auto list = builder->initTokens(tokens);
  for (unsigned i = 0; i < tokens; ++i) list[i].setId(static_cast<int>(1000 + i));
  builder->setReason(schema::Finished::Reason::LENGTH);
  return std::move(builder).finish();
}

bool mentions(const InputError& error, std::string_view text) {
  return std::string_view(error.what()).find(text) != std::string_view::npos;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_circuit_opens_after_failures_in_a_row_only) {
  Circuit circuit(3, 100);
  circuit.failed(0);
  circuit.failed(1);
  circuit.succeeded();
  circuit.failed(2);
  circuit.failed(3);
  BOOST_CHECK(!circuit.open());
  circuit.failed(4);
  BOOST_CHECK(circuit.open());
}

BOOST_AUTO_TEST_CASE(an_open_circuit_probes_once_per_retry_time_and_closes_on_success) {
  Circuit circuit(1, 100);
  BOOST_CHECK(!circuit.begin_probe(1000));  // closed: nothing to probe
  circuit.failed(1000);
  BOOST_CHECK(!circuit.begin_probe(1099));
  BOOST_CHECK(circuit.begin_probe(1100));
  BOOST_CHECK(circuit.open());              // requests don't ask while the probe is under way
  BOOST_CHECK(!circuit.begin_probe(5000));  // one probe at a time
  circuit.failed(1110);
  BOOST_CHECK(circuit.open());
  BOOST_CHECK(!circuit.begin_probe(1209));
  BOOST_CHECK(circuit.begin_probe(1210));
  circuit.succeeded();
  BOOST_CHECK(!circuit.open());
}

BOOST_AUTO_TEST_CASE(failures_of_old_commands_do_not_put_off_the_probe) {
  Circuit circuit(1, 100);
  circuit.failed(1000);
  circuit.failed(1090);
  BOOST_CHECK(circuit.begin_probe(1100));
}

BOOST_AUTO_TEST_CASE(a_sealed_answer_opens_to_the_same_bytes) {
  const std::string key(32, 'a'), seal_key = derive_key(std::string(32, 's'), "seal");
  for (const unsigned tokens : {1u, 7u, 5000u}) {
    const auto plain = answer(tokens);
    const std::string sealed = seal_answer(seal_key, key, plain);
    const auto opened = open_answer(seal_key, key, sealed);
    BOOST_REQUIRE(opened);
    const schema::Reading reading(*opened);
    BOOST_REQUIRE_EQUAL(reading->getTokens().size(), tokens);
    BOOST_CHECK_EQUAL(reading->getTokens()[tokens - 1].getId(), static_cast<int>(999 + tokens));
    BOOST_CHECK(reading->getReason() == schema::Finished::Reason::LENGTH);
    BOOST_CHECK(sealed != seal_answer(seal_key, key, plain));  // another nonce every time
  }
}

BOOST_AUTO_TEST_CASE(a_sealed_answer_does_not_open_after_any_change) {
  const std::string key(32, 'a'), seal_key(32, 's');
  const std::string sealed = seal_answer(seal_key, key, answer(3));
  BOOST_REQUIRE(open_answer(seal_key, key, sealed));
  for (size_t i = 0; i < sealed.size(); ++i) {
    for (const int bit : {0, 7}) {
      std::string changed = sealed;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      BOOST_CHECK(!open_answer(seal_key, key, changed));
    }
    BOOST_CHECK(!open_answer(seal_key, key, std::string_view(sealed).substr(0, i)));
  }
  BOOST_CHECK(!open_answer(seal_key, key, sealed + "x"));
  BOOST_CHECK(!open_answer(seal_key, std::string(32, 'b'), sealed));  // another request's answer
  BOOST_CHECK(!open_answer(std::string(32, 't'), key, sealed));       // another cluster's secret
}

BOOST_AUTO_TEST_CASE(the_secret_is_made_once_and_private) {
  const Folder folder;
  const std::string path = folder.path / "secret";
  const std::string secret = load_or_create_secret(path);
  BOOST_CHECK_EQUAL(secret.size(), 32u);
  BOOST_CHECK(load_or_create_secret(path) == secret);
  struct stat status {};
  BOOST_REQUIRE_EQUAL(::stat(path.c_str(), &status), 0);
  BOOST_CHECK_EQUAL(status.st_mode & 0777, 0600u);
  BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(folder.path), {}), 1);
  BOOST_CHECK(load_or_create_secret(folder.path / "other") != secret);
}

BOOST_AUTO_TEST_CASE(a_secret_that_others_may_read_or_of_another_size_is_refused) {
  const Folder folder;
  const std::string path = folder.path / "secret";
  load_or_create_secret(path);
  ::chmod(path.c_str(), 0640);
  BOOST_CHECK_EXCEPTION(load_or_create_secret(path), InputError,
                        [](auto& e) { return mentions(e, "chmod 600 "); });
  ::chmod(path.c_str(), 0600);
  for (const size_t bytes : {0, 31, 33}) {
    std::ofstream(path, std::ios::trunc) << std::string(bytes, 'x');
    BOOST_CHECK_EXCEPTION(load_or_create_secret(path), InputError,
                          [](auto& e) { return mentions(e, "32 bytes"); });
  }
  BOOST_CHECK_THROW(load_or_create_secret(folder.path / "missing" / "secret"), InputError);
}

BOOST_AUTO_TEST_CASE(a_secret_that_others_could_have_put_there_is_refused_with_what_mends_it) {
  const Folder folder;
  const std::string path = folder.path / "secret", target = folder.path / "target";
  load_or_create_secret(target);
  fs::create_symlink(target, path);
  BOOST_CHECK_EXCEPTION(load_or_create_secret(path), InputError,
                        [&](auto& e) { return mentions(e, "symbolic link") && mentions(e, "rm " + path); });
  fs::remove(path);
  BOOST_REQUIRE_EQUAL(::mkfifo(path.c_str(), 0600), 0);
  BOOST_CHECK_EXCEPTION(load_or_create_secret(path), InputError,
                        [](auto& e) { return mentions(e, "no ordinary file"); });
  fs::remove(path);
  if (::geteuid() != 0) return;  // only root can give a file away
  load_or_create_secret(path);
  BOOST_REQUIRE_EQUAL(::chown(path.c_str(), 65534, 65534), 0);
  BOOST_CHECK_EXCEPTION(load_or_create_secret(path), InputError,
                        [](auto& e) { return mentions(e, "belongs to user 65534"); });
}

BOOST_AUTO_TEST_CASE(the_run_directory_is_ours_and_closed_to_others) {
  const Folder folder;
  const fs::path run = folder.path / "a" / "run";
  make_private_folder(run);
  struct stat status {};
  BOOST_REQUIRE_EQUAL(::stat(run.c_str(), &status), 0);
  BOOST_CHECK_EQUAL(status.st_mode & 0777, 0700u);
  make_private_folder(run);  // as good as ever
  for (const mode_t mode : {0755, 0770, 0701}) {
    ::chmod(run.c_str(), mode);
    BOOST_CHECK_EXCEPTION(make_private_folder(run), InputError,
                          [&](auto& e) { return mentions(e, "chmod 700 " + run.string()); });
  }
  ::chmod(run.c_str(), 0700);
  fs::create_symlink(run, folder.path / "link");
  BOOST_CHECK_EXCEPTION(make_private_folder(folder.path / "link"), InputError,
                        [](auto& e) { return mentions(e, "symbolic link"); });
  std::ofstream(folder.path / "file") << "x";
  BOOST_CHECK_THROW(make_private_folder(folder.path / "file"), InputError);
  if (::geteuid() != 0) return;
  BOOST_REQUIRE_EQUAL(::chown(run.c_str(), 65534, 65534), 0);
  BOOST_CHECK_EXCEPTION(make_private_folder(run), InputError,
                        [](auto& e) { return mentions(e, "belongs to user 65534"); });
}

BOOST_AUTO_TEST_CASE(keys_for_different_purposes_differ) {
  const std::string secret(32, 's');
  const std::set<std::string> keys = {derive_key(secret, "a"), derive_key(secret, "b"),
                                      derive_key(secret, ""), secret, derive_key(std::string(32, 't'), "a")};
  BOOST_CHECK_EQUAL(keys.size(), 5u);
}

BOOST_AUTO_TEST_CASE(hmac_sha256_gives_the_published_digest) {  // RFC 4231, test case 2
  const std::string digest = hmac_sha256("Jefe", "what do ya want for nothing?");
  BOOST_CHECK(digest.substr(0, 8) == std::string("\x5b\xdc\xc1\x46\xbf\x60\x75\x4e", 8));
}

BOOST_AUTO_TEST_CASE(addresses_of_redis_are_understood_or_refused) {
  for (const char* good :
       {"redis://127.0.0.1", "redis://127.0.0.1:7000", "redis://[::1]:7000/", "unix:///tmp/r.sock"})
    BOOST_CHECK_EQUAL(resolve(parse_redis_url(good)).text, good);
  const std::string long_path = "unix:///" + std::string(107, 'x');
  for (const std::string& bad :
       {std::string(""), std::string("127.0.0.1:6379"), std::string("http://127.0.0.1"),
        std::string("rediss://127.0.0.1"), std::string("redis://"), std::string("redis://:1"),
        std::string("redis://127.0.0.1:0"), std::string("redis://127.0.0.1:65536"),
        std::string("redis://127.0.0.1:1x"), std::string("redis://u:p@127.0.0.1"),
        std::string("redis://127.0.0.1/2"), std::string("unix://relative"), std::string("unix:///"),
        long_path})
    BOOST_CHECK_THROW(parse_redis_url(bad), InputError);
}

BOOST_AUTO_TEST_CASE(a_password_in_an_address_of_redis_is_not_repeated) {
  BOOST_CHECK_EQUAL(masked_redis_url("redis://user:hush@127.0.0.1:1"), "redis://***@127.0.0.1:1");
  BOOST_CHECK_EQUAL(masked_redis_url("redis://127.0.0.1:1"), "redis://127.0.0.1:1");
  for (const char* url : {"redis://user:hush@127.0.0.1", "rediss://:hush@127.0.0.1", "hush@127.0.0.1",
                          "redis://user:hush@@127.0.0.1", "redis://:hush/hush@127.0.0.1"})
    BOOST_CHECK_EXCEPTION(parse_redis_url(url), InputError,
                          [](auto& e) { return !mentions(e, "hush") && mentions(e, "127.0.0.1"); });
}

BOOST_AUTO_TEST_CASE(a_run_directory_too_deep_for_a_socket_is_refused) {
  const std::string deep = "/tmp/" + std::string(107, 'd');
  BOOST_CHECK_EXCEPTION(RedisServer({.run_dir = deep}), InputError,
                        [](auto& e) { return mentions(e, "shorter run directory"); });
}
