#include "services/mezzo/app.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "absl/time/time.h"
#include "services/mezzo/command.h"

namespace intermezzo::mezzo {
namespace {

constexpr char kDescription[] =
    "mezzo - the command line of InterMezzo, the replicating file system.\n"
    "Everything it does is gRPC; the services have reflection, so grpcurl can do it too.";

constexpr char kFooter[] =
    "\nAddresses come from the flags, else from MEZZO_TOKEN_ADDRESS, MEZZO_JOURNAL_ADDRESS,\n"
    "MEZZO_FORWARDER_ADDRESS and MEZZO_SERVER, else from the file named by MEZZO_CONFIG or\n"
    "~/.config/intermezzo/mezzo.yaml (fields server, token_address, journal_address,\n"
    "forwarder_address), else the standard ports of 127.0.0.1 are used.\n\n";

// What a person can do about an error, by its code.
const char* Hint(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return "is the service running, and is its address right? 'mezzo --help' tells where "
             "addresses come from";
    case absl::StatusCode::kNotFound:
      return "'mezzo status' shows nodes, collections and replicas";
    case absl::StatusCode::kDeadlineExceeded:
      return "'mezzo status' shows who is behind; --timeout and --rpc-timeout give more time";
    case absl::StatusCode::kUnimplemented:
      return "is that address another service's?";
    default:
      return nullptr;
  }
}

ExitCode Fail(std::ostream& err, const absl::Status& status) {
  err << "mezzo: " << status.message() << " [" << absl::StatusCodeToString(status.code()) << "]\n";
  if (const char* hint = Hint(status); hint != nullptr) err << "hint: " << hint << '\n';
  return ExitCodeFor(status);
}

}  // namespace

ExitCode RunMezzo(std::vector<std::string> arguments, const Environment& environment,
                  std::ostream& out, std::ostream& err, bool terminal) {
  CLI::App app(kDescription, "mezzo");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string("mezzo ") + INTERMEZZO_VERSION);

  AddressSource flags;
  std::string output = "table";
  absl::Duration rpc_timeout = absl::Seconds(10);
  app.add_option("-o,--output", output, "table, or json: JSON of the API messages")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app.add_option("--server", flags.server, "Host of all services, on their standard ports")
      ->type_name("HOST");
  app.add_option("--token-address", flags.token, "Address of the token-service")
      ->type_name("HOST:PORT");
  app.add_option("--journal-address", flags.journal, "Address of the journal-service")
      ->type_name("HOST:PORT");
  app.add_option("--forwarder-address", flags.forwarder, "Address of the forwarder-service")
      ->type_name("HOST:PORT");
  AddTimeOption(app, "--rpc-timeout", rpc_timeout, "How long a single call may take");

  Action action;
  AddStatus(app, action);
  AddCollection(app, action);
  AddReplica(app, action);
  AddToken(app, action);
  AddJournal(app, action);
  AddWait(app, action);
  AddVerify(app, action);
  AddNode(app, action);
  AddCompletion(app, action);
  AddVersion(app, action);
  app.footer(std::string(kFooter) + ExitCodeHelp());  // last, or the commands would inherit it

  try {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, err) == 0 ? ExitCode::kOk : ExitCode::kUsage;
  }
  auto addresses = ResolveAddresses(flags, environment);
  if (!addresses.ok()) return Fail(err, addresses.status());
  Client client(*std::move(addresses), rpc_timeout);
  Context context{client, output == "json", out, err, terminal};
  const auto code = action(context);
  out.flush();
  if (!code.ok()) return Fail(err, code.status());
  if (!out.good()) {
    err << "mezzo: the output could not be written\n";
    return ExitCode::kError;
  }
  return *code;
}

}  // namespace intermezzo::mezzo
