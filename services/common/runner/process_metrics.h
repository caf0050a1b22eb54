// The process_* metrics that Prometheus' client libraries have in common; prometheus-cpp has none.
#pragma once

#include <string>
#include <vector>

#include "prometheus/collectable.h"

namespace intermezzo {

// Reads /proc/self at each scrape; a value that cannot be read is left out. Safe from any thread.
class ProcessMetrics : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace intermezzo
