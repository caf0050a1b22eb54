// What a journal tells about itself to whoever counts (metrics.h). Called from the journal's
// threads; must not block.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/journal-service/core/journal.h"

namespace intermezzo::journal {

class JournalObserver {
 public:
  virtual ~JournalObserver() = default;
  // One synced write, whatever it held.
  virtual void OnSync(absl::Duration took) {}
  // A batch from its arrival in the queue until it was durable.
  virtual void OnAppend(const CollectionName& name, absl::Duration took, uint64_t records,
                        uint64_t bytes) {}
  // A refused batch.
  virtual void OnRefused(const CollectionName& name, const absl::Status& status) {}
  // After every change of the state.
  virtual void OnState(const CollectionName& name, const JournalState& state) {}
  virtual void OnDeleted(const CollectionName& name) {}
  // A subscriber came (+1) or went (-1).
  virtual void OnSubscriber(const CollectionName& name, int change) {}
};

}  // namespace intermezzo::journal
