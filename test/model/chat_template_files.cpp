// Chat templates that a file holds.

#include "model/chat/chat_template.hpp"
#include "model/chat/chat_texts.hpp"
#include "test/model/files.hpp"

using namespace convoy;
using namespace convoy::model;

namespace {

ChatTemplate of_file(const std::string& text) {
  const test::TemporaryFolder folder;
  return ChatTemplate::named(folder.write("own.jinja", text).string(), {.eos = "</s>"});
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_template_is_read_from_the_path_of_its_file) {
  const std::vector<Message> messages = {{"user", "Hi"}};
  BOOST_TEST(plain_text(of_file("{{ messages[0].content + eos_token }}\n").render(messages, {})) == "Hi</s>");
  BOOST_TEST(of_file(std::string(find_chat_text("qwen3")->jinja)).name() == "qwen3");
  BOOST_TEST((ChatTemplate::is_path("own.jinja") && ChatTemplate::is_path("folder/own")));
  BOOST_TEST((!ChatTemplate::is_path("qwen2.5") && !ChatTemplate::is_path("")));
}

BOOST_AUTO_TEST_CASE(what_is_wrong_with_a_file_is_told_with_its_path) {
  CHECK_INPUT_ERROR(of_file("a\n{% if %}"), "own.jinja: chat template, line 2");
  CHECK_INPUT_ERROR(of_file("\xff"), "own.jinja: chat template: is not UTF-8 at byte 0");
  CHECK_INPUT_ERROR(of_file(std::string((1 << 20) + 1, 'a')), "1048576");
  CHECK_INPUT_ERROR(ChatTemplate::named("./nope.jinja", {}), "./nope.jinja: cannot be read: No such file");
}
