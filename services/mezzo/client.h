// The services as mezzo sees them: connections, time limits, errors that say which service at which
// address said what. Lists come whole: paging is done here.
//
// Every call waits at most the RPC timeout (calls that take a timeout of their own: that one) and
// returns the service's code; the message starts with "<service> at <address>:". UNAVAILABLE: not
// reached, or it cannot serve now. Safe from any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "intermezzo/journal/v1/journal.pb.h"
#include "intermezzo/node/v1/node.pb.h"
#include "intermezzo/registry/v1/registry.pb.h"
#include "intermezzo/token/v1/token.pb.h"
#include "services/mezzo/digest_compare.h"
#include "services/mezzo/settings.h"

namespace intermezzo::mezzo {

class Client {
 public:
  Client(Addresses addresses, absl::Duration rpc_timeout);
  ~Client();

  const Addresses& addresses() const { return addresses_; }

  absl::StatusOr<registry::v1::ListNodesResponse> ListNodes();
  absl::StatusOr<registry::v1::ListCollectionsResponse> ListCollections();
  // The replicas of `collection`, of all where it is empty.
  absl::StatusOr<registry::v1::ListReplicasResponse> ListReplicas(const std::string& collection);
  absl::StatusOr<registry::v1::Collection> GetCollection(const std::string& name);
  absl::StatusOr<registry::v1::Collection> CreateCollection(registry::v1::Collection collection);
  absl::Status DeleteCollection(const std::string& name, bool force);
  absl::StatusOr<registry::v1::Replica> AddReplica(registry::v1::Replica replica);
  absl::Status RemoveReplica(const std::string& collection, const std::string& node);

  absl::StatusOr<token::v1::Token> GetToken(const std::string& collection);
  // The grant of that epoch.
  absl::Status RecallToken(const std::string& collection, bool force, uint64_t epoch);

  absl::StatusOr<journal::v1::Journal> GetJournal(const std::string& collection);
  // At most `count` entries from `from_seq` on, without payloads.
  absl::StatusOr<journal::v1::ListEntriesResponse> ListEntries(const std::string& collection,
                                                               uint64_t from_seq, int count);
  // Calls `receive` with each message until it returns false (OK), or the stream breaks.
  absl::Status Subscribe(const journal::v1::SubscribeRequest& request,
                         const std::function<bool(const journal::v1::SubscribeResponse&)>& receive);

  absl::StatusOr<forwarder::v1::ListReplicaProgressResponse> ListReplicaProgress(
      const std::string& collection);
  // DEADLINE_EXCEEDED: not every replica had it in time.
  absl::StatusOr<uint64_t> WaitReplicas(const std::string& collection, uint64_t seq,
                                        absl::Duration timeout);

  // `cut`: what was written there and is not journaled yet becomes records first.
  absl::StatusOr<node::v1::GetNodeStatusResponse> GetNodeStatus(const registry::v1::Node& node,
                                                                bool cut = false);
  std::unique_ptr<DigestStream> ListDigests(const registry::v1::Node& node,
                                            const std::string& collection, absl::Duration timeout);

 private:
  struct Stubs;
  struct NodeStub;

  std::shared_ptr<NodeStub> NodeAt(const registry::v1::Node& node);

  // Constant after construction.
  const Addresses addresses_;
  const absl::Duration rpc_timeout_;
  const std::unique_ptr<Stubs> stubs_;

  absl::Mutex mu_;
  // By address.
  std::map<std::string, std::shared_ptr<NodeStub>> nodes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::mezzo
