// One collection on this node: the lower tree, its database, and the rules that keep them equal.
//
// Two sides meet here. presto captures local updates: it passes the gate, takes the update lock,
// changes the lower tree, calls the capture method, releases both. The session applies forwarded
// records in journal order and sends captured ones to the server's journal.
//
// The update lock makes "effect on the lower tree" and "row in the database" one step against all
// other updates, so that the order of records is the order of effects. Lock order: gate entered,
// then update lock, then a data lock (striped by object). Nobody holds either over a call that
// can wait for the network or for a kernel cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/names.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/lower/lower_tree.h"
#include "services/sidecar/node_db/node_db.h"
#include "services/sidecar/presto/presto.h"
#include "services/sidecar/replica/write_gate.h"

namespace intermezzo::sidecar {

class Replica {
 public:
  struct Options {
    CollectionName collection;
    uint64_t collection_uid = 0;
    NodeName node;
    std::string instance;
    // This incarnation's ordinal.
    Ordinal ordinal;
    // Dirty bytes over which a writer cuts its own data before it goes on (back-pressure).
    uint64_t max_dirty_bytes = 64 << 20;
    // Wall clock for Record.time.
    std::function<absl::Time()> now = absl::Now;
    // Runs parked updates when the gate opens (WriteGate's `run`). Empty: threads of its own.
    std::function<void(std::function<void()>)> run = nullptr;
  };

  // A fresh database becomes this replica's (root object, identity). FAILED_PRECONDITION: the
  // database belongs to another collection, instance or lower directory. Another ordinal of the
  // same instance restarts the counters; then the local journal must be empty.
  // The gate is closed; set who opens it with gate().SetWanted().
  static absl::StatusOr<std::unique_ptr<Replica>> Open(Options options,
                                                       std::unique_ptr<LowerTree> lower,
                                                       std::unique_ptr<NodeDb> db);
  virtual ~Replica() = default;

  // Set once, before anything is applied or mounted; not owned.
  virtual void SetPresto(Presto* presto) = 0;

  virtual const Options& options() const = 0;
  virtual LowerTree& lower() = 0;
  virtual const NodeDb& db() const = 0;
  virtual WriteGate& gate() = 0;

  // ---- presto's side -------------------------------------------------------------------------
  // Every capture is called after the lower operation succeeded, by a thread that entered the gate
  // and holds update_lock(). A capture that fails (database full or broken) has journaled nothing:
  // the replica then closes its gate for good with a failed state, and the caller answers EIO.
  virtual absl::Mutex& update_lock() = 0;

  // A new object `name` in `parent` (create, mkdir, mknod, symlink). Reads its handle, attributes,
  // xattrs, target and the parent's mtime from the lower tree. Returns the new object's id. Content
  // that a file has already (a linked O_TMPFILE, an import) is not captured: call Wrote for it.
  virtual absl::StatusOr<ObjectId> Created(ObjectId parent, int parent_fd,
                                           const std::string& name) = 0;
  // The same for an object that has an id of NewObjectId() already and had no name so far.
  virtual absl::Status CreatedAs(ObjectId object, ObjectId parent, int parent_fd,
                                 const std::string& name) = 0;
  virtual absl::Status Linked(ObjectId object, ObjectId parent, int parent_fd,
                              const std::string& name) = 0;
  // unlink or rmdir of `name`; the object is the one that the table has there.
  virtual absl::Status Removed(ObjectId parent, int parent_fd, const std::string& name) = 0;
  // renameat2 with `flags`; both parents' descriptors may be the same.
  virtual absl::Status Renamed(ObjectId from_parent, int from_fd, const std::string& from_name,
                               ObjectId to_parent, int to_fd, const std::string& to_name,
                               unsigned flags) = 0;
  // chmod, chown, utimens: reads all attributes from `fd` (O_PATH is enough).
  // `atime_set`: the access time was set explicitly and is recorded.
  // These and Wrote do nothing for an object that the table no longer has (open but unlinked).
  virtual absl::Status AttributesSet(ObjectId object, int fd, bool atime_set) = 0;
  virtual absl::Status XattrSet(ObjectId object, int fd, const std::string& name) = 0;
  virtual absl::Status XattrRemoved(ObjectId object, int fd, const std::string& name) = 0;
  virtual absl::Status Truncated(ObjectId object, int fd, uint64_t size) = 0;
  virtual absl::Status Allocated(ObjectId object, int fd, int mode, uint64_t offset,
                                 uint64_t length) = 0;
  // To be called before the lower operation of rename, link, truncate and fallocate on `object`:
  // cuts its dirty extents into a record first, so that order is kept. update_lock() held.
  virtual absl::Status CutBefore(ObjectId object) = 0;

  // Bytes written. Only the data lock is needed: hold DataLock(object) over pwrite and this call.
  // The cutter makes records of them soon, on a thread of its own, reading the bytes back under
  // the data lock; over max_dirty_bytes the caller must CutInline() after it released the lock.
  virtual absl::Mutex& DataLock(ObjectId object) = 0;
  virtual void Wrote(ObjectId object, uint64_t offset, uint64_t length) = 0;
  virtual bool OverDirtyLimit() const = 0;
  // Cuts this object's dirty extents now (flush, fsync, back-pressure). Takes update_lock().
  virtual absl::Status CutInline(ObjectId object) = 0;
  // fsync: cut, then the local journal on disk. (The caller syncs the lower file itself.)
  virtual absl::Status SyncJournal(ObjectId object) = 0;

  // ---- the session's side --------------------------------------------------------------------
  // Last seq applied, and the chain value there.
  virtual Seq cursor() const = 0;
  virtual std::string chain() const = 0;
  // Calls `notify` (must not block) whenever the cursor moved or a local record was added.
  virtual void SetProgressCallback(std::function<void()> notify) = 0;

  // Applies the entry after the cursor: effect, rows and cursor. An own record (origin ordinal is
  // ours) confirms the local one instead. Idempotent after a crash between effect and commit.
  // DATA_LOSS: chain or payload does not match. OUT_OF_RANGE: not cursor + 1 (lower: already
  // applied, ignored with OK). ABORTED: meets a pending local record (a conflict).
  // INVALID_ARGUMENT: malformed. RESOURCE_EXHAUSTED: disk full; nothing changed, try again.
  virtual absl::Status Apply(const record::v1::Entry& entry) = 0;

  // All dirty extents become local records.
  virtual absl::Status CutAll() = 0;
  // Local records that the server's journal has not confirmed by forwarding, those that wait for
  // replay among them.
  virtual uint64_t pending_records() const = 0;
  virtual uint64_t last_origin_seq() const = 0;
  virtual uint64_t confirmed_origin_seq() const = 0;
  // Up to here no local record waits: the last origin seq where none is pending, else the one
  // before the first that is pending or waits for replay. Never below confirmed_origin_seq(), and
  // above it where a replay has made other records of some that are never sent.
  virtual uint64_t settled_origin_seq() const = 0;
  // Local records up to here wait for replay and must not be sent; 0 where none do.
  virtual uint64_t replay_through() const = 0;

  // First error that closed the replica for good; OK while it works.
  virtual absl::Status failure() const = 0;

  // Makes an update from an op, as presto's side would have: effect on the lower tree, then one
  // batch with the record, its rows and what `rider` adds. For the replay of queued records: gate
  // closed, update lock held. The epoch is the gate's last. Errors as Apply; nothing was changed.
  virtual absl::Status MakeUpdate(record::v1::Record op, const std::string& payload,
                                  const std::function<void(NodeDb::Batch&)>& rider) = 0;

  // Import, adoption and snapshots change tables directly through this (gate closed, not yet
  // mounted). The update lock is held. Start a changed state row from state() and PutState it;
  // call ReloadState() after such a commit.
  virtual NodeDb& mutable_db() = 0;
  // The state row as it is in memory (counters of ids just given included). The update lock is
  // held.
  virtual storage::v1::ReplicaRow state() const = 0;
  // Reads the state row and the local journal's index anew. The update lock is held.
  virtual absl::Status ReloadState() = 0;
  // One record has left the replay queue with a batch that is committed. The update lock is held.
  virtual void LeftReplayQueue() = 0;
  // A fresh object id of this node, durable with the next commit of a state row. The update lock
  // is held. presto calls it too, for files that have no name yet.
  virtual ObjectId NewObjectId() = 0;
};

}  // namespace intermezzo::sidecar
