#include "gateway/detokenizer.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

namespace convoy::gateway {

namespace {

/// The text of the bytes, cut into pieces of the given sizes (the last is repeated).
std::string text_of(const std::vector<std::string>& stops, std::string_view bytes,
                    const std::vector<size_t>& sizes, bool* stopped = nullptr) {
  Detokenizer d(stops);
  std::string text;
  size_t at = 0, piece = 0;
  while (at < bytes.size()) {
    const size_t size = std::min(sizes[std::min(piece++, sizes.size() - 1)], bytes.size() - at);
    if (d.push(bytes.substr(at, size), text)) {
      if (stopped) *stopped = true;
      return text;
    }
    at += size;
  }
  const bool at_the_end = d.finish(text);
  if (stopped) *stopped = at_the_end;
  return text;
}

std::string text_of(const std::vector<std::string>& stops, std::string_view bytes) {
  return text_of(stops, bytes, {bytes.size()});
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_character_appears_only_when_its_last_byte_has_come) {
  Detokenizer d({});
  std::string text;
  for (char c : std::string_view("\xF0\x9F\x98")) d.push(std::string_view(&c, 1), text);
  BOOST_TEST(text == "");
  d.push("\x80", text);
  BOOST_TEST(text == "\xF0\x9F\x98\x80");
  BOOST_TEST(d.characters() == 1u);
}

BOOST_AUTO_TEST_CASE(one_blank_that_begins_the_text_is_dropped_where_that_is_asked_for) {
  const auto joined = [](bool drops, const std::vector<std::string>& tokens) {
    Detokenizer d({}, drops);
    std::string text;
    for (const std::string& token : tokens) d.push(token, text);
    d.finish(text);
    BOOST_TEST(d.characters() == text.size());
    return text;
  };
  BOOST_TEST(joined(true, {"", " a", " b"}) == "a b");
  BOOST_TEST(joined(true, {" ", " a"}) == " a");
  BOOST_TEST(joined(true, {"  a"}) == " a");
  BOOST_TEST(joined(true, {"a", " b"}) == "a b");
  BOOST_TEST(joined(false, {" a"}) == " a");
}

BOOST_AUTO_TEST_CASE(bytes_that_are_not_utf8_become_replacement_characters) {
  const std::string r = "\xEF\xBF\xBD";
  BOOST_TEST(text_of({},
                     "a\xFF"
                     "b") == "a" + r + "b");
  BOOST_TEST(text_of({},
                     "\xE2\x82"
                     "x") == r + "x");                           // cut short by something else
  BOOST_TEST(text_of({}, "\xE2\x82") == r);                      // cut short by the end
  BOOST_TEST(text_of({}, "\xED\xA0\x80") == r + r + r);          // a surrogate
  BOOST_TEST(text_of({}, "\xC0\xAF") == r + r);                  // overlong
  BOOST_TEST(text_of({}, "\xF4\x90\x80\x80") == r + r + r + r);  // beyond U+10FFFF
  BOOST_TEST(text_of({}, "\xF0\x9F\xF0\x9F\x98\x80") == r + "\xF0\x9F\x98\x80");
}

BOOST_AUTO_TEST_CASE(text_ends_before_a_stop_string_that_lies_across_tokens) {
  bool stopped = false;
  BOOST_TEST(text_of({"STOP"}, "go on STOP and more", {7, 2, 50}, &stopped) == "go on ");
  BOOST_TEST(stopped);
}

BOOST_AUTO_TEST_CASE(text_that_only_began_like_a_stop_string_is_not_lost) {
  bool stopped = true;
  BOOST_TEST(text_of({"STOP"}, "STO STOSTO ST", {1}, &stopped) == "STO STOSTO ST");
  BOOST_TEST(!stopped);
}

BOOST_AUTO_TEST_CASE(the_stop_string_that_is_complete_first_wins) {
  BOOST_TEST(text_of({"bcd", "abcde"}, "xabcdef") == "xa");
  BOOST_TEST(text_of({"cd", "abcd"}, "xabcdef") == "x");
  BOOST_TEST(text_of({"aab"}, "aaaab!") == "aa");
  BOOST_TEST(text_of({"\n\n"}, "a\nb\n\nc") == "a\nb");
}

BOOST_AUTO_TEST_CASE(held_back_text_is_never_more_than_the_longest_stop_string) {
  Detokenizer d({"0123456789"});
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    const char c = static_cast<char>('0' + i % 9);
    d.push(std::string_view(&c, 1), text);
    BOOST_TEST_REQUIRE(text.size() + 10 > static_cast<size_t>(i));
  }
}

BOOST_AUTO_TEST_CASE(any_cut_of_the_bytes_gives_the_same_text) {
  const uint32_t seed = std::random_device{}();
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const std::vector<std::string> alphabet{"a",    "b",   "ab", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                          "\xFF", "\xE2"};
  const auto text = [&](size_t most) {
    std::string s;
    for (size_t n = 1 + random() % most; n > 0; --n) s += alphabet[random() % alphabet.size()];
    return s;
  };
  int stops_found = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(text_of({}, text(3)));
    const std::string bytes = text(30);
    bool whole_stopped = false, cut_stopped = false;
    const std::string whole = text_of(stops, bytes, {bytes.size()}, &whole_stopped);
    std::vector<size_t> sizes;
    for (int i = 0; i < 60; ++i) sizes.push_back(1 + random() % 5);
    BOOST_TEST_CONTEXT("seed " << seed << " round " << round) {
      BOOST_TEST_REQUIRE(text_of(stops, bytes, sizes, &cut_stopped) == whole);
      BOOST_TEST_REQUIRE(text_of(stops, bytes, {1}) == whole);
      BOOST_TEST_REQUIRE(cut_stopped == whole_stopped);
      const std::string all = text_of({}, bytes);
      BOOST_TEST_REQUIRE(all.starts_with(whole));
      for (const std::string& stop : stops) BOOST_TEST_REQUIRE(whole.find(stop) == std::string::npos);
      if (!whole_stopped) BOOST_TEST_REQUIRE(whole == all);
    }
    stops_found += whole_stopped;
  }
  BOOST_TEST(stops_found > 300);
}

}  // namespace convoy::gateway
