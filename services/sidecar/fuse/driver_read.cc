// What changes nothing, and so passes no gate.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <optional>

#include "services/common/status/errno.h"
#include "services/sidecar/fuse/caller.h"
#include "services/sidecar/fuse/driver.h"
#include "services/sidecar/fuse/proc_path.h"

namespace intermezzo::sidecar {
void FuseDriver::Getattr(fuse_req_t req, fuse_ino_t ino) {
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kPath);
  struct stat st;
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
  } else if (fstat((*fd)->get(), &st) != 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_attr(req, &st, kCacheSeconds);
  }
}

void FuseDriver::Readlink(fuse_req_t req, fuse_ino_t ino) {
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kPath);
  char target[PATH_MAX + 1];
  ssize_t n = -1;
  if (fd.ok()) n = readlinkat((*fd)->get(), "", target, PATH_MAX);
  if (n < 0) {
    fuse_reply_err(req, fd.ok() ? errno : ErrnoFromStatus(fd.status()));
    return;
  }
  target[n] = 0;
  fuse_reply_readlink(req, target);
}

void FuseDriver::Open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (!options_.answer_opens) {
    fuse_reply_err(req, ENOSYS);  // the kernel asks no more and opens by itself
    return;
  }
  fi->fh = 0;
  fi->keep_cache = 1;
  fuse_reply_open(req, fi);
}

void FuseDriver::Opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (!options_.answer_opens) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  fi->fh = 0;
  fi->keep_cache = 1;
  fi->cache_readdir = 1;
  fuse_reply_open(req, fi);
}

void FuseDriver::Read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset) {
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kRead);
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
    return;
  }
  static thread_local std::unique_ptr<char[]> buffer(new char[1 << 20]);
  size = std::min<size_t>(size, 1 << 20);
  size_t have = 0;
  while (have < size) {
    const ssize_t n = pread((*fd)->get(), buffer.get() + have, size - have, offset + have);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (have != 0) break;
      fuse_reply_err(req, errno);
      return;
    }
    if (n == 0) break;
    have += n;
  }
  fuse_reply_buf(req, buffer.get(), have);
}

void FuseDriver::Statfs(fuse_req_t req) {
  struct statvfs st;
  if (fstatvfs(replica_->lower().root_fd(), &st) != 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_statfs(req, &st);
  }
}

void FuseDriver::Getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, size_t size) {
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kPath);
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
    return;
  }
  std::string value(std::min<size_t>(size, XATTR_SIZE_MAX), '\0');
  const ssize_t n = GetXattr((*fd)->get(), name, value.data(), value.size());
  if (n < 0) {
    fuse_reply_err(req, errno);
  } else if (size == 0) {
    fuse_reply_xattr(req, n);
  } else {
    fuse_reply_buf(req, value.data(), n);
  }
}

void FuseDriver::Listxattr(fuse_req_t req, fuse_ino_t ino, size_t size) {
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kPath);
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
    return;
  }
  std::string names(XATTR_LIST_MAX, '\0');
  ssize_t n;
  {
    std::optional<WithoutAdmin> caller;
    if (fuse_req_ctx(req)->uid != 0) caller.emplace();
    n = listxattr(ProcPath((*fd)->get()).c_str(), names.data(), names.size());
  }
  if (n < 0) {
    fuse_reply_err(req, errno);
  } else if (size == 0) {
    fuse_reply_xattr(req, n);
  } else if (static_cast<size_t>(n) > size) {
    fuse_reply_err(req, ERANGE);
  } else {
    fuse_reply_buf(req, names.data(), n);
  }
}

void FuseDriver::Lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence) {
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kRead);
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
    return;
  }
  const off_t result = lseek((*fd)->get(), offset, whence);
  if (result < 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_lseek(req, result);
  }
}

void FuseDriver::Ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, size_t out_size) {
  // Showing flags works; setting them is no update that a record could carry.
  if (cmd != FS_IOC_GETFLAGS || out_size < sizeof(int)) {
    fuse_reply_err(req, ENOTTY);
    return;
  }
  absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kRead);
  int64_t flags = 0;
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
  } else if (ioctl((*fd)->get(), FS_IOC_GETFLAGS, &flags) != 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_ioctl(req, 0, &flags, std::min(out_size, sizeof(flags)));
  }
}

absl::StatusOr<FdPtr> FuseDriver::OpenId(fuse_ino_t ino, Access access) {
  InodePtr inode = inodes_.Get(ObjectId(ino));
  if (inode == nullptr) return StatusFromErrno(ESTALE, "unknown object");
  return inodes_.Open(*inode, access);
}

}  // namespace intermezzo::sidecar
