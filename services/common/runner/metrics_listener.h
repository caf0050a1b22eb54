// Prometheus metrics over HTTP.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/common/runner/listen_address.h"
#include "services/common/runner/process_metrics.h"

namespace prometheus {
class Exposer;
class Registry;
}  // namespace prometheus

namespace intermezzo {

// Serves a registry of the application's metrics, build_info and process_* at /metrics, until it is
// destroyed. Owned by the runner.
class MetricsListener {
 public:
  // UNAVAILABLE where the address cannot be had.
  static absl::StatusOr<std::unique_ptr<MetricsListener>> Start(const ListenAddress& address,
                                                                std::string_view component,
                                                                std::string_view version);
  ~MetricsListener();
  MetricsListener(const MetricsListener&) = delete;
  MetricsListener& operator=(const MetricsListener&) = delete;

  // With the port that was chosen.
  const ListenAddress& address() const { return address_; }
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  MetricsListener();

  ListenAddress address_;
  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<ProcessMetrics> process_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace intermezzo
