// The sidecar's metrics: names, help and labels in one place. Thread-safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace intermezzo::sidecar {

// Those of one replica. All are removed with it.
class ReplicaMetrics {
 public:
  ReplicaMetrics(prometheus::Registry& registry, const std::string& collection,
                 const std::string& node);
  ~ReplicaMetrics();
  ReplicaMetrics(const ReplicaMetrics&) = delete;
  ReplicaMetrics& operator=(const ReplicaMetrics&) = delete;

  // A record applied: which op, its encoded bytes, how long it took, seconds from its commit to now
  // by the two clocks (negative: unknown).
  void Applied(const std::string& op, uint64_t bytes, double seconds, double delay_seconds);
  void ApplyFailed(const std::string& reason);
  // A conflict of this kind: "update/update" and so on.
  void Conflict(const std::string& kind);
  void State(const std::string& state);
  void Token(bool held, uint64_t epoch);
  void Driver(const std::string& kind, const std::string& reason);
  void MountUp(bool up);
  // Positions.
  void Position(uint64_t applied_seq, uint64_t head_seq, uint64_t pending_records);
  // Seconds since 1970 of the last word from the server.
  void Contact(double unix_seconds);
  void Acquired(double seconds);

 private:
  template <typename T>
  T* Keep(prometheus::Family<T>& family, std::map<std::string, std::string> labels);

  prometheus::Registry& registry_;
  const std::map<std::string, std::string> labels_;
  std::vector<std::function<void()>> remove_;

  prometheus::Gauge* lag_records_;
  prometheus::Gauge* applied_seq_;
  prometheus::Gauge* applied_time_;
  prometheus::Gauge* contact_time_;
  prometheus::Gauge* pending_records_;
  prometheus::Gauge* token_held_;
  prometheus::Gauge* token_epoch_;
  prometheus::Gauge* mount_up_;
  prometheus::Counter* applied_bytes_;
  prometheus::Histogram* apply_seconds_;
  prometheus::Histogram* delay_seconds_;
  prometheus::Histogram* acquire_seconds_;

  absl::Mutex mu_;
  std::map<std::string, prometheus::Counter*> applied_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, prometheus::Counter*> apply_errors_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, prometheus::Counter*> conflicts_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, prometheus::Gauge*> states_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::sidecar
