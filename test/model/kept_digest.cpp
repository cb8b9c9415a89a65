// The kept digest: the weights are read once, as long as they are the same files.

#include "model/checkpoint/kept_digest.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>

#include "files.hpp"

using namespace convoy;
namespace fs = std::filesystem;

namespace {

struct Fixture {
  Fixture() {
    fs::copy(test::golden("qwen2-bias"), model.path(),
             fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    fs::remove(kept());
  }

  fs::path kept() const { return model.path() / ".convoy-digest"; }
  fs::path kept_aside() const { return run.path() / (model.path().filename().string() + ".convoy-digest"); }
  std::shared_ptr<const model::Checkpoint> open() const { return model::Checkpoint::open(model.path()); }
  std::string find() const { return model::find_digest(*open(), run.path()); }
  /// Puts another digest in the kept file, which shows whether it or the weights are read.
  void mark() const {
    std::ifstream in(kept());
    std::string text{std::istreambuf_iterator<char>(in), {}};
    std::ofstream(kept()) << text.replace(text.size() - 1 - marked.size(), marked.size(), marked);
  }

  const std::string marked = std::string(64, 'a');
  test::TemporaryFolder model, run;
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(kept_digest, Fixture)

BOOST_AUTO_TEST_CASE(the_weights_are_read_once) {
  BOOST_TEST(!model::kept_digest(*open(), run.path()));
  BOOST_TEST(find() == open()->weights_digest());
  mark();
  BOOST_TEST(find() == marked);
  BOOST_TEST(model::kept_digest(*open(), run.path()).value() == marked);
}

BOOST_AUTO_TEST_CASE(a_file_that_was_changed_or_put_in_place_is_read_again) {
  find();
  const auto weights = model.path() / "model-00001-of-00002.safetensors";
  const auto time = fs::last_write_time(weights);
  mark();
  fs::last_write_time(weights, time + std::chrono::nanoseconds(1000));
  BOOST_TEST(find() != marked);
  mark();
  BOOST_TEST(find() == marked);
  const auto copy = model.path() / "copy";
  fs::copy_file(weights, copy);
  fs::last_write_time(copy, fs::last_write_time(weights));
  fs::rename(copy, weights);  // the same size and time, another file
  BOOST_TEST(find() != marked);
  mark();
  std::ofstream(model.path() / "config.json", std::ios::app) << "\n";
  BOOST_TEST(find() == open()->weights_digest());
}

BOOST_AUTO_TEST_CASE(what_others_may_have_written_is_not_believed) {
  find();
  mark();
  BOOST_REQUIRE_EQUAL(::chmod(kept().c_str(), 0664), 0);
  BOOST_TEST(find() != marked);
  mark();
  fs::rename(kept(), model.path() / "elsewhere");
  fs::create_symlink(model.path() / "elsewhere", kept());
  BOOST_TEST(find() != marked);
  fs::remove(kept());
  if (::geteuid() != 0) return;  // only root can give a file away
  find();
  mark();
  BOOST_REQUIRE_EQUAL(::chown(kept().c_str(), 65534, 65534), 0);
  BOOST_TEST(find() != marked);
}

BOOST_AUTO_TEST_CASE(one_that_is_cut_short_or_garbage_is_computed_again) {
  const std::string digest = find();
  for (const auto bytes : {0, 10, 100}) {
    fs::resize_file(kept(), static_cast<uintmax_t>(bytes));
    BOOST_TEST(find() == digest);
  }
  std::ofstream(kept(), std::ios::app) << "more";
  BOOST_TEST(find() == digest);
}

BOOST_AUTO_TEST_CASE(it_is_kept_aside_where_the_models_folder_cannot_be_written) {
  fs::create_directories(kept() / "in the way");
  const std::string digest = find();
  BOOST_TEST(fs::is_regular_file(kept_aside()));
  BOOST_TEST(model::kept_digest(*open(), run.path()).value() == digest);
  BOOST_TEST(!model::kept_digest(*open(), run.path() / "another"));
}

BOOST_AUTO_TEST_CASE(it_can_be_stopped_and_keeps_nothing_then) {
  std::stop_source stop;
  stop.request_stop();
  BOOST_TEST(model::find_digest(*open(), run.path(), stop.get_token()).empty());
  BOOST_TEST(!fs::exists(kept()));
}

BOOST_AUTO_TEST_CASE(several_that_ask_at_a_time_get_the_same) {
  std::vector<std::string> found(4);
  {
    std::vector<std::jthread> askers;
    for (auto& digest : found) askers.emplace_back([this, &digest] { digest = find(); });
  }
  for (const auto& digest : found) BOOST_TEST(digest == open()->weights_digest());
}

BOOST_AUTO_TEST_CASE(random_weights_have_one_without_any_file) {
  const auto random = model::Checkpoint::open("random:deepseek-v2-lite:2");
  BOOST_TEST(model::kept_digest(*random, run.path()).value() == random->weights_digest());
}

BOOST_AUTO_TEST_SUITE_END()
