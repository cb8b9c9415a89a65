// What is kept back for when there is no more memory: small things can be had of it, large ones cannot.

#include "actors/process/memory_reserve.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio.hpp>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "schema/frame.hpp"

namespace asio = boost::asio;
namespace schema = convoy::schema;
using convoy::actors::MemoryReserve;

namespace {

uint64_t data_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmData:")) return std::stoull(line.substr(7)) << 10;
  return 0;
}

/// How many times it can be done before there is no memory for it.
template <class Do>
uint32_t times(uint32_t most, Do once) {
  uint32_t count = 0;
  try {
    for (; count < most; ++count) once();
  } catch (const std::bad_alloc&) {
  }
  return count;
}

/// How many blocks `new` gives before it throws.
uint32_t blocks(size_t bytes) {
  return times(100'000, [bytes] {
    [[maybe_unused]] void* volatile block = operator new(bytes);
  });  // and never returned
}

struct Counts {
  uint32_t large = 0, small = 0, small_of_a_thread = 0, refilled = 0;
  uint32_t posted = 0, ran = 0, frames = 0;
};

/// In a process of its own that may take no more than it has.
template <class Use>
Counts without_memory(bool reserves, Use use) {
  int ends[2];
  BOOST_REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    std::optional<MemoryReserve> reserve;
    if (reserves) reserve.emplace();
    Counts counts;
    const rlimit none{data_bytes() + (16 << 20), RLIM_INFINITY};  // room for a thread's stack, and no more
    setrlimit(RLIMIT_DATA, &none);
    use(counts);
    if (reserve) reserve->refill();
    counts.refilled = blocks(1000);
    (void)!write(ends[1], &counts, sizeof counts);
    _exit(0);
  }
  close(ends[1]);
  Counts counts;
  BOOST_REQUIRE(read(ends[0], &counts, sizeof counts) == sizeof counts);
  close(ends[0]);
  int status = 0;
  BOOST_REQUIRE(waitpid(child, &status, 0) == child);
  BOOST_TEST(status == 0);
  return counts;
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_small_is_given_when_what_is_large_is_refused) {
  const auto use = [](Counts& counts) {
    std::thread other([&] {
      blocks(64 << 10);  // what the limit leaves; the reserve is drained by that, into holes
      counts.large = blocks(64 << 10);
      counts.small_of_a_thread = blocks(1000);
    });
    other.join();
    counts.small = blocks(1000);
  };
  const Counts without = without_memory(false, use), with = without_memory(true, use);
  const auto all = [](const Counts& counts) { return counts.small + counts.small_of_a_thread; };
  BOOST_TEST_MESSAGE("without " << all(without) << ", with " << all(with));
  BOOST_TEST(with.large <= 4u);  // 256 KiB of 4 MiB
  BOOST_TEST(all(with) > all(without) + 2000);
  BOOST_TEST(with.refilled == 0u);  // nothing was freed
}

// What gateway and actors ask for all the time. A strand that cannot be posted to once runs nothing any more.
BOOST_AUTO_TEST_CASE(handlers_and_frames_are_small) {
  constexpr uint32_t most = 1000;
  const Counts counts = without_memory(true, [](Counts& counts) {
    asio::io_context io;
    const auto strand = asio::make_strand(io);
    std::vector<schema::FrameBytes> frames;
    frames.reserve(most);
    for (size_t bytes = 1 << 20; bytes >= 64; bytes /= 2)  // all there is, and the reserve not asked
      for (void* volatile block = malloc(bytes); block;) block = malloc(bytes);
    counts.posted = times(most, [&, state = std::array<char, 500>()] {
      asio::post(strand, [&counts, state] { counts.ran += 1u + state[0]; });
    });
    io.run();
    counts.frames = times(most, [&] {
      schema::FrameBuilder<schema::Cancel> cancel;
      cancel->initReplyTo().setNode("node1");
      frames.push_back(std::move(cancel).finish().bytes());
    });
  });
  BOOST_TEST(counts.posted == most);
  BOOST_TEST(counts.ran == most);
  BOOST_TEST(counts.frames == most);
}
