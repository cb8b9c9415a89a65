// convoy render: chats to the text that the model sees, without a cluster and without weights.

#include <boost/json.hpp>
#include <ctime>
#include <memory>
#include <optional>

#include "cli/commands.hpp"
#include "cli/json_lines.hpp"
#include "model/chat/chat_template.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace json = boost::json;

namespace {

model::ChatTemplate template_of(const std::string& path) {
  if (auto own = model::ChatTemplate::of(*model::Tokenizer::load(path))) return *own;
  throw InputError("brings no chat template", path, "choose one with --template");
}

/// A field of the line; nullptr if it is absent or null.
const json::value* field(const json::object& line, std::string_view key) {
  const json::value* value = line.if_contains(key);
  return value && !value->is_null() ? value : nullptr;
}

std::optional<bool> flag(const json::object& line, const std::string& key, const std::string& where) {
  const json::value* value = field(line, key);
  if (!value) return std::nullopt;
  if (!value->is_bool())
    throw InputError("\"" + key + "\" is neither true nor false", where, "give one of them");
  return value->get_bool();
}

json::object render(const model::ChatTemplate& chat_template, const json::object& line,
                    const std::string& where) {
  const json::value* messages = field(line, "messages");
  if (!messages) throw InputError("\"messages\" is missing", where, "give it as an array");
  const json::value* tools = field(line, "tools");
  if (tools && !tools->is_array())
    throw InputError("\"tools\" is not an array", where, "give it as an array");
  const model::RenderOptions options{
      .add_generation_prompt = flag(line, "add_generation_prompt", where).value_or(false),
      .tools = tools ? &tools->get_array() : nullptr,
      .thinking = flag(line, "thinking", where),
      .now = std::time(nullptr)};
  try {
    const auto segments = chat_template.render(model::parse_messages(*messages), options);
    return {{"text", model::plain_text(segments)}};
  } catch (const InputError& error) {
    throw InputError(error.problem(), where + ": " + error.where(), error.mend());
  }
}

}  // namespace

void add_render(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "render",
      R"(Read JSON lines {"messages", "tools", "add_generation_prompt", "thinking"}, write {"text"})");
  auto model = std::make_shared<std::string>();
  auto name = std::make_shared<std::string>();
  auto tokens = std::make_shared<model::SpecialTokens>();
  CLI::Option_group* source = command->add_option_group("template", "Which chat template");
  source->add_option("--model", *model, "The one of a checkpoint's directory or GGUF file");
  CLI::Option* chosen = source->add_option(
      "--template", *name,
      "A Jinja file (its path ends in .jinja or has a slash), or the name of one of Convoy's");
  command->add_option("--bos", tokens->bos, "With --template: its bos_token")->needs(chosen);
  command->add_option("--eos", tokens->eos, "With --template: its eos_token")->needs(chosen);
  source->require_option(1);
  command->callback([=, &exit_code] {
    const model::ChatTemplate chat_template =
        model->empty() ? model::ChatTemplate::named(*name, *tokens) : template_of(*model);
    filter_json_lines([&](const json::object& line, const std::string& where) {
      return render(chat_template, line, where);
    });
    exit_code = ok;
  });
}

}  // namespace convoy::cli
