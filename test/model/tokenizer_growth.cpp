// Nobody's text may hold up the others': time grows with a text's length, not with its square, and what
// cannot fit is known before it is encoded.

#include <utf8proc.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <random>
#include <stop_token>

#include "model/chat/chat_template.hpp"
#include "model/tokenizer/bpe.hpp"
#include "test/model/golden_tokenizer.hpp"
#include "test/model/small_tokenizer.hpp"
#include "test/processor_time.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;

namespace {

std::vector<Message> conversation(size_t messages) {
  std::vector<Message> out;
  for (size_t i = 0; i < messages; ++i) out.push_back({i % 2 ? "assistant" : "user", std::string("hi")});
  return out;
}

std::shared_ptr<const Tokenizer> qwen3() {
  const fs::path file = golden_tokenizer_dir("qwen3") / "tokenizer.json.xz";
  return make_tokenizer(parse_tokenizer_json(read_xz(file), file.string()));
}

std::string nfc_of_utf8proc(const std::string& text) {
  utf8proc_uint8_t* out = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &out,
                                  static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  BOOST_TEST_REQUIRE(bytes >= 0);
  std::string result(reinterpret_cast<const char*>(out), static_cast<size_t>(bytes));
  std::free(out);
  return result;
}

bool is_surrogate(char32_t c) { return c >= 0xD800 && c < 0xE000; }

const std::string marks = "\u0323\u0301";  // below, above: in canonical order; the other way round, not
const std::string marks_reversed = "\u0301\u0323";

}  // namespace

BOOST_AUTO_TEST_CASE(form_c_is_what_utf8proc_makes_of_it) {
  std::string all;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (is_surrogate(c)) continue;
    std::string text;
    append_utf8(c, text);
    all += text;
    text += "\u0301\u0323\u0345";
    if (normalise_nfc(text) != nfc_of_utf8proc(text)) BOOST_ERROR("U+" << std::hex << uint32_t(c));
  }
  BOOST_TEST((normalise_nfc(all) == nfc_of_utf8proc(all)));
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (size_t k = 0; k < 1 + random() % 200; ++k) {
      static constexpr char32_t first[] = {0x300, 0x20, 0x41, 0x1100, 0x1160, 0x11A8, 0xAC00, 0x390, 0x5B0};
      append_utf8(first[random() % std::size(first)] + random() % 0x40, text);
    }
    BOOST_TEST((normalise_nfc(text) == nfc_of_utf8proc(text)), "of text " << i);
  }
  // Runs far longer than any stream-safe text has.
  const std::string run = "e" + repeated(marks_reversed, 2000) + "\u0327";
  BOOST_TEST((normalise_nfc(run) == nfc_of_utf8proc(run)));
}

BOOST_AUTO_TEST_CASE(form_c_takes_time_in_proportion_to_the_text) {
  for (const std::string& unit :
       {marks, marks_reversed, std::string("e\u0301"), std::string("\u1100\u1161\u11A8")})
    grows_in_proportion(unit, 10'000, [&](size_t n) { normalise_nfc("e" + repeated(unit, n)); });
}

BOOST_AUTO_TEST_CASE(every_template_takes_time_in_proportion_to_the_messages) {
  for (const std::string_view name : ChatTemplate::names()) {
    const ChatTemplate chat = ChatTemplate::named(name, {.bos = "<s>", .eos = "</s>"});
    grows_in_proportion(std::string(name), 2'000, [&](size_t n) {
      (void)chat.render(conversation(n), {.add_generation_prompt = true});
    });
  }
}

BOOST_AUTO_TEST_CASE(a_conversation_is_encoded_in_time_in_proportion_to_its_messages) {
  const auto tokenizer = qwen3();
  const ChatTemplate chat = ChatTemplate::named("qwen3", {});
  grows_in_proportion("messages", 2'000, [&](size_t n) {
    (void)tokenizer->encode(chat.render(conversation(n), {.add_generation_prompt = true}));
  });
}

BOOST_AUTO_TEST_CASE(a_text_is_encoded_in_time_in_proportion_to_its_bytes) {
  const auto tokenizer = qwen3();
  for (const std::string& unit :
       {std::string(" "), std::string("\n"), std::string("a"), std::string("\u0301"), marks_reversed,
        std::string("<|im_end|>"), std::string(" \n"), std::string("1"), std::string("漢"),
        std::string("'s ")})
    grows_in_proportion("'" + unit + "'", 40'000 / unit.size(),
                        [&](size_t n) { (void)tokenizer->encode(repeated(unit, n), true); });
}

BOOST_AUTO_TEST_CASE(no_text_has_fewer_tokens_than_its_bytes_say) {
  const auto large = qwen3(), little = make_tokenizer([] {
                                TokenizerParts parts = small_parts();
                                // Its text is longer than what it stands for.
                                parts.added.push_back({.id = 306, .content = "ĠĠĠĠĠĠĠĠĠĠ"});
                                // These have no token: they are left out, of longer tokens too.
                                std::erase_if(parts.vocabulary, [](const auto& token) {
                                  return token.first == "q" || token.first == "ñ";
                                });
                                parts.added.push_back({.id = 307, .content = "qq"});
                                return parts;
                              }());
  const std::vector<std::string> units{repeated(" ", 128),
                                       "\n",
                                       "\u1100\u1161\u11A8",
                                       "\u212A",
                                       "\u2126\u0313\u0300\u0345",
                                       "e\u0301",
                                       "a\u0323\u0301 ",
                                       "ĠĠĠĠĠĠĠĠĠĠ",
                                       "<|endoftext|>",
                                       "  [strip]\u2003",
                                       repeated("=", 128),
                                       "abc",
                                       "q",
                                       "aqb",
                                       "\U0001F600",
                                       "\u00F1",
                                       "The quick brown fox. "};
  std::mt19937 random(7);
  for (const Tokenizer* tokenizer : {large.get(), little.get()}) {
    const auto holds = [&](const std::vector<Segment>& text, const std::string& what) {
      BOOST_TEST(tokenizer->encode(text).size() >= tokenizer->tokens_min(text), what);
    };
    for (const std::string& unit : units) holds({{repeated(unit, 100), true}}, unit);
    for (int round = 0; round < 300; ++round) {
      std::vector<Segment> text(1 + random() % 3);
      for (Segment& segment : text) {
        segment.trusted = random() % 2;
        for (uint32_t pieces = random() % 20; pieces > 0; --pieces)
          segment.text += units[random() % units.size()];
      }
      holds(text, "round " + std::to_string(round));
    }
  }
}

// Words, one word, marks (which might all become one character): 3.5 MB are known to be more than 8192
// tokens.
BOOST_AUTO_TEST_CASE(a_text_that_is_far_too_long_is_known_without_encoding_it) {
  const auto tokenizer = qwen3();
  for (const char* unit :
       {"The quick brown fox. ", "a", "abcdefghijklmnopqrstuvwxyz", "\u0315\u0300\u05ae\u0301"}) {
    const Segment text{repeated(unit, 3'500'000 / std::string_view(unit).size()), false};
    takes_about(unit, 0.01, [&] { BOOST_TEST(tokenizer->tokens_min(std::span(&text, 1)) > 8192u, unit); });
  }
}

BOOST_AUTO_TEST_CASE(form_c_shrinks_no_character_to_less_than_a_third) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (is_surrogate(c)) continue;
    std::string text;
    append_utf8(c, text);
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    utf8proc_uint8_t* out = nullptr;
    const auto decomposed_bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &out, options);
    std::free(out);
    const size_t bytes = normalise_nfc(text).size();
    if (3 * bytes < std::max(text.size(), static_cast<size_t>(decomposed_bytes)))
      BOOST_ERROR("U+" << std::hex << uint32_t(c));
  }
}

BOOST_AUTO_TEST_CASE(what_may_be_left_out_counts_nothing) {
  const auto tokens_min = [](const TokenizerParts& parts, const std::string& text) {
    const Segment segment{text, false};
    return make_tokenizer(parts)->tokens_min(std::span(&segment, 1));
  };
  TokenizerParts parts = small_parts();
  BOOST_TEST(tokens_min(parts, std::string(1 << 20, ' ')) == 0u);  // [strip] takes blanks along
  BOOST_TEST(tokens_min(parts, std::string(1 << 20, '#')) == 1u << 20);
  std::erase_if(parts.added, [](const AddedToken& token) { return token.lstrip; });
  BOOST_TEST(tokens_min(parts, std::string(1 << 20, ' ')) == 1u << 19);  // "Ġa"
  std::erase_if(parts.vocabulary, [](const auto& token) { return token.first == "#"; });
  BOOST_TEST(tokens_min(parts, std::string(1 << 20, '#')) == 0u);
  BOOST_TEST(tokens_min(parts, std::string(1 << 20, ' ')) == 1u << 19);
  parts.rules.push_back({.expression = "a", .behaviour = SplitBehaviour::removed});
  BOOST_TEST(tokens_min(parts, std::string(1 << 20, ' ')) == 0u);
}

BOOST_AUTO_TEST_CASE(an_encoding_that_nobody_wants_any_more_ends_early) {
  const auto tokenizer = qwen3();
  const std::string text = repeated("word ", 10'000);
  std::stop_source source;
  const Segment segment{text, false};
  const auto all = tokenizer->encode(std::span(&segment, 1), source.get_token());
  source.request_stop();
  BOOST_TEST(all.size() >= 10'000u);
  BOOST_TEST(tokenizer->encode(std::span(&segment, 1), source.get_token()).empty());
}

BOOST_AUTO_TEST_CASE(a_single_long_word_that_nobody_wants_any_more_ends_early) {
  const std::vector<Bpe::Merge> merges{{.left = 'a', .right = 'b', .result = 256, .rank = 0}};
  const Bpe bpe(merges);
  const std::string word = repeated("ab", 500'000);
  std::vector<int32_t> ids;
  std::stop_source source;
  const auto encode = [&] {
    ids.assign(word.begin(), word.end());
    bpe.merge(ids, source.get_token());
  };
  const double all_s = processor_seconds(encode);
  BOOST_TEST(ids.size() == 500'000u);
  source.request_stop();
  BOOST_TEST(processor_seconds(encode) < all_s / 2);
  BOOST_TEST(ids.empty());
}
