#include "services/token-service/application.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/config/config.h"
#include "services/common/log/log.h"
#include "services/common/rpc/channel.h"
#include "services/token-service/core/monotonic_timer.h"
#include "services/token-service/core/token_server.h"
#include "services/token-service/grpc/journal_client.h"
#include "services/token-service/grpc/registry_adapter.h"
#include "services/token-service/grpc/token_adapter.h"
#include "services/token-service/metrics.h"
#include "services/token-service/registry/registry.h"
#include "services/token-service/store/token_store.h"

namespace intermezzo::token {
namespace {

absl::StatusOr<TokenLimits> ReadLimits(const config::v1::TokenServiceConfig& config) {
  TokenLimits limits;
  limits.lease = DurationOr(config.has_lease(), config.lease(), limits.lease);
  limits.minimum_hold =
      DurationOr(config.has_minimum_hold(), config.minimum_hold(), limits.minimum_hold);
  limits.recall_deadline =
      DurationOr(config.has_recall_deadline(), config.recall_deadline(), limits.recall_deadline);
  if (limits.lease < absl::Milliseconds(100) || limits.lease > absl::Hours(1)) {
    return absl::InvalidArgumentError("lease must be between 100ms and 1h");
  }
  if (limits.minimum_hold < absl::ZeroDuration() || limits.minimum_hold > limits.lease) {
    return absl::InvalidArgumentError("minimum_hold must be between 0s and the lease");
  }
  if (limits.recall_deadline <= absl::ZeroDuration() || limits.recall_deadline > absl::Hours(1)) {
    return absl::InvalidArgumentError("recall_deadline must be more than 0s and at most 1h");
  }
  return limits;
}

class ForwardToTokens final : public RegistryListener {
 public:
  explicit ForwardToTokens(TokenServer& tokens) : tokens_(tokens) {}
  void CollectionReady(const std::string& collection, uint64_t uid, Epoch floor) override {
    tokens_.AddCollection(collection, uid, floor);
  }
  Epoch CollectionGone(const std::string& collection) override {
    return tokens_.DropCollection(collection);
  }
  void ReplicaGone(const std::string& collection, const std::string& node) override {
    tokens_.DropNode(collection, node);
  }

 private:
  TokenServer& tokens_;
};

class TokenService final : public Application {
 public:
  TokenService(const config::v1::TokenServiceConfig& config, const TokenLimits& limits,
               RunnerContext& context, std::unique_ptr<TokenStore> store,
               const StoreContents& contents)
      : registry_metrics_(context.metrics),
        metrics_(*context.metrics),
        store_(std::move(store)),
        journal_(MakeChannel(config.journal_address()), JournalClientOptions{}),
        tokens_(limits, *store_, journal_, &metrics_),
        listener_(tokens_),
        registry_(RegistryOptions{.alive_after_call = 3 * limits.lease,
                                  .now = [] { return MonotonicNow(); }},
                  contents, *store_, journal_, listener_, &metrics_),
        token_adapter_(tokens_, registry_),
        registry_adapter_(registry_) {
    for (const auto& row : contents.collections) {
      if (row.phase() != storage::v1::COLLECTION_PHASE_READY) continue;
      const registry::v1::Collection& collection = row.collection();
      auto grant = contents.grants.find(collection.uid());
      if (grant != contents.grants.end()) {
        tokens_.RestoreGrant(collection.name(), grant->second);
      } else {
        tokens_.AddCollection(collection.name(), collection.uid(),
                              Epoch(contents.state.epoch_floor()));
      }
    }
  }

  // The callbacks of calls to the journal use what is destroyed next.
  ~TokenService() override { journal_.Shutdown(); }

  std::vector<grpc::Service*> Services() override { return {&token_adapter_, &registry_adapter_}; }

  void Drain(absl::Duration timeout) override {
    tokens_.Stop();
    token_adapter_.Close();
    registry_adapter_.Close();
  }

 private:
  const std::shared_ptr<prometheus::Registry> registry_metrics_;
  Metrics metrics_;
  const std::unique_ptr<TokenStore> store_;
  JournalClient journal_;
  TokenServer tokens_;
  ForwardToTokens listener_;
  Registry registry_;
  TokenAdapter token_adapter_;
  RegistryAdapter registry_adapter_;
};

// Drops the grants of collections that are no more, and makes durable that holders are promised
// leases of the present length from now on.
absl::Status TidyGrants(const StoreContents& contents, absl::Duration lease, TokenStore& store) {
  std::set<uint64_t> uids;
  for (const auto& row : contents.collections) uids.insert(row.collection().uid());
  StoreChange leftovers;
  std::vector<GrantRow> longer;
  for (const auto& [uid, grant] : contents.grants) {
    if (!uids.contains(uid)) {
      leftovers.dropped_grants.push_back(uid);
    } else if (grant.lease < lease) {
      longer.push_back(grant);
      longer.back().lease = lease;
    }
  }
  if (!leftovers.dropped_grants.empty()) {
    if (absl::Status status = store.Commit(leftovers); !status.ok()) return status;
  }
  return longer.empty() ? absl::OkStatus() : store.WriteGrants(longer);
}

}  // namespace

absl::Status CheckTokenServiceConfig(const config::v1::TokenServiceConfig& config) {
  if (absl::Status status = RequireField(config.data_dir(), "data_dir"); !status.ok()) {
    return status;
  }
  if (absl::Status status = RequireField(config.journal_address(), "journal_address");
      !status.ok()) {
    return status;
  }
  return ReadLimits(config).status();
}

absl::StatusOr<std::unique_ptr<Application>> BuildTokenService(
    const config::v1::TokenServiceConfig& config, RunnerContext& context) {
  if (absl::Status status = CheckTokenServiceConfig(config); !status.ok()) return status;
  absl::StatusOr<TokenLimits> limits = ReadLimits(config);
  if (!limits.ok()) return limits.status();
  absl::StatusOr<std::unique_ptr<TokenStore>> store = TokenStore::Open(config.data_dir());
  if (!store.ok()) return store.status();
  absl::StatusOr<StoreContents> contents = (*store)->Load();
  if (!contents.ok()) return contents.status();
  if (absl::Status status = TidyGrants(*contents, limits->lease, **store); !status.ok()) {
    return status;
  }
  log::Info("token database is open", {{"nodes", absl::StrCat(contents->nodes.size())},
                                       {"collections", absl::StrCat(contents->collections.size())},
                                       {"replicas", absl::StrCat(contents->replicas.size())}});
  return std::make_unique<TokenService>(config, *limits, context, *std::move(store), *contents);
}

}  // namespace intermezzo::token
