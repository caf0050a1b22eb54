#include "services/sidecar/snapshot/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "services/common/status/errno.h"

namespace intermezzo::sidecar {

absl::StatusOr<std::vector<std::string>> ReadNames(int dir_fd) {
  // A description of its own, so that reading does not move another's position.
  const int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return StatusFromErrno(errno, "open a directory");
  std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(fd), &closedir);
  if (dir == nullptr) {
    close(fd);
    return StatusFromErrno(errno, "read a directory");
  }
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry == nullptr) break;
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  if (errno != 0) return StatusFromErrno(errno, "read a directory");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace intermezzo::sidecar
