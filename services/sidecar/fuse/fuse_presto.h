// The FUSE driver: serves one replica's mount and captures what applications change there.
//
// Made and owned by the session's process, one per replica. Mount() and Unmount() are called by one
// thread, the other methods by any. Handlers never wait for the network: an update that may not go
// on waits at the replica's gate as a closure. README.md beside this file says what the kernel may
// cache, which thread may wait for what, and why.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/sidecar/presto/presto.h"

namespace prometheus {
class Registry;
}

namespace intermezzo::sidecar {

class FuseDriver;
class Replica;

struct FuseOptions {
  // An existing directory, not inside a mount of ours.
  std::string mount_point;
  // Threads that read requests, at least 1.
  int threads = 2;
  // Answer OPEN, FLUSH and RELEASE (each a message; each close cuts) instead of letting the kernel
  // skip them.
  bool answer_opens = false;
  // Cached descriptors of lower files; 0: derived from RLIMIT_NOFILE.
  size_t max_open_files = 0;
  // Memory for the bytes of writes that wait for the token; what more there is waits in an unlinked
  // file in spill_dir (where given), up to spill_bytes; beyond, writers get EAGAIN.
  size_t parked_bytes = 64 << 20;
  uint64_t spill_bytes = uint64_t{1} << 30;
  std::string spill_dir = {};
  // Where metrics go; may be null.
  std::shared_ptr<prometheus::Registry> metrics = {};
};

class FusePresto : public Presto {
 public:
  // `replica` is not owned and outlives it. INVALID_ARGUMENT: an option is wrong.
  static absl::StatusOr<std::unique_ptr<FusePresto>> Create(FuseOptions options, Replica* replica);
  ~FusePresto() override;

  absl::Status Mount() override;
  void Unmount(absl::Duration grace) override;
  void Invalidate(Invalidation what) override;
  void BeforeRemoval(ObjectId object) override;
  void Remade(ObjectId object) override;
  absl::Status FlushMappings(absl::Duration timeout) override;
  std::string kind() const override { return "fuse"; }

  // Invalidations queued so far have been told to the kernel, but for those that wait for a parked
  // update.
  bool WaitInvalidated(absl::Duration timeout);
  // Updates that wait at the gate.
  int parked_requests() const;
  // Bytes that they wait with: in memory, and on the disk.
  size_t parked_memory() const;
  uint64_t parked_file() const;
  // Objects that the kernel knows, and cached descriptors.
  size_t known_objects() const;
  size_t open_files() const;
  // The kernel leaves clearing set-id bits and file capabilities to the driver, and does not ask
  // for them before each write.
  bool clears_privileges() const;

 private:
  explicit FusePresto(std::unique_ptr<FuseDriver> driver);
  std::unique_ptr<FuseDriver> driver_;
};

}  // namespace intermezzo::sidecar
