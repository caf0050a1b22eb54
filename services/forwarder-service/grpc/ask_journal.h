// One GetJournal call, without blocking.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "intermezzo/journal/v1/journal.pb.h"
#include "services/forwarder-service/grpc/environment.h"

namespace intermezzo::forwarder {

// Calls `answer` once, from a thread of gRPC, within Options::call_timeout.
void AskJournal(std::shared_ptr<Environment> environment, const std::string& collection,
                std::function<void(absl::StatusOr<journal::v1::Journal>)> answer);

}  // namespace intermezzo::forwarder
