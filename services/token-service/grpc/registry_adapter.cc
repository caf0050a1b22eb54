#include "services/token-service/grpc/registry_adapter.h"

#include <atomic>
#include <memory>
#include <utility>

#include "services/common/status/status.h"

namespace intermezzo::token {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

// Answers now.
template <typename Response>
ServerUnaryReactor* Answered(CallbackServerContext* context, const absl::StatusOr<Response>& result,
                             Response* response) {
  if (result.ok()) *response = *result;
  ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(result.status()));
  return reactor;
}

// Answers when the change is made.
template <typename Response>
Registry::Done<Response> AnswerLater(ServerUnaryReactor* reactor, Response* response) {
  return [reactor, response](const absl::StatusOr<Response>& result) {
    if (result.ok()) *response = *result;
    reactor->Finish(ToGrpc(result.status()));
  };
}

}  // namespace

ServerUnaryReactor* RegistryAdapter::RegisterNode(CallbackServerContext* context,
                                                  const registry::v1::RegisterNodeRequest* request,
                                                  registry::v1::RegisterNodeResponse* response) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  registry_.RegisterNode(*request, AnswerLater(reactor, response));
  return reactor;
}

grpc::ServerWriteReactor<registry::v1::WatchReplicasResponse>* RegistryAdapter::WatchReplicas(
    CallbackServerContext* context, const registry::v1::WatchReplicasRequest* request) {
  using Response = registry::v1::WatchReplicasResponse;
  auto changed = std::make_shared<std::atomic<bool>>(true);
  auto stream =
      WatchStream<Response>::Make([this, changed, node = request->node()](Response& next) {
        if (!changed->exchange(false)) return false;
        next = registry_.ReplicasOf(node);
        return true;
      });
  absl::StatusOr<uint64_t> watch =
      registry_.Watch(Holder{request->node(), request->instance()}, [changed, stream] {
        *changed = true;
        stream->Wake();
      });
  if (!watch.ok()) {
    stream->End(watch.status());
    return stream.get();
  }
  const uint64_t open = streams_.Add(stream);
  stream->SetOver([this, id = *watch, open] {
    registry_.Unwatch(id);
    streams_.Remove(open);
  });
  stream->Wake();
  return stream.get();
}

ServerUnaryReactor* RegistryAdapter::ListNodes(CallbackServerContext* context,
                                               const registry::v1::ListNodesRequest* request,
                                               registry::v1::ListNodesResponse* response) {
  return Answered(context, registry_.ListNodes(*request), response);
}

ServerUnaryReactor* RegistryAdapter::CreateCollection(
    CallbackServerContext* context, const registry::v1::CreateCollectionRequest* request,
    registry::v1::CreateCollectionResponse* response) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  registry_.CreateCollection(*request, AnswerLater(reactor, response));
  return reactor;
}

ServerUnaryReactor* RegistryAdapter::GetCollection(
    CallbackServerContext* context, const registry::v1::GetCollectionRequest* request,
    registry::v1::GetCollectionResponse* response) {
  absl::StatusOr<registry::v1::Collection> collection = registry_.GetCollection(request->name());
  return Answered(context, collection, response->mutable_collection());
}

ServerUnaryReactor* RegistryAdapter::ListCollections(
    CallbackServerContext* context, const registry::v1::ListCollectionsRequest* request,
    registry::v1::ListCollectionsResponse* response) {
  return Answered(context, registry_.ListCollections(*request), response);
}

ServerUnaryReactor* RegistryAdapter::DeleteCollection(
    CallbackServerContext* context, const registry::v1::DeleteCollectionRequest* request,
    registry::v1::DeleteCollectionResponse* response) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  registry_.DeleteCollection(*request, AnswerLater(reactor, response));
  return reactor;
}

ServerUnaryReactor* RegistryAdapter::AddReplica(CallbackServerContext* context,
                                                const registry::v1::AddReplicaRequest* request,
                                                registry::v1::AddReplicaResponse* response) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  registry_.AddReplica(*request, AnswerLater(reactor, response));
  return reactor;
}

ServerUnaryReactor* RegistryAdapter::RemoveReplica(
    CallbackServerContext* context, const registry::v1::RemoveReplicaRequest* request,
    registry::v1::RemoveReplicaResponse* response) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  registry_.RemoveReplica(*request, AnswerLater(reactor, response));
  return reactor;
}

ServerUnaryReactor* RegistryAdapter::ListReplicas(CallbackServerContext* context,
                                                  const registry::v1::ListReplicasRequest* request,
                                                  registry::v1::ListReplicasResponse* response) {
  return Answered(context, registry_.ListReplicas(*request), response);
}

}  // namespace intermezzo::token
