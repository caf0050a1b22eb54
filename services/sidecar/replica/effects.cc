// Effects on names. effects_data.cc has those on one object.
#include "services/sidecar/replica/effects.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::ObjectKind;

// What is at a name, a symbolic link not followed; nullopt: nothing.
absl::StatusOr<std::optional<struct stat>> StatAt(int dir_fd, const std::string& name) {
  struct stat st;
  if (fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return st;
  if (errno == ENOENT) return std::nullopt;
  return StatusFromErrno(errno, "fstatat");
}

absl::Status Diverged(const std::string& name, const std::string& what) {
  return absl::DataLossError(
      absl::StrCat("lower directory: \"", absl::CHexEscape(name), "\" ", what,
                   ": it was changed behind InterMezzo; the node must be ", "synchronised anew"));
}

absl::Status SetDirectoryMtime(int fd, const struct timespec& mtime) {
  const struct timespec times[2] = {{0, UTIME_OMIT}, mtime};
  if (futimens(fd, times) != 0) return StatusFromErrno(errno, "setting a directory's time");
  return absl::OkStatus();
}

mode_t TypeOf(ObjectKind kind) {
  switch (kind) {
    case record::v1::OBJECT_KIND_FIFO:
      return S_IFIFO;
    case record::v1::OBJECT_KIND_SOCKET:
      return S_IFSOCK;
    case record::v1::OBJECT_KIND_CHARACTER_DEVICE:
      return S_IFCHR;
    default:
      return S_IFBLK;
  }
}

// Makes the object without any permission, so that nobody meets it half made. An errno, or 0. A
// new file stays open in `fd`.
int MakeNode(int dir_fd, const record::v1::CreateOp& op, UniqueFd& fd) {
  const char* name = op.name().c_str();
  switch (op.kind()) {
    case record::v1::OBJECT_KIND_FILE: {
      fd = UniqueFd(openat(dir_fd, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0));
      return fd ? 0 : errno;
    }
    case record::v1::OBJECT_KIND_DIRECTORY:
      return mkdirat(dir_fd, name, 0) == 0 ? 0 : errno;
    case record::v1::OBJECT_KIND_SYMLINK:
      return symlinkat(op.symlink_target().c_str(), dir_fd, name) == 0 ? 0 : errno;
    default:
      return mknodat(dir_fd, name, TypeOf(op.kind()), DecodeDevice(op.rdev())) == 0 ? 0 : errno;
  }
}

}  // namespace

absl::StatusOr<UniqueFd> Effects::OpenRow(const Row& row, int flags) const {
  const bool plain =
      row.kind() == record::v1::OBJECT_KIND_FILE || row.kind() == record::v1::OBJECT_KIND_DIRECTORY;
  const LowerHandle handle = {row.handle_type(), row.handle()};
  absl::StatusOr<UniqueFd> fd =
      plain ? lower_.OpenPlain(handle, flags) : lower_.OpenObject(handle, flags);
  if (!fd.ok() && ErrnoFromStatus(fd.status()) == ESTALE) {
    return Diverged(row.links_size() > 0 ? row.links(0).name() : "/", "is gone");
  }
  return fd;
}

absl::StatusOr<Effects::Directory> Effects::OpenDirectory(uint64_t id, const Row& row,
                                                          const record::v1::Timespec& mtime) const {
  absl::StatusOr<UniqueFd> fd = OpenRow(row, O_RDONLY | O_DIRECTORY);
  if (!fd.ok()) return fd.status();
  struct stat st;
  if (fstat(fd->get(), &st) != 0) return StatusFromErrno(errno, "fstat of a directory");
  Directory directory{*std::move(fd), st.st_mtim, FromProto(mtime)};
  if (keeps_mtime_(id)) directory.after = directory.before;
  return directory;
}

absl::Status Effects::ClearName(int dir_fd, const std::string& name) const {
  absl::StatusOr<std::optional<struct stat>> found = StatAt(dir_fd, name);
  if (!found.ok()) return found.status();
  if (!found->has_value()) return absl::OkStatus();
  const struct stat& st = **found;
  if (ObjectId known = db_.ByInode(st.st_ino)) {
    absl::StatusOr<LowerHandle> handle = lower_.HandleAt(dir_fd, name);
    if (!handle.ok()) return handle.status();
    std::optional<Row> row = db_.Object(known);
    if (row.has_value() && row->handle_type() == handle->type && row->handle() == handle->bytes) {
      return Diverged(name, absl::StrCat("is object ", known.value(), ", which has other names"));
    }
  }
  if (S_ISREG(st.st_mode) && st.st_size > 0) {
    return Diverged(name, "is a file with content that no record made");
  }
  if (unlinkat(dir_fd, name.c_str(), S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) == 0) {
    return absl::OkStatus();
  }
  if (errno == ENOTEMPTY) return Diverged(name, "is a directory with content that no record made");
  return StatusFromErrno(errno, "removing a remainder");
}

absl::StatusOr<Effects::Made> Effects::Create(const record::v1::CreateOp& op,
                                              const Row& parent) const {
  absl::StatusOr<Directory> dir = OpenDirectory(op.parent(), parent, op.parent_mtime());
  if (!dir.ok()) return dir.status();
  const int dir_fd = dir->fd.get();
  UniqueFd fd;
  int error = MakeNode(dir_fd, op, fd);
  if (error == EEXIST) {
    if (absl::Status status = ClearName(dir_fd, op.name()); !status.ok()) return status;
    error = MakeNode(dir_fd, op, fd);
  }
  if (error != 0) return StatusFromErrno(error, "creating an object");

  auto finish = [&]() -> absl::StatusOr<Made> {
    if (!fd) fd = UniqueFd(openat(dir_fd, op.name().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st;
    if (!fd || fstat(fd.get(), &st) != 0) return StatusFromErrno(errno, "opening a new object");
    if (absl::Status status = SetAll(fd.get(), op); !status.ok()) return status;
    absl::StatusOr<LowerHandle> handle = lower_.HandleAt(fd.get(), "");
    if (!handle.ok()) return handle.status();
    if (absl::Status status = SetDirectoryMtime(dir_fd, dir->after); !status.ok()) return status;
    return Made{*std::move(handle), st.st_ino};
  };
  absl::StatusOr<Made> made = finish();
  if (!made.ok()) {
    unlinkat(dir_fd, op.name().c_str(),
             op.kind() == record::v1::OBJECT_KIND_DIRECTORY ? AT_REMOVEDIR : 0);
    SetDirectoryMtime(dir_fd, dir->before).IgnoreError();
  }
  return made;
}

absl::Status Effects::Link(const record::v1::LinkOp& op, const Row& parent,
                           const Row& object) const {
  absl::StatusOr<Directory> dir = OpenDirectory(op.parent(), parent, op.parent_mtime());
  if (!dir.ok()) return dir.status();
  const int dir_fd = dir->fd.get();
  absl::StatusOr<UniqueFd> fd = OpenRow(object, O_PATH);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<std::optional<struct stat>> there = StatAt(dir_fd, op.name());
  if (!there.ok()) return there.status();
  if (!there->has_value() || (*there)->st_ino != object.inode()) {
    if (absl::Status status = ClearName(dir_fd, op.name()); !status.ok()) return status;
    if (linkat(fd->get(), "", dir_fd, op.name().c_str(), AT_EMPTY_PATH) != 0) {
      return StatusFromErrno(errno, "linking an object");
    }
  }
  return SetDirectoryMtime(dir_fd, dir->after);
}

absl::Status Effects::Remove(const record::v1::RemoveOp& op, const Row& parent,
                             const Row& object) const {
  absl::StatusOr<Directory> dir = OpenDirectory(op.parent(), parent, op.parent_mtime());
  if (!dir.ok()) return dir.status();
  const int dir_fd = dir->fd.get();
  absl::StatusOr<std::optional<struct stat>> there = StatAt(dir_fd, op.name());
  if (!there.ok()) return there.status();
  if (there->has_value()) {
    if ((*there)->st_ino != object.inode()) return Diverged(op.name(), "is another object");
    if (unlinkat(dir_fd, op.name().c_str(), op.directory() ? AT_REMOVEDIR : 0) != 0) {
      if (errno == ENOTEMPTY) {
        return Diverged(op.name(), "is a directory with content that no record made");
      }
      return StatusFromErrno(errno, "removing a name");
    }
  }
  return SetDirectoryMtime(dir_fd, dir->after);
}

absl::StatusOr<std::optional<Effects::Made>> Effects::Rename(const record::v1::RenameOp& op,
                                                             const Row& from_parent,
                                                             const Row& to_parent,
                                                             const Row& object,
                                                             const Row* replaced) const {
  absl::StatusOr<Directory> from =
      OpenDirectory(op.from_parent(), from_parent, op.from_parent_mtime());
  if (!from.ok()) return from.status();
  absl::StatusOr<Directory> to = OpenDirectory(op.to_parent(), to_parent, op.to_parent_mtime());
  if (!to.ok()) return to.status();
  const int from_fd = from->fd.get();
  const int to_fd = to->fd.get();
  absl::StatusOr<std::optional<struct stat>> source = StatAt(from_fd, op.from_name());
  if (!source.ok()) return source.status();
  absl::StatusOr<std::optional<struct stat>> target = StatAt(to_fd, op.to_name());
  if (!target.ok()) return target.status();
  auto is = [](const std::optional<struct stat>& st, const Row& row) {
    return st.has_value() && st->st_ino == row.inode();
  };
  // Directories that change their parents may get a new time by that.
  std::vector<Directory> swapped;
  if (op.exchange() && op.from_parent() != op.to_parent()) {
    auto add = [&](uint64_t id, const Row& row, bool set,
                   const record::v1::Timespec& mtime) -> absl::Status {
      if (row.kind() != record::v1::OBJECT_KIND_DIRECTORY) return absl::OkStatus();
      absl::StatusOr<Directory> opened = OpenDirectory(id, row, mtime);
      if (!opened.ok()) return opened.status();
      if (!set) opened->after = opened->before;
      swapped.push_back(*std::move(opened));
      return absl::OkStatus();
    };
    absl::Status status = add(op.object(), object, op.has_object_mtime(), op.object_mtime());
    if (status.ok()) {
      status = add(op.replaced(), *replaced, op.has_replaced_mtime(), op.replaced_mtime());
    }
    if (!status.ok()) return status;
  }
  const bool done =
      is(*target, object) && (op.exchange() ? is(*source, *replaced) : !is(*source, object));
  if (!done) {
    if (!is(*source, object)) return Diverged(op.from_name(), "is not the object to be renamed");
    unsigned flags = op.exchange() ? RENAME_EXCHANGE : 0;
    if (op.whiteout() != 0) flags |= RENAME_WHITEOUT;
    if (replaced != nullptr) {
      if (!is(*target, *replaced))
        return Diverged(op.to_name(), "is not the object to be replaced");
    } else {
      if (absl::Status status = ClearName(to_fd, op.to_name()); !status.ok()) return status;
      flags |= RENAME_NOREPLACE;
    }
    if (syscall(SYS_renameat2, from_fd, op.from_name().c_str(), to_fd, op.to_name().c_str(),
                flags) != 0) {
      if (errno == ENOTEMPTY || errno == EEXIST) {
        return Diverged(op.to_name(), "has content that no record made");
      }
      return StatusFromErrno(errno, "renaming");
    }
  }
  std::optional<Made> whiteout;
  if (op.whiteout() != 0) {
    absl::StatusOr<std::optional<struct stat>> left = StatAt(from_fd, op.from_name());
    if (!left.ok()) return left.status();
    if (!left->has_value() || !S_ISCHR((*left)->st_mode) || (*left)->st_rdev != 0) {
      return Diverged(op.from_name(), "is no whiteout");
    }
    absl::StatusOr<LowerHandle> handle = lower_.HandleAt(from_fd, op.from_name());
    if (!handle.ok()) return handle.status();
    whiteout = Made{*std::move(handle), (*left)->st_ino};
  }
  if (absl::Status status = SetDirectoryMtime(from_fd, from->after); !status.ok()) return status;
  if (absl::Status status = SetDirectoryMtime(to_fd, to->after); !status.ok()) return status;
  for (const Directory& each : swapped) {
    absl::Status status = SetDirectoryMtime(each.fd.get(), each.after);
    if (!status.ok()) return status;
  }
  return whiteout;
}

}  // namespace intermezzo::sidecar
