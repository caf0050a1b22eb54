// The local disk file system below a replica, reached by file handle, never by path.
//
// Owned by the replica; every method may be called from any thread. Errors carry the errno
// (services/common/status: StatusFromErrno / ErrnoFromStatus). Handles are those of
// name_to_handle_at(2): they survive renames and restarts, and go stale with the object.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "intermezzo/record/v1/record.pb.h"

namespace intermezzo::sidecar {

// A file descriptor that closes itself.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// name_to_handle_at(2): type and bytes.
struct LowerHandle {
  int type = 0;
  std::string bytes;
  friend bool operator==(const LowerHandle&, const LowerHandle&) = default;
};

class LowerTree {
 public:
  // FAILED_PRECONDITION: `root` is no directory, or its file system has no file handles.
  static absl::StatusOr<std::unique_ptr<LowerTree>> Open(const std::string& root);

  int root_fd() const { return root_.get(); }
  const std::string& root() const { return path_; }

  // Opens an object. `flags` as open(2); O_PATH works for every kind. Never follows a symbolic
  // link, never opens a device or FIFO other than with O_PATH.
  absl::StatusOr<UniqueFd> OpenObject(const LowerHandle& handle, int flags) const;
  // The same of what is known to be a regular file or a directory (a handle never comes to mean
  // another object): without looking first.
  absl::StatusOr<UniqueFd> OpenPlain(const LowerHandle& handle, int flags) const;
  // Handle of `name` in `dir_fd` (of dir_fd itself where name is empty).
  absl::StatusOr<LowerHandle> HandleAt(int dir_fd, const std::string& name) const;

 private:
  LowerTree(std::string path, UniqueFd root) : path_(std::move(path)), root_(std::move(root)) {}
  std::string path_;
  UniqueFd root_;
};

// Attributes as records carry them.
record::v1::Attributes AttributesOf(const struct stat& st);
record::v1::ObjectKind KindOf(mode_t mode);
record::v1::Timespec ToProto(const struct timespec& ts);
struct timespec FromProto(const record::v1::Timespec& ts);

// Whether replicas share an extended attribute: user.*, trusted.*, security.*, and ACLs. What else
// there is belongs to the local file system (btrfs.compression).
bool IsSharedXattr(absl::string_view name);
// The ACL that xfs shows under this name a second time, in a form of its own; null: none.
const char* AclBehind(absl::string_view name);
// All that replicas share, by name; none where the file system has none. Works on O_PATH
// descriptors too (through /proc/self/fd).
absl::StatusOr<std::vector<record::v1::Xattr>> ReadXattrs(int fd);
// The same of `name` in `dir_fd`, a symbolic link not followed.
absl::StatusOr<std::vector<record::v1::Xattr>> ReadXattrsAt(int dir_fd, const std::string& name);
// The path through which calls without a descriptor form reach an O_PATH descriptor.
std::string DescriptorPath(int fd);
// fchmod(2), fgetxattr(2), flistxattr(2) for any descriptor, O_PATH ones by their path.
int ChangeMode(int fd, mode_t mode);
ssize_t GetXattr(int fd, const char* name, void* value, size_t size);
ssize_t ListXattrs(int fd, char* names, size_t size);

// Device numbers in records: the kernel's 32 bit encoding of major and minor.
uint32_t EncodeDevice(dev_t device);
dev_t DecodeDevice(uint32_t encoded);

}  // namespace intermezzo::sidecar
