#include "services/sidecar/fuse/flush_helper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::sidecar {
namespace {
constexpr size_t kMaxLate = 16;
}  // namespace

FlushHelper::~FlushHelper() {
  absl::MutexLock lock(&mu_);
  Reap();
}

void FlushHelper::Reap() {
  late_.erase(std::remove_if(late_.begin(), late_.end(),
                             [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) != 0; }),
              late_.end());
}

absl::Status FlushHelper::Sync(const std::string& mount_point, absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  Reap();
  if (late_.size() >= kMaxLate) {
    return absl::DeadlineExceededError("earlier flushes of the mount have not come back");
  }
  const absl::Time deadline = absl::Now() + timeout;
  const char* argv[] = {"sh", "-c", "exec 2>/dev/null; sync -f \"$0\" && exec stat -f -c. \"$0\"",
                        mount_point.c_str(), nullptr};
  const char* environment[] = {"PATH=/usr/bin:/bin", nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addchdir_np(&actions, "/");
  pid_t pid = -1;
  const int error = posix_spawn(&pid, "/bin/sh", &actions, nullptr, const_cast<char**>(argv),
                                const_cast<char**>(environment));
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return absl::InternalError(absl::StrCat("cannot start the flush helper: ", strerror(error)));
  }
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  struct pollfd poll_fd = {.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  while (true) {
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    const int ready = poll(&poll_fd, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30)));
    if (ready > 0) break;
    if (ready < 0 && errno == EINTR) continue;
    kill(pid, SIGKILL);
    late_.push_back(pid);
    return absl::DeadlineExceededError("dirty pages of the mount were not written back in time");
  }
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(absl::StrCat("flush helper failed, wait status ", status));
  }
  return absl::OkStatus();
}

}  // namespace intermezzo::sidecar
