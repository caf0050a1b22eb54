// The watchers of one journal. Thread-safe. A call that has begun may still be running when Unwatch
// returns: a watcher owns (shares) what it uses.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/journal-service/core/journal.h"

namespace intermezzo::journal {

class Watchers {
 public:
  WatchId Watch(Watcher watcher);
  void Unwatch(WatchId id);
  // Calls every watcher, on this thread, with no lock held.
  void Notify(const JournalEvent& event);
  size_t size() const;

 private:
  mutable absl::Mutex mu_;
  WatchId next_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<WatchId, std::shared_ptr<const Watcher>> watchers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::journal
