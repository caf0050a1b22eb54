// Serves snapshots when the forwarder orders it: one thread for each, at most a few at once.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/sidecar/replica/replica.h"
#include "services/sidecar/session/replica_session.h"

namespace grpc {
class ClientContext;
}

namespace intermezzo::sidecar {

class SnapshotServer {
 public:
  // `replica` outlives it.
  SnapshotServer(std::shared_ptr<grpc::Channel> forwarder, Replica& replica);
  ~SnapshotServer();

  // Answers the fetching side of `session_name` until that ends. Returns at once; an order beyond
  // the limit is left unanswered, and the forwarder asks another replica.
  void Serve(const std::string& session_name, ReplicaSession& session);
  // Ends all. Before the session is destroyed.
  void Shutdown();

 private:
  void Run(const std::string& session_name, ReplicaSession& session);

  const std::shared_ptr<grpc::Channel> forwarder_;
  Replica& replica_;

  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::sidecar
