#include "cli/backend_option.hpp"

#include "gpu/devices.hpp"

namespace convoy::cli {

CLI::Option* BackendOption::add_to(CLI::App& command, const std::string& help, const std::string& option) {
  std::string known;
  for (const std::string_view n : gpu::device_names()) known += (known.empty() ? "" : ", ") + std::string(n);
  const auto check = [known](const std::string& given) {
    return gpu::is_device_name(given) ? "" : "\"" + given + "\" is no backend; known: " + known;
  };
  return command.add_option(option, name, help)
      ->check(CLI::Validator(check, "{" + known + "}"))
      ->capture_default_str();
}

}  // namespace convoy::cli
