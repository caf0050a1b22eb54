#define FUSE_USE_VERSION 314
#include "services/sidecar/fuse/device.h"

#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/log/log.h"

namespace intermezzo::sidecar {
namespace {

absl::Status Missing(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", strerror(errno)));
}

}  // namespace

RequestPeek PeekRequest(const struct fuse_buf& request) {
  RequestPeek peek;
  const char* bytes = static_cast<const char*>(request.mem);
  fuse_in_header header;
  if (request.size < sizeof(header)) return peek;
  memcpy(&header, bytes, sizeof(header));
  peek.opcode = header.opcode;
  peek.pages = header.opcode == FUSE_READ || header.opcode == FUSE_WRITE;
  if (header.opcode == FUSE_WRITE && request.size >= sizeof(header) + sizeof(fuse_write_in)) {
    fuse_write_in in;
    memcpy(&in, bytes + sizeof(header), sizeof(in));
    peek.kill_suidgid = in.write_flags & FUSE_WRITE_KILL_SUIDGID;
  } else if (header.opcode == FUSE_SETATTR &&
             request.size >= sizeof(header) + sizeof(fuse_setattr_in)) {
    fuse_setattr_in in;
    memcpy(&in, bytes + sizeof(header), sizeof(in));
    peek.kill_suidgid = in.valid & FATTR_KILL_SUIDGID;
  }
  return peek;
}

absl::Status Device::Mount(struct fuse_session* session, const std::string& mount_point,
                           const std::string& source) {
  struct stat st;
  if (stat(mount_point.c_str(), &st) != 0) {
    if (errno != ENOTCONN) return Missing(absl::StrCat("mount point ", mount_point));
    // The mount of a process that died.
    log::Warning("unmounting a dead mount", {{"mount_point", mount_point}});
    if (umount2(mount_point.c_str(), MNT_DETACH) != 0 || stat(mount_point.c_str(), &st) != 0) {
      return Missing(absl::StrCat("unmounting the dead mount at ", mount_point));
    }
  }
  if (!S_ISDIR(st.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("mount point ", mount_point, " is not a directory"));
  }
  int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) return Missing("cannot open /dev/fuse (is the fuse module loaded?)");
  char options[160];
  snprintf(options, sizeof(options),
           "fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other", fd,
           st.st_mode & S_IFMT);
  if (mount(source.c_str(), mount_point.c_str(), "fuse.intermezzo", 0, options) != 0) {
    absl::Status status = Missing(absl::StrCat("cannot mount at ", mount_point));
    close(fd);
    return status;
  }
  mount_point_ = mount_point;
  init_unique_ = 0;
  kernel_minor_ = 0;
  killpriv_offered_ = false;
  killpriv_v2_ = false;
  mounted_ = true;
  static const fuse_custom_io kIo = [] {
    fuse_custom_io io = {};  // libfuse 3.17 has one member more
    io.writev = &Device::Write;
    io.read = &Device::Read;
    return io;
  }();
  if (int error = fuse_session_custom_io(session, &kIo, fd); error != 0) {
    umount2(mount_point.c_str(), MNT_DETACH);
    close(fd);
    mounted_ = false;
    return absl::InternalError(absl::StrCat("fuse_session_custom_io: ", strerror(-error)));
  }
  fd_ = fd;
  return absl::OkStatus();
}

void Device::Unmount(absl::Duration grace) {
  if (!mounted_) return;
  const absl::Time deadline = absl::Now() + grace;
  while (umount2(mount_point_.c_str(), UMOUNT_NOFOLLOW) != 0) {
    if (errno != EBUSY) break;  // EINVAL: somebody else unmounted it
    if (absl::Now() >= deadline) {
      log::Warning("mount is busy: aborting its connection", {{"mount_point", mount_point_}});
      umount2(mount_point_.c_str(), MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
      break;
    }
    absl::SleepFor(absl::Milliseconds(20));  // the kernel tells nobody when a mount gets idle
  }
  mounted_ = false;
}

int Device::Notify(int code) {
  fuse_out_header header = {.len = sizeof(header), .error = code, .unique = 0};
  return write(fd_, &header, sizeof(header)) < 0 ? -errno : 0;
}

ssize_t Device::Read(int fd, void* buf, size_t length, void* userdata) {
  Device& self = static_cast<DeviceOwner*>(userdata)->device();
  ssize_t n = read(fd, buf, length);
  if (self.kernel_minor_.load(std::memory_order_relaxed) == 0 &&
      n >= static_cast<ssize_t>(sizeof(fuse_in_header) + 16)) {
    fuse_in_header header;
    memcpy(&header, buf, sizeof(header));
    if (header.opcode == FUSE_INIT) {
      uint32_t words[4];  // major, minor, max_readahead, flags
      memcpy(words, static_cast<char*>(buf) + sizeof(header), sizeof(words));
      self.killpriv_offered_ = words[3] & FUSE_HANDLE_KILLPRIV_V2;
      self.kernel_minor_ = words[1];
      self.init_unique_ = header.unique;
    }
  }
  return n;
}

ssize_t Device::Write(int fd, struct iovec* iov, int count, void* userdata) {
  Device& self = static_cast<DeviceOwner*>(userdata)->device();
  uint64_t init = self.init_unique_.load(std::memory_order_relaxed);
  if (init != 0 && count >= 2 && iov[0].iov_len == sizeof(fuse_out_header) &&
      iov[1].iov_len >= offsetof(fuse_init_out, flags) + sizeof(uint32_t)) {
    fuse_out_header header;
    memcpy(&header, iov[0].iov_base, sizeof(header));
    if (header.unique == init && header.error == 0) {
      self.init_unique_ = 0;
      if (self.killpriv_offered_) {
        uint32_t flags;
        char* at = static_cast<char*>(iov[1].iov_base) + offsetof(fuse_init_out, flags);
        memcpy(&flags, at, sizeof(flags));
        flags |= FUSE_HANDLE_KILLPRIV_V2;
        memcpy(at, &flags, sizeof(flags));
        self.killpriv_v2_ = true;
      }
    }
  }
  ssize_t n = writev(fd, iov, count);
  return n;
}

}  // namespace intermezzo::sidecar
