// Metrics of the FUSE driver.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace prometheus {
class Registry;
class Histogram;
class Gauge;
class Counter;
}  // namespace prometheus

namespace intermezzo::sidecar {

class FuseMetrics {
 public:
  // `registry` may be null: then nothing is counted.
  FuseMetrics(std::shared_ptr<prometheus::Registry> registry, const std::string& collection);

  // intermezzo_fs_request_seconds{op}: until a request was answered or parked.
  void Request(uint32_t opcode, double seconds);
  bool enabled() const { return registry_ != nullptr; }
  // intermezzo_mount_up
  void MountUp(bool up);
  // intermezzo_fs_parked_requests, intermezzo_fs_parked_requests_total
  void Parked(int change);

 private:
  static constexpr uint32_t kOpcodes = 64;
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Histogram* request_seconds_[kOpcodes] = {};
  prometheus::Gauge* mount_up_ = nullptr;
  prometheus::Gauge* parked_ = nullptr;
  prometheus::Counter* parked_total_ = nullptr;
};

}  // namespace intermezzo::sidecar
