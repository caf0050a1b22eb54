// Typed configuration: a YAML file into a protobuf message, by the message's field names.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/message.h"

namespace intermezzo {

// INVALID_ARGUMENT names file, line and field ("runner.listen") of an unknown field, a value of the
// wrong type or a missing file. Durations are written "10s", "50ms".
absl::Status LoadConfig(const std::string& path, google::protobuf::Message& config);

// INVALID_ARGUMENT that names the field where the string is empty.
absl::Status RequireField(const std::string& value, const std::string& field);

// The duration, or the default where it is not set.
absl::Duration DurationOr(bool set, const google::protobuf::Duration& value,
                          absl::Duration default_value);
google::protobuf::Duration ToProto(absl::Duration duration);
absl::Duration FromProto(const google::protobuf::Duration& duration);

}  // namespace intermezzo
