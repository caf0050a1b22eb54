#include "services/sidecar/snapshot/import.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/sidecar/snapshot/content_hash.h"
#include "services/sidecar/snapshot/directory.h"

namespace intermezzo::sidecar {
namespace {

// What writing to a file takes away from it, so that it has to come after the content.
constexpr char kCapability[] = "security.capability";

absl::Status Errno(const std::string& what, const std::string& name) {
  return StatusFromErrno(errno, absl::StrCat(what, " \"", absl::CHexEscape(name), "\""));
}

absl::Status Count(int dir_fd, uint64_t* count) {
  auto names = ReadNames(dir_fd);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    ++*count;
    struct stat st;
    if (fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return Errno("stat", name);
    if (!S_ISDIR(st.st_mode)) continue;
    UniqueFd fd(openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return Errno("open", name);
    if (absl::Status status = Count(fd.get(), count); !status.ok()) return status;
  }
  return absl::OkStatus();
}

class Importer {
 public:
  Importer(Replica& replica, const ImportHooks& hooks) : replica_(replica), hooks_(hooks) {}

  absl::Status Run() {
    // The last object made may be a file whose content was not wholly cut.
    (void)replica_.db().NewView()->ForEachObject([&](ObjectId id, const storage::v1::ObjectRow&) {
      if (id.ordinal() == replica_.options().ordinal) unfinished_ = std::max(unfinished_, id);
      return true;
    });
    UniqueFd root(openat(replica_.lower().root_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return Errno("open", replica_.lower().root());
    return Directory(kRootObject, root.get());
  }

 private:
  absl::Status Directory(ObjectId directory, int dir_fd) {
    auto names = ReadNames(dir_fd);
    if (!names.ok()) return names.status();
    for (const std::string& name : *names) {
      if (absl::Status status = hooks_.check(); !status.ok()) return status;
      if (absl::Status status = Name(directory, dir_fd, name); !status.ok()) return status;
      hooks_.progress(++done_);
    }
    return absl::OkStatus();
  }

  absl::Status Name(ObjectId directory, int dir_fd, const std::string& name) {
    struct stat st;
    if (fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return Errno("stat", name);
    bool fresh = false;
    auto object = Enter(directory, dir_fd, name, st, &fresh);
    if (!object.ok()) return object.status();
    if (S_ISREG(st.st_mode) && st.st_size > 0 && (fresh || *object == unfinished_)) {
      return Content(*object, dir_fd, name, st);
    }
    if (!S_ISDIR(st.st_mode)) return absl::OkStatus();
    UniqueFd fd(openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return Errno("open", name);
    return Directory(*object, fd.get());
  }

  // The object of this name, made or linked where the table has it not. `fresh`: it was made.
  absl::StatusOr<ObjectId> Enter(ObjectId directory, int dir_fd, const std::string& name,
                                 const struct stat& st, bool* fresh) {
    absl::MutexLock lock(&replica_.update_lock());
    if (const auto entry = replica_.db().Entry(directory, name)) return ObjectId(entry->object());
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
      if (const ObjectId known = replica_.db().ByInode(st.st_ino)) {
        if (absl::Status status = replica_.Linked(known, directory, dir_fd, name); !status.ok()) {
          return status;
        }
        return known;
      }
    }
    *fresh = true;
    return replica_.Created(directory, dir_fd, name);
  }

  absl::Status Content(ObjectId object, int dir_fd, const std::string& name,
                       const struct stat& st) {
    UniqueFd fd(openat(dir_fd, name.c_str(), O_RDONLY | O_NOATIME | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return Errno("open", name);
    bool data = false;
    absl::Status status =
        ForEachRange(fd.get(), st.st_size, [&](uint64_t offset, uint64_t length) -> absl::Status {
          data = true;
          {
            absl::MutexLock lock(&replica_.DataLock(object));
            replica_.Wrote(object, offset, length);
          }
          return replica_.OverDirtyLimit() ? replica_.CutInline(object) : absl::OkStatus();
        });
    if (!status.ok()) return status;
    if (status = replica_.CutInline(object); !status.ok()) return status;
    if (!data) {  // one hole: no write states its size
      absl::MutexLock lock(&replica_.update_lock());
      if (status = replica_.Truncated(object, fd.get(), st.st_size); !status.ok()) return status;
    }
    auto xattrs = ReadXattrs(fd.get());
    if (!xattrs.ok()) return xattrs.status();
    for (const record::v1::Xattr& xattr : *xattrs) {
      if (xattr.name() != kCapability) continue;
      absl::MutexLock lock(&replica_.update_lock());
      if (status = replica_.XattrSet(object, fd.get(), xattr.name()); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  Replica& replica_;
  const ImportHooks& hooks_;
  ObjectId unfinished_;
  uint64_t done_ = 0;
};

}  // namespace

absl::StatusOr<uint64_t> CountTree(Replica& replica) {
  uint64_t count = 0;
  if (absl::Status status = Count(replica.lower().root_fd(), &count); !status.ok()) return status;
  return count;
}

absl::Status BeginImport(Replica& replica) {
  const int fd = replica.lower().root_fd();
  const std::string path = DescriptorPath(fd);
  const std::string& node = replica.options().node.str();
  if (setxattr(path.c_str(), kImportingXattr, node.data(), node.size(), 0) != 0 &&
      errno != ENOTSUP) {
    return Errno("setxattr", replica.lower().root());
  }
  auto xattrs = ReadXattrs(fd);
  if (!xattrs.ok()) return xattrs.status();
  absl::MutexLock lock(&replica.update_lock());
  absl::Status status = replica.AttributesSet(kRootObject, fd, false);
  for (const record::v1::Xattr& xattr : *xattrs) {
    if (!status.ok()) return status;
    status = replica.XattrSet(kRootObject, fd, xattr.name());
  }
  return status;
}

absl::Status ImportTree(Replica& replica, const ImportHooks& hooks) {
  if (absl::Status status = Importer(replica, hooks).Run(); !status.ok()) return status;
  const int fd = replica.lower().root_fd();
  absl::MutexLock lock(&replica.update_lock());
  if (removexattr(DescriptorPath(fd).c_str(), kImportingXattr) != 0) {
    if (errno == ENODATA || errno == ENOTSUP) return absl::OkStatus();
    return Errno("removexattr", replica.lower().root());
  }
  return replica.XattrRemoved(kRootObject, fd, kImportingXattr);
}

}  // namespace intermezzo::sidecar
