// ForwarderService over gRPC. Owns the threads and everything else of the process; outlives the
// server that it is registered with.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "services/forwarder-service/grpc/environment.h"

namespace prometheus {
class Registry;
}

namespace intermezzo::forwarder {

class JournalPoller;
class Metrics;

class ForwarderServiceImpl final : public v1::ForwarderService::CallbackService {
 public:
  ForwarderServiceImpl(Options options,
                       std::unique_ptr<journal::v1::JournalService::StubInterface> journal,
                       std::unique_ptr<registry::v1::RegistryService::StubInterface> registry,
                       prometheus::Registry& metrics);
  ~ForwarderServiceImpl() override;

  // Ends every call with UNAVAILABLE, also those that still come, and waits at most `timeout` for
  // them to be over. Idempotent.
  void Drain(absl::Duration timeout);

  grpc::ServerBidiReactor<v1::ForwardRequest, v1::ForwardResponse>* Forward(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<v1::FetchSnapshotRequest, v1::FetchSnapshotResponse>* FetchSnapshot(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<v1::ServeSnapshotRequest, v1::ServeSnapshotResponse>* ServeSnapshot(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* ListReplicaProgress(grpc::CallbackServerContext* context,
                                                const v1::ListReplicaProgressRequest* request,
                                                v1::ListReplicaProgressResponse* response) override;
  grpc::ServerUnaryReactor* WaitReplicas(grpc::CallbackServerContext* context,
                                         const v1::WaitReplicasRequest* request,
                                         v1::WaitReplicasResponse* response) override;

 private:
  void Tick();

  const std::shared_ptr<Environment> environment_;
  const std::unique_ptr<Metrics> metrics_;  // only the timers' thread
  const std::unique_ptr<JournalPoller> poller_;
};

}  // namespace intermezzo::forwarder
