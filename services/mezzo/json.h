// API messages as JSON, the way protobuf (and grpcurl) writes them, with fields at their defaults.
#pragma once

#include <ostream>

#include "google/protobuf/message.h"
#include "nlohmann/json_fwd.hpp"

namespace intermezzo::mezzo {

// Prints the message over several lines.
void PrintJson(std::ostream& out, const google::protobuf::Message& message);
// The message as a value to build larger answers from; field order is kept.
nlohmann::ordered_json JsonOf(const google::protobuf::Message& message);

}  // namespace intermezzo::mezzo
