// Effects on one object: its content, attributes, extended attributes.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/sidecar/replica/effects.h"

namespace intermezzo::sidecar {
namespace {

absl::Status WriteAt(int fd, const char* bytes, uint64_t length, uint64_t offset) {
  while (length > 0) {
    const ssize_t n = pwrite(fd, bytes, length, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return StatusFromErrno(n < 0 ? errno : EIO, "writing");
    bytes += n;
    offset += static_cast<uint64_t>(n);
    length -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

// What punching or zeroing means, on a file system that can do neither.
absl::Status WriteZeros(int fd, uint64_t begin, uint64_t end) {
  const std::string zeros(64 * 1024, '\0');
  while (begin < end) {
    const uint64_t length = std::min<uint64_t>(zeros.size(), end - begin);
    if (absl::Status status = WriteAt(fd, zeros.data(), length, begin); !status.ok()) return status;
    begin += length;
  }
  return absl::OkStatus();
}

absl::Status SetSize(int fd, uint64_t size) {
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) return StatusFromErrno(errno, "ftruncate");
  return absl::OkStatus();
}

// An O_PATH descriptor's owner, where it differs: chown also drops what writers may not keep.
absl::Status SetOwner(int fd, const struct stat& st, const record::v1::Attributes& attributes) {
  if (st.st_uid == attributes.uid() && st.st_gid == attributes.gid()) return absl::OkStatus();
  if (fchownat(fd, "", attributes.uid(), attributes.gid(), AT_EMPTY_PATH) != 0) {
    return StatusFromErrno(errno, "chown");
  }
  return absl::OkStatus();
}

absl::Status SetMode(int fd, const record::v1::Attributes& attributes) {
  struct stat st;
  if (fstat(fd, &st) != 0) return StatusFromErrno(errno, "fstat");
  if (S_ISLNK(st.st_mode) || (st.st_mode & 07777) == attributes.mode()) return absl::OkStatus();
  if (ChangeMode(fd, attributes.mode()) != 0) {
    return StatusFromErrno(errno, "chmod");
  }
  return absl::OkStatus();
}

absl::Status SetTimes(int fd, const struct timespec& atime, const struct timespec& mtime) {
  const struct timespec times[2] = {atime, mtime};
  if (utimensat(fd, "", times, AT_EMPTY_PATH) != 0) return StatusFromErrno(errno, "utimensat");
  return absl::OkStatus();
}

absl::Status PutXattr(int fd, const record::v1::Xattr& xattr) {
  if (!IsSharedXattr(xattr.name())) return absl::OkStatus();  // means nothing here
  if (setxattr(DescriptorPath(fd).c_str(), xattr.name().c_str(), xattr.value().data(),
               xattr.value().size(), 0) == 0) {
    return absl::OkStatus();
  }
  // A label of a security module that this machine does not run means nothing here.
  if (errno == ENOTSUP && absl::StartsWith(xattr.name(), "security.")) return absl::OkStatus();
  return StatusFromErrno(errno, absl::StrCat("setxattr ", xattr.name()));
}

absl::Status DropXattr(int fd, const std::string& name) {
  if (!IsSharedXattr(name)) return absl::OkStatus();
  if (removexattr(DescriptorPath(fd).c_str(), name.c_str()) == 0) return absl::OkStatus();
  if (errno == ENODATA || errno == ENOTSUP) return absl::OkStatus();
  return StatusFromErrno(errno, absl::StrCat("removexattr ", name));
}

constexpr struct timespec kOmit = {0, UTIME_OMIT};

}  // namespace

absl::Status Effects::SetAll(int fd, const record::v1::CreateOp& op) const {
  struct stat st;
  if (fstat(fd, &st) != 0) return StatusFromErrno(errno, "fstat");
  if (absl::Status status = SetOwner(fd, st, op.attributes()); !status.ok()) return status;
  absl::StatusOr<std::vector<record::v1::Xattr>> inherited = ReadXattrs(fd);
  if (!inherited.ok()) return inherited.status();
  for (const record::v1::Xattr& xattr : *inherited) {
    const bool wanted = std::any_of(op.xattrs().begin(), op.xattrs().end(),
                                    [&](const auto& x) { return x.name() == xattr.name(); });
    if (wanted) continue;
    if (absl::Status status = DropXattr(fd, xattr.name()); !status.ok()) return status;
  }
  for (const record::v1::Xattr& xattr : op.xattrs()) {
    if (absl::Status status = PutXattr(fd, xattr); !status.ok()) return status;
  }
  if (absl::Status status = SetMode(fd, op.attributes()); !status.ok()) return status;
  return SetTimes(fd, kOmit, FromProto(op.attributes().mtime()));
}

absl::Status Effects::SetAttributesOf(uint64_t object, int fd,
                                      const record::v1::Attributes& attributes,
                                      const record::v1::Timespec* atime) const {
  struct stat st;
  if (fstat(fd, &st) != 0) return StatusFromErrno(errno, "fstat");
  if (absl::Status status = SetOwner(fd, st, attributes); !status.ok()) return status;
  if (absl::Status status = SetMode(fd, attributes); !status.ok()) return status;
  return SetTimes(fd, atime != nullptr ? FromProto(*atime) : kOmit,
                  keeps_mtime_(object) ? kOmit : FromProto(attributes.mtime()));
}

absl::Status Effects::SetAttributes(const record::v1::SetAttributesOp& op,
                                    const Row& object) const {
  absl::StatusOr<UniqueFd> fd = OpenRow(object, O_PATH);
  if (!fd.ok()) return fd.status();
  return SetAttributesOf(op.object(), fd->get(), op.attributes(),
                         op.has_atime() ? &op.atime() : nullptr);
}

absl::Status Effects::SetXattr(const record::v1::SetXattrOp& op, const Row& object) const {
  absl::StatusOr<UniqueFd> fd = OpenRow(object, O_PATH);
  if (!fd.ok()) return fd.status();
  if (absl::Status status = PutXattr(fd->get(), op.xattr()); !status.ok()) return status;
  return SetAttributesOf(op.object(), fd->get(), op.attributes(), nullptr);
}

absl::Status Effects::RemoveXattr(const record::v1::RemoveXattrOp& op, const Row& object) const {
  absl::StatusOr<UniqueFd> fd = OpenRow(object, O_PATH);
  if (!fd.ok()) return fd.status();
  if (absl::Status status = DropXattr(fd->get(), op.name()); !status.ok()) return status;
  return SetAttributesOf(op.object(), fd->get(), op.attributes(), nullptr);
}

absl::StatusOr<uint64_t> Effects::ChangeData(
    uint64_t object, const Row& row, const record::v1::Timespec& mtime,
    const std::function<absl::Status(int fd)>& change) const {
  absl::StatusOr<UniqueFd> fd = OpenRow(row, O_WRONLY);
  if (!fd.ok()) return fd.status();
  struct stat st;
  if (fstat(fd->get(), &st) != 0) return StatusFromErrno(errno, "fstat");
  if (absl::Status status = change(fd->get()); !status.ok()) {
    struct stat now;
    if (fstat(fd->get(), &now) == 0 && now.st_size > st.st_size) {
      SetSize(fd->get(), static_cast<uint64_t>(st.st_size)).IgnoreError();
    }
    const struct timespec times[2] = {kOmit, st.st_mtim};
    futimens(fd->get(), times);
    return status;
  }
  const struct timespec times[2] = {kOmit, keeps_mtime_(object) ? st.st_mtim : FromProto(mtime)};
  if (futimens(fd->get(), times) != 0) return StatusFromErrno(errno, "futimens");
  return static_cast<uint64_t>(st.st_size);
}

absl::StatusOr<uint64_t> Effects::Write(const record::v1::WriteOp& op, const Row& object,
                                        const std::string& payload) const {
  return ChangeData(op.object(), object, op.mtime(), [&](int fd) -> absl::Status {
    uint64_t at = 0;
    for (const record::v1::Extent& extent : op.extents()) {
      absl::Status status = WriteAt(fd, payload.data() + at, extent.length(), extent.offset());
      if (!status.ok()) return status;
      at += extent.length();
    }
    struct stat st;
    if (fstat(fd, &st) != 0) return StatusFromErrno(errno, "fstat");
    if (static_cast<uint64_t>(st.st_size) == op.size()) return absl::OkStatus();
    return SetSize(fd, op.size());
  });
}

absl::StatusOr<uint64_t> Effects::Truncate(const record::v1::TruncateOp& op,
                                           const Row& object) const {
  return ChangeData(op.object(), object, op.mtime(),
                    [&](int fd) { return SetSize(fd, op.size()); });
}

absl::StatusOr<uint64_t> Effects::Allocate(const record::v1::AllocateOp& op,
                                           const Row& object) const {
  return ChangeData(op.object(), object, op.mtime(), [&](int fd) -> absl::Status {
    const int mode = static_cast<int>(op.mode());
    const uint64_t begin = op.extent().offset();
    const uint64_t end = begin + op.extent().length();
    struct stat st;
    if (fstat(fd, &st) != 0) return StatusFromErrno(errno, "fstat");
    // Done before a crash already: these two always change the size, and must not be done twice.
    const bool shifts = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);
    if (shifts && static_cast<uint64_t>(st.st_size) == op.size()) return absl::OkStatus();
    if (fallocate(fd, mode, static_cast<off_t>(begin), static_cast<off_t>(end - begin)) != 0) {
      if (errno != EOPNOTSUPP || shifts) return StatusFromErrno(errno, "fallocate");
      if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        absl::Status status = WriteZeros(fd, begin, std::min(end, op.size()));
        if (!status.ok()) return status;
      }
    }
    if (fstat(fd, &st) != 0) return StatusFromErrno(errno, "fstat");
    if (static_cast<uint64_t>(st.st_size) == op.size()) return absl::OkStatus();
    return SetSize(fd, op.size());
  });
}

}  // namespace intermezzo::sidecar
