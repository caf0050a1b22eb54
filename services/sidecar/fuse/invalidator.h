// Tells the kernel what forwarded records made stale, from threads that hold nothing.
//
// Queue() is called with the replica's update lock held and never blocks. Telling the kernel can
// block: an entry needs the directory's lock, which a caller whose update waits at the gate holds;
// pages need the page locks, which waiting writes hold. So work is queued per object, work on
// objects that a waiting update holds (Hold) stays queued, and two lanes do the telling: the quick
// lane only what never blocks (attributes, directory listings), the slow lane, with several
// threads, entries and pages. README.md beside this file has the reasoning.
//
// An answer to a lookup holds attributes that may be stale by the time the kernel reads it. Until
// then the kernel does not know the object, and has nothing to drop; so where it says so of an
// object that it was told of and has not forgotten, the telling is tried again a little later.
//
// Bounded: equal work is merged; over `max_ranges` objects with ranges their ranges become "all";
// over `max_names` names all names are forgotten in favour of one call that drops every name
// (kernels from 6.16), or kept where the kernel has no such call.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/sidecar/presto/presto.h"

namespace intermezzo::sidecar {

// The kernel's side; results are negative errnos. -ENOENT (not cached) is normal.
class KernelCache {
 public:
  virtual ~KernelCache() = default;
  virtual int DropEntry(ObjectId parent, const std::string& name) = 0;
  // Attributes only.
  virtual int DropAttributes(ObjectId object) = 0;
  // Attributes and pages; length 0: to the end. A directory's pages are its cached listing.
  virtual int DropPages(ObjectId object, int64_t offset, int64_t length) = 0;
  // Every name there is.
  // True while the kernel may have an answer of ours on its way in that makes the object known to
  // it: then "not cached" is not the last word.
  virtual bool MayArrive(ObjectId object) { return false; }
  virtual bool CanDropAllEntries() const = 0;
  virtual int DropAllEntries() = 0;
};

class Invalidator {
 public:
  struct Limits {
    size_t max_names = 100'000;
    int slow_threads = 4;
  };

  Invalidator(KernelCache* kernel, Limits limits);
  ~Invalidator();
  void Start();
  // Lets go of queued work. Threads inside a kernel call leave it when the connection ends.
  void Stop();

  void Queue(const Invalidation& what);

  // The kernel holds locks of these objects for an update that waits at the gate.
  void Hold(const std::vector<uint64_t>& objects);
  void Release(const std::vector<uint64_t>& objects);

  // True when everything that could be told has been told; work on held objects does not count.
  bool WaitIdle(absl::Duration timeout);
  size_t queued() const;

 private:
  struct Work {
    bool queued = false;
    bool attributes = false;
    bool pages = false;
    int tries = 0;                          // that found the object on its way in
    absl::Time due = absl::InfinitePast();  // not before
    int64_t begin = 0;
    int64_t end = 0;  // INT64_MAX: all
    std::vector<std::string> names;
    absl::flat_hash_set<std::string> name_set;
  };

  void QuickLane();
  void SlowLane();
  Work* SlowWork(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddQuick(uint64_t id, bool directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Queues what the kernel did not know yet once more.
  void TryLater(uint64_t id, Work work) ABSL_LOCKS_EXCLUDED(mu_);
  // First queued object that is neither held nor in work; 0 where there is none.
  uint64_t NextSlow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool SlowReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  KernelCache* const kernel_;
  const Limits limits_;

  mutable absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<uint64_t> quick_order_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, bool> quick_ ABSL_GUARDED_BY(mu_);  // value: a directory
  bool quick_busy_ ABSL_GUARDED_BY(mu_) = false;
  bool drop_all_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<uint64_t> slow_order_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, Work> slow_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<uint64_t> slow_busy_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, int> held_ ABSL_GUARDED_BY(mu_);
  size_t names_ ABSL_GUARDED_BY(mu_) = 0;
  int late_ ABSL_GUARDED_BY(mu_) = 0;  // objects of slow_ with a due time
  std::vector<std::thread> threads_;
};

}  // namespace intermezzo::sidecar
