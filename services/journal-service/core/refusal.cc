#include "services/journal-service/core/refusal.h"

#include "absl/strings/cord.h"

namespace intermezzo::journal {
namespace {
constexpr absl::string_view kType = "type.googleapis.com/intermezzo.journal.v1.AppendRefusal";
}  // namespace

absl::Status Refuse(const v1::AppendRefusal& refusal, absl::string_view message) {
  absl::Status status = refusal.reason() == v1::APPEND_REFUSAL_REASON_STALE_EPOCH
                            ? absl::FailedPreconditionError(message)
                            : absl::AbortedError(message);
  status.SetPayload(kType, absl::Cord(refusal.SerializeAsString()));
  return status;
}

std::optional<v1::AppendRefusal> RefusalOf(const absl::Status& status) {
  std::optional<absl::Cord> payload;
  if (auto found = status.GetPayload(kType); found.has_value()) payload = *found;
  v1::AppendRefusal refusal;
  if (!payload || !refusal.ParseFromString(std::string(*payload))) return std::nullopt;
  return refusal;
}

}  // namespace intermezzo::journal
