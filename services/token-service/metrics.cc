#include "services/token-service/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/synchronization/mutex.h"

namespace intermezzo::token {
namespace {

const prometheus::Histogram::BucketBoundaries kAcquireBuckets = {
    .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30};

}  // namespace

struct Metrics::Families {
  struct PerCollection {
    prometheus::Gauge* holder = nullptr;
    std::string holder_name;
    prometheus::Gauge* epoch = nullptr;
    prometheus::Histogram* acquire = nullptr;
    prometheus::Counter* recalls = nullptr;
    prometheus::Counter* expirations = nullptr;
    prometheus::Counter* fence_failures = nullptr;
  };

  explicit Families(prometheus::Registry& registry)
      : holder(prometheus::BuildGauge()
                   .Name("intermezzo_token_holder_info")
                   .Help("1 for the node that holds the collection's write token")
                   .Register(registry)),
        epoch(prometheus::BuildGauge()
                  .Name("intermezzo_token_epoch")
                  .Help("Last epoch granted")
                  .Register(registry)),
        acquire(prometheus::BuildHistogram()
                    .Name("intermezzo_token_acquire_seconds")
                    .Help("From a node's call to the grant of the token")
                    .Register(registry)),
        requests(prometheus::BuildCounter()
                     .Name("intermezzo_token_requests_total")
                     .Help("Calls by method and result")
                     .Register(registry)),
        recalls(prometheus::BuildCounter()
                    .Name("intermezzo_token_recalls_total")
                    .Help("Recalls sent to holders")
                    .Register(registry)),
        expirations(prometheus::BuildCounter()
                        .Name("intermezzo_token_expirations_total")
                        .Help("Holders that lost the token by the end of their lease")
                        .Register(registry)),
        fence_failures(prometheus::BuildCounter()
                           .Name("intermezzo_token_fence_failures_total")
                           .Help("Fences that the journal-service did not confirm")
                           .Register(registry)),
        nodes(prometheus::BuildGauge()
                  .Name("intermezzo_nodes_connected")
                  .Help("Nodes whose watch stream is open")
                  .Register(registry)
                  .Add({})) {}

  PerCollection& Of(const std::string& collection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    auto [it, added] = collections.try_emplace(collection);
    if (added) {
      const prometheus::Labels labels{{"collection", collection}};
      it->second.epoch = &epoch.Add(labels);
      it->second.acquire = &acquire.Add(labels, kAcquireBuckets);
      it->second.recalls = &recalls.Add(labels);
      it->second.expirations = &expirations.Add(labels);
      it->second.fence_failures = &fence_failures.Add(labels);
    }
    return it->second;
  }

  prometheus::Family<prometheus::Gauge>& holder;
  prometheus::Family<prometheus::Gauge>& epoch;
  prometheus::Family<prometheus::Histogram>& acquire;
  prometheus::Family<prometheus::Counter>& requests;
  prometheus::Family<prometheus::Counter>& recalls;
  prometheus::Family<prometheus::Counter>& expirations;
  prometheus::Family<prometheus::Counter>& fence_failures;
  prometheus::Gauge& nodes;

  absl::Mutex mu;
  std::map<std::string, PerCollection> collections ABSL_GUARDED_BY(mu);
};

Metrics::Metrics(prometheus::Registry& registry)
    : families_(std::make_unique<Families>(registry)) {}
Metrics::~Metrics() = default;

void Metrics::SetHolder(const std::string& collection, const std::string& holder, uint64_t epoch) {
  absl::MutexLock lock(&families_->mu);
  Families::PerCollection& of = families_->Of(collection);
  of.epoch->Set(static_cast<double>(epoch));
  if (of.holder != nullptr && of.holder_name != holder) {
    families_->holder.Remove(of.holder);
    of.holder = nullptr;
  }
  if (of.holder == nullptr && !holder.empty()) {
    of.holder = &families_->holder.Add({{"collection", collection}, {"holder", holder}});
    of.holder->Set(1);
  }
  of.holder_name = holder;
}

void Metrics::DropCollection(const std::string& collection) {
  absl::MutexLock lock(&families_->mu);
  auto it = families_->collections.find(collection);
  if (it == families_->collections.end()) return;
  if (it->second.holder != nullptr) families_->holder.Remove(it->second.holder);
  families_->epoch.Remove(it->second.epoch);
  families_->acquire.Remove(it->second.acquire);
  families_->recalls.Remove(it->second.recalls);
  families_->expirations.Remove(it->second.expirations);
  families_->fence_failures.Remove(it->second.fence_failures);
  families_->collections.erase(it);
}

void Metrics::Acquired(const std::string& collection, absl::Duration waited) {
  absl::MutexLock lock(&families_->mu);
  families_->Of(collection).acquire->Observe(absl::ToDoubleSeconds(waited));
}

void Metrics::Request(std::string_view method, absl::StatusCode code) {
  families_->requests
      .Add({{"method", std::string(method)},
            {"result", absl::AsciiStrToLower(absl::StatusCodeToString(code))}})
      .Increment();
}

void Metrics::Recalled(const std::string& collection) {
  absl::MutexLock lock(&families_->mu);
  families_->Of(collection).recalls->Increment();
}

void Metrics::Expired(const std::string& collection) {
  absl::MutexLock lock(&families_->mu);
  families_->Of(collection).expirations->Increment();
}

void Metrics::FenceFailed(const std::string& collection) {
  absl::MutexLock lock(&families_->mu);
  families_->Of(collection).fence_failures->Increment();
}

void Metrics::SetNodesConnected(int nodes) { families_->nodes.Set(nodes); }

}  // namespace intermezzo::token
