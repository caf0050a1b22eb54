// Keeps what a conflict would lose: local versions of files, and a log of what was decided.
//
// A directory on the node's disk, beside its database:
//   local/<object id>        content of the local version (holes kept)
//   local/<object id>.meta   serialized CreateOp: attributes, xattrs, and the name it had
//   log/<origin seq>         serialized storage.v1.ConflictRow: the record and the outcome
// Files appear under their names only when they are complete and synced. Owned by the session's
// resolver, used by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/record/v1/record.pb.h"
#include "intermezzo/storage/v1/node_db.pb.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::sidecar {

class ConflictStore {
 public:
  // Creates the directory where it is missing.
  static absl::StatusOr<std::unique_ptr<ConflictStore>> Open(const std::string& dir);

  // Copies the file's content, attributes and xattrs; `fd` is open for reading. A version of the
  // object that is there already stays. RESOURCE_EXHAUSTED: disk full.
  absl::Status KeepLocalVersion(ObjectId object, int fd);
  bool HasLocalVersion(ObjectId object) const;
  // Those of an earlier reconciliation, which are in the tree by now.
  absl::Status DropLocalVersions();
  // The kept version: NOT_FOUND where there is none.
  absl::StatusOr<record::v1::CreateOp> LocalAttributes(ObjectId object) const;
  absl::StatusOr<UniqueFd> OpenLocalVersion(ObjectId object) const;

  // Notes a decision. Idempotent by origin seq.
  absl::Status Log(uint64_t origin_seq, const storage::v1::ConflictRow& row);

 private:
  explicit ConflictStore(std::string dir) : dir_(std::move(dir)) {}
  std::string LocalPath(ObjectId object) const;
  const std::string dir_;
};

}  // namespace intermezzo::sidecar
