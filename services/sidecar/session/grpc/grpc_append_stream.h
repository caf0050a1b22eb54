// The append stream of one replica, over gRPC: a thread that reads the local journal and writes
// batches within a window, and one that reads the answers.
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "services/sidecar/replica/replica.h"
#include "services/sidecar/session/links.h"

namespace intermezzo::sidecar {

// `replica` and `handler` outlive it.
std::unique_ptr<AppendStream> MakeGrpcAppendStream(std::shared_ptr<grpc::Channel> channel,
                                                   Replica& replica,
                                                   AppendStream::Handler& handler);

}  // namespace intermezzo::sidecar
