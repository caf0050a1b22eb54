// Metrics of the token-service. Every name is here. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace prometheus {
class Registry;
}

namespace intermezzo::token {

class Metrics {
 public:
  explicit Metrics(prometheus::Registry& registry);
  ~Metrics();

  // intermezzo_token_holder_info{collection,holder} is 1 for the holder (no series where nobody
  // has it), intermezzo_token_epoch{collection} the last epoch granted.
  void SetHolder(const std::string& collection, const std::string& holder, uint64_t epoch);
  void DropCollection(const std::string& collection);
  // intermezzo_token_acquire_seconds{collection}: from the call to the grant.
  void Acquired(const std::string& collection, absl::Duration waited);
  // intermezzo_token_requests_total{method,result}; result is "ok" or the status code's name.
  void Request(std::string_view method, absl::StatusCode code);
  // intermezzo_token_recalls_total{collection}.
  void Recalled(const std::string& collection);
  // intermezzo_token_expirations_total{collection}.
  void Expired(const std::string& collection);
  // intermezzo_token_fence_failures_total{collection}.
  void FenceFailed(const std::string& collection);
  // intermezzo_nodes_connected.
  void SetNodesConnected(int nodes);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace intermezzo::token
