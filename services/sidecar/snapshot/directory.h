// Reading a directory's names.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace intermezzo::sidecar {

// All names but "." and "..", sorted by their bytes.
absl::StatusOr<std::vector<std::string>> ReadNames(int dir_fd);

}  // namespace intermezzo::sidecar
