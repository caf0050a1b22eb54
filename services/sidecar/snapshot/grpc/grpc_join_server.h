// The server as a joining replica sees it, over gRPC.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "services/sidecar/snapshot/joiner.h"

namespace intermezzo::sidecar {

std::unique_ptr<JoinServer> MakeGrpcJoinServer(std::shared_ptr<grpc::Channel> journal,
                                               std::shared_ptr<grpc::Channel> forwarder,
                                               std::string collection, std::string node);

}  // namespace intermezzo::sidecar
