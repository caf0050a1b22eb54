#include "services/sidecar/fuse/fuse_presto.h"

#include <utility>

#include "services/sidecar/fuse/driver.h"

namespace intermezzo::sidecar {

absl::StatusOr<std::unique_ptr<FusePresto>> FusePresto::Create(FuseOptions options,
                                                               Replica* replica) {
  if (options.mount_point.empty() || options.mount_point[0] != '/') {
    return absl::InvalidArgumentError("mount point must be an absolute path");
  }
  if (options.threads < 1 || options.threads > 64) {
    return absl::InvalidArgumentError("fuse_threads must be 1 to 64");
  }
  return std::unique_ptr<FusePresto>(
      new FusePresto(std::make_unique<FuseDriver>(std::move(options), replica)));
}

FusePresto::FusePresto(std::unique_ptr<FuseDriver> driver) : driver_(std::move(driver)) {}
FusePresto::~FusePresto() = default;

absl::Status FusePresto::Mount() { return driver_->Mount(); }
void FusePresto::Unmount(absl::Duration grace) { driver_->Unmount(grace); }
void FusePresto::Invalidate(Invalidation what) { driver_->Invalidate(std::move(what)); }
void FusePresto::BeforeRemoval(ObjectId object) { driver_->BeforeRemoval(object); }
void FusePresto::Remade(ObjectId object) { driver_->inodes().Remade(object); }
absl::Status FusePresto::FlushMappings(absl::Duration timeout) {
  return driver_->FlushMappings(timeout);
}
bool FusePresto::WaitInvalidated(absl::Duration timeout) {
  return driver_->invalidator().WaitIdle(timeout);
}
int FusePresto::parked_requests() const { return driver_->parked(); }
size_t FusePresto::parked_memory() const { return driver_->payloads().memory_bytes(); }
uint64_t FusePresto::parked_file() const { return driver_->payloads().file_bytes(); }
size_t FusePresto::known_objects() const { return driver_->inodes().size(); }
size_t FusePresto::open_files() const { return driver_->inodes().open_fds(); }
bool FusePresto::clears_privileges() const { return driver_->device().killpriv_v2(); }

}  // namespace intermezzo::sidecar
