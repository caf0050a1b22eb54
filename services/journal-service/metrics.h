// The journal-service's metrics, by collection. Thread-safe.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "services/journal-service/core/observer.h"

namespace intermezzo::journal {

class JournalMetrics final : public JournalObserver {
 public:
  explicit JournalMetrics(std::shared_ptr<prometheus::Registry> registry);

  void OnSync(absl::Duration took) override;
  void OnAppend(const CollectionName& name, absl::Duration took, uint64_t records,
                uint64_t bytes) override;
  void OnRefused(const CollectionName& name, const absl::Status& status) override;
  void OnState(const CollectionName& name, const JournalState& state) override;
  void OnDeleted(const CollectionName& name) override;
  void OnSubscriber(const CollectionName& name, int change) override;

 private:
  struct Collection {
    prometheus::Gauge* head_sequence;
    prometheus::Gauge* tail_sequence;
    prometheus::Gauge* size_bytes;
    prometheus::Gauge* epoch;
    prometheus::Gauge* subscribers;
    prometheus::Histogram* append_seconds;
    prometheus::Counter* records;
    prometheus::Counter* bytes;
    prometheus::Counter* stale_epochs;
    prometheus::Counter* conflicts;
    prometheus::Counter* gaps;
    prometheus::Counter* other_refusals;
  };
  Collection& Of(const CollectionName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Histogram& sync_seconds_;
  prometheus::Family<prometheus::Gauge>& head_sequence_;
  prometheus::Family<prometheus::Gauge>& tail_sequence_;
  prometheus::Family<prometheus::Gauge>& size_bytes_;
  prometheus::Family<prometheus::Gauge>& epoch_;
  prometheus::Family<prometheus::Gauge>& subscribers_;
  prometheus::Family<prometheus::Histogram>& append_seconds_;
  prometheus::Family<prometheus::Counter>& records_;
  prometheus::Family<prometheus::Counter>& bytes_;
  prometheus::Family<prometheus::Counter>& stale_epochs_;
  prometheus::Family<prometheus::Counter>& refused_;

  absl::Mutex mu_;
  absl::flat_hash_map<CollectionName, Collection> collections_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::journal
