// Who takes part: nodes and their incarnations, collections, replicas. Everything is held in memory
// and was made durable before it is seen there.
//
// Owned by the application. Reads from any thread, at once. Changes run one after the other on a
// thread of their own (they wait for the disk); their callbacks come from it, or from the journal
// client, and must not block. Error codes are those of registry.proto.
// Destruction: first shut down the JournalControl.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/registry/v1/registry.pb.h"
#include "intermezzo/storage/v1/token_db.pb.h"
#include "services/token-service/core/edges.h"
#include "services/token-service/metrics.h"
#include "services/token-service/registry/worker.h"
#include "services/token-service/store/token_store.h"

namespace intermezzo::token {

// What the tokens must know of the registry's changes; called by the registry's thread.
class RegistryListener {
 public:
  virtual ~RegistryListener() = default;
  // In use; no epoch up to `floor` may be given.
  virtual void CollectionReady(const std::string& collection, uint64_t uid, Epoch floor) = 0;
  // Out of use; returns the last epoch given.
  virtual Epoch CollectionGone(const std::string& collection) = 0;
  virtual void ReplicaGone(const std::string& collection, const std::string& node) = 0;
};

struct RegistryOptions {
  // Without a watch stream a node counts as alive for this time after its last call.
  absl::Duration alive_after_call = absl::Seconds(30);
  // Answered mutations that are remembered.
  size_t remembered_requests = 10'000;
  // Changes that may wait for the disk; RESOURCE_EXHAUSTED beyond.
  size_t waiting_changes = 10'000;
  // Monotonic.
  std::function<absl::Time()> now;
};

class Registry {
 public:
  template <typename Response>
  using Done = std::function<void(const absl::StatusOr<Response>&)>;

  // `contents` is what the store holds. Goes on with deletions that were cut off. `metrics` may be
  // null.
  Registry(RegistryOptions options, const StoreContents& contents, TokenStore& store,
           JournalControl& journal, RegistryListener& listener, Metrics* metrics);
  ~Registry();

  void RegisterNode(const registry::v1::RegisterNodeRequest& request,
                    Done<registry::v1::RegisterNodeResponse> done);
  void CreateCollection(const registry::v1::CreateCollectionRequest& request,
                        Done<registry::v1::CreateCollectionResponse> done);
  void DeleteCollection(const registry::v1::DeleteCollectionRequest& request,
                        Done<registry::v1::DeleteCollectionResponse> done);
  void AddReplica(const registry::v1::AddReplicaRequest& request,
                  Done<registry::v1::AddReplicaResponse> done);
  void RemoveReplica(const registry::v1::RemoveReplicaRequest& request,
                     Done<registry::v1::RemoveReplicaResponse> done);

  absl::StatusOr<registry::v1::Collection> GetCollection(const std::string& name) const;
  absl::StatusOr<registry::v1::ListNodesResponse> ListNodes(
      const registry::v1::ListNodesRequest& request) const;
  absl::StatusOr<registry::v1::ListCollectionsResponse> ListCollections(
      const registry::v1::ListCollectionsRequest& request) const;
  absl::StatusOr<registry::v1::ListReplicasResponse> ListReplicas(
      const registry::v1::ListReplicasRequest& request) const;

  // FAILED_PRECONDITION: unknown node, or another instance has its name. A sign of life otherwise.
  absl::Status CheckNode(const Holder& holder);
  // As CheckNode; NOT_FOUND: no such collection; PERMISSION_DENIED: no replica of it.
  absl::Status CheckHolder(const std::string& collection, const Holder& holder);

  // Calls `changed` after each change of the node's replicas; the node is alive until Unwatch.
  // The sink may still be running when Unwatch returns. FAILED_PRECONDITION as CheckNode.
  absl::StatusOr<uint64_t> Watch(const Holder& holder, std::function<void()> changed);
  void Unwatch(uint64_t watch);
  registry::v1::WatchReplicasResponse ReplicasOf(const std::string& node) const;

 private:
  struct NodeState {
    registry::v1::Node row;
    absl::Time seen;
    int watches = 0;
  };
  struct CollectionState {
    storage::v1::CollectionRow row;
    // A call to the journal is under way.
    bool busy = false;
    // While it is being deleted: the last epoch of its token.
    Epoch last_epoch;
  };
  struct Watcher {
    std::string node;
    std::shared_ptr<std::function<void()>> changed;
  };
  using ReplicaKey = std::pair<std::string, std::string>;

  // Runs the change on the worker.
  template <typename Request, typename Response>
  void Post(const Request& request, const Done<Response>& done, std::function<void()> change);

  absl::StatusOr<registry::v1::RegisterNodeResponse> DoRegisterNode(
      const registry::v1::RegisterNodeRequest& request);
  void DoCreateCollection(const registry::v1::CreateCollectionRequest& request,
                          const Done<registry::v1::CreateCollectionResponse>& done);
  absl::StatusOr<registry::v1::CreateCollectionResponse> FinishCreate(
      const registry::v1::CreateCollectionRequest& request, const absl::Status& journal);
  void DoDeleteCollection(const registry::v1::DeleteCollectionRequest& request,
                          const Done<registry::v1::DeleteCollectionResponse>& done);
  absl::StatusOr<registry::v1::DeleteCollectionResponse> FinishDelete(
      const registry::v1::DeleteCollectionRequest& request, const absl::Status& journal);
  absl::StatusOr<registry::v1::AddReplicaResponse> DoAddReplica(
      const registry::v1::AddReplicaRequest& request);
  absl::StatusOr<registry::v1::RemoveReplicaResponse> DoRemoveReplica(
      const registry::v1::RemoveReplicaRequest& request);

  absl::Status CheckNodeLocked(const Holder& holder) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // NOT_FOUND with the names that there are.
  absl::Status NoSuchNode(const std::string& name) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  bool Alive(const NodeState& node) const;
  // Null where it is not there for its users.
  const CollectionState* Ready(const std::string& name) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // INVALID_ARGUMENT where the directories collide with those of the node's other replicas.
  absl::Status CheckCollisions(const registry::v1::Replica& replica) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void TellWatchers(const std::vector<std::string>& nodes);

  // The answer given to this request before, if any. INVALID_ARGUMENT: the id was another call's.
  template <typename Response, typename Request>
  absl::StatusOr<std::optional<Response>> Remembered(const Request& request) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Enters the answer in the change, and forgets the oldest one beyond the limit.
  template <typename Request, typename Response>
  void Remember(const Request& request, const Response& response, StoreChange& change) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // The state row that the change will write.
  storage::v1::TokenServiceRow& NextState(StoreChange& change) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Makes the change durable, then visible. Worker only.
  absl::Status Commit(const StoreChange& change) ABSL_LOCKS_EXCLUDED(mu_);
  void Apply(const StoreChange& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const RegistryOptions options_;
  TokenStore& store_;
  JournalControl& journal_;
  RegistryListener& listener_;
  Metrics* const metrics_;

  // Rows are changed by Apply only; nodes' `seen` and `watches`, and watchers_, by anybody.
  mutable absl::Mutex mu_;
  storage::v1::TokenServiceRow state_ ABSL_GUARDED_BY(mu_);
  std::map<std::pair<std::string, std::string>, uint32_t> incarnations_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, NodeState> nodes_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, CollectionState> collections_ ABSL_GUARDED_BY(mu_);
  std::map<ReplicaKey, registry::v1::Replica> replicas_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, storage::v1::RequestRow> requests_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, uint64_t> request_numbers_ ABSL_GUARDED_BY(mu_);
  uint64_t next_watch_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, Watcher> watchers_ ABSL_GUARDED_BY(mu_);

  std::unique_ptr<Worker> worker_;
};

}  // namespace intermezzo::token
