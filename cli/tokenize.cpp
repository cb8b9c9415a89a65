// convoy tokenize: texts to token ids and back, without a cluster and without weights.

#include <boost/json.hpp>
#include <memory>

#include "cli/commands.hpp"
#include "cli/json_lines.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::cli {

namespace json = boost::json;

void add_tokenize(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("tokenize", R"(Read JSON lines {"text"}, write {"ids", "decoded"})");
  auto model = std::make_shared<std::string>();
  auto file = std::make_shared<std::string>();
  auto plain = std::make_shared<bool>(false);
  CLI::Option_group* source = command->add_option_group("tokenizer", "Where the tokenizer is");
  source->add_option("--model", *model, "A checkpoint's directory, or a GGUF file");
  source->add_option("--tokenizer", *file, "A tokenizer.json");
  source->require_option(1);
  command->add_flag("--plain", *plain, "Control tokens in the text are text, as in what users send");
  command->callback([=, &exit_code] {
    const auto tokenizer = model::Tokenizer::load(model->empty() ? *file : *model);
    filter_json_lines([&](const json::object& line, const std::string& where) {
      const std::vector<int32_t> ids = tokenizer->encode(string_field(line, "text", where), !*plain);
      return json::object{{"ids", json::value_from(ids)}, {"decoded", tokenizer->decode(ids)}};
    });
    exit_code = ok;
  });
}

}  // namespace convoy::cli
