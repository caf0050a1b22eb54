#include "services/forwarder-service/metrics.h"

#include <set>

namespace intermezzo::forwarder {
namespace {

// By ReplicaState.
constexpr const char* kStateNames[] = {"away", "catching_up", "live", "lagging", "needs_snapshot"};

prometheus::Family<prometheus::Gauge>& AddGauge(prometheus::Registry& registry,
                                                const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name("intermezzo_" + name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Counter>& AddCounter(prometheus::Registry& registry,
                                                    const std::string& name,
                                                    const std::string& help) {
  return prometheus::BuildCounter().Name("intermezzo_" + name).Help(help).Register(registry);
}

// Up to `value`; a lower one (the replica was removed and added again) starts anew from it.
void Raise(prometheus::Counter& counter, uint64_t value) {
  double more = static_cast<double>(value) - counter.Value();
  if (more > 0) counter.Increment(more);
}

}  // namespace

Metrics::Metrics(prometheus::Registry& registry)
    : lag_records_(AddGauge(registry, "replication_lag_records",
                            "Committed records that the replica has not acknowledged.")),
      lag_bytes_(AddGauge(registry, "replication_lag_bytes",
                          "Encoded bytes of the records that the replica has not acknowledged.")),
      lag_seconds_(AddGauge(registry, "replication_lag_seconds",
                            "Age of the oldest record not acknowledged, 0 when caught up.")),
      state_(AddGauge(registry, "replication_state", "1 for the state that the replica is in.")),
      stream_up_(AddGauge(registry, "forwarder_stream_up",
                          "1 while the replica's Forward stream is open.")),
      last_ack_(AddGauge(registry, "peer_last_ack_timestamp_seconds",
                         "When the replica last acknowledged, 0 for never.")),
      head_(AddGauge(registry, "journal_head_sequence",
                     "Last seq of the journal as the forwarder has seen it.")),
      sent_bytes_(AddCounter(registry, "forwarder_sent_bytes_total",
                             "Bytes of records and payloads sent to the replica.")),
      sent_records_(
          AddCounter(registry, "forwarder_sent_records_total", "Records sent to the replica.")),
      reconnects_(AddCounter(registry, "forwarder_reconnects_total",
                             "Times that the replica connected again.")) {}

void Metrics::Update(const std::vector<std::shared_ptr<Collection>>& collections) {
  std::set<std::pair<std::string, std::string>> present;
  std::set<std::string> present_collections;
  for (const auto& collection : collections) {
    const std::string& name = collection->name();
    present_collections.insert(name);
    prometheus::Gauge*& head = heads_[name];
    if (head == nullptr) head = &head_.Add({{"collection", name}});
    head->Set(collection->head().value());

    for (const ReplicaRow& row : collection->Rows()) {
      auto key = std::make_pair(name, row.node);
      present.insert(key);
      auto it = series_.find(key);
      if (it != series_.end() && it->second.uid != collection->uid()) {
        Drop(it->second);
        series_.erase(it);
        it = series_.end();
      }
      if (it == series_.end()) {
        it = series_.emplace(key, Make(name, collection->uid(), row.node)).first;
      }
      Series& series = it->second;
      series.lag_records->Set(row.lag.records);
      series.lag_bytes->Set(row.lag.bytes);
      series.lag_seconds->Set(absl::ToDoubleSeconds(row.lag.age));
      for (size_t i = 0; i < kStates; ++i) {
        series.state[i]->Set(i == static_cast<size_t>(row.state) ? 1 : 0);
      }
      series.stream_up->Set(row.connected ? 1 : 0);
      series.last_ack->Set(absl::ToDoubleSeconds(row.last_ack - absl::UnixEpoch()));
      Raise(*series.sent_bytes, row.sent_bytes);
      Raise(*series.sent_records, row.sent_records);
      Raise(*series.reconnects, row.reconnects);
    }
  }
  for (auto it = series_.begin(); it != series_.end();) {
    if (present.contains(it->first)) {
      ++it;
    } else {
      Drop(it->second);
      it = series_.erase(it);
    }
  }
  for (auto it = heads_.begin(); it != heads_.end();) {
    if (present_collections.contains(it->first)) {
      ++it;
    } else {
      head_.Remove(it->second);
      it = heads_.erase(it);
    }
  }
}

Metrics::Series Metrics::Make(const std::string& collection, uint64_t uid,
                              const std::string& node) {
  prometheus::Labels labels{{"collection", collection}, {"node", node}};
  Series series;
  series.uid = uid;
  series.lag_records = &lag_records_.Add(labels);
  series.lag_bytes = &lag_bytes_.Add(labels);
  series.lag_seconds = &lag_seconds_.Add(labels);
  for (size_t i = 0; i < kStates; ++i) {
    prometheus::Labels with_state = labels;
    with_state["state"] = kStateNames[i];
    series.state[i] = &state_.Add(with_state);
  }
  series.stream_up = &stream_up_.Add(labels);
  series.last_ack = &last_ack_.Add(labels);
  series.sent_bytes = &sent_bytes_.Add(labels);
  series.sent_records = &sent_records_.Add(labels);
  series.reconnects = &reconnects_.Add(labels);
  return series;
}

void Metrics::Drop(const Series& series) {
  lag_records_.Remove(series.lag_records);
  lag_bytes_.Remove(series.lag_bytes);
  lag_seconds_.Remove(series.lag_seconds);
  for (prometheus::Gauge* gauge : series.state) state_.Remove(gauge);
  stream_up_.Remove(series.stream_up);
  last_ack_.Remove(series.last_ack);
  sent_bytes_.Remove(series.sent_bytes);
  sent_records_.Remove(series.sent_records);
  reconnects_.Remove(series.reconnects);
}

}  // namespace intermezzo::forwarder
