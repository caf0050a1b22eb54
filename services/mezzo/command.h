// What a command is made of. Each file in commands/ adds one command to the command line; parsing
// picks the one to run.
#pragma once

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/mezzo/client.h"
#include "services/mezzo/exit_code.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace intermezzo::mezzo {

// What a running command works with.
struct Context {
  Client& client;
  bool json;  // -o json: JSON of the API messages on `out`
  std::ostream& out;
  std::ostream& err;
  bool terminal;  // `err` is a terminal: draw progress
};

using Action = std::function<absl::StatusOr<ExitCode>(Context&)>;

// Each sets `action` when its command was given.
void AddStatus(CLI::App& app, Action& action);
void AddCollection(CLI::App& app, Action& action);
void AddReplica(CLI::App& app, Action& action);
void AddToken(CLI::App& app, Action& action);
void AddJournal(CLI::App& app, Action& action);
void AddWait(CLI::App& app, Action& action);
void AddVerify(CLI::App& app, Action& action);
void AddNode(CLI::App& app, Action& action);
void AddCompletion(CLI::App& app, Action& action);
void AddVersion(CLI::App& app, Action& action);

// A subcommand that needs one of its own subcommands.
CLI::App* AddGroup(CLI::App& app, const std::string& name, const std::string& description);
// An option that takes a time.
CLI::Option* AddTimeOption(CLI::App& app, const std::string& name, absl::Duration& value,
                           const std::string& description);
// COLLECTION as a positional argument, checked to be a name.
CLI::Option* AddCollectionArgument(CLI::App& app, std::string& value);
// NODE as a positional argument, checked to be a name.
CLI::Option* AddNodeArgument(CLI::App& app, std::string& value);

}  // namespace intermezzo::mezzo
