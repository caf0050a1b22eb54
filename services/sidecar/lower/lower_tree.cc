#include "services/sidecar/lower/lower_tree.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::ObjectKind;

// A file_handle with room for the largest there is.
union HandleBuffer {
  file_handle handle;
  char room[sizeof(file_handle) + MAX_HANDLE_SZ];
};

constexpr char kAccessAcl[] = "system.posix_acl_access";
constexpr char kDefaultAcl[] = "system.posix_acl_default";

// Reads with `get`(buffer, size) until the size that it reports fits. The value grows under us at
// most a few times before the caller is told ERANGE.
template <typename Get>
int ReadGrowing(Get get, std::string& out) {
  out.resize(256);
  for (int attempt = 0; attempt < 8; ++attempt) {
    ssize_t length = get(out.data(), out.size());
    if (length >= 0) {
      out.resize(length);
      return 0;
    }
    if (errno != ERANGE) return errno;
    length = get(nullptr, 0);
    if (length < 0) return errno;
    out.resize(length + 64);
  }
  return ERANGE;
}

// `list`(buffer, size) and `get`(name, buffer, size) are the calls to use.
template <typename List, typename Get>
absl::StatusOr<std::vector<record::v1::Xattr>> ReadXattrsWith(List list, Get get) {
  std::string names;
  int error = ReadGrowing(list, names);
  if (error == ENOTSUP) return std::vector<record::v1::Xattr>();
  if (error != 0) return StatusFromErrno(error, "listxattr");
  std::vector<record::v1::Xattr> xattrs;
  for (absl::string_view name : absl::StrSplit(names, '\0', absl::SkipEmpty())) {
    if (!IsSharedXattr(name)) continue;
    record::v1::Xattr xattr;
    xattr.set_name(std::string(name));
    error =
        ReadGrowing([&](char* out, size_t size) { return get(xattr.name().c_str(), out, size); },
                    *xattr.mutable_value());
    // Listed, and yet not to be had: gone meanwhile, or hidden (security modules do that).
    if (error == ENODATA || error == ENOTSUP) continue;
    if (error != 0) return StatusFromErrno(error, absl::StrCat("getxattr ", xattr.name()));
    xattrs.push_back(std::move(xattr));
  }
  std::sort(xattrs.begin(), xattrs.end(),
            [](const auto& a, const auto& b) { return a.name() < b.name(); });
  return xattrs;
}

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<LowerTree>> LowerTree::Open(const std::string& root) {
  UniqueFd fd(open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    return absl::FailedPreconditionError(
        absl::StrCat("lower directory ", root, " cannot be opened: ", std::strerror(error)));
  }
  struct statvfs fs;
  if (fstatvfs(fd.get(), &fs) != 0) return StatusFromErrno(errno, absl::StrCat("statvfs ", root));
  if (fs.f_flag & ST_RDONLY) {
    return absl::FailedPreconditionError(absl::StrCat(
        "lower directory ", root, " is on a read-only file system; mount it writable"));
  }
  std::unique_ptr<LowerTree> tree(new LowerTree(root, std::move(fd)));
  absl::StatusOr<LowerHandle> handle = tree->HandleAt(tree->root_fd(), "");
  if (!handle.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("lower directory ", root,
                     " is on a file system without file handles; use ext4, xfs or btrfs (",
                     handle.status().message(), ")"));
  }
  // Some file systems give handles that cannot be opened, and opening needs a capability.
  if (absl::StatusOr<UniqueFd> again = tree->OpenObject(*handle, O_PATH); !again.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "lower directory ", root, " cannot be opened by file handle: ",
        ErrnoFromStatus(again.status()) == EPERM ? "the process needs CAP_DAC_READ_SEARCH"
                                                 : "its file system does not support it",
        " (", again.status().message(), ")"));
  }
  return tree;
}

absl::StatusOr<UniqueFd> LowerTree::OpenObject(const LowerHandle& handle, int flags) const {
  if (!(flags & (O_PATH | O_DIRECTORY))) {
    // An open of a device or FIFO acts on it; look first. The handle names this one inode for ever.
    absl::StatusOr<UniqueFd> path = OpenPlain(handle, O_PATH);
    if (!path.ok()) return path.status();
    struct stat st;
    if (fstat(path->get(), &st) != 0) return StatusFromErrno(errno, "fstat of an object");
    if (S_ISLNK(st.st_mode)) return StatusFromErrno(ELOOP, "open of a symbolic link");
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
      return StatusFromErrno(ENXIO, "open of a device, FIFO or socket");
    }
  }
  return OpenPlain(handle, flags);
}

absl::StatusOr<UniqueFd> LowerTree::OpenPlain(const LowerHandle& handle, int flags) const {
  HandleBuffer buffer;
  if (handle.bytes.size() > MAX_HANDLE_SZ) return StatusFromErrno(EINVAL, "file handle too long");
  buffer.handle.handle_bytes = static_cast<unsigned>(handle.bytes.size());
  buffer.handle.handle_type = handle.type;
  std::memcpy(buffer.handle.f_handle, handle.bytes.data(), handle.bytes.size());
  UniqueFd fd(open_by_handle_at(root_.get(), &buffer.handle, flags | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return StatusFromErrno(errno, "open_by_handle_at");
  return fd;
}

absl::StatusOr<LowerHandle> LowerTree::HandleAt(int dir_fd, const std::string& name) const {
  HandleBuffer buffer;
  buffer.handle.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  if (name_to_handle_at(dir_fd, name.c_str(), &buffer.handle, &mount_id,
                        name.empty() ? AT_EMPTY_PATH : 0) != 0) {
    return StatusFromErrno(errno, "name_to_handle_at");
  }
  return LowerHandle{buffer.handle.handle_type,
                     std::string(reinterpret_cast<const char*>(buffer.handle.f_handle),
                                 buffer.handle.handle_bytes)};
}

record::v1::Attributes AttributesOf(const struct stat& st) {
  record::v1::Attributes attributes;
  attributes.set_mode(st.st_mode & 07777);
  attributes.set_uid(st.st_uid);
  attributes.set_gid(st.st_gid);
  *attributes.mutable_mtime() = ToProto(st.st_mtim);
  return attributes;
}

ObjectKind KindOf(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return record::v1::OBJECT_KIND_FILE;
    case S_IFDIR:
      return record::v1::OBJECT_KIND_DIRECTORY;
    case S_IFLNK:
      return record::v1::OBJECT_KIND_SYMLINK;
    case S_IFIFO:
      return record::v1::OBJECT_KIND_FIFO;
    case S_IFSOCK:
      return record::v1::OBJECT_KIND_SOCKET;
    case S_IFCHR:
      return record::v1::OBJECT_KIND_CHARACTER_DEVICE;
    case S_IFBLK:
      return record::v1::OBJECT_KIND_BLOCK_DEVICE;
    default:
      return record::v1::OBJECT_KIND_UNSPECIFIED;
  }
}

record::v1::Timespec ToProto(const struct timespec& ts) {
  record::v1::Timespec proto;
  proto.set_seconds(ts.tv_sec);
  proto.set_nanos(static_cast<uint32_t>(ts.tv_nsec));
  return proto;
}

struct timespec FromProto(const record::v1::Timespec& ts) {
  return {.tv_sec = static_cast<time_t>(ts.seconds()), .tv_nsec = static_cast<long>(ts.nanos())};
}

absl::StatusOr<std::vector<record::v1::Xattr>> ReadXattrs(int fd) {
  return ReadXattrsWith(
      [fd](char* out, size_t size) { return ListXattrs(fd, out, size); },
      [fd](const char* name, char* out, size_t size) { return GetXattr(fd, name, out, size); });
}

absl::StatusOr<std::vector<record::v1::Xattr>> ReadXattrsAt(int dir_fd, const std::string& name) {
  const std::string path = absl::StrCat(DescriptorPath(dir_fd), "/", name);
  return ReadXattrsWith([&](char* out, size_t size) { return llistxattr(path.c_str(), out, size); },
                        [&](const char* name, char* out, size_t size) {
                          return lgetxattr(path.c_str(), name, out, size);
                        });
}

bool IsSharedXattr(absl::string_view name) {
  return absl::StartsWith(name, "user.") || absl::StartsWith(name, "security.") ||
         (absl::StartsWith(name, "trusted.") && AclBehind(name) == nullptr) || name == kAccessAcl ||
         name == kDefaultAcl;
}

const char* AclBehind(absl::string_view name) {
  if (name == "trusted.SGI_ACL_FILE") return kAccessAcl;
  return name == "trusted.SGI_ACL_DEFAULT" ? kDefaultAcl : nullptr;
}

std::string DescriptorPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

int ChangeMode(int fd, mode_t mode) {
  if (fchmod(fd, mode) == 0) return 0;
  return errno == EBADF ? chmod(DescriptorPath(fd).c_str(), mode) : -1;
}

ssize_t GetXattr(int fd, const char* name, void* value, size_t size) {
  const ssize_t length = fgetxattr(fd, name, value, size);
  if (length >= 0 || errno != EBADF) return length;
  return getxattr(DescriptorPath(fd).c_str(), name, value, size);
}

ssize_t ListXattrs(int fd, char* names, size_t size) {
  const ssize_t length = flistxattr(fd, names, size);
  if (length >= 0 || errno != EBADF) return length;
  return listxattr(DescriptorPath(fd).c_str(), names, size);
}

uint32_t EncodeDevice(dev_t device) {
  const uint32_t minor_number = minor(device);
  return (minor_number & 0xff) | (major(device) << 8) | ((minor_number & ~0xffu) << 12);
}

dev_t DecodeDevice(uint32_t encoded) {
  return makedev((encoded & 0xfff00) >> 8, (encoded & 0xff) | ((encoded >> 12) & 0xfff00));
}

}  // namespace intermezzo::sidecar
