// Who may speak for a node: the incarnation that the registry has under its name.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"

namespace intermezzo::forwarder {

struct Incarnation {
  std::string instance;
  uint32_t ordinal = 0;
  // host:port of its NodeService, for people.
  std::string address;
};

// By node name.
using Incarnations = std::map<std::string, Incarnation>;

// FAILED_PRECONDITION where a stream of `instance` and `ordinal` does not speak for the node: the
// registry does not know the name, or knows it of another one. The message names both and says what
// to do.
absl::Status CheckIncarnation(const Incarnations& registered, const std::string& node,
                              const std::string& instance, uint32_t ordinal);

}  // namespace intermezzo::forwarder
