// The node: keeps one HostedReplica for each replica that the registry assigns to it.
//
// What the registry last said is on disk, so that a node that restarts serves while the server is
// away. One thread brings what runs in line with what is assigned, and tries again what failed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/config/v1/config.pb.h"
#include "services/common/runner/runner.h"
#include "services/sidecar/hosted_replica.h"
#include "services/sidecar/node_service/node_service.h"
#include "services/sidecar/session/grpc/registration.h"

namespace intermezzo::sidecar {

class Sidecar final : public Application,
                      private Registration::Handler,
                      private NodeService::Replicas {
 public:
  // INVALID_ARGUMENT names the field that is wrong.
  static absl::Status Validate(const config::v1::SidecarConfig& config);
  // `presto` may be empty: nothing is mounted.
  static absl::StatusOr<std::unique_ptr<Sidecar>> Build(const config::v1::SidecarConfig& config,
                                                        RunnerContext& context,
                                                        PrestoFactory presto);
  ~Sidecar() override;

  std::vector<grpc::Service*> Services() override;
  absl::Status Start(const std::string& grpc_address) override;
  void Drain(absl::Duration timeout) override;

  // The replica, or null; for tests.
  std::shared_ptr<HostedReplica> Find(const std::string& collection);

 private:
  Sidecar(const config::v1::SidecarConfig& config, RunnerContext& context, PrestoFactory presto);

  // Registration::Handler
  void Registered(Ordinal ordinal) override;
  void Assigned(const std::vector<registry::v1::Replica>& replicas) override;
  void Recalled(const std::string& collection, Epoch epoch) override;
  void Refused(const absl::Status& status) override;
  // NodeService::Replicas
  node::v1::GetNodeStatusResponse NodeStatus() override;
  std::shared_ptr<Replica> FindReplica(const std::string& collection) override;

  void Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RunSupervisor();
  // One pass; true where something failed and is to be tried again soon.
  bool Reconcile();
  absl::StatusOr<std::shared_ptr<HostedReplica>> OpenReplica(
      const storage::v1::AssignedReplica& assigned, Ordinal ordinal);

  const config::v1::SidecarConfig config_;
  const std::shared_ptr<prometheus::Registry> metrics_;
  const PrestoFactory presto_;
  std::string instance_;
  std::shared_ptr<grpc::Channel> token_;
  std::shared_ptr<grpc::Channel> journal_;
  std::shared_ptr<grpc::Channel> forwarder_;

  absl::Mutex mu_;
  storage::v1::Assignment assignment_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::shared_ptr<HostedReplica>> running_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> errors_ ABSL_GUARDED_BY(mu_);  // of those that do not run
  bool changed_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::unique_ptr<NodeService> node_service_;
  std::unique_ptr<Registration> registration_;
  std::thread supervisor_;
};

}  // namespace intermezzo::sidecar
