#include "services/forwarder-service/grpc/forwarder_service.h"

#include <functional>
#include <utility>

#include "services/common/log/log.h"
#include "services/forwarder-service/grpc/collection.h"
#include "services/forwarder-service/grpc/directory.h"
#include "services/forwarder-service/grpc/forward_stream.h"
#include "services/forwarder-service/grpc/journal_poller.h"
#include "services/forwarder-service/grpc/progress_calls.h"
#include "services/forwarder-service/grpc/snapshot_sessions.h"
#include "services/forwarder-service/metrics.h"

namespace intermezzo::forwarder {
namespace {

std::shared_ptr<Environment> MakeEnvironment(
    Options options, std::unique_ptr<journal::v1::JournalService::StubInterface> journal,
    std::unique_ptr<registry::v1::RegistryService::StubInterface> registry) {
  auto environment = std::make_shared<Environment>();
  environment->options = std::move(options);
  environment->journal = std::move(journal);
  environment->snapshots = std::make_unique<SnapshotSessions>();
  environment->directory = std::make_unique<Directory>(std::move(registry), environment->options);
  return environment;
}

}  // namespace

ForwarderServiceImpl::ForwarderServiceImpl(
    Options options, std::unique_ptr<journal::v1::JournalService::StubInterface> journal,
    std::unique_ptr<registry::v1::RegistryService::StubInterface> registry,
    prometheus::Registry& metrics)
    : environment_(MakeEnvironment(std::move(options), std::move(journal), std::move(registry))),
      metrics_(std::make_unique<Metrics>(metrics)),
      poller_(std::make_unique<JournalPoller>(*environment_)) {
  environment_->directory->Start();
  poller_->Start();
  Tick();
}

ForwarderServiceImpl::~ForwarderServiceImpl() {
  environment_->calls->CloseAll(absl::UnavailableError("the forwarder is stopping"));
  poller_->Stop();
  environment_->directory->Stop();
  if (!environment_->calls->AwaitNone(absl::Seconds(10))) {
    log::Error("calls are still open at the end");
  }
  environment_->timers.Stop();
}

void ForwarderServiceImpl::Drain(absl::Duration timeout) {
  environment_->calls->CloseAll(
      absl::UnavailableError("the forwarder is stopping, connect again later"));
  environment_->calls->AwaitNone(timeout);
}

void ForwarderServiceImpl::Tick() {
  std::vector<std::shared_ptr<Collection>> all = environment_->directory->All();
  for (const auto& collection : all) collection->Tick();
  metrics_->Update(all);
  // Twice a period: whatever was sent just after one tick, each period has a message.
  environment_->timers.After(environment_->options.heartbeat / 2, [this] { Tick(); });
}

grpc::ServerBidiReactor<v1::ForwardRequest, v1::ForwardResponse>* ForwarderServiceImpl::Forward(
    grpc::CallbackServerContext* context) {
  return ForwardStream::Start(environment_, context);
}

grpc::ServerBidiReactor<v1::FetchSnapshotRequest, v1::FetchSnapshotResponse>*
ForwarderServiceImpl::FetchSnapshot(grpc::CallbackServerContext* context) {
  return StartFetchSnapshot(environment_, context);
}

grpc::ServerBidiReactor<v1::ServeSnapshotRequest, v1::ServeSnapshotResponse>*
ForwarderServiceImpl::ServeSnapshot(grpc::CallbackServerContext* context) {
  return StartServeSnapshot(environment_, context);
}

grpc::ServerUnaryReactor* ForwarderServiceImpl::ListReplicaProgress(
    grpc::CallbackServerContext* context, const v1::ListReplicaProgressRequest* request,
    v1::ListReplicaProgressResponse* response) {
  return StartListReplicaProgress(environment_, request, response);
}

grpc::ServerUnaryReactor* ForwarderServiceImpl::WaitReplicas(grpc::CallbackServerContext* context,
                                                             const v1::WaitReplicasRequest* request,
                                                             v1::WaitReplicasResponse* response) {
  return StartWaitReplicas(environment_, request, response);
}

}  // namespace intermezzo::forwarder
