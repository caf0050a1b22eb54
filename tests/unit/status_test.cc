// absl::Status to gRPC's and back.
#include "services/common/status/status.h"

#include <gtest/gtest.h>

namespace intermezzo {
namespace {

TEST(StatusTest, EveryCodeGoesBothWays) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "why");
    const grpc::Status wire = ToGrpc(status);
    EXPECT_EQ(static_cast<int>(wire.error_code()), code);
    EXPECT_EQ(wire.error_message(), status.message());
    EXPECT_EQ(FromGrpc(wire), status);
  }
}

}  // namespace
}  // namespace intermezzo
