// absl::Status with an errno inside. Core code uses these; the errno survives as a payload.
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace intermezzo {

// The canonical code for `error` with "<what>: <strerror>", and the errno itself as payload.
absl::Status StatusFromErrno(int error, std::string_view what);
// The errno that a system call should return for `status`: its payload's where it has one, else
// one chosen by code (ABORTED and UNAVAILABLE: EIO or EROFS never guessed, see the table in the
// .cc). 0 for OK.
int ErrnoFromStatus(const absl::Status& status);

}  // namespace intermezzo
