#include "services/mezzo/settings.h"

#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "intermezzo/config/v1/config.pb.h"
#include "services/common/config/config.h"

namespace intermezzo::mezzo {
namespace {

std::string HostAndPort(const std::string& host, int port) {
  const bool bare_ipv6 = host.find(':') != std::string::npos && host.front() != '[';
  return bare_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

AddressSource FromEnvironment(const Environment& environment) {
  return {.server = environment("MEZZO_SERVER").value_or(""),
          .token = environment("MEZZO_TOKEN_ADDRESS").value_or(""),
          .journal = environment("MEZZO_JOURNAL_ADDRESS").value_or(""),
          .forwarder = environment("MEZZO_FORWARDER_ADDRESS").value_or("")};
}

// The file to read, empty where there is none.
std::string ConfigFile(const Environment& environment) {
  if (auto named = environment("MEZZO_CONFIG"); named && !named->empty()) return *named;
  std::string base;
  if (auto xdg = environment("XDG_CONFIG_HOME"); xdg && !xdg->empty()) {
    base = *xdg;
  } else if (auto home = environment("HOME"); home && !home->empty()) {
    base = *home + "/.config";
  } else {
    return "";
  }
  const std::string path = base + "/intermezzo/mezzo.yaml";
  std::error_code ignored;
  return std::filesystem::exists(path, ignored) ? path : "";
}

// The first source that names the service, or its server, says where it is.
std::string Pick(const std::vector<AddressSource>& sources, std::string AddressSource::*field,
                 int port) {
  for (const AddressSource& source : sources) {
    if (!(source.*field).empty()) return source.*field;
    if (!source.server.empty()) return HostAndPort(source.server, port);
  }
  return HostAndPort("127.0.0.1", port);
}

}  // namespace

Environment ProcessEnvironment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  };
}

absl::StatusOr<Addresses> ResolveAddresses(const AddressSource& flags,
                                           const Environment& environment) {
  std::vector<AddressSource> sources = {flags, FromEnvironment(environment)};
  if (const std::string file = ConfigFile(environment); !file.empty()) {
    config::v1::MezzoConfig config;
    if (absl::Status status = LoadConfig(file, config); !status.ok()) return status;
    sources.push_back({.server = config.server(),
                       .token = config.token_address(),
                       .journal = config.journal_address(),
                       .forwarder = config.forwarder_address()});
  }
  return Addresses{.token = Pick(sources, &AddressSource::token, kTokenPort),
                   .journal = Pick(sources, &AddressSource::journal, kJournalPort),
                   .forwarder = Pick(sources, &AddressSource::forwarder, kForwarderPort)};
}

}  // namespace intermezzo::mezzo
