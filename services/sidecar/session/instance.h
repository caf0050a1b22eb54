// Who this node is, over restarts: its incarnation's uuid and what the registry last told it.
//
// Both are files in data_dir, replaced atomically and synced. A node whose disk was lost comes back
// with another uuid and so with another ordinal; ids and versions are never given twice.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/storage/v1/assignment.pb.h"

namespace intermezzo::sidecar {

// The uuid in `data_dir`/instance, made at the first start. DATA_LOSS: the file holds no uuid.
absl::StatusOr<std::string> LoadOrMakeInstance(const std::string& data_dir);

// `data_dir`/assignment: empty where there is none yet. DATA_LOSS: not readable.
absl::StatusOr<storage::v1::Assignment> LoadAssignment(const std::string& data_dir);
absl::Status SaveAssignment(const std::string& data_dir, const storage::v1::Assignment& assignment);

// mkdir -p, with `mode` for what it makes.
absl::Status MakeDirectories(const std::string& path, mode_t mode);

}  // namespace intermezzo::sidecar
