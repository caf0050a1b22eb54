// The token-service as a whole: database, journal client, tokens, registry, gRPC services.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/config/v1/config.pb.h"
#include "services/common/runner/runner.h"

namespace intermezzo::token {

// INVALID_ARGUMENT names the field that is missing or out of its range.
absl::Status CheckTokenServiceConfig(const config::v1::TokenServiceConfig& config);

// INVALID_ARGUMENT names the field of a bad configuration; else what TokenStore::Open says.
absl::StatusOr<std::unique_ptr<Application>> BuildTokenService(
    const config::v1::TokenServiceConfig& config, RunnerContext& context);

}  // namespace intermezzo::token
