// absl::Status to and from grpc::Status and errno: the only conversions there are.
#pragma once

#include <grpcpp/support/status.h>

#include <string_view>

#include "absl/status/status.h"

namespace intermezzo {

// Code for code, message for message (gRPC's codes are absl's).
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace intermezzo
