// How a peer that vanished without a word (cable pulled, machine off, process stopped) is noticed:
// HTTP/2 pings on every connection, from both ends, whether calls are open or not. The one place
// where it is configured, for clients and servers alike.
#pragma once

namespace grpc {
class ChannelArguments;
class ServerBuilder;
}  // namespace grpc

namespace intermezzo {

struct Keepalive {
  // After so long without a byte from the peer it is asked for a sign of life.
  int time_ms = 10'000;
  // It has so long to answer; then the connection is closed, and every call on it has ended:
  // UNAVAILABLE at the client, cancelled at the server. Also how long bytes may wait for a peer
  // that does not take them (TCP_USER_TIMEOUT).
  int timeout_ms = 5'000;
};

// What all processes have. Whoever states these times elsewhere (leases, deadlines) may rely on it:
// a peer that is gone is noticed within 20 seconds.
inline constexpr Keepalive kKeepalive;
static_assert(kKeepalive.time_ms + kKeepalive.timeout_ms <= 20'000);

void SetKeepalive(grpc::ChannelArguments& arguments, Keepalive keepalive = kKeepalive);
// Clients may ping twice as often as ours do before they are sent away.
void SetKeepalive(grpc::ServerBuilder& builder, Keepalive keepalive = kKeepalive);

}  // namespace intermezzo
