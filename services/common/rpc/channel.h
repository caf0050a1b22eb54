// Client channels: one way to make them, with our message limit, keepalive and backoff.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "services/common/rpc/keepalive.h"

namespace intermezzo {

// Plaintext channel to "host:port"; connects lazily, reconnects by itself (backoff 50 ms to 2 s).
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           Keepalive keepalive = kKeepalive);

}  // namespace intermezzo
