#include "services/forwarder-service/grpc/environment.h"

#include <chrono>

#include "services/forwarder-service/grpc/directory.h"
#include "services/forwarder-service/grpc/snapshot_sessions.h"

namespace intermezzo::forwarder {

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

Environment::Environment() = default;
Environment::~Environment() = default;

}  // namespace intermezzo::forwarder
