// API keys: what is kept of them, what their file may be, and what the gateway makes of its changes.

#include "gateway/api_keys.hpp"

#include <sys/stat.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "gateway/keys_file.hpp"
#include "model/error.hpp"

namespace convoy::gateway::test {

namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("convoy-keys-" + std::to_string(::getpid()));
  fs::path file = path / "keys";
  Folder() {
    fs::remove_all(path);
    fs::create_directory(path);
  }
  ~Folder() { fs::remove_all(path); }
};

ApiKey wanted(const std::string& tenant = "acme") {
  ApiKey key;
  key.created_s = 1000;
  key.tenant = tenant;
  return key;
}

bool mentions(const InputError& error, std::string_view text) {
  return std::string_view(error.what()).find(text) != std::string_view::npos;
}

std::string content(const fs::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_key_opens_and_what_is_kept_of_it_does_not_say_it) {
  Folder folder;
  const std::string text = make_key(folder.file, wanted());
  const ApiKeys keys = load_keys(folder.file);
  BOOST_TEST_REQUIRE(keys.size() == 1u);
  BOOST_TEST(text.size() == 82u);
  BOOST_TEST(text.starts_with("cvk1_" + keys[0].id + "_"));
  BOOST_TEST(find_key(keys, text) == &keys[0]);
  BOOST_TEST(content(folder.file).find(text.substr(18)) == std::string::npos);
  for (std::string wrong : {text.substr(0, 81), text + "0", std::string(), keys[0].digest, "Bearer " + text})
    BOOST_TEST(find_key(keys, wrong) == nullptr, wrong);
  struct stat status {};
  BOOST_TEST(::stat(folder.file.c_str(), &status) == 0);
  BOOST_TEST((status.st_mode & 0777) == 0600u);
}

BOOST_AUTO_TEST_CASE(a_key_that_comes_first_takes_as_long_to_find_as_one_that_is_not_there) {
  ApiKeys keys(keys_max, {std::string(12, 'a'), std::string(64, '0'), KeyRole::user, 1, 0, "t", ""});
  const DrawnKey first = draw_key();
  keys[0].digest = first.digest;
  const auto fastest_ns = [&](const std::string& shown) {
    auto best = std::chrono::steady_clock::duration::max();
    for (int i = 0; i < 200; ++i) {
      const auto began = std::chrono::steady_clock::now();
      const ApiKey* const found = find_key(keys, shown);
      best = std::min(best, std::chrono::steady_clock::now() - began);
      BOOST_TEST_REQUIRE((found != nullptr) == (shown == first.text));
    }
    return std::chrono::duration<double, std::nano>(best).count();
  };
  const double none = fastest_ns(draw_key().text), found = fastest_ns(first.text);
  BOOST_TEST(found > none / 2);  // it would be a hundredth
  BOOST_TEST(none > found / 2);
}

BOOST_AUTO_TEST_CASE(keys_read_back_as_they_were_written) {
  ApiKeys keys;
  for (const KeyRole role : {KeyRole::user, KeyRole::admin, KeyRole::metrics}) {
    DrawnKey drawn = draw_key();
    keys.push_back({drawn.id, drawn.digest, role, 1, role == KeyRole::user ? 0 : 2, "t", "n"});
  }
  keys[1].name.clear();
  const ApiKeys again = read_keys(text_of(keys), "keys");
  BOOST_TEST(text_of(again) == text_of(keys));
  BOOST_TEST(again[1].name.empty());
  BOOST_TEST((!again[0].has_ended(INT64_MAX) && !again[1].has_ended(1) && again[1].has_ended(2)));
}

BOOST_AUTO_TEST_CASE(a_line_that_is_no_key_is_named) {
  const std::string good =
      text_of({{std::string(12, 'a'), std::string(64, '0'), KeyRole::user, 1, 0, "t", ""}});
  BOOST_TEST(read_keys(good, "keys").size() == 1u);
  std::string no_end = good;
  no_end.pop_back();
  BOOST_TEST(read_keys(no_end, "keys").size() == 1u);
  for (std::string bad :
       {std::string("\n"), std::string("# keys\n"), good.substr(1), good.substr(0, 80) + "\n",
        std::string(12, 'a') + " " + std::string(64, 'G') + " user 1 0 t -\n",
        std::string(12, 'a') + " " + std::string(64, '0') + " root 1 0 t -\n",
        std::string(12, 'a') + " " + std::string(64, '0') + " user -1 0 t -\n",
        std::string(12, 'a') + " " + std::string(64, '0') + " user 1 99999999999999999999 t -\n",
        std::string(12, 'a') + " " + std::string(64, '0') + " user 1 0 t/ -\n",
        std::string(12, 'a') + " " + std::string(64, '0') + " user 1 0 t - more\n"})
    BOOST_CHECK_EXCEPTION(read_keys(good + bad, "keys"), InputError,
                          [](const InputError& e) { return mentions(e, "keys:2: is no key"); });
}

BOOST_AUTO_TEST_CASE(there_are_limits_for_keys_and_for_their_file) {
  Folder folder;
  ApiKeys keys;
  for (size_t i = 0; i < keys_max; ++i) {
    const DrawnKey drawn = draw_key();
    keys.push_back({drawn.id, drawn.digest, KeyRole::metrics, INT64_MAX, INT64_MAX, std::string(63, 't'),
                    std::string(63, 'n')});
  }
  BOOST_TEST(text_of(keys).size() <= keys_file_bytes_max);  // as many as may be, however long their names
  change_keys(folder.file, [&](ApiKeys& all) { all = keys; });
  BOOST_TEST(load_keys(folder.file).size() == keys_max);
  BOOST_CHECK_EXCEPTION(make_key(folder.file, wanted()), InputError,
                        [](const InputError& e) { return mentions(e, "1024 keys already"); });
  BOOST_CHECK_THROW(read_keys(text_of(keys) + text_of({keys[0]}), "keys"), InputError);
  std::ofstream(folder.file, std::ios::app) << std::string(keys_file_bytes_max, '\n');
  BOOST_CHECK_EXCEPTION(load_keys(folder.file), InputError,
                        [](const InputError& e) { return mentions(e, "is longer than"); });
}

BOOST_AUTO_TEST_CASE(a_file_that_others_may_read_or_put_there_is_refused_with_what_mends_it) {
  Folder folder;
  BOOST_CHECK_EXCEPTION(load_keys(folder.file), InputError,
                        [](const InputError& e) { return mentions(e, "convoy key create"); });
  make_key(folder.file, wanted());
  fs::permissions(folder.file, fs::perms::owner_read | fs::perms::others_read);
  const auto open = [](const InputError& e) { return mentions(e, "chmod 600"); };
  BOOST_CHECK_EXCEPTION(load_keys(folder.file), InputError, open);
  BOOST_CHECK_EXCEPTION(make_key(folder.file, wanted()), InputError, open);
  fs::rename(folder.file, folder.path / "elsewhere");
  fs::create_symlink(folder.path / "elsewhere", folder.file);
  BOOST_CHECK_EXCEPTION(load_keys(folder.file), InputError,
                        [](const InputError& e) { return mentions(e, "symbolic link"); });
  BOOST_CHECK_THROW(make_key(folder.file, wanted()), InputError);
}

BOOST_AUTO_TEST_CASE(of_many_that_change_the_file_at_once_none_loses_anothers_change) {
  Folder folder;
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&] {
      for (int k = 0; k < 5; ++k) make_key(folder.file, wanted());
    });
  for (std::thread& writer : writers) writer.join();
  std::set<std::string> ids;
  for (const ApiKey& key : load_keys(folder.file)) ids.insert(key.id);
  BOOST_TEST(ids.size() == 20u);
}

BOOST_AUTO_TEST_CASE(what_a_change_throws_leaves_the_file_as_it_was) {
  Folder folder;
  make_key(folder.file, wanted());
  const std::string before = content(folder.file);
  BOOST_CHECK_THROW(change_keys(folder.file,
                                [](ApiKeys& keys) {
                                  keys.clear();
                                  throw InputError("not so", "here", "");
                                }),
                    InputError);
  BOOST_TEST(content(folder.file) == before);
}

BOOST_AUTO_TEST_CASE(changes_count_from_the_next_look_on_and_what_cannot_be_read_changes_nothing) {
  Folder folder;
  const std::string first = make_key(folder.file, wanted());
  const auto ring = open_keys(folder.file);
  const std::string second = make_key(folder.file, wanted("other"));
  BOOST_TEST(find_key(*ring->get(), second) == nullptr);
  ring->look();
  BOOST_TEST(find_key(*ring->get(), second)->tenant == "other");
  fs::permissions(folder.file, fs::perms::all);  // open to others: not to be believed
  ring->look();
  BOOST_TEST(ring->get()->size() == 2u);
  fs::permissions(folder.file, fs::perms::owner_read | fs::perms::owner_write);
  change_keys(folder.file, [&](ApiKeys& keys) { keys.erase(keys.begin()); });
  ring->look();
  BOOST_TEST(find_key(*ring->get(), first) == nullptr);
  fs::remove(folder.file);
  ring->look();
  BOOST_TEST(find_key(*ring->get(), second) != nullptr);
  make_key(folder.file, wanted());
  ring->look();
  BOOST_TEST(ring->get()->size() == 1u);
  BOOST_TEST(find_key(*ring->get(), second) == nullptr);
}

BOOST_AUTO_TEST_CASE(without_a_file_nobody_is_asked) {
  BOOST_TEST(open_keys("") == nullptr);
  BOOST_CHECK_THROW(open_keys("/nonexistent/keys"), InputError);
}

}  // namespace convoy::gateway::test
