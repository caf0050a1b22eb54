// A replica over a temporary directory, mounted by the FUSE driver in this process.
//
// The lower directory, the database and the mount point are siblings in one temporary directory.
// A guard process aborts the mount when a test hangs, because a process that waits for its own dead
// mount cannot be killed. Code that maps files of the mount must run in a child process (InChild):
// a page fault holds the address space that the serving threads need.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/sidecar/fuse/fuse_presto.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::tests {

class MountedReplica {
 public:
  struct Options {
    uint64_t ordinal = 1;
    bool answer_opens = false;
    int threads = 2;
    size_t max_open_files = 0;
    // Whether the gate is open (epoch 1) at first.
    bool open = true;
    // After this the mount is aborted.
    absl::Duration limit = absl::Seconds(100);
    // See FuseOptions; the file is in the temporary directory.
    size_t parked_bytes = 64 << 20;
    uint64_t spill_bytes = uint64_t{1} << 30;
    // Where the temporary directory is made; empty: the usual place.
    std::string parent = {};
    std::shared_ptr<prometheus::Registry> metrics = {};
  };

  MountedReplica() : MountedReplica(Options()) {}
  explicit MountedReplica(Options options);
  ~MountedReplica();

  sidecar::Replica& replica() { return *replica_; }
  sidecar::FusePresto& presto() { return *presto_; }
  const std::string& lower_path() const { return lower_; }
  const std::string& mount_path() const { return mount_; }
  // Paths of a name above and below.
  std::string Mnt(const std::string& name) const { return mount_ + "/" + name; }
  std::string Low(const std::string& name) const { return lower_ + "/" + name; }

  void OpenGate() { replica_->gate().Open({Epoch(1)}); }
  void CloseGate();
  // Unmounts, and mounts again.
  void Unmount();
  absl::Status Mount();

  // Every record captured so far, dirty extents cut first.
  std::vector<record::v1::Entry> Records();

 private:
  void StartGuard();

  const Options options_;
  std::string dir_;
  std::string lower_;
  std::string mount_;
  std::unique_ptr<sidecar::Replica> replica_;
  std::unique_ptr<sidecar::FusePresto> presto_;
  pid_t guard_ = -1;
  int guard_pipe_ = -1;  // closed when all is well, or when this process died
};

// Runs `work` in a child process, as `uid` and `gid` where they are not 0, and returns its result
// (0 to 255), or 1000 + signal. A child that takes longer than 60 s is killed.
int InChild(const std::function<int()>& work, uid_t uid = 0, gid_t gid = 0,
            const std::vector<gid_t>& groups = {});

std::string ReadFile(const std::string& path);
// 0 or errno.
int WriteFile(const std::string& path, const std::string& bytes);

}  // namespace intermezzo::tests
