// Snapshots on their way from a live replica (ServeSnapshot) to a joining one (FetchSnapshot). The
// forwarder picks the source, orders it on its Forward stream to call, and relays: one message at a
// time in either direction, the next being read only when the last was written, so that each side's
// pace is the other's and nothing gathers here. The end of one side ends the other.
//
// The joining replica's half-close means that it has all it wants. Sessions are known by a random
// name of 128 bits that only the chosen source is told.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/forwarder-service/grpc/environment.h"

namespace intermezzo::forwarder {

class SnapshotRelay;

// The sessions that wait for their source. Safe from any thread.
class SnapshotSessions {
 public:
  // A new session name for the relay.
  std::string Add(std::weak_ptr<SnapshotRelay> relay);
  // The relay of that name, which is then used up. Null where there is none.
  std::shared_ptr<SnapshotRelay> Take(const std::string& session);
  void Remove(const std::string& session);

 private:
  absl::Mutex mu_;
  std::map<std::string, std::weak_ptr<SnapshotRelay>> waiting_ ABSL_GUARDED_BY(mu_);
};

// The reactors of new calls.
grpc::ServerBidiReactor<v1::FetchSnapshotRequest, v1::FetchSnapshotResponse>* StartFetchSnapshot(
    std::shared_ptr<Environment> environment, grpc::CallbackServerContext* context);
grpc::ServerBidiReactor<v1::ServeSnapshotRequest, v1::ServeSnapshotResponse>* StartServeSnapshot(
    std::shared_ptr<Environment> environment, grpc::CallbackServerContext* context);

}  // namespace intermezzo::forwarder
