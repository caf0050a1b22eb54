#include "services/sidecar/fuse/metrics.h"

#include <linux/fuse.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <utility>

namespace intermezzo::sidecar {
namespace {

constexpr std::pair<uint32_t, const char*> kNames[] = {
    {FUSE_LOOKUP, "lookup"},
    {FUSE_GETATTR, "getattr"},
    {FUSE_SETATTR, "setattr"},
    {FUSE_READLINK, "readlink"},
    {FUSE_SYMLINK, "symlink"},
    {FUSE_MKNOD, "mknod"},
    {FUSE_MKDIR, "mkdir"},
    {FUSE_UNLINK, "unlink"},
    {FUSE_RMDIR, "rmdir"},
    {FUSE_RENAME, "rename"},
    {FUSE_RENAME2, "rename"},
    {FUSE_LINK, "link"},
    {FUSE_OPEN, "open"},
    {FUSE_READ, "read"},
    {FUSE_WRITE, "write"},
    {FUSE_STATFS, "statfs"},
    {FUSE_RELEASE, "release"},
    {FUSE_FSYNC, "fsync"},
    {FUSE_SETXATTR, "setxattr"},
    {FUSE_GETXATTR, "getxattr"},
    {FUSE_LISTXATTR, "listxattr"},
    {FUSE_REMOVEXATTR, "removexattr"},
    {FUSE_FLUSH, "flush"},
    {FUSE_OPENDIR, "opendir"},
    {FUSE_READDIR, "readdir"},
    {FUSE_FSYNCDIR, "fsyncdir"},
    {FUSE_CREATE, "create"},
    {FUSE_FALLOCATE, "fallocate"},
    {FUSE_READDIRPLUS, "readdirplus"},
    {FUSE_LSEEK, "lseek"},
    {FUSE_COPY_FILE_RANGE, "copy_file_range"},
};

}  // namespace

FuseMetrics::FuseMetrics(std::shared_ptr<prometheus::Registry> registry,
                         const std::string& collection)
    : registry_(std::move(registry)) {
  if (registry_ == nullptr) return;
  auto& requests = prometheus::BuildHistogram()
                       .Name("intermezzo_fs_request_seconds")
                       .Help("File system requests, until answered or parked at the write gate.")
                       .Register(*registry_);
  for (auto [opcode, name] : kNames) {
    request_seconds_[opcode] =
        &requests.Add({{"collection", collection}, {"op", name}},
                      prometheus::Histogram::BucketBoundaries{1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4,
                                                              1e-3, 5e-3, 2e-2, 0.1, 1});
  }
  const prometheus::Labels labels = {{"collection", collection}};
  mount_up_ = &prometheus::BuildGauge()
                   .Name("intermezzo_mount_up")
                   .Help("1 while the collection is mounted.")
                   .Register(*registry_)
                   .Add(labels);
  parked_ = &prometheus::BuildGauge()
                 .Name("intermezzo_fs_parked_requests")
                 .Help("Updates that wait at the closed write gate.")
                 .Register(*registry_)
                 .Add(labels);
  parked_total_ = &prometheus::BuildCounter()
                       .Name("intermezzo_fs_parked_requests_total")
                       .Help("Updates that had to wait at the write gate.")
                       .Register(*registry_)
                       .Add(labels);
}

void FuseMetrics::Request(uint32_t opcode, double seconds) {
  if (opcode < kOpcodes && request_seconds_[opcode] != nullptr) {
    request_seconds_[opcode]->Observe(seconds);
  }
}

void FuseMetrics::MountUp(bool up) {
  if (mount_up_ != nullptr) mount_up_->Set(up ? 1 : 0);
}

void FuseMetrics::Parked(int change) {
  if (parked_ == nullptr) return;
  parked_->Increment(change);
  if (change > 0) parked_total_->Increment(change);
}

}  // namespace intermezzo::sidecar
