// RegistryService over gRPC. Owned by the application; `registry` outlives the gRPC server.
#pragma once

#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "services/token-service/grpc/stream_set.h"
#include "services/token-service/registry/registry.h"

namespace intermezzo::token {

class RegistryAdapter final : public registry::v1::RegistryService::CallbackService {
 public:
  explicit RegistryAdapter(Registry& registry) : registry_(registry) {}

  grpc::ServerUnaryReactor* RegisterNode(grpc::CallbackServerContext* context,
                                         const registry::v1::RegisterNodeRequest* request,
                                         registry::v1::RegisterNodeResponse* response) override;
  grpc::ServerWriteReactor<registry::v1::WatchReplicasResponse>* WatchReplicas(
      grpc::CallbackServerContext* context,
      const registry::v1::WatchReplicasRequest* request) override;
  grpc::ServerUnaryReactor* ListNodes(grpc::CallbackServerContext* context,
                                      const registry::v1::ListNodesRequest* request,
                                      registry::v1::ListNodesResponse* response) override;
  grpc::ServerUnaryReactor* CreateCollection(
      grpc::CallbackServerContext* context, const registry::v1::CreateCollectionRequest* request,
      registry::v1::CreateCollectionResponse* response) override;
  grpc::ServerUnaryReactor* GetCollection(grpc::CallbackServerContext* context,
                                          const registry::v1::GetCollectionRequest* request,
                                          registry::v1::GetCollectionResponse* response) override;
  grpc::ServerUnaryReactor* ListCollections(
      grpc::CallbackServerContext* context, const registry::v1::ListCollectionsRequest* request,
      registry::v1::ListCollectionsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteCollection(
      grpc::CallbackServerContext* context, const registry::v1::DeleteCollectionRequest* request,
      registry::v1::DeleteCollectionResponse* response) override;
  grpc::ServerUnaryReactor* AddReplica(grpc::CallbackServerContext* context,
                                       const registry::v1::AddReplicaRequest* request,
                                       registry::v1::AddReplicaResponse* response) override;
  grpc::ServerUnaryReactor* RemoveReplica(grpc::CallbackServerContext* context,
                                          const registry::v1::RemoveReplicaRequest* request,
                                          registry::v1::RemoveReplicaResponse* response) override;
  grpc::ServerUnaryReactor* ListReplicas(grpc::CallbackServerContext* context,
                                         const registry::v1::ListReplicasRequest* request,
                                         registry::v1::ListReplicasResponse* response) override;

  // Ends the streams.
  void Close() { streams_.Close(); }

 private:
  Registry& registry_;
  StreamSet<registry::v1::WatchReplicasResponse> streams_;
};

}  // namespace intermezzo::token
