// mezzo version
#include <CLI/CLI.hpp>

#include "nlohmann/json.hpp"
#include "services/common/types/numbers.h"
#include "services/mezzo/command.h"

namespace intermezzo::mezzo {

void AddVersion(CLI::App& app, Action& action) {
  app.add_subcommand("version", "Print the version of mezzo and of the protocol")
      ->callback([&action] {
        action = [](Context& context) -> absl::StatusOr<ExitCode> {
          if (context.json) {
            nlohmann::ordered_json json;
            json["version"] = INTERMEZZO_VERSION;
            json["protocolVersion"] = kProtocolVersion;
            context.out << json.dump(2) << '\n';
          } else {
            context.out << "mezzo " << INTERMEZZO_VERSION << ", protocol " << kProtocolVersion
                        << '\n';
          }
          return ExitCode::kOk;
        };
      });
}

}  // namespace intermezzo::mezzo
