#include "services/sidecar/fuse/caller.h"

#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "services/common/log/log.h"

namespace intermezzo::sidecar {
namespace {

void LeaveSharedUmask() {
  static thread_local bool left = false;
  if (left) return;
  if (unshare(CLONE_FS) != 0) log::Fatal("unshare(CLONE_FS) failed: umask cannot be per thread");
  left = true;
}

// Sets or clears CAP_SYS_ADMIN among the thread's effective capabilities; returns whether that
// changed anything.
bool SetAdmin(bool on) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
  if (syscall(SYS_capget, &header, data) != 0) return false;
  uint32_t& effective = data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective;
  const uint32_t before = effective;
  effective = on ? before | CAP_TO_MASK(CAP_SYS_ADMIN) : before & ~CAP_TO_MASK(CAP_SYS_ADMIN);
  return effective != before && syscall(SYS_capset, &header, data) == 0;
}

}  // namespace

CreatorScope::CreatorScope(gid_t gid, mode_t umask) : gid_(gid) {
  LeaveSharedUmask();
  old_umask_ = ::umask(umask);
  if (gid_ != 0) setfsgid(gid_);
}

CreatorScope::~CreatorScope() {
  if (gid_ != 0) setfsgid(0);
  ::umask(old_umask_);
}

WithoutAdmin::WithoutAdmin() : had_(SetAdmin(false)) {}

WithoutAdmin::~WithoutAdmin() {
  if (had_) SetAdmin(true);
}

bool IsInGroup(pid_t tid, gid_t gid) {
  std::ifstream status("/proc/" + std::to_string(tid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("Groups:", 0) != 0) continue;
    std::istringstream groups(line.substr(7));
    for (gid_t each; groups >> each;) {
      if (each == gid) return true;
    }
  }
  return false;
}

bool IsBeingKilled(pid_t tid) {
  std::ifstream status("/proc/" + std::to_string(tid) + "/status");
  if (!status) return true;
  const uint64_t kill_bit = uint64_t{1} << (SIGKILL - 1);
  for (std::string line; std::getline(status, line);) {
    uint64_t pending;
    if ((sscanf(line.c_str(), "SigPnd: %lx", &pending) == 1 ||
         sscanf(line.c_str(), "ShdPnd: %lx", &pending) == 1) &&
        (pending & kill_bit) != 0) {
      return true;
    }
  }
  return false;
}

}  // namespace intermezzo::sidecar
