// Where mezzo finds the services: flags before environment before file before the default.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace intermezzo::mezzo {

// Standard ports on a server.
inline constexpr int kTokenPort = 7471;
inline constexpr int kJournalPort = 7472;
inline constexpr int kForwarderPort = 7473;

// host:port of each service.
struct Addresses {
  std::string token;
  std::string journal;
  std::string forwarder;
};

// What one place (the flags, the environment, the file) says; empty strings say nothing.
struct AddressSource {
  std::string server = {};
  std::string token = {};
  std::string journal = {};
  std::string forwarder = {};
};

// Reads an environment variable; nothing where it is not set.
using Environment = std::function<std::optional<std::string>(const char*)>;
Environment ProcessEnvironment();

// Resolves the addresses. The file is MEZZO_CONFIG (must exist where set) or
// $XDG_CONFIG_HOME/intermezzo/mezzo.yaml or ~/.config/intermezzo/mezzo.yaml (may be absent).
// INVALID_ARGUMENT names file and field.
absl::StatusOr<Addresses> ResolveAddresses(const AddressSource& flags,
                                           const Environment& environment);

}  // namespace intermezzo::mezzo
