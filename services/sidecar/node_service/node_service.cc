#include "services/sidecar/node_service/node_service.h"

#include <grpcpp/server_context.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "intermezzo/node/v1/node.grpc.pb.h"
#include "services/common/status/status.h"
#include "services/sidecar/node_service/digest_walk.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {
namespace {

// Of one message of ListDigests.
constexpr int kMaxDigests = 256;
constexpr size_t kMaxBytes = 256 * 1024;

}  // namespace

class NodeService::Impl final : public node::v1::NodeService::Service {
 public:
  explicit Impl(Replicas& replicas) : replicas_(replicas) {}

  grpc::Status GetNodeStatus(grpc::ServerContext*, const node::v1::GetNodeStatusRequest* request,
                             node::v1::GetNodeStatusResponse* response) override {
    *response = replicas_.NodeStatus();
    if (request->cut()) {
      for (const node::v1::ReplicaStatus& status : response->replicas()) {
        // Where it fails the replica has failed, and the status says so.
        if (auto replica = replicas_.FindReplica(status.collection())) (void)replica->CutAll();
      }
      *response = replicas_.NodeStatus();
    }
    return grpc::Status::OK;
  }

  grpc::Status ListDigests(grpc::ServerContext* context,
                           const node::v1::ListDigestsRequest* request,
                           grpc::ServerWriter<node::v1::ListDigestsResponse>* writer) override {
    const std::shared_ptr<Replica> replica = replicas_.FindReplica(request->collection());
    if (replica == nullptr) {
      return ToGrpc(absl::NotFoundError(
          absl::StrCat("this node has no running replica of ", request->collection())));
    }
    // What is dirty becomes records now, so that `pending` tells of it.
    if (absl::Status status = replica->CutAll(); !status.ok()) return ToGrpc(status);
    if (!writer->Write(Position(*replica))) return grpc::Status::CANCELLED;
    node::v1::ListDigestsResponse batch;
    size_t bytes = 0;
    absl::Status status = WalkDigests(*replica, [&](node::v1::Digest digest) {
      bytes += digest.ByteSizeLong();
      batch.add_digests()->Swap(&digest);
      if (batch.digests_size() < kMaxDigests && bytes < kMaxBytes) return !context->IsCancelled();
      const bool written = writer->Write(batch);
      batch.Clear();
      bytes = 0;
      return written;
    });
    if (!status.ok()) return ToGrpc(status);
    if (batch.digests_size() > 0) writer->Write(batch);
    writer->Write(Position(*replica));
    return grpc::Status::OK;
  }

 private:
  static node::v1::ListDigestsResponse Position(Replica& replica) {
    node::v1::ListDigestsResponse response;
    response.set_cursor(replica.cursor().value());
    response.set_pending(replica.pending_records() > 0);
    return response;
  }

  Replicas& replicas_;
};

NodeService::NodeService(Replicas& replicas) : impl_(std::make_unique<Impl>(replicas)) {}
NodeService::~NodeService() = default;
grpc::Service* NodeService::service() { return impl_.get(); }

}  // namespace intermezzo::sidecar
