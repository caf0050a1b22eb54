#include "services/journal-service/metrics.h"

#include <string>
#include <utility>

#include "services/journal-service/core/refusal.h"

namespace intermezzo::journal {
namespace {

const prometheus::Histogram::BucketBoundaries kSeconds = {
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
    0.025,   0.05,   0.1,     0.25,   0.5,   1,      2.5,   5};

prometheus::Family<prometheus::Gauge>& Gauge(prometheus::Registry& registry, const char* name,
                                             const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Counter>& Counter(prometheus::Registry& registry, const char* name,
                                                 const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Histogram>& Histogram(prometheus::Registry& registry,
                                                     const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

}  // namespace

JournalMetrics::JournalMetrics(std::shared_ptr<prometheus::Registry> registry)
    : registry_(std::move(registry)),
      sync_seconds_(Histogram(*registry_, "intermezzo_journal_fsync_seconds",
                              "Duration of one synced write of a group of changes.")
                        .Add({}, kSeconds)),
      head_sequence_(Gauge(*registry_, "intermezzo_journal_head_sequence",
                           "Seq of the journal's last entry.")),
      tail_sequence_(Gauge(*registry_, "intermezzo_journal_tail_sequence",
                           "Seq of the first entry still kept.")),
      size_bytes_(Gauge(*registry_, "intermezzo_journal_size_bytes",
                        "Encoded bytes of the entries still kept.")),
      epoch_(Gauge(*registry_, "intermezzo_journal_epoch", "Lowest epoch accepted.")),
      subscribers_(Gauge(*registry_, "intermezzo_journal_subscribers", "Tailing readers.")),
      append_seconds_(Histogram(*registry_, "intermezzo_journal_append_seconds",
                                "From a batch's arrival until it was durable.")),
      records_(
          Counter(*registry_, "intermezzo_journal_appended_records_total", "Records appended.")),
      bytes_(Counter(*registry_, "intermezzo_journal_appended_bytes_total",
                     "Encoded bytes of records and payloads appended.")),
      stale_epochs_(Counter(*registry_, "intermezzo_journal_stale_epoch_rejections_total",
                            "Batches refused because their epoch was below the fence.")),
      refused_(Counter(*registry_, "intermezzo_journal_refused_batches_total",
                       "Batches refused for another reason: conflict, gap, other.")) {}

JournalMetrics::Collection& JournalMetrics::Of(const CollectionName& name) {
  auto it = collections_.find(name);
  if (it != collections_.end()) return it->second;
  const std::map<std::string, std::string> label = {{"collection", name.str()}};
  const auto refused = [&](const char* reason) {
    return &refused_.Add({{"collection", name.str()}, {"reason", reason}});
  };
  return collections_
      .emplace(name, Collection{&head_sequence_.Add(label), &tail_sequence_.Add(label),
                                &size_bytes_.Add(label), &epoch_.Add(label),
                                &subscribers_.Add(label), &append_seconds_.Add(label, kSeconds),
                                &records_.Add(label), &bytes_.Add(label), &stale_epochs_.Add(label),
                                refused("conflict"), refused("gap"), refused("other")})
      .first->second;
}

void JournalMetrics::OnSync(absl::Duration took) {
  sync_seconds_.Observe(absl::ToDoubleSeconds(took));
}

void JournalMetrics::OnAppend(const CollectionName& name, absl::Duration took, uint64_t records,
                              uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  Collection& collection = Of(name);
  collection.append_seconds->Observe(absl::ToDoubleSeconds(took));
  collection.records->Increment(static_cast<double>(records));
  collection.bytes->Increment(static_cast<double>(bytes));
}

void JournalMetrics::OnRefused(const CollectionName& name, const absl::Status& status) {
  const auto refusal = RefusalOf(status);
  const auto reason = refusal ? refusal->reason() : v1::APPEND_REFUSAL_REASON_UNSPECIFIED;
  absl::MutexLock lock(&mu_);
  Collection& collection = Of(name);
  switch (reason) {
    case v1::APPEND_REFUSAL_REASON_STALE_EPOCH:
      return collection.stale_epochs->Increment();
    case v1::APPEND_REFUSAL_REASON_GAP:
      return collection.gaps->Increment();
    case v1::APPEND_REFUSAL_REASON_VERSION:
    case v1::APPEND_REFUSAL_REASON_STRUCTURE:
      return collection.conflicts->Increment();
    default:
      return collection.other_refusals->Increment();
  }
}

void JournalMetrics::OnState(const CollectionName& name, const JournalState& state) {
  absl::MutexLock lock(&mu_);
  Collection& collection = Of(name);
  collection.head_sequence->Set(static_cast<double>(state.head.value()));
  collection.tail_sequence->Set(static_cast<double>(state.first.value()));
  collection.size_bytes->Set(static_cast<double>(state.head_bytes - state.trimmed_bytes));
  collection.epoch->Set(static_cast<double>(state.epoch.value()));
}

void JournalMetrics::OnDeleted(const CollectionName& name) {
  absl::MutexLock lock(&mu_);
  auto it = collections_.find(name);
  if (it == collections_.end()) return;
  const Collection& collection = it->second;
  head_sequence_.Remove(collection.head_sequence);
  tail_sequence_.Remove(collection.tail_sequence);
  size_bytes_.Remove(collection.size_bytes);
  epoch_.Remove(collection.epoch);
  subscribers_.Remove(collection.subscribers);
  append_seconds_.Remove(collection.append_seconds);
  records_.Remove(collection.records);
  bytes_.Remove(collection.bytes);
  stale_epochs_.Remove(collection.stale_epochs);
  refused_.Remove(collection.conflicts);
  refused_.Remove(collection.gaps);
  refused_.Remove(collection.other_refusals);
  collections_.erase(it);
}

void JournalMetrics::OnSubscriber(const CollectionName& name, int change) {
  absl::MutexLock lock(&mu_);
  // A reader may leave after its collection was deleted.
  auto it = collections_.find(name);
  if (it == collections_.end() && change < 0) return;
  Of(name).subscribers->Increment(change);
}

}  // namespace intermezzo::journal
