// The exit codes of mezzo: documented in --help, used by scripts, never renumbered.
#pragma once

#include "absl/status/status.h"

namespace intermezzo::mezzo {

enum class ExitCode : int {
  kOk = 0,
  kError = 1,             // anything without a code of its own
  kUsage = 2,             // bad flags, arguments or configuration
  kNotFound = 3,          // no such collection, node, replica or record
  kUnreachable = 4,       // a service could not be reached or cannot serve now
  kDifferences = 5,       // replicas are not in sync, or verify found differences
  kDeadlineExceeded = 6,  // the time given by --timeout was over first
};

// The exit code that a failed command ends with.
ExitCode ExitCodeFor(const absl::Status& status);

// The table of exit codes for --help.
const char* ExitCodeHelp();

}  // namespace intermezzo::mezzo
