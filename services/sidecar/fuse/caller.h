// Acting for the caller of a request: new objects get its group and umask by the lower file
// system's own rules, and whether it is to be killed is asked of the kernel.
#pragma once

#include <sys/types.h>

namespace intermezzo::sidecar {

// For the life of the object this thread creates files with `gid` and `umask` (both are per
// thread: the thread leaves the process' shared umask for good). The user is not changed, because
// that would drop the capabilities that creating in any directory needs.
class CreatorScope {
 public:
  CreatorScope(gid_t gid, mode_t umask);
  ~CreatorScope();
  CreatorScope(const CreatorScope&) = delete;
  CreatorScope& operator=(const CreatorScope&) = delete;

 private:
  const gid_t gid_;
  mode_t old_umask_;
};

// For the life of the object this thread has no CAP_SYS_ADMIN, as the callers that are not root:
// most file systems hide names of trusted.* from them, some (btrfs) do not.
class WithoutAdmin {
 public:
  WithoutAdmin();
  ~WithoutAdmin();
  WithoutAdmin(const WithoutAdmin&) = delete;
  WithoutAdmin& operator=(const WithoutAdmin&) = delete;

 private:
  bool had_ = false;
};

// Whether `gid` is among the thread's groups, as the kernel says; false where it is gone.
bool IsInGroup(pid_t tid, gid_t gid);

// A fatal signal is pending for the thread (also true where it is gone).
bool IsBeingKilled(pid_t tid);

}  // namespace intermezzo::sidecar
