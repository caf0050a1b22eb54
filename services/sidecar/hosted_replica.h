// One replica with all its parts: database, lower tree, rules, session, interceptor.
//
// Owned by the sidecar. Public methods may be called from any thread, Stop once.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "intermezzo/node/v1/node.pb.h"
#include "intermezzo/storage/v1/assignment.pb.h"
#include "services/sidecar/presto/presto.h"
#include "services/sidecar/replica/replica.h"
#include "services/sidecar/session/conflict_resolver.h"
#include "services/sidecar/session/metrics.h"
#include "services/sidecar/session/replica_session.h"

namespace grpc {
class Channel;
}
namespace prometheus {
class Registry;
}

namespace intermezzo::sidecar {

class JoinServer;
class SnapshotServer;

// Makes the interceptor of a replica, not yet mounted; null where there is none (tests).
using PrestoFactory = std::function<absl::StatusOr<std::unique_ptr<Presto>>(
    Replica& replica, const std::string& mount_dir)>;

class HostedReplica {
 public:
  struct Options {
    std::string node;
    std::string instance;
    Ordinal ordinal;
    // With lower_dir and mount_dir filled in.
    storage::v1::AssignedReplica assigned;
    // Directory of this replica's database and of what joining sets aside.
    std::string data_dir;
    absl::Duration token_wait;
    absl::Duration disconnect_after;
    std::shared_ptr<grpc::Channel> token;
    std::shared_ptr<grpc::Channel> journal;
    std::shared_ptr<grpc::Channel> forwarder;
    std::shared_ptr<prometheus::Registry> metrics;
    PrestoFactory presto;
  };

  // Opens and starts. FAILED_PRECONDITION says what is wrong with directories or database.
  static absl::StatusOr<std::unique_ptr<HostedReplica>> Open(Options options);
  ~HostedReplica();

  // Hands back (see ReplicaSession::Stop), unmounts, syncs the database.
  absl::Status Stop(absl::Duration timeout);

  // After Stop: this node no longer keeps this copy up to date. Should it be assigned again, what
  // lies in the lower directory then is adopted. The database stays, for the counters in it.
  absl::Status Retire();

  const Options& options() const { return options_; }
  Replica& replica() { return *replica_; }
  ReplicaSession& session() { return *session_; }
  node::v1::ReplicaStatus status() const;

 private:
  explicit HostedReplica(Options options);
  absl::Status Init();
  absl::Status Mount();

  const Options options_;
  std::unique_ptr<ReplicaMetrics> metrics_;
  std::unique_ptr<ConflictResolver> resolver_;
  std::unique_ptr<Replica> replica_;
  std::unique_ptr<Presto> presto_;
  std::unique_ptr<JoinServer> join_server_;
  std::unique_ptr<SnapshotServer> snapshots_;
  std::unique_ptr<ReplicaSession> session_;
  bool stopped_ = false;
};

}  // namespace intermezzo::sidecar
