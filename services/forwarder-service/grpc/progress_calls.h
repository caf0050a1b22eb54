// The reactors of ListReplicaProgress and WaitReplicas.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>

#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/forwarder-service/grpc/environment.h"

namespace intermezzo::forwarder {

grpc::ServerUnaryReactor* StartListReplicaProgress(std::shared_ptr<Environment> environment,
                                                   const v1::ListReplicaProgressRequest* request,
                                                   v1::ListReplicaProgressResponse* response);
grpc::ServerUnaryReactor* StartWaitReplicas(std::shared_ptr<Environment> environment,
                                            const v1::WaitReplicasRequest* request,
                                            v1::WaitReplicasResponse* response);

}  // namespace intermezzo::forwarder
