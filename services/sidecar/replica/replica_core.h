// What all parts of a replica share: the lower tree, the database with the state row, the gate, the
// update lock, and the one way to commit.
//
// Owned by the replica. Fields of the state are changed under the update lock; what other threads
// read of it is published after each commit. A commit that fails closes the replica for good.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/record/codec.h"
#include "services/sidecar/replica/executor.h"
#include "services/sidecar/replica/pending_index.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

class ReplicaCore {
 public:
  ReplicaCore(Replica::Options options, std::unique_ptr<LowerTree> lower,
              std::unique_ptr<NodeDb> db);

  // Takes over a fresh database, or checks that an old one is this replica's.
  absl::Status Load();

  const Replica::Options& options() const { return options_; }
  LowerTree& lower() { return *lower_; }
  NodeDb& db() { return *db_; }
  const NodeDb& db() const { return *db_; }
  WriteGate& gate() { return gate_; }
  absl::Mutex& update_lock() const ABSL_LOCK_RETURNED(update_lock_) { return update_lock_; }

  const storage::v1::ReplicaRow& state() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_) {
    return state_;
  }
  storage::v1::ReplicaRow& mutable_state() ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_) {
    return state_;
  }
  PendingIndex& pending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_) { return pending_; }
  absl::Status ReloadState() ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);
  void LeftReplayQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);
  ObjectId NewObjectId() ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);

  // A record of this node with its version, epoch and time; CommitLocal gives the version away.
  record::v1::Record NewRecord() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);
  // The version that the table has for what `touch` names; 0 where that does not exist.
  uint64_t TableVersion(const record::v1::Touch& touch) const;
  // Fills in the touches, seals, and commits the record with `batch`'s rows and the state. Once
  // this is called the lower tree has the effect, so a failure closes the replica.
  absl::Status CommitLocal(record::v1::Record record, SealedPayload payload,
                           std::unique_ptr<NodeDb::Batch> batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);
  // Commits an applied or confirmed entry's rows with the state as changed by the caller.
  absl::Status CommitApplied(std::unique_ptr<NodeDb::Batch> batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);

  // Closes the replica for good; the error that the caller's caller answers (EIO).
  absl::Status Fail(const absl::Status& cause);
  absl::Status failure() const;

  void SetProgressCallback(std::function<void()> notify);

  // As of the last commit; any thread.
  Seq cursor() const;
  std::string chain() const;
  uint64_t pending_records() const;
  uint64_t last_origin_seq() const;
  uint64_t confirmed_origin_seq() const;
  uint64_t settled_origin_seq() const;
  uint64_t replay_through() const;

 private:
  absl::Status Initialise(const LowerHandle& root) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);
  absl::Status CheckIdentity(const LowerHandle& root) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_lock_);

  const Replica::Options options_;
  const std::unique_ptr<LowerTree> lower_;
  const std::unique_ptr<NodeDb> db_;
  WriteGate gate_;

  mutable absl::Mutex update_lock_;
  storage::v1::ReplicaRow state_ ABSL_GUARDED_BY(update_lock_);
  PendingIndex pending_ ABSL_GUARDED_BY(update_lock_);
  // First origin seq that waited for replay at the last ReloadState; 0: none.
  uint64_t first_queued_ ABSL_GUARDED_BY(update_lock_) = 0;
  // Records that wait for replay.
  uint64_t queued_ ABSL_GUARDED_BY(update_lock_) = 0;

  struct Published {
    Seq cursor;
    std::string chain;
    uint64_t pending_records = 0;
    uint64_t last_origin_seq = 0;
    uint64_t confirmed_origin_seq = 0;
    uint64_t settled_origin_seq = 0;
    uint64_t replay_through = 0;
  };
  mutable absl::Mutex published_mu_;
  Published published_ ABSL_GUARDED_BY(published_mu_);
  std::shared_ptr<const std::function<void()>> notify_ ABSL_GUARDED_BY(published_mu_);
  absl::Status failure_ ABSL_GUARDED_BY(published_mu_);

  // Last, so that its threads are gone before what they use. Null where the options give `run`.
  const std::unique_ptr<Executor> executor_;
};

}  // namespace intermezzo::sidecar
