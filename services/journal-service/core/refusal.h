// A refused append as a Status: a message for people, an AppendRefusal for programs. Pure
// functions.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "intermezzo/journal/v1/journal.pb.h"

namespace intermezzo::journal {

// Status of the code that belongs to refusal.reason(), with the refusal as payload.
absl::Status Refuse(const v1::AppendRefusal& refusal, absl::string_view message);
// The refusal inside, where there is one.
std::optional<v1::AppendRefusal> RefusalOf(const absl::Status& status);

}  // namespace intermezzo::journal
