// What forwarded records do to the lower tree.
//
// Owned by the applier, used under the update lock. Everything is reached from descriptors opened
// by handle, names are single components that were validated, nothing follows a symbolic link.
//
// Each effect may find itself done already: the node may have died between effect and commit, and
// redoes the record after its cursor. What is in the way of a name and is no object of the table is
// such a remainder and goes; a file with content is none, and is left alone with an error.
//
// Errors: DATA_LOSS: the lower tree is not what the table says. RESOURCE_EXHAUSTED: no space;
// what was begun is undone. Else what the system call said.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/record/v1/record.pb.h"
#include "intermezzo/storage/v1/node_db.pb.h"
#include "services/sidecar/lower/lower_tree.h"
#include "services/sidecar/node_db/node_db.h"

namespace intermezzo::sidecar {

class Effects {
 public:
  using Row = storage::v1::ObjectRow;
  // True where the object's modification time stays as it is: a pending local record sets it.
  using KeepsMtime = std::function<bool(uint64_t object)>;

  Effects(const LowerTree& lower, const NodeDb& db, KeepsMtime keeps_mtime)
      : lower_(lower), db_(db), keeps_mtime_(std::move(keeps_mtime)) {}

  // A new object's place in the lower tree.
  struct Made {
    LowerHandle handle;
    uint64_t inode = 0;
  };

  absl::StatusOr<Made> Create(const record::v1::CreateOp& op, const Row& parent) const;
  absl::Status Link(const record::v1::LinkOp& op, const Row& parent, const Row& object) const;
  absl::Status Remove(const record::v1::RemoveOp& op, const Row& parent, const Row& object) const;
  // The whiteout's place where the op makes one.
  absl::StatusOr<std::optional<Made>> Rename(const record::v1::RenameOp& op, const Row& from_parent,
                                             const Row& to_parent, const Row& object,
                                             const Row* replaced) const;
  // The file's size before, for these three.
  absl::StatusOr<uint64_t> Write(const record::v1::WriteOp& op, const Row& object,
                                 const std::string& payload) const;
  absl::StatusOr<uint64_t> Truncate(const record::v1::TruncateOp& op, const Row& object) const;
  absl::StatusOr<uint64_t> Allocate(const record::v1::AllocateOp& op, const Row& object) const;

  absl::Status SetAttributes(const record::v1::SetAttributesOp& op, const Row& object) const;
  absl::Status SetXattr(const record::v1::SetXattrOp& op, const Row& object) const;
  absl::Status RemoveXattr(const record::v1::RemoveXattrOp& op, const Row& object) const;

 private:
  // An opened directory that a record changes, with the time to set afterwards.
  struct Directory {
    UniqueFd fd;
    struct timespec before;  // modification time as it was found
    struct timespec after;   // as the record wants it
  };
  absl::StatusOr<Directory> OpenDirectory(uint64_t id, const Row& row,
                                          const record::v1::Timespec& mtime) const;
  absl::StatusOr<UniqueFd> OpenRow(const Row& row, int flags) const;
  // Removes what is at a name that the table has free.
  absl::Status ClearName(int dir_fd, const std::string& name) const;
  absl::Status SetAll(int fd, const record::v1::CreateOp& op) const;
  absl::Status SetAttributesOf(uint64_t object, int fd, const record::v1::Attributes& attributes,
                               const record::v1::Timespec* atime) const;
  // Runs `change` on the opened file, then sets the time; a file that grew before the change failed
  // gets its size back.
  absl::StatusOr<uint64_t> ChangeData(uint64_t object, const Row& row,
                                      const record::v1::Timespec& mtime,
                                      const std::function<absl::Status(int fd)>& change) const;

  const LowerTree& lower_;
  const NodeDb& db_;
  const KeepsMtime keeps_mtime_;
};

}  // namespace intermezzo::sidecar
