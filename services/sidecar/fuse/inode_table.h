// What the kernel knows: objects by node id (== object id), how often the kernel counts them, and
// open descriptors of the lower files.
//
// Owned by the driver; any thread. Descriptors are a bounded LRU cache: an object that is not in it
// is opened again by its lower handle. An object that lost its last name has no handle that could
// be opened, so it is pinned (one O_PATH descriptor outside the cache) until the kernel forgets it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/lower/lower_tree.h"
#include "services/sidecar/node_db/node_db.h"

namespace intermezzo::sidecar {

using FdPtr = std::shared_ptr<const UniqueFd>;

// How a lower object is open. kWrite also reads; kRead may be served by a descriptor of kWrite.
enum class Access { kPath = 0, kRead = 1, kWrite = 2 };

struct Inode {
  explicit Inode(ObjectId object, uint64_t lower) : id(object), lower_ino(lower) {}
  const ObjectId id;
  // The lower file system's inode number.
  std::atomic<uint64_t> lower_ino;
  // Lost its last name: nothing about it is journaled any more.
  std::atomic<bool> removed{false};
  // ... by a forwarded record: a name that still leads here is one that the kernel remembers.
  std::atomic<bool> removed_elsewhere{false};
  // Has no name yet, and linkat(2) may give it one (O_TMPFILE): its writes wait for the gate.
  std::atomic<bool> may_get_name{false};
  // Known to have neither set-id bits nor file capabilities that a write would have to clear.
  std::atomic<bool> plain{false};

 private:
  friend class InodeTable;
  static constexpr int kSlots = 3;
  // Guarded by InodeTable::mu_.
  uint64_t lookups = 0;
  LowerHandle handle;  // empty: not read from the database yet
  FdPtr pinned;
  FdPtr fds[kSlots];
  std::list<std::pair<Inode*, int>>::iterator lru[kSlots];
};
using InodePtr = std::shared_ptr<Inode>;

class InodeTable {
 public:
  // At most `max_fds` descriptors are cached.
  InodeTable(const LowerTree& lower, const NodeDb& db, size_t max_fds);
  ~InodeTable();

  // The object, from the table or the database; null where neither has it.
  InodePtr Get(ObjectId id);
  // The object if the table has it.
  InodePtr Find(ObjectId id);
  // Counts one lookup by the kernel, making the inode if it is new.
  InodePtr Remember(ObjectId id, uint64_t lower_ino);
  // True where the kernel was told of the object (perhaps just now) and has not forgotten it.
  bool KnownToKernel(ObjectId id);
  // The kernel drops `count` lookups.
  void Forget(ObjectId id, uint64_t count);

  // A descriptor; errors carry the errno (ESTALE where the object is gone).
  absl::StatusOr<FdPtr> Open(Inode& inode, Access access);
  // Puts an open descriptor into the cache.
  void Adopt(Inode& inode, Access access, UniqueFd fd);

  // Keeps the object openable after its last name goes. False: it could not be opened.
  bool Pin(Inode& inode);
  // The object has another lower object from now on, as its row says: what the kernel knows by the
  // id means that one. Nothing where the kernel does not know it.
  void Remade(ObjectId id);
  // The same by an open descriptor, for an object that has no name yet.
  void PinAs(Inode& inode, UniqueFd fd);
  // Undoes Pin() where a name was left.
  void Unpin(Inode& inode);

  // Forgets everything; the kernel no longer knows anything.
  void Clear();

  size_t size() const;
  size_t open_fds() const;

 private:
  using Lru = std::list<std::pair<Inode*, int>>;

  FdPtr Cached(Inode& inode, Access access) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns what the caller must destroy after it released the lock.
  FdPtr Insert(Inode& inode, Access access, FdPtr fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<UniqueFd> OpenLower(Inode& inode, Access access);

  const LowerTree& lower_;
  const NodeDb& db_;
  const size_t max_fds_;

  mutable absl::Mutex mu_;
  absl::flat_hash_map<uint64_t, InodePtr> inodes_ ABSL_GUARDED_BY(mu_);
  Lru lru_ ABSL_GUARDED_BY(mu_);  // most recent first
};

}  // namespace intermezzo::sidecar
