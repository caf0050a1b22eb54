#include "services/mezzo/json.h"

#include <string>

#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

namespace intermezzo::mezzo {

nlohmann::ordered_json JsonOf(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  // Our messages have no Any and no invalid UTF-8 in strings, the two things that cannot be
  // printed.
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return nullptr;
  return nlohmann::ordered_json::parse(text);
}

void PrintJson(std::ostream& out, const google::protobuf::Message& message) {
  out << JsonOf(message).dump(2) << '\n';
}

}  // namespace intermezzo::mezzo
