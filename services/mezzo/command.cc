#include "services/mezzo/command.h"

#include <CLI/CLI.hpp>

#include "services/common/types/names.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

// Turns a Status-returning check into CLI11's: empty where it is valid.
template <typename NameType>
CLI::Validator NameCheck(const std::string& what) {
  return CLI::Validator(
      [](std::string& text) {
        const auto name = NameType::Parse(text);
        return name.ok() ? std::string() : std::string(name.status().message());
      },
      what);
}

}  // namespace

CLI::App* AddGroup(CLI::App& app, const std::string& name, const std::string& description) {
  CLI::App* group = app.add_subcommand(name, description);
  group->require_subcommand(1);
  return group;
}

CLI::Option* AddTimeOption(CLI::App& app, const std::string& name, absl::Duration& value,
                           const std::string& description) {
  return app
      .add_option_function<std::string>(
          name,
          [&value, name](const std::string& text) {
            const auto parsed = ParseTimeout(text);
            if (!parsed.ok()) {
              throw CLI::ValidationError(name, std::string(parsed.status().message()));
            }
            value = *parsed;
          },
          description)
      ->type_name("TIME")
      ->default_str(absl::FormatDuration(value));
}

CLI::Option* AddCollectionArgument(CLI::App& app, std::string& value) {
  return app.add_option("COLLECTION", value, "Name of the collection")
      ->check(NameCheck<CollectionName>(""))
      ->required();
}

CLI::Option* AddNodeArgument(CLI::App& app, std::string& value) {
  return app.add_option("NODE", value, "Name of the node")
      ->check(NameCheck<NodeName>(""))
      ->required();
}

}  // namespace intermezzo::mezzo
