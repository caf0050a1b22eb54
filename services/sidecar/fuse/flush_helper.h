// Asks the kernel to write back dirty pages of shared mappings, from a child process: such a wait
// cannot be killed, and a process that holds /dev/fuse must not be in it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace intermezzo::sidecar {

class FlushHelper {
 public:
  ~FlushHelper();
  // syncfs(2) on the mount, then a statfs(2), which reaches the driver behind the writes that
  // syncfs queued. DEADLINE_EXCEEDED: the child is left behind and reaped later.
  absl::Status Sync(const std::string& mount_point, absl::Duration timeout);

 private:
  void Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::vector<pid_t> late_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::sidecar
