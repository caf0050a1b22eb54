// Bytes written but not yet in a record, and the thread that makes records of them.
//
// Owned by the replica. The dirty extents of an object are guarded by its data lock, one of 64
// striped by object id. Cutting has two steps. Preparing, under the data lock alone, takes extents
// of at most kMaxPayloadBytes, reads the bytes back from the lower file and compresses them: other
// updates go on meanwhile. Committing, under the update lock, makes the record. What is prepared
// counts as dirty, and whoever cuts the object next commits it first; a truncation or allocation
// in between sends it back to be read anew. Between the records of a large set all locks are free.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/record/codec.h"
#include "services/sidecar/lower/lower_tree.h"
#include "services/sidecar/replica/extent_set.h"
#include "services/sidecar/replica/replica_core.h"

namespace intermezzo::sidecar {

class Cutter {
 public:
  explicit Cutter(ReplicaCore& core);
  Cutter(const Cutter&) = delete;
  Cutter& operator=(const Cutter&) = delete;
  ~Cutter();

  absl::Mutex& DataLock(ObjectId object) { return StripeOf(object).lock; }
  // The data lock is held.
  void Wrote(ObjectId object, uint64_t offset, uint64_t length);
  bool IsDirty(ObjectId object);
  uint64_t dirty_bytes() const { return dirty_bytes_.load(std::memory_order_relaxed); }

  // Makes records of all dirty extents of the object; the update lock is held.
  absl::Status CutLocked(ObjectId object);
  // The same, taking the update lock for each record. What others are cutting is in the journal
  // too when it returns.
  absl::Status CutInline(ObjectId object) { return Cut(object, /*until_clean=*/true); }
  absl::Status CutAll();
  // The object is gone: its bytes need no record. The data lock is not held.
  void Forget(ObjectId object);
  // The file was changed other than by a write that is marked dirty: what was read of it for a
  // record that is not yet made is read again. The update lock is held, the data lock is not.
  void ReadAnew(ObjectId object);

 private:
  // Bytes that were read for a record.
  struct Prepared {
    LowerHandle handle;  // of the lower file that they were read from
    UniqueFd fd;
    record::v1::WriteOp op;  // but for its time
    SealedPayload payload;
  };
  struct Stripe {
    absl::Mutex lock;
    absl::flat_hash_map<ObjectId, ExtentSet> dirty ABSL_GUARDED_BY(lock);
    absl::flat_hash_map<ObjectId, Prepared> prepared ABSL_GUARDED_BY(lock);
  };
  Stripe& StripeOf(ObjectId object);

  // Reads what the file has of `taken`; what is over the limit goes to `rest`, where there was no
  // error.
  static absl::Status Read(const LowerTree& lower, const std::vector<ExtentSet::Extent>& taken,
                           ExtentSet& rest, Prepared& prepared);
  enum class Left { kNothing, kPrepared, kPreparedAndDirty };
  // Prepares a record where none of the object is prepared yet. After an error what was dirty still
  // is.
  absl::StatusOr<Left> Prepare(ObjectId object);
  // Makes the record of what is prepared, if anything is. The update lock is held.
  absl::Status Commit(ObjectId object);
  void Unprepare(Stripe& stripe, ObjectId object, const Prepared& prepared)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(stripe.lock);
  // Not `until_clean`: what is written while it cuts is left for the next time.
  absl::Status Cut(ObjectId object, bool until_clean);
  void Run();

  ReplicaCore& core_;
  std::array<Stripe, 64> stripes_;
  std::atomic<uint64_t> dirty_bytes_{0};

  absl::Mutex mu_;
  std::deque<ObjectId> queue_ ABSL_GUARDED_BY(mu_);            // oldest first
  absl::flat_hash_set<ObjectId> queued_ ABSL_GUARDED_BY(mu_);  // the same: none is there twice
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace intermezzo::sidecar
