#include "services/mezzo/exit_code.h"

namespace intermezzo::mezzo {

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kUnavailable:
      return ExitCode::kUnreachable;
    case absl::StatusCode::kDeadlineExceeded:
      return ExitCode::kDeadlineExceeded;
    default:
      return ExitCode::kError;
  }
}

const char* ExitCodeHelp() {
  return "Exit codes:\n"
         "  0  done\n"
         "  1  error\n"
         "  2  usage: bad flag, argument or configuration\n"
         "  3  not found: no such collection, node, replica or record\n"
         "  4  a service could not be reached or cannot serve now\n"
         "  5  replicas are not in sync, or verify found differences\n"
         "  6  the time given by --timeout was over first\n";
}

}  // namespace intermezzo::mezzo
