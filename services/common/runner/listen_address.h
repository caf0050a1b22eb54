// Where a listener listens.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace intermezzo {

struct ListenAddress {
  // An IPv4 or IPv6 address without brackets; "localhost" becomes 127.0.0.1.
  std::string host;
  int port = 0;

  // "127.0.0.1:80", "[::1]:80".
  std::string str() const;
  bool IsLoopback() const;
};

// host:port with a numeric address or "localhost", port 0 to 65535. INVALID_ARGUMENT names `field`.
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text, std::string_view field);

}  // namespace intermezzo
