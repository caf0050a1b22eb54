#include "services/common/config/config.h"

#include <errno.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>
#include <stdio.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/common/status/errno.h"
#include "services/common/types/view.h"

namespace intermezzo {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using nlohmann::json;

constexpr size_t kMaxConfigBytes = 1024 * 1024;

// Turns a YAML tree into protobuf's JSON, guided by the message's descriptor, so that every
// complaint can name the line and the field.
class Translator {
 public:
  explicit Translator(std::string file) : file_(std::move(file)) {}

  absl::StatusOr<json> Message(const YAML::Node& node, const Descriptor& type,
                               const std::string& path) const {
    if (!node.IsMap()) return Wrong(node, path, "expected fields (a mapping)");
    json out = json::object();
    for (const auto& item : node) {
      if (!item.first.IsScalar()) return Wrong(item.first, path, "a field's name must be text");
      const std::string& name = item.first.Scalar();
      const std::string field_path = path.empty() ? name : absl::StrCat(path, ".", name);
      const FieldDescriptor* field = type.FindFieldByName(name);
      if (field == nullptr) return Wrong(item.first, field_path, "unknown field");
      if (out.contains(name)) return Wrong(item.first, field_path, "is given twice");
      // The mark of a value that is not there may be that of the next line.
      if (item.second.IsNull()) return Wrong(item.first, field_path, "has no value");
      absl::StatusOr<json> value = Field(item.second, *field, field_path);
      if (!value.ok()) return value.status();
      out[name] = *std::move(value);
    }
    return out;
  }

  absl::Status Wrong(const YAML::Node& node, const std::string& path, std::string_view what) const {
    return At(node.Mark(), absl::StrCat(path.empty() ? "the file" : path, ": ", View(what)));
  }

  absl::Status At(const YAML::Mark& mark, const std::string& what) const {
    const std::string where = mark.is_null() ? file_ : absl::StrCat(file_, ":", mark.line + 1);
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
  }

 private:
  absl::StatusOr<json> Field(const YAML::Node& node, const FieldDescriptor& field,
                             const std::string& path) const {
    if (field.is_map()) return Map(node, field, path);
    if (!field.is_repeated()) return Single(node, field, path);
    if (!node.IsSequence()) return Wrong(node, path, "expected a list");
    json out = json::array();
    for (size_t i = 0; i < node.size(); ++i) {
      absl::StatusOr<json> value = Single(node[i], field, absl::StrCat(path, "[", i, "]"));
      if (!value.ok()) return value.status();
      out.push_back(*std::move(value));
    }
    return out;
  }

  absl::StatusOr<json> Map(const YAML::Node& node, const FieldDescriptor& field,
                           const std::string& path) const {
    if (!node.IsMap()) return Wrong(node, path, "expected a mapping");
    json out = json::object();
    for (const auto& item : node) {
      if (!item.first.IsScalar()) return Wrong(item.first, path, "a key must be text");
      const std::string& key = item.first.Scalar();
      const std::string item_path = absl::StrCat(path, ".", key);
      if (out.contains(key)) return Wrong(item.first, item_path, "is given twice");
      absl::StatusOr<json> value =
          Single(item.second, *field.message_type()->map_value(), item_path);
      if (!value.ok()) return value.status();
      out[key] = *std::move(value);
    }
    return out;
  }

  absl::StatusOr<json> Single(const YAML::Node& node, const FieldDescriptor& field,
                              const std::string& path) const {
    if (node.IsNull()) return Wrong(node, path, "has no value");
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (field.message_type()->full_name() == "google.protobuf.Duration") {
        return DurationText(node, path);
      }
      return Message(node, *field.message_type(), path);
    }
    if (!node.IsScalar()) return Wrong(node, path, "expected a single value");
    const std::string& text = node.Scalar();
    const bool plain = node.Tag() != "!";  // "!" marks a quoted scalar
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return json(text);
      case FieldDescriptor::CPPTYPE_BOOL:
        if (plain && (text == "true" || text == "false")) return json(text == "true");
        return Wrong(node, path, "expected true or false");
      case FieldDescriptor::CPPTYPE_INT32:
        return Number<int32_t>(node, plain, path);
      case FieldDescriptor::CPPTYPE_INT64:
        return Number<int64_t>(node, plain, path);
      case FieldDescriptor::CPPTYPE_UINT32:
        return Number<uint32_t>(node, plain, path);
      case FieldDescriptor::CPPTYPE_UINT64:
        return Number<uint64_t>(node, plain, path);
      case FieldDescriptor::CPPTYPE_FLOAT:
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        double value = 0;
        if (plain && absl::SimpleAtod(text, &value) && std::isfinite(value)) return json(value);
        return Wrong(node, path, "expected a number");
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        if (field.enum_type()->FindValueByName(text) != nullptr) return json(text);
        std::string names;
        for (int i = 0; i < field.enum_type()->value_count(); ++i) {
          absl::StrAppend(&names, i ? ", " : "", field.enum_type()->value(i)->name());
        }
        return Wrong(node, path, absl::StrCat("\"", text, "\" is not one of ", names));
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        break;
    }
    return Wrong(node, path, "cannot be set in a file");
  }

  template <typename T>
  absl::StatusOr<json> Number(const YAML::Node& node, bool plain, const std::string& path) const {
    T value = 0;
    if (plain && absl::SimpleAtoi(node.Scalar(), &value)) return json(value);
    return Wrong(node, path,
                 absl::StrCat("expected a whole number from ", std::numeric_limits<T>::min(),
                              " to ", std::numeric_limits<T>::max()));
  }

  // protobuf's JSON knows seconds only ("0.050s"); people write "50ms".
  absl::StatusOr<json> DurationText(const YAML::Node& node, const std::string& path) const {
    absl::Duration value;
    // Ten thousand years is the limit of google.protobuf.Duration.
    if (!node.IsScalar() || !absl::ParseDuration(node.Scalar(), &value) ||
        value < absl::ZeroDuration() || value > absl::Hours(24 * 3'652'500)) {
      return Wrong(node, path, "expected a duration such as 10s, 50ms or 1h30m, not negative");
    }
    const google::protobuf::Duration proto = ToProto(value);
    return json(absl::StrFormat("%d.%09ds", proto.seconds(), proto.nanos()));
  }

  std::string file_;
};

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(path.c_str(), "re"), &fclose);
  if (file == nullptr) {
    return absl::InvalidArgumentError(
        StatusFromErrno(errno, absl::StrCat(path, ": cannot read the configuration")).message());
  }
  std::string text(kMaxConfigBytes + 1, '\0');
  text.resize(fread(text.data(), 1, text.size(), file.get()));
  if (ferror(file.get())) {
    return absl::InvalidArgumentError(
        StatusFromErrno(errno, absl::StrCat(path, ": cannot read the configuration")).message());
  }
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": larger than 1 MiB"));
  }
  return text;
}

}  // namespace

absl::Status LoadConfig(const std::string& path, google::protobuf::Message& config) {
  absl::StatusOr<std::string> text = ReadConfigFile(path);
  if (!text.ok()) return text.status();

  const Translator translator(path);
  absl::StatusOr<json> translated = json::object();
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(*text);
    if (documents.size() > 1) {
      return translator.Wrong(documents[1], "", "holds more than one YAML document");
    }
    if (!documents.empty() && !documents[0].IsNull()) {
      translated = translator.Message(documents[0], *config.GetDescriptor(), "");
    }
  } catch (const YAML::Exception& error) {
    return translator.At(error.mark, absl::StrCat("not valid YAML: ", error.msg));
  }
  if (!translated.ok()) return translated.status();

  std::string encoded;
  try {
    encoded = translated->dump();
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds bytes that are not UTF-8"));
  }
  const std::unique_ptr<google::protobuf::Message> loaded(config.New());
  const auto parsed = google::protobuf::util::JsonStringToMessage(encoded, loaded.get());
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", parsed.ToString()));
  }
  config.CopyFrom(*loaded);
  return absl::OkStatus();
}

absl::Status RequireField(const std::string& value, const std::string& field) {
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": is required, and not set"));
}

absl::Duration DurationOr(bool set, const google::protobuf::Duration& value,
                          absl::Duration default_value) {
  return set ? FromProto(value) : default_value;
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(
      static_cast<int32_t>(absl::IDivDuration(duration, absl::Nanoseconds(1), &duration)));
  return proto;
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace intermezzo
