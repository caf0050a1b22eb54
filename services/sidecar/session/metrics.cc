#include "services/sidecar/session/metrics.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace intermezzo::sidecar {
namespace {

using prometheus::Histogram;

// From a few microseconds, as one record takes, to seconds.
const Histogram::BucketBoundaries kApplyBuckets = {
    .00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5};
const Histogram::BucketBoundaries kDelayBuckets = {
    .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300};
const Histogram::BucketBoundaries kAcquireBuckets = {.0005, .001, .0025, .005, .01, .025, .05, .1,
                                                     .25,   .5,   1,     2.5,  5,   10,   30};

auto& GaugeFamily(prometheus::Registry& registry, const std::string& name,
                  const std::string& help) {
  return prometheus::BuildGauge().Name("intermezzo_" + name).Help(help).Register(registry);
}
auto& CounterFamily(prometheus::Registry& registry, const std::string& name,
                    const std::string& help) {
  return prometheus::BuildCounter().Name("intermezzo_" + name).Help(help).Register(registry);
}
auto& HistogramFamily(prometheus::Registry& registry, const std::string& name,
                      const std::string& help) {
  return prometheus::BuildHistogram().Name("intermezzo_" + name).Help(help).Register(registry);
}
auto& AppliedFamily(prometheus::Registry& registry) {
  return CounterFamily(registry, "replication_applied_records_total",
                       "Forwarded records applied, by operation");
}
auto& ApplyErrorsFamily(prometheus::Registry& registry) {
  return CounterFamily(registry, "replication_apply_errors_total",
                       "Forwarded records that could not be applied, by status code");
}
auto& StateFamily(prometheus::Registry& registry) {
  return GaugeFamily(registry, "replication_state", "1 for the state that the replica is in");
}

double UnixNow() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

}  // namespace

template <typename T>
T* ReplicaMetrics::Keep(prometheus::Family<T>& family, std::map<std::string, std::string> labels) {
  labels.insert(labels_.begin(), labels_.end());
  T* metric = &family.Add(labels);
  remove_.push_back([&family, metric] { family.Remove(metric); });
  return metric;
}

ReplicaMetrics::ReplicaMetrics(prometheus::Registry& registry, const std::string& collection,
                               const std::string& node)
    : registry_(registry), labels_{{"collection", collection}, {"node", node}} {
  lag_records_ = Keep(GaugeFamily(registry, "replication_lag_records",
                                  "Records of the journal that are not applied"),
                      {});
  applied_seq_ = Keep(
      GaugeFamily(registry, "replication_last_applied_sequence", "Last seq of the journal applied"),
      {});
  applied_time_ = Keep(GaugeFamily(registry, "replication_last_applied_timestamp_seconds",
                                   "When a record was last applied, seconds since 1970"),
                       {});
  contact_time_ = Keep(GaugeFamily(registry, "replication_last_contact_timestamp_seconds",
                                   "When the server was last heard, seconds since 1970"),
                       {});
  pending_records_ = Keep(GaugeFamily(registry, "outbound_pending_records",
                                      "Local records that the journal has not confirmed"),
                          {});
  token_held_ = Keep(GaugeFamily(registry, "token_held", "1 while the write token is held"), {});
  token_epoch_ =
      Keep(GaugeFamily(registry, "token_epoch", "Epoch of the token held, 0 for none"), {});
  mount_up_ = Keep(GaugeFamily(registry, "mount_up", "1 while the replica is mounted"), {});
  applied_bytes_ = Keep(CounterFamily(registry, "replication_applied_bytes_total",
                                      "Encoded bytes of forwarded records applied"),
                        {});
  auto histogram = [&](prometheus::Family<Histogram>& family,
                       const Histogram::BucketBoundaries& buckets) {
    Histogram* metric = &family.Add(labels_, buckets);
    remove_.push_back([&family, metric] { family.Remove(metric); });
    return metric;
  };
  apply_seconds_ = histogram(
      HistogramFamily(registry, "replication_apply_seconds", "Time to apply one forwarded record"),
      kApplyBuckets);
  delay_seconds_ = histogram(
      HistogramFamily(registry, "replication_delay_seconds",
                      "From commit in the journal to applied, by the clocks of both machines"),
      kDelayBuckets);
  acquire_seconds_ = histogram(
      HistogramFamily(registry, "token_acquire_seconds", "From asking for the token to its grant"),
      kAcquireBuckets);
}

ReplicaMetrics::~ReplicaMetrics() {
  for (const auto& remove : remove_) remove();
}

void ReplicaMetrics::Applied(const std::string& op, uint64_t bytes, double seconds,
                             double delay_seconds) {
  apply_seconds_->Observe(seconds);
  if (delay_seconds >= 0) delay_seconds_->Observe(delay_seconds);
  applied_bytes_->Increment(static_cast<double>(bytes));
  applied_time_->Set(UnixNow());
  absl::MutexLock lock(&mu_);
  prometheus::Counter*& counter = applied_[op];
  if (counter == nullptr) counter = Keep(AppliedFamily(registry_), {{"op", op}});
  counter->Increment();
}

void ReplicaMetrics::ApplyFailed(const std::string& reason) {
  absl::MutexLock lock(&mu_);
  prometheus::Counter*& counter = apply_errors_[reason];
  if (counter == nullptr) counter = Keep(ApplyErrorsFamily(registry_), {{"reason", reason}});
  counter->Increment();
}

void ReplicaMetrics::Conflict(const std::string& kind) {
  absl::MutexLock lock(&mu_);
  prometheus::Counter*& counter = conflicts_[kind];
  if (counter == nullptr) {
    counter = Keep(CounterFamily(registry_, "conflicts_total",
                                 "Local records that met another state than they were made on"),
                   {{"kind", kind}});
  }
  counter->Increment();
}

void ReplicaMetrics::State(const std::string& state) {
  absl::MutexLock lock(&mu_);
  if (!states_.contains(state)) states_[state] = Keep(StateFamily(registry_), {{"state", state}});
  for (auto& [name, gauge] : states_) gauge->Set(name == state ? 1 : 0);
}

void ReplicaMetrics::Token(bool held, uint64_t epoch) {
  token_held_->Set(held ? 1 : 0);
  token_epoch_->Set(static_cast<double>(epoch));
}

void ReplicaMetrics::Driver(const std::string& kind, const std::string& reason) {
  absl::MutexLock lock(&mu_);
  Keep(
      GaugeFamily(registry_, "driver_info", "1 for the interceptor in use, and why it is that one"),
      {{"kind", kind}, {"reason", reason}})
      ->Set(1);
}

void ReplicaMetrics::MountUp(bool up) { mount_up_->Set(up ? 1 : 0); }

void ReplicaMetrics::Position(uint64_t applied_seq, uint64_t head_seq, uint64_t pending_records) {
  applied_seq_->Set(static_cast<double>(applied_seq));
  lag_records_->Set(head_seq > applied_seq ? static_cast<double>(head_seq - applied_seq) : 0);
  pending_records_->Set(static_cast<double>(pending_records));
}

void ReplicaMetrics::Contact(double unix_seconds) { contact_time_->Set(unix_seconds); }

void ReplicaMetrics::Acquired(double seconds) { acquire_seconds_->Observe(seconds); }

}  // namespace intermezzo::sidecar
