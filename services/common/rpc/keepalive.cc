#include "services/common/rpc/keepalive.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

namespace intermezzo {
namespace {

// `set`(name, value) for what both ends have.
template <typename Set>
void SetBoth(const Keepalive& keepalive, Set set) {
  set(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive.time_ms);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive.timeout_ms);
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Streams that wait send nothing for long: pings are not for busy ones only.
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

}  // namespace

void SetKeepalive(grpc::ChannelArguments& arguments, Keepalive keepalive) {
  SetBoth(keepalive, [&](const char* name, int value) { arguments.SetInt(name, value); });
}

void SetKeepalive(grpc::ServerBuilder& builder, Keepalive keepalive) {
  SetBoth(keepalive, [&](const char* name, int value) { builder.AddChannelArgument(name, value); });
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             keepalive.time_ms / 2);
}

}  // namespace intermezzo
