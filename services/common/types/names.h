// Names that cannot be invalid.
#pragma once

#include <compare>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace intermezzo {

// A string that was checked once. Tag::Check says what is wrong with one that is not valid.
template <typename Tag>
class Name {
 public:
  // INVALID_ARGUMENT with what is wrong and what is allowed.
  static absl::StatusOr<Name> Parse(std::string_view text) {
    if (absl::Status status = Tag::Check(text); !status.ok()) return status;
    return Name(std::string(text));
  }
  const std::string& str() const { return text_; }
  friend auto operator<=>(const Name&, const Name&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Name& n) { return out << n.text_; }
  template <typename H>
  friend H AbslHashValue(H h, const Name& n) {
    return H::combine(std::move(h), n.text_);
  }

 private:
  explicit Name(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

// A collection's name: a DNS label, 1 to 63 of [a-z0-9-], neither first nor last a hyphen.
struct CollectionNameRule {
  static absl::Status Check(std::string_view text);
};
using CollectionName = Name<CollectionNameRule>;

// A node's name: a DNS label.
struct NodeNameRule {
  static absl::Status Check(std::string_view text);
};
using NodeName = Name<NodeNameRule>;

// A name in a directory: 1 to 255 bytes of any kind but '/' and NUL; neither "." nor "..".
struct EntryNameRule {
  static absl::Status Check(std::string_view text);
};
using EntryName = Name<EntryNameRule>;

}  // namespace intermezzo
