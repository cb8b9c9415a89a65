// convoy render: chats to the text that the model sees, without a cluster and without weights.

#include <boost/json.hpp>
#include <memory>

#include "cli/commands.hpp"
#include "cli/json_lines.hpp"
#include "model/chat_template.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace json = boost::json;

namespace {

const model::ChatTemplate& template_of(const std::string& path) {
  const auto tokenizer = model::Tokenizer::load(path);
  if (!tokenizer->chat_template())
    throw InputError("brings no chat template", path, "choose one with --template");
  return model::ChatTemplate::recognise(*tokenizer->chat_template());
}

std::vector<model::Message> messages_of(const json::object& line, const std::string& where) {
  const json::value* value = line.if_contains("messages");
  if (!value || !value->is_array())
    throw InputError("\"messages\" is not an array", where, "give it as an array");
  std::vector<model::Message> messages;
  for (const json::value& v : value->get_array()) {
    if (!v.is_object()) throw InputError("a message is not an object", where, "give role and content");
    messages.push_back(
        {string_field(v.get_object(), "role", where), string_field(v.get_object(), "content", where)});
  }
  return messages;
}

bool generation_prompt(const json::object& line, const std::string& where) {
  const json::value* value = line.if_contains("add_generation_prompt");
  if (!value) return false;
  if (!value->is_bool()) {
    throw InputError("\"add_generation_prompt\" is neither true nor false", where, "give one of them");
  }
  return value->get_bool();
}

}  // namespace

void add_render(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "render", R"(Read JSON lines {"messages", "add_generation_prompt"}, write {"text"})");
  auto model = std::make_shared<std::string>();
  auto name = std::make_shared<std::string>();
  CLI::Option_group* source = command->add_option_group("template", "Which chat template");
  source->add_option("--model", *model, "The one of a checkpoint's directory or GGUF file");
  source->add_option("--template", *name, "A built-in one, by its name");
  source->require_option(1);
  command->callback([=, &exit_code] {
    const model::ChatTemplate& chat_template =
        model->empty() ? model::ChatTemplate::by_name(*name) : template_of(*model);
    filter_json_lines([&](const json::object& line, const std::string& where) {
      const auto segments = chat_template.render(messages_of(line, where), generation_prompt(line, where));
      return json::object{{"text", model::plain_text(segments)}};
    });
    exit_code = ok;
  });
}

}  // namespace convoy::cli
