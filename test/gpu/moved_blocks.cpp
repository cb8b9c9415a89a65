// KV blocks that leave a stage for its second tier and come back: whoever reads them then gets bit for bit
// what it gets from those that never left; and what a disk gives instead is no answer.

#include <boost/test/unit_test.hpp>
#include <fstream>

#include "gpu/block_file.hpp"
#include "model/error.hpp"
#include "test/gpu/damaged_file.hpp"
#include "test/gpu/sequences.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using Way = BlockMove::Way;

namespace {

constexpr uint64_t enough = 16 << 20;  // bytes of a second tier, for every place that tests name

std::unique_ptr<Engine> tiered(const EngineMaker& maker, const SecondTierOptions& tier,
                               model::LayerRange range = {0, 2}) {
  EngineMaker with = maker;
  with.limits.second_tier = tier;
  return with.make(range);
}
/// With one on disk.
std::unique_ptr<Engine> tiered(const EngineMaker& maker, const Folder& folder,
                               model::LayerRange range = {0, 2}, uint64_t bytes = enough) {
  return tiered(maker, {.disk_bytes = bytes, .disk_dir = folder.path}, range);
}
/// Each way to have one: on disk, in memory, and places 0 to 3 there and the others on disk.
std::vector<SecondTierOptions> tiers(const EngineMaker& maker, const Folder& folder) {
  const uint64_t block_bytes = [&] {
    const auto engine = tiered(maker, folder);
    return file_bytes(folder) / engine->kv_places();
  }();
  return {{.disk_bytes = enough, .disk_dir = folder.path},
          {.host_bytes = enough},
          {.host_bytes = 4 * block_bytes + 1, .disk_bytes = enough, .disk_dir = folder.path}};
}

std::string thrown(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    BOOST_TEST_MESSAGE(e.what());
    return e.what();
  }
  return "nothing was thrown";
}

bool contains(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

/// Another sequence writes all of these blocks.
void overwrite(Engine& engine, const EngineMaker& maker, const std::vector<uint32_t>& blocks) {
  Log other{
      .slot = 3,
      .tokens = TensorMaker(91).ids(static_cast<int64_t>(blocks.size()) * kv_block_tokens, maker.vocab)};
  other.prompt_tokens = other.tokens.size();
  engine.run(start_of(other, {}, 0, blocks), {});
  generate(engine, other, 1);
  engine.run({.ends = {3}}, {});
}

}  // namespace

BOOST_AUTO_TEST_CASE(behind_blocks_that_came_back_logits_and_tokens_are_those_of_all_rows) {
  const Folder folder;
  for_each_engine([&](const EngineMaker& maker) {
    const std::vector<int32_t> prompt = TensorMaker(81).ids(150, maker.vocab);
    for (const model::Sampling& sampling : samplings(maker)) {
      const auto fresh = maker.make();
      Log alone{.slot = 0, .prompt_tokens = prompt.size(), .tokens = prompt};
      fresh->run(start_of(alone, sampling, 0, {0, 1, 2}), {});
      const Answer expected = generate(*fresh, alone, 6);

      for (const SecondTierOptions& tier : tiers(maker, folder)) {
        const auto engine = tiered(maker, tier);
        Log log{.slot = 0, .prompt_tokens = prompt.size(), .tokens = prompt};
        engine->run(start_of(log, sampling, 0, {7, 2, 11}), {});
        generate(*engine, log, 1);
        engine->run({.ends = {0}}, {});
        // Two are saved in the step that writes them next, and come back into others in one that reads them.
        StepPlan plan{.moves = {{Way::save, 2, 5}, {Way::save, 7, 3}}};
        engine->run(plan, {});
        overwrite(*engine, maker, {2, 7, 4, 9});
        Log again{.slot = 1, .prompt_tokens = prompt.size(), .tokens = prompt, .computed = 128};
        plan = start_of(again, sampling, 128, {9, 4, 12});
        plan.moves = {{Way::load, 9, 3}, {Way::load, 4, 5}};
        engine->run(plan, {});
        check_same(generate(*engine, again, 6), expected);
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(moves_of_one_step_happen_in_their_order_before_its_rows) {
  const Folder folder;
  const EngineMaker maker = makers().front();
  const std::vector<int32_t> prompt = TensorMaker(82).ids(140, maker.vocab);
  const auto engine = tiered(maker, folder);
  Log log{.slot = 0, .prompt_tokens = prompt.size(), .tokens = prompt};
  engine->run(start_of(log, {}, 0, {7, 2, 11}), {});
  const Answer expected = generate(*engine, log, 4);
  engine->run({.ends = {0}}, {});
  // Both go through one place, into blocks of which one is saved before; and the rows read them.
  Log again{.slot = 1, .prompt_tokens = prompt.size(), .tokens = prompt, .computed = 128};
  StepPlan plan = start_of(again, {}, 128, {2, 7, 13});
  plan.moves = {
      {Way::save, 7, 0}, {Way::save, 2, 1}, {Way::load, 2, 0}, {Way::save, 11, 0}, {Way::load, 7, 1}};
  plan.sequences = {rest_of(again)};
  const StepResult result = engine->run(plan, {}).result;
  BOOST_TEST(result.sequences.at(0).tokens.at(0).id == expected.tokens[0]);
  again.computed = again.tokens.size(), again.tokens.push_back(expected.tokens[0]);
  const Answer rest = generate(*engine, again, 3);
  check_same(rest, expected.last(3));
}

BOOST_AUTO_TEST_CASE(a_stage_without_ends_moves_its_blocks_too) {
  const Folder folder;
  for (const EngineMaker& maker : {makers().front(), makers().back()}) {
    const std::vector<int32_t> prompt = TensorMaker(83).ids(70, maker.vocab);
    const auto first = maker.make({0, 0}), plain = maker.make({1, 1}), moving = tiered(maker, folder, {1, 1});
    StepPlan plan{.starts = {{0, 70, {}}}, .block_changes = {{0, 0, 4}, {0, 1, 5}}};
    plan.sequences = {{0, 0, {prompt.begin(), prompt.begin() + 65}, 0}};
    const auto run = [&] {
      const auto hidden = first->run(plan, {}).hidden;
      const auto expected = plain->run(plan, hidden).hidden, own = moving->run(plan, hidden).hidden;
      BOOST_REQUIRE(own.size() == expected.size());
      BOOST_TEST(std::memcmp(own.data(), expected.data(), own.size_bytes()) == 0);
    };
    run();
    moving->run({.moves = {{Way::save, 4, 0}, {Way::save, 5, 1}, {Way::load, 9, 0}, {Way::load, 4, 1}}}, {});
    plan = {.block_changes = {{0, 0, 4}, {0, 1, 5}},
            .sequences = {{0, 65, {prompt.begin() + 65, prompt.end()}, 0}}};
    const auto hidden = first->run(plan, {}).hidden;
    const auto expected = plain->run(plan, hidden).hidden;
    plan.block_changes = {{0, 0, 9}, {0, 1, 4}};
    const auto own = moving->run(plan, hidden).hidden;
    BOOST_TEST(std::memcmp(own.data(), expected.data(), own.size_bytes()) == 0);
  }
}

BOOST_AUTO_TEST_CASE(a_block_that_the_disk_gives_back_damaged_is_a_fault) {
  const Folder folder;
  const EngineMaker maker = makers().front();
  const auto engine = tiered(maker, folder);
  overwrite(*engine, maker, {4, 5});
  engine->run({.moves = {{Way::save, 4, 2}, {Way::save, 5, 3}}}, {});
  const uint64_t block_bytes = file_bytes(folder) / engine->kv_places();
  flip_byte(folder, 2 * block_bytes + 77);
  engine->run({.moves = {{Way::load, 8, 3}}}, {});  // the other one is as it was
  BOOST_TEST(contains(thrown([&] { engine->run({.moves = {{Way::load, 8, 2}}}, {}); }), "place 2 on disk"));
}

BOOST_AUTO_TEST_CASE(moves_that_cannot_be_are_refused_with_the_values) {
  const Folder folder;
  const EngineMaker maker = makers().front();
  const auto refused = [&](Engine& of, BlockMove move) {
    return thrown([&] { of.run({.moves = {move}}, {}); });
  };
  for (const SecondTierOptions& tier : tiers(maker, folder)) {
    const auto engine = tiered(maker, tier);
    const std::string places = std::to_string(engine->kv_places());
    BOOST_TEST(contains(refused(*engine, {Way::save, 24, 0}), "block 24 of 24 moves"));
    BOOST_TEST(
        contains(refused(*engine, {Way::save, 1, engine->kv_places()}), "place " + places + " of " + places));
    for (const uint32_t place : {0u, 4u}) {
      const std::string none = "block 1 comes from place " + std::to_string(place) + ", which holds none";
      BOOST_TEST(contains(refused(*engine, {Way::load, 1, place}), none));
      engine->run({.moves = {{Way::save, 1, place}}}, {});
      engine->reset();
      BOOST_TEST(contains(refused(*engine, {Way::load, 1, place}), none));
    }
  }
  const auto plain = maker.make();
  BOOST_TEST(plain->kv_places() == 0u);
  BOOST_TEST(contains(refused(*plain, {Way::save, 1, 0}), "place 0 of 0"));
}

BOOST_AUTO_TEST_CASE(a_second_tier_that_cannot_be_is_refused_with_the_key_to_change) {
  const Folder folder;
  const EngineMaker maker = makers().front();
  BOOST_TEST(contains(thrown([&] { tiered(maker, folder, {0, 2}, 1000); }), "stage.kv_disk_bytes is 1000"));
  BOOST_TEST(contains(thrown([&] {
                        tiered(maker, folder, {0, 2}, 1ull << 60);
                      }),
                      "lower stage.kv_disk_bytes"));
  Folder gone;
  std::filesystem::remove(gone.path);
  BOOST_TEST(contains(thrown([&] { tiered(maker, gone); }), "stage.kv_disk_dir"));
  BOOST_TEST(
      contains(thrown([&] { tiered(maker, {.host_bytes = 1000}); }), "stage.kv_host_bytes is 1000, and one"));
  const std::string much = thrown([&] { tiered(maker, {.host_bytes = 1ull << 60}); });
  BOOST_TEST(contains(much, "stage.kv_host_bytes is "));
  BOOST_TEST(contains(much, " bytes are available ("));
}

BOOST_AUTO_TEST_CASE(a_file_has_as_many_places_as_fit_and_no_name) {
  const Folder folder;
  BlockFile file(folder.path, 10'000, 3'000);
  BOOST_TEST(file.places() == 3u);
  BOOST_TEST(std::filesystem::is_empty(folder.path));
  BOOST_TEST(file_bytes(folder) == 9'000u);
  BOOST_TEST(!file.holds(0));
}

BOOST_AUTO_TEST_CASE(a_file_gives_back_the_latest_that_was_saved_and_does_not_show_it) {
  const Folder folder;
  constexpr uint64_t block_bytes = 600'001;  // more than one piece, and odd
  BlockFile file(folder.path, 4 * block_bytes, block_bytes);
  const auto block_of = [&](int seed) {
    std::vector<std::byte> block(block_bytes);
    for (size_t i = 0; i < block.size(); i++) block[i] = std::byte(static_cast<size_t>(seed) * 31 + i / 100);
    return block;
  };
  std::vector<std::byte> own(block_bytes);
  for (uint32_t place = 0; place < 4; place++) file.save(place, block_of(static_cast<int>(place)));
  file.save(1, block_of(9));
  for (uint32_t place = 0; place < 4; place++) {
    file.load(place, own);
    BOOST_TEST((own == block_of(place == 1 ? 9 : static_cast<int>(place))));
  }
  const std::vector<std::byte> stored = read_file(folder), plain = block_of(0);
  BOOST_TEST((std::search(stored.begin(), stored.end(), plain.begin(), plain.begin() + 32) == stored.end()));
  file.clear();
  BOOST_TEST(!file.holds(1));
}

BOOST_AUTO_TEST_CASE(a_file_finds_every_damaged_place_and_one_that_holds_an_older_copy) {
  const Folder folder;
  constexpr uint64_t block_bytes = 5'000;
  BlockFile file(folder.path, 2 * block_bytes, block_bytes);
  const std::vector<std::byte> first(block_bytes, std::byte{1}), second(block_bytes, std::byte{2});
  std::vector<std::byte> own(block_bytes);
  file.save(0, first);
  const std::vector<std::byte> before = read_file(folder);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{2'500}, block_bytes - 1}) {
    file.save(0, first);
    flip_byte(folder, offset);
    BOOST_CHECK_THROW(file.load(0, own), std::runtime_error);
    flip_byte(folder, offset);
    file.load(0, own);  // and it was that byte
  }
  file.save(0, second);
  write_file(folder, before);
  BOOST_CHECK_THROW(file.load(0, own), std::runtime_error);
  truncate_file(folder, 100);
  BOOST_TEST(contains(thrown([&] { file.load(0, own); }), "the file ends at 100"));
}
