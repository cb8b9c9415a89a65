// A step's bytes as they are sent to a GPU: where parts lie, what a table entry ends as, what is refused.

#include "gpu/cuda/step_buffer.hpp"

#include <boost/test/unit_test.hpp>
#include <span>
#include <vector>

#include "gpu/cuda/failure.hpp"

using namespace convoy;
using namespace convoy::cuda;

namespace {

constexpr StepCapacity capacity{.rows = 5, .slots = 3, .table_entries = 4};
constexpr std::byte untouched{0xab};

/// A writer, and room for its steps with a margin that nobody may write to.
struct Fixture {
  static constexpr size_t margin = 64;
  StepWriter writer{capacity};
  std::vector<std::byte> memory =
      std::vector<std::byte>(static_cast<size_t>(capacity.bytes()) + margin, untouched);

  const StepHeader& write(const Step& step, bool samples = true) {
    const StepHeader& header = writer.write(step, samples, memory.data());
    BOOST_TEST(header.bytes <= capacity.bytes());
    for (size_t i = memory.size() - margin; i < memory.size(); i++) BOOST_REQUIRE(memory[i] == untouched);
    return header;
  }
  template <class T>
  std::span<const T> part(int32_t at, int32_t count) const {
    BOOST_REQUIRE(at % 16 == 0);
    BOOST_REQUIRE(at + count * static_cast<int32_t>(sizeof(T)) <= capacity.bytes());
    return {reinterpret_cast<const T*>(memory.data() + at), static_cast<size_t>(count)};
  }
};

Step step_of(const std::vector<Start>& starts, const std::vector<gpu::BlockChange>& changes,
             const std::vector<gpu::SlotRows>& sequences, const std::vector<int32_t>& ids) {
  return {.number = 1,
          .starts = starts.data(),
          .start_count = starts.size(),
          .changes = changes.data(),
          .change_count = changes.size(),
          .sequences = sequences.data(),
          .sequence_count = sequences.size(),
          .ids = ids.data(),
          .rows = ids.size()};
}

Step changes_alone(const std::vector<gpu::BlockChange>& changes) { return step_of({}, changes, {}, {}); }

const std::vector<int32_t> end_tokens{7, 8, 9};
const std::vector<Start> starts{{.slot = 2,
                                 .prompt_tokens = 11,
                                 .sampling = {.temperature = 0.5f,
                                              .top_k = 40,
                                              .seed = uint64_t{1} << 40,
                                              .end_tokens = end_tokens.data(),
                                              .end_token_count = end_tokens.size()}}};
const std::vector<gpu::BlockChange> changes{{2, 0, 17}, {2, 1, 18}};
const std::vector<gpu::SlotRows> sequences{
    {.slot = 2, .first_row = 0, .rows = 3, .first_position = 0, .sampled_rows = 0},
    {.slot = 0, .first_row = 3, .rows = 2, .first_position = 70, .sampled_rows = 2}};
const std::vector<int32_t> ids{100, 101, 102, 103, gpu::token_fed_back};

bool names(const Failure& failure, Code code, const char* what) {
  return failure.code == code && std::string(failure.what()).find(what) != std::string::npos &&
         !failure.where.empty() && !failure.mend.empty();
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(every_part_of_a_step_lies_where_its_header_says, Fixture) {
  const StepHeader& header = write(step_of(starts, changes, sequences, ids));
  BOOST_TEST(header.rows == 5);
  BOOST_TEST(header.sampled == 2);
  BOOST_TEST(header.sequences_at >= static_cast<int32_t>(sizeof(StepHeader)));
  BOOST_TEST(header.ids_at >= header.sequences_at + 2 * static_cast<int32_t>(sizeof(StepSequence)));
  BOOST_TEST(header.starts_at >= header.ids_at + 5 * 4);
  BOOST_TEST(header.changes_at >= header.starts_at + static_cast<int32_t>(sizeof(StepStart)));
  BOOST_TEST(header.bytes >= header.changes_at + 2 * static_cast<int32_t>(sizeof(gpu::BlockChange)));

  const auto rows = part<StepSequence>(header.sequences_at, header.sequences);
  BOOST_REQUIRE(rows.size() == 2u);
  BOOST_TEST(rows[0].slot == 2);
  BOOST_TEST(rows[0].sampled_rows == 0);
  BOOST_TEST(rows[1].first_row == 3);
  BOOST_TEST(rows[1].rows == 2);
  BOOST_TEST(rows[1].first_position == 70);
  BOOST_TEST(rows[1].sampled_rows == 2);
  BOOST_TEST(rows[1].first_sampled == 0);  // none was sampled before
  BOOST_TEST(part<int32_t>(header.ids_at, 5) == ids, boost::test_tools::per_element());
  const auto started = part<StepStart>(header.starts_at, header.starts);
  BOOST_REQUIRE(started.size() == 1u);
  BOOST_TEST(started[0].slot == 2);
  BOOST_TEST(started[0].sampling.prompt_tokens == 11u);
  BOOST_TEST(started[0].sampling.temperature == 0.5f);
  BOOST_TEST(started[0].sampling.top_k == 40u);
  BOOST_TEST(started[0].sampling.seed == uint64_t{1} << 40);
  BOOST_REQUIRE(started[0].sampling.end_token_count == 3u);
  BOOST_TEST(started[0].sampling.end_tokens[2] == 9);
  const auto changed = part<gpu::BlockChange>(header.changes_at, header.changes);
  BOOST_REQUIRE(changed.size() == 2u);
  BOOST_TEST(changed[1].index == 1u);
  BOOST_TEST(changed[1].block == 18u);
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_is_not_the_last_samples_nothing, Fixture) {
  const StepHeader& header = write(step_of(starts, changes, sequences, ids), false);
  BOOST_TEST(header.sampled == 0);
  for (const StepSequence& rows : part<StepSequence>(header.sequences_at, header.sequences))
    BOOST_TEST(rows.sampled_rows == 0);
}

BOOST_FIXTURE_TEST_CASE(a_step_without_anything_is_its_header_alone, Fixture) {
  const StepHeader& header = write(step_of({}, {}, {}, {}));
  BOOST_TEST(header.rows == 0);
  BOOST_TEST(header.changes == 0);
  BOOST_TEST(header.bytes == capacity.sequences_at());
}

BOOST_FIXTURE_TEST_CASE(a_step_that_fills_all_that_there_is_stays_within_its_bytes, Fixture) {
  std::vector<Start> all_starts(3, starts[0]);
  std::vector<gpu::SlotRows> all_sequences;
  std::vector<gpu::BlockChange> all_changes;
  for (uint32_t i = 0; i < 5; i++)
    all_sequences.push_back({.slot = i % 3, .first_row = i, .rows = 1, .sampled_rows = 1});
  for (int again = 0; again < 3; again++)  // more changes than entries
    for (uint32_t slot = 0; slot < 3; slot++)
      for (uint32_t index = 0; index < 4; index++) all_changes.push_back({slot, index, index});
  const StepHeader& header = write(step_of(all_starts, all_changes, all_sequences, ids));
  BOOST_TEST(header.bytes == capacity.bytes());
  BOOST_TEST(header.changes == 12);
  BOOST_TEST(part<StepSequence>(header.sequences_at, 5)[4].first_sampled == 4);
}

// Kernels apply all changes at once: an entry may be among them once.
BOOST_FIXTURE_TEST_CASE(of_several_changes_of_a_table_entry_the_last_counts, Fixture) {
  const StepHeader& header = write(changes_alone({{1, 0, 5}, {1, 2, 6}, {1, 0, 7}, {0, 0, 8}, {1, 0, 9}}));
  const auto left = part<gpu::BlockChange>(header.changes_at, header.changes);
  BOOST_REQUIRE(left.size() == 3u);
  BOOST_TEST(left[0].slot == 1u);
  BOOST_TEST(left[0].index == 0u);
  BOOST_TEST(left[0].block == 9u);
  BOOST_TEST(left[1].block == 6u);
  BOOST_TEST(left[2].block == 8u);
}

BOOST_FIXTURE_TEST_CASE(an_entry_that_an_earlier_step_changed_is_changed_again, Fixture) {
  write(changes_alone({{1, 0, 5}, {1, 1, 6}}));
  const StepHeader& header = write(changes_alone({{1, 1, 7}}));
  BOOST_REQUIRE(header.changes == 1);
  BOOST_TEST(part<gpu::BlockChange>(header.changes_at, 1)[0].block == 7u);
}

BOOST_FIXTURE_TEST_CASE(what_no_step_may_hold_is_refused_with_the_limit, Fixture) {
  const auto refused = [this](const Step& step, const char* what) {
    BOOST_CHECK_EXCEPTION(write(step), Failure,
                          [&](const Failure& f) { return names(f, Code::refused, what); });
  };
  refused(step_of({}, {}, {}, std::vector<int32_t>(6)), "6 rows");
  refused(step_of(std::vector<Start>(4, starts[0]), {}, {}, {}), "4 starts");
  refused(step_of({}, {}, std::vector<gpu::SlotRows>(6), {}), "6 sequences");
  refused(changes_alone({{3, 0, 0}}), "slot 3");
  refused(changes_alone({{2, 4, 0}}), "index 4");
  refused(changes_alone({{0, 0, 1}, {UINT32_MAX, UINT32_MAX, 0}}), "slot 4294967295");
  const std::vector<int32_t> many(end_tokens_max + 1);
  std::vector<Start> greedy(1, starts[0]);
  greedy[0].sampling.end_tokens = many.data(), greedy[0].sampling.end_token_count = many.size();
  refused(step_of(greedy, {}, {}, {}), "65 end tokens");
  greedy[0].sampling.end_token_count = end_tokens_max;
  BOOST_TEST(write(step_of(greedy, {}, {}, {})).starts == 1);
}
