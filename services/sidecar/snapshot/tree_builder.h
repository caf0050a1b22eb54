// Makes the lower tree of a joining replica from an object table, keeping what is right already.
//
// What lies in the lower directory and is the same (kind, place, content) is kept and not asked for
// again; everything else that is in the way, or that the collection does not have, is moved to the
// set-aside directory with its path, never deleted. A build that was interrupted starts over and
// finds its own work: files whose content it had not finished carry a mark and are made anew.
//
// Used by the joining thread alone, with nothing mounted.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "intermezzo/storage/v1/node_db.pb.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::sidecar {

class TreeBuilder {
 public:
  // `aside`: made when the first thing has to be moved there; on the lower directory's disk.
  TreeBuilder(const LowerTree& lower, std::string aside)
      : lower_(lower), aside_(std::move(aside)) {}

  // The table, parents before children. INVALID_ARGUMENT: an object that cannot be.
  absl::Status Add(forwarder::v1::SnapshotObject object);
  // Makes all names. `check` is called for each; an error of it ends the build.
  absl::Status Build(const std::function<absl::Status()>& check);

  // Files whose content has to be fetched.
  const std::vector<ObjectId>& wanted() const { return wanted_; }
  // Their content and attributes, in the order of SnapshotPart.
  absl::Status Write(const forwarder::v1::Chunk& chunk);
  absl::Status End(const forwarder::v1::ObjectEnd& end);
  // After all content: the directories' times, then everything is synced to disk.
  absl::Status Finish();

  // Calls `visit` for each object with its row and the versions of its names.
  absl::Status ForEachRow(
      const std::function<absl::Status(ObjectId, const storage::v1::ObjectRow&,
                                       const forwarder::v1::SnapshotObject&)>& visit) const;

  uint64_t objects() const { return items_.size(); }
  uint64_t kept_files() const { return kept_files_; }
  uint64_t set_aside() const { return set_aside_; }
  const std::string& aside() const { return aside_; }

 private:
  struct Item {
    forwarder::v1::SnapshotObject object;
    LowerHandle handle;
    uint64_t inode = 0;
    bool placed = false;
    bool wanted = false;
  };
  using Names = std::vector<std::pair<std::string, uint64_t>>;

  absl::Status Directory(Item& directory, const std::string& path,
                         const std::function<absl::Status()>& check);
  absl::Status Place(Item& item, int dir_fd, const std::string& name, const std::string& path);
  absl::StatusOr<bool> Keep(const Item& item, int dir_fd, const std::string& name) const;
  absl::Status Make(Item& item, int dir_fd, const std::string& name);
  absl::Status SetAside(int dir_fd, const std::string& name, const std::string& path);
  absl::Status Remember(Item& item, int dir_fd, const std::string& name);
  absl::Status SetAttributes(const Item& item, const forwarder::v1::SnapshotObject& object,
                             bool with_mtime) const;

  const LowerTree& lower_;
  const std::string aside_;
  std::unordered_map<uint64_t, Item> items_;
  std::vector<uint64_t> order_;  // of the table
  std::unordered_map<uint64_t, Names> below_;
  std::unordered_set<uint64_t> inodes_;  // of what is placed
  std::vector<ObjectId> wanted_;
  std::vector<std::pair<uint64_t, std::string>> directories_;  // still to visit, with their paths
  uint64_t open_object_ = 0;
  UniqueFd open_fd_;
  uint64_t kept_files_ = 0;
  uint64_t set_aside_ = 0;
};

}  // namespace intermezzo::sidecar
