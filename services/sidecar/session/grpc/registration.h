// The node's own relation to the server: registers, watches which replicas it is to have, and
// watches recalls of its tokens. Retries for ever; what it last heard stays in force meanwhile.
//
// Owned by the sidecar. Two threads call the handler, one for each of its two kinds of calls.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/registry/v1/registry.pb.h"
#include "services/common/types/numbers.h"

namespace grpc {
class ClientContext;
}

namespace intermezzo::sidecar {

class Registration {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    // The registry gave (again) this node's ordinal.
    virtual void Registered(Ordinal ordinal) = 0;
    // The node's whole list, in force until the next one.
    virtual void Assigned(const std::vector<registry::v1::Replica>& replicas) = 0;
    virtual void Recalled(const std::string& collection, Epoch epoch) = 0;
    // The registry refuses this node (another instance has its name, another protocol version).
    virtual void Refused(const absl::Status& status) = 0;
  };

  // `address`: host:port of this node's NodeService. `handler` outlives it.
  Registration(std::shared_ptr<grpc::Channel> channel, std::string node, std::string instance,
               std::string address, Handler& handler);
  ~Registration();

  void Start();
  // Ends both threads. Not from a Handler's method.
  void Shutdown();

 private:
  void RunRegistry();
  void RunRecalls();
  absl::Status Register(grpc::ClientContext* context);
  absl::Status WatchReplicas(grpc::ClientContext* context, bool* heard);
  absl::Status WatchRecalls(grpc::ClientContext* context, bool* heard);
  // A call under way, for Shutdown to cancel, as long as this lives.
  class Call;
  // Waits before the next try; false: shut down.
  bool Wait(absl::Duration* backoff, bool heard);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::string node_;
  const std::string instance_;
  const std::string address_;
  Handler& handler_;

  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  bool registered_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* registry_context_ ABSL_GUARDED_BY(mu_) = nullptr;
  grpc::ClientContext* recalls_context_ ABSL_GUARDED_BY(mu_) = nullptr;

  std::thread registry_thread_;
  std::thread recalls_thread_;
};

}  // namespace intermezzo::sidecar
