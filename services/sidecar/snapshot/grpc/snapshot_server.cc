#include "services/sidecar/snapshot/grpc/snapshot_server.h"

#include <grpcpp/client_context.h>

#include <utility>

#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "services/common/log/log.h"
#include "services/common/status/status.h"
#include "services/sidecar/snapshot/snapshot_source.h"

namespace intermezzo::sidecar {
namespace {

using forwarder::v1::ServeSnapshotRequest;
using forwarder::v1::ServeSnapshotResponse;
using forwarder::v1::SnapshotQuery;

constexpr int kMaxSnapshots = 4;

}  // namespace

SnapshotServer::SnapshotServer(std::shared_ptr<grpc::Channel> forwarder, Replica& replica)
    : forwarder_(std::move(forwarder)), replica_(replica) {}

SnapshotServer::~SnapshotServer() { Shutdown(); }

void SnapshotServer::Serve(const std::string& session_name, ReplicaSession& session) {
  absl::MutexLock lock(&mu_);
  if (shutdown_ || running_ >= kMaxSnapshots) return;
  ++running_;
  threads_.emplace_back([this, session_name, &session] {
    Run(session_name, session);
    absl::MutexLock lock(&mu_);
    --running_;
  });
}

void SnapshotServer::Shutdown() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mu_);
    shutdown_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void SnapshotServer::Run(const std::string& session_name, ReplicaSession& session) {
  const std::string& collection = replica_.options().collection.str();
  grpc::ClientContext context;
  {
    absl::MutexLock lock(&mu_);
    if (shutdown_) return;
    contexts_.insert(&context);
  }
  const auto stub = forwarder::v1::ForwarderService::NewStub(forwarder_);
  auto stream = stub->ServeSnapshot(&context);
  ServeSnapshotRequest hello;
  hello.set_session(session_name);
  absl::Status status;
  ServeSnapshotResponse response;
  const EmitPart emit = [&](forwarder::v1::SnapshotPart part) -> absl::Status {
    ServeSnapshotRequest request;
    request.mutable_part()->Swap(&part);
    return stream->Write(request) ? absl::OkStatus()
                                  : absl::CancelledError("the fetching side is gone");
  };
  if (stream->Write(hello)) {
    log::Info("serving a snapshot", {{"collection", collection}, {"session", session_name}});
    while (status.ok() && stream->Read(&response)) {
      switch (response.query().query_case()) {
        case SnapshotQuery::kTable:
          status = SendTable(replica_, session, response.query().table(), emit);
          break;
        case SnapshotQuery::kObjects:
          status = SendObjects(replica_, response.query().objects(), emit);
          break;
        case SnapshotQuery::QUERY_NOT_SET:
          break;
      }
    }
  }
  if (!status.ok()) context.TryCancel();
  const absl::Status end = FromGrpc(stream->Finish());
  if (status.ok()) status = end;
  log::Info("snapshot ended", {{"collection", collection},
                               {"session", session_name},
                               {"status", std::string(status.message())}});
  absl::MutexLock lock(&mu_);
  contexts_.erase(&context);
}

}  // namespace intermezzo::sidecar
