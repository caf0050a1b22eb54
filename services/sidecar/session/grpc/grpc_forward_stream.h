// The forward stream of one replica, over gRPC: one thread that reads, applies and acknowledges,
// so that no thread is woken between an entry's arrival and its effect. What it has not read waits
// in the transport's flow control and in the forwarder's window.
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "services/sidecar/session/links.h"

namespace intermezzo::sidecar {

// `handler` outlives it.
std::unique_ptr<ForwardStream> MakeGrpcForwardStream(std::shared_ptr<grpc::Channel> channel,
                                                     ForwardStream::Handler& handler);

}  // namespace intermezzo::sidecar
