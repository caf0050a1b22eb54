#include "services/common/runner/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/types/view.h"

namespace intermezzo {

std::string ListenAddress::str() const {
  if (absl::StrContains(host, ":")) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

bool ListenAddress::IsLoopback() const {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text, std::string_view field) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat(View(field), ": \"", View(text),
                   "\" is not host:port with a numeric address, such as 127.0.0.1:0 or [::1]:0"));
  const size_t colon = text.rfind(':');
  if (colon == text.npos) return bad;
  std::string host(text.substr(0, colon));
  const std::string_view port_text = text.substr(colon + 1);

  ListenAddress address;
  if (port_text.empty() || port_text.find_first_not_of("0123456789") != port_text.npos ||
      !absl::SimpleAtoi(View(port_text), &address.port) || address.port > 65535) {
    return bad;
  }
  if (host == "localhost") host = "127.0.0.1";
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  unsigned char parsed[sizeof(in6_addr)];
  if (inet_pton(bracketed ? AF_INET6 : AF_INET, host.c_str(), parsed) != 1) return bad;
  address.host = std::move(host);
  return address;
}

}  // namespace intermezzo
