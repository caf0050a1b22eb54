// Import: the content of a collection's first replica becomes local records, as if it had been
// written through the mount.
//
// Runs on the joining thread, the gate closed and nothing mounted. What was imported is durable
// with its records, so an import that was interrupted goes on where it was: names already in the
// table are skipped, and a file that may have been cut half way is written once more.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

// Objects below the lower directory (names, to be exact).
absl::StatusOr<uint64_t> CountTree(Replica& replica);

struct ImportHooks {
  std::function<void(uint64_t done)> progress;
  // An error ends the import.
  std::function<absl::Status()> check;
};

// On the root while an import is under way: the importing node's name. It is replicated, so that
// a node with content of its own waits for the whole collection before it adopts.
inline constexpr char kImportingXattr[] = "trusted.intermezzo.importing";

// The root's mark and attributes: the first records of an import.
absl::Status BeginImport(Replica& replica);
// All below it, then the mark goes.
absl::Status ImportTree(Replica& replica, const ImportHooks& hooks);

}  // namespace intermezzo::sidecar
