// The token of one collection, over gRPC.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "services/sidecar/session/links.h"

namespace intermezzo::sidecar {

std::unique_ptr<TokenClient> MakeGrpcTokenClient(std::shared_ptr<grpc::Channel> channel,
                                                 std::string collection, std::string node,
                                                 std::string instance);

}  // namespace intermezzo::sidecar
