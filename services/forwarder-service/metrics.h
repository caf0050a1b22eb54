// What the forwarder-service exports to Prometheus, per collection and node. Series of replicas
// that are gone disappear. Not thread-safe: one thread updates (scrapes may come from any).
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/forwarder-service/grpc/collection.h"

namespace intermezzo::forwarder {

class Metrics {
 public:
  explicit Metrics(prometheus::Registry& registry);
  // Everything that there is now.
  void Update(const std::vector<std::shared_ptr<Collection>>& collections);

 private:
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Counters = prometheus::Family<prometheus::Counter>;
  static constexpr size_t kStates = 5;

  struct Series {
    uint64_t uid = 0;
    prometheus::Gauge* lag_records;
    prometheus::Gauge* lag_bytes;
    prometheus::Gauge* lag_seconds;
    std::array<prometheus::Gauge*, kStates> state;
    prometheus::Gauge* stream_up;
    prometheus::Gauge* last_ack;
    prometheus::Counter* sent_bytes;
    prometheus::Counter* sent_records;
    prometheus::Counter* reconnects;
  };

  Series Make(const std::string& collection, uint64_t uid, const std::string& node);
  void Drop(const Series& series);

  Gauges& lag_records_;
  Gauges& lag_bytes_;
  Gauges& lag_seconds_;
  Gauges& state_;
  Gauges& stream_up_;
  Gauges& last_ack_;
  Gauges& head_;
  Counters& sent_bytes_;
  Counters& sent_records_;
  Counters& reconnects_;

  std::map<std::pair<std::string, std::string>, Series> series_;  // by collection and node
  std::map<std::string, prometheus::Gauge*> heads_;               // by collection
};

}  // namespace intermezzo::forwarder
