// Weights on their way: the store on disk, and the fetching that goes on wherever it was cut. The peer is a
// map in the test.

#include <sys/mount.h>
#include <sys/stat.h>

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <random>

#include "actors/weights/outline_codec.hpp"
#include "actors/weights/weight_fetch.hpp"
#include "test/model/files.hpp"

using namespace convoy;
using namespace convoy::actors;
namespace fs = std::filesystem;

namespace {

constexpr uint64_t no_limit = 1ull << 40;
const std::string model_digest(64, 'd');

std::string digest_of(const std::string& bytes) {
  model::Sha256 sha;
  sha.update(bytes);
  return sha.hex();
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

struct Folder {
  test::TemporaryFolder parent;
  const fs::path dir = parent.path() / "store";
  uint64_t bytes_on_disk() const {
    uint64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(dir / "tensors")) bytes += entry.file_size();
    return bytes;
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(dir / "tensors"), {}));
  }
};

/// Tensors of seeded bytes, and a peer that gives them.
struct Peer {
  std::map<std::string, std::string> tensors;
  std::vector<model::NeededTensor> needed;
  std::map<std::string, std::string> lies;  // given in place of the right bytes, once each

  explicit Peer(uint32_t seed, size_t count = 6, size_t bytes_max = 4000) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < count; ++i) {
      std::string bytes(1 + random() % bytes_max, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      const std::string name = "layers." + std::to_string(i) + ".weight";
      needed.push_back({name, bytes.size()});
      tensors[name] = bytes;
    }
    tensors.rbegin()->second = tensors.begin()->second;  // two names for one content
    needed.back().bytes = tensors.begin()->second.size();
  }
  uint64_t bytes() const {
    uint64_t bytes = 0;
    for (const auto& tensor : needed) bytes += tensor.bytes;
    return bytes;
  }
  std::string part(const WeightFetch::Ask& ask) {
    if (const auto lie = lies.find(ask.name); lie != lies.end() && ask.begin == 0) {
      std::string bytes = lie->second.substr(0, ask.bytes);
      lies.erase(lie);
      return bytes;
    }
    return tensors.at(ask.name).substr(ask.begin, ask.bytes);
  }
  /// Answers until everything is there, or so many bytes came.
  void serve(WeightFetch& fetch, uint64_t bytes_max = no_limit) {
    std::deque<WeightFetch::Ask> asked;
    const auto take = [&] {
      for (auto& ask : fetch.asks()) asked.push_back(ask);
    };
    for (take(); !asked.empty(); take()) {
      const auto ask = asked.front();
      asked.pop_front();
      if (ask.bytes == 0) {
        fetch.digest(ask.name, digest_of(tensors.at(ask.name)));
      } else {
        if (fetch.bytes_received() + ask.bytes > bytes_max) return;
        fetch.part(ask.name, ask.begin, bytes_of(part(ask)));
      }
    }
  }
};

constexpr FetchLimits small{
    .part_bytes = 257, .parts_in_flight = 3, .digests_in_flight = 2, .attempts_max = 3};

void check_there(const WeightStore& store, const Peer& peer) {
  for (const auto& [name, bytes] : peer.tensors) {
    const auto file = store.find({digest_of(bytes), bytes.size()});
    BOOST_REQUIRE(file.has_value());
    std::ifstream in(*file, std::ios::binary);
    const std::string there{std::istreambuf_iterator<char>(in), {}};
    BOOST_CHECK(there == bytes);
  }
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(what_is_fetched_is_in_the_store_and_for_its_user_alone, Folder) {
  WeightStore store(dir, no_limit);
  Peer peer(1);
  WeightFetch fetch(store, model_digest, small);
  fetch.want(peer.needed);
  peer.serve(fetch);
  BOOST_CHECK(fetch.done());
  check_there(store, peer);
  BOOST_CHECK_EQUAL(files(), peer.tensors.size() - 1);
  BOOST_CHECK_EQUAL(fetch.progress().bytes, peer.bytes());
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    struct stat status {};
    BOOST_REQUIRE_EQUAL(::lstat(entry.path().c_str(), &status), 0);
    BOOST_CHECK_EQUAL(status.st_mode & 077, 0u);
  }
}

BOOST_FIXTURE_TEST_CASE(what_is_there_is_not_asked_for_again, Folder) {
  Peer peer(2);
  {
    WeightStore store(dir, no_limit);
    WeightFetch fetch(store, model_digest, small);
    fetch.want(peer.needed);
    peer.serve(fetch);
  }
  WeightStore store(dir, no_limit);
  WeightFetch again(store, model_digest, small);
  again.want(peer.needed);
  BOOST_CHECK(again.asks().empty());  // not even for digests
  BOOST_CHECK(again.done());
  // Of other layers, only what is missing travels.
  Peer more(3, 9);
  more.tensors.insert(peer.tensors.begin(), peer.tensors.end());
  for (auto& tensor : more.needed) tensor.name = "new." + tensor.name;
  for (const auto& tensor : more.needed) more.tensors[tensor.name] = more.tensors.at(tensor.name.substr(4));
  for (auto& tensor : more.needed) tensor.bytes = more.tensors[tensor.name].size();
  auto both = peer.needed;
  both.insert(both.end(), more.needed.begin(), more.needed.end());
  again.want(both);
  more.serve(again);
  BOOST_CHECK(again.done());
  uint64_t missing = 0;
  std::set<std::string> seen;
  for (const auto& tensor : peer.needed) seen.insert(peer.tensors[tensor.name]);
  for (const auto& tensor : more.needed)
    if (seen.insert(more.tensors[tensor.name]).second) missing += tensor.bytes;
  BOOST_CHECK_EQUAL(again.bytes_received(), missing);
}

BOOST_FIXTURE_TEST_CASE(wherever_it_is_cut_it_goes_on_there, Folder) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) {
      fs::remove_all(dir);
      std::mt19937 random(seed);
      Peer peer(1000 + seed);
      uint64_t received = 0, cuts = 0;
      for (bool done = false; !done; ++cuts) {
        BOOST_REQUIRE(cuts < 200u);
        WeightStore store(dir, no_limit);
        WeightFetch fetch(store, model_digest, small);
        fetch.want(peer.needed);
        for (int links = 0; links < 3 && !done; ++links) {  // the process lives, its link is cut
          peer.serve(fetch, fetch.bytes_received() + random() % 3000);
          done = fetch.done();
          if (!done) fetch.disconnected();
        }
        received += fetch.bytes_received();
      }
      WeightStore store(dir, no_limit);
      check_there(store, peer);
      // Nothing came twice: a cut loses what was not taken, and the content with two names comes once.
      BOOST_CHECK_EQUAL(received, peer.bytes() - peer.needed.back().bytes);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(wrong_bytes_are_thrown_away_and_fetched_again_until_it_is_too_often, Folder) {
  WeightStore store(dir, no_limit);
  Peer peer(4);
  const auto& victim = peer.needed[2];
  peer.lies[victim.name] = std::string(victim.bytes, 'x');
  WeightFetch fetch(store, model_digest, small);
  fetch.want(peer.needed);
  peer.serve(fetch);
  BOOST_CHECK(fetch.done());
  BOOST_CHECK_EQUAL(fetch.wrong(), 1u);
  BOOST_CHECK_EQUAL(fetch.bytes_received(), peer.bytes() - peer.needed.back().bytes + victim.bytes);
  check_there(store, peer);

  Peer liar(5);
  const std::string name = liar.needed[1].name;
  const std::string right = liar.tensors[name];
  WeightFetch hopeless(store, model_digest + "2", small);
  hopeless.want(liar.needed);
  const auto serve_lies = [&] {
    for (;;) {
      const auto asks = hopeless.asks();
      if (asks.empty()) return;
      for (const auto& ask : asks)
        if (ask.bytes == 0)
          hopeless.digest(ask.name, digest_of(liar.tensors[ask.name]));
        else
          hopeless.part(ask.name, ask.begin,
                        bytes_of(ask.name == name ? std::string(ask.bytes, 'x') : liar.part(ask)));
    }
  };
  CHECK_INPUT_ERROR(serve_lies(), "tensor " + name + ": came 3 times");
  BOOST_CHECK(!store.find({digest_of(right), right.size()}));
}

BOOST_FIXTURE_TEST_CASE(answers_that_nobody_asked_for_are_refused, Folder) {
  WeightStore store(dir, no_limit);
  Peer peer(6);
  WeightFetch fetch(store, model_digest, small);
  fetch.want(peer.needed);
  CHECK_INPUT_ERROR(fetch.part("layers.0.weight", 0, bytes_of("x")), "nobody asked");
  CHECK_INPUT_ERROR(fetch.digest("layers.5.weight", std::string(64, 'a')), "nobody asked");
  const auto asks = fetch.asks();
  BOOST_REQUIRE_EQUAL(asks.size(), 2u);
  CHECK_INPUT_ERROR(fetch.digest(asks[0].name, "../../etc/passwd"), "nobody asked");
}

BOOST_FIXTURE_TEST_CASE(what_was_longest_unused_goes_and_what_is_needed_stays, Folder) {
  const auto put = [&](WeightStore& store, const std::string& bytes) {
    const auto part = store.begin({digest_of(bytes), bytes.size()});
    BOOST_REQUIRE(part);
    part->append(bytes_of(bytes));
    BOOST_REQUIRE(part->finish());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // between their times
    return StoredTensor{digest_of(bytes), bytes.size()};
  };
  WeightStore store(dir, 250);
  const StoredTensor oldest = put(store, std::string(100, 'a')), used = put(store, std::string(80, 'b')),
                     newest = put(store, std::string(60, 'c'));
  store.need({used});
  BOOST_CHECK(store.find(oldest) && store.find(used) && store.find(newest));  // 240
  const StoredTensor coming{digest_of(std::string(90, 'd')), 90};
  store.need({used, coming});
  BOOST_CHECK(!store.find(oldest));
  BOOST_CHECK(store.find(used) && store.find(newest));  // 80 + 90 + 60
  CHECK_INPUT_ERROR(store.need({used, {digest_of("e"), 200}}), "raise store.bytes_max");
  BOOST_CHECK(store.find(used));
  // Of a process that is gone, nothing is needed.
  std::ofstream(dir / "uses/1") << digest_of(std::string(60, 'c')) << " 60\n";
  fs::permissions(dir / "uses/1", fs::perms::owner_read | fs::perms::owner_write);
  store.need({{digest_of("f"), 240}});
  BOOST_CHECK(!store.find(newest) && !store.find(used));
  BOOST_CHECK(!fs::exists(dir / "uses/1"));
}

BOOST_FIXTURE_TEST_CASE(two_stages_of_a_machine_fetch_a_tensor_once, Folder) {
  WeightStore ours(dir, no_limit),
      theirs(dir, no_limit);  // locks are between open files, as between processes
  Peer peer(7, 2);
  WeightFetch first(ours, model_digest, small), second(theirs, model_digest, small);
  first.want(peer.needed), second.want(peer.needed);
  peer.serve(first, 1);  // it has begun
  peer.serve(second);
  BOOST_CHECK(!second.done());
  first.disconnected();
  peer.serve(first);
  BOOST_CHECK(first.done());
  BOOST_CHECK(second.asks().empty());
  BOOST_CHECK(second.done());
  BOOST_CHECK_EQUAL(second.bytes_received(), 0u);
}

BOOST_FIXTURE_TEST_CASE(a_full_disk_is_said_in_words_and_is_no_end, Folder) {
  fs::create_directory(dir);
  if (::mount("none", dir.c_str(), "tmpfs", 0, "size=64k,mode=700") != 0) {
    BOOST_TEST_MESSAGE("only root makes a small disk");
    return;
  }
  {
    WeightStore store(dir, no_limit);
    Peer peer(8, 8, 30'000);
    WeightFetch fetch(store, model_digest, {.part_bytes = 4096});
    fetch.want(peer.needed);
    CHECK_INPUT_ERROR(peer.serve(fetch), "No space left on device");
    BOOST_REQUIRE_EQUAL(::mount("none", dir.c_str(), nullptr, MS_REMOUNT, "size=10m"), 0);
    fetch.disconnected();
    peer.serve(fetch);
    BOOST_CHECK(fetch.done());
    check_there(store, peer);
  }
  ::umount(dir.c_str());
}

BOOST_FIXTURE_TEST_CASE(a_store_that_others_can_read_is_refused, Folder) {
  fs::create_directory(dir);
  fs::permissions(dir, fs::perms::owner_all | fs::perms::group_read);
  CHECK_INPUT_ERROR(WeightStore(dir, no_limit), "chmod 700");
  fs::remove(dir);
  std::ofstream(dir) << "a file";
  CHECK_INPUT_ERROR(WeightStore(dir, no_limit), "choose another store.dir");
}

BOOST_FIXTURE_TEST_CASE(an_outline_is_kept_as_it_came, Folder) {
  const model::WeightOutline outline{
      model_digest, "model", false, true, {{"config.json", 7, {{0, "{\"a\":1}"}}}}};
  WeightStore store(dir, no_limit);
  store.keep(model_digest, encode(outline));
  BOOST_REQUIRE(store.models() == std::vector{model_digest});
  const auto again = decode(store.outline(model_digest));
  BOOST_CHECK_EQUAL(again.digest, model_digest);
  BOOST_CHECK_EQUAL(again.name, "model");
  BOOST_CHECK(again.tied_head && !again.gguf);
  BOOST_REQUIRE_EQUAL(again.files.size(), 1u);
  BOOST_CHECK_EQUAL(again.files[0].bytes, 7u);
  BOOST_CHECK_EQUAL(again.files[0].parts.at(0).bytes, "{\"a\":1}");
  std::ofstream(dir / "models" / model_digest) << "damaged!";
  CHECK_INPUT_ERROR(store.outline(model_digest), "delete it");
}
