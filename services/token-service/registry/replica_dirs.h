// Where a replica may lie on its node. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace intermezzo::token {

// True where one is the other or lies below it. False where one is empty.
bool DirsOverlap(const std::string& a, const std::string& b);

// INVALID_ARGUMENT names the directory: not absolute, not in its shortest form, or the two nested
// in each other. An empty one is the node's choice.
absl::Status CheckReplicaDirs(const std::string& lower_dir, const std::string& mount_dir);

}  // namespace intermezzo::token
