// Bytes written but not yet in a record, and the thread that makes records of them.
//
// Owned by the replica. The dirty extents of an object are guarded by its data lock, one of 64
// striped by object id. Cutting takes the update lock, then the data lock, reads the bytes back
// from the lower file and commits one write record of at most kMaxPayloadBytes; between the records
// of a large set both locks are free.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
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
  absl::Status CutInline(ObjectId object);
  absl::Status CutAll();
  // The object is gone: its bytes need no record. The data lock is not held.
  void Forget(ObjectId object);

 private:
  struct Stripe {
    absl::Mutex lock;
    absl::flat_hash_map<ObjectId, ExtentSet> dirty ABSL_GUARDED_BY(lock);
  };
  Stripe& StripeOf(ObjectId object);

  // Makes one record. False: nothing was dirty.
  absl::StatusOr<bool> CutOne(ObjectId object);
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
