// Modes, owners, times, sizes and extended attributes.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "services/common/status/errno.h"
#include "services/sidecar/fuse/driver.h"
#include "services/sidecar/fuse/proc_path.h"

namespace intermezzo::sidecar {
namespace {

constexpr std::string_view kAccessAcl = "system.posix_acl_access";
constexpr int kTimes = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME;
constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;

// In what a record carries of them.
bool SameAttributes(const struct stat& a, const struct stat& b) {
  return a.st_mode == b.st_mode && a.st_uid == b.st_uid && a.st_gid == b.st_gid &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

int FuseDriver::DoSetattrLocked(Inode& inode, const SetattrArgs& args, const Caller& caller) {
  int set = args.to_set;
  const bool sized = (set & FUSE_SET_ATTR_SIZE) != 0;
  absl::StatusOr<FdPtr> fd = inodes_.Open(inode, sized ? Access::kWrite : Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  const int at = (*fd)->get();
  const ProcPath path(at);
  if ((sized || (set & kOwner) != 0) && !inode.plain) {
    // A change of owner drops set-id bits in the lower file system as it does here.
    if (int error = ClearPrivilegesLocked(inode, sized && args.kill_suidgid, caller)) return error;
  }
  if (sized) {
    if (int error = Captured(replica_->CutBefore(inode.id), "truncate")) return error;
    // ftruncate(2) and O_TRUNC touch the times even where the size stays, truncate(2) does not.
    const bool touch = (set & FUSE_SET_ATTR_MTIME) != 0;
    const int result =
        touch ? ftruncate(at, args.attr.st_size) : truncate(path.c_str(), args.attr.st_size);
    if (result != 0) return errno;
    if (int error =
            Captured(replica_->Truncated(inode.id, at, static_cast<uint64_t>(args.attr.st_size)),
                     "truncate")) {
      return error;
    }
    if ((set & FUSE_SET_ATTR_MTIME_NOW) != 0) set &= ~FUSE_SET_ATTR_MTIME;
  }
  struct stat before;
  if (fstat(at, &before) != 0) return errno;
  int error = 0;
  bool changed = false;
  if ((set & kOwner) != 0) {
    const uid_t uid = (set & FUSE_SET_ATTR_UID) != 0 ? args.attr.st_uid : static_cast<uid_t>(-1);
    const gid_t gid = (set & FUSE_SET_ATTR_GID) != 0 ? args.attr.st_gid : static_cast<gid_t>(-1);
    if (fchownat(at, "", uid, gid, AT_EMPTY_PATH) != 0) {
      error = errno;
    } else {
      changed = true;
      // We may keep a set-gid bit without group execution; a caller outside the group may not.
      if (S_ISREG(before.st_mode) && (before.st_mode & (S_ISGID | S_IXGRP)) == S_ISGID &&
          !InGroup(caller, before.st_gid) &&
          ChangeMode(at, before.st_mode & 07777 & ~(S_ISUID | S_ISGID)) != 0) {
        error = errno;
      }
    }
  }
  if (error == 0 && (set & FUSE_SET_ATTR_MODE) != 0) {
    inode.plain = false;
    if (ChangeMode(at, args.attr.st_mode & 07777) != 0) {
      error = errno;
    } else {
      changed = true;
    }
  }
  const bool atime_set = (set & FUSE_SET_ATTR_ATIME) != 0;
  if (error == 0 && (set & kTimes) != 0) {
    struct timespec times[2] = {args.attr.st_atim, args.attr.st_mtim};
    if (!atime_set) times[0].tv_nsec = UTIME_OMIT;
    if ((set & FUSE_SET_ATTR_ATIME_NOW) != 0) times[0].tv_nsec = UTIME_NOW;
    if ((set & FUSE_SET_ATTR_MTIME) == 0) times[1].tv_nsec = UTIME_OMIT;
    if ((set & FUSE_SET_ATTR_MTIME_NOW) != 0) times[1].tv_nsec = UTIME_NOW;
    if (utimensat(at, "", times, AT_EMPTY_PATH) != 0) {
      error = errno;
    } else {
      changed = true;
    }
  }
  // What a record would say is what it said before: chmod and chown to what is there already.
  struct stat after;
  if (changed && !atime_set && fstat(at, &after) == 0) changed = !SameAttributes(before, after);
  if (changed) {
    // The part that was done is journaled also where the rest failed.
    if (int lost =
            Captured(replica_->AttributesSet(inode.id, at, atime_set && error == 0), "setattr")) {
      return lost;
    }
  }
  return error;
}

int FuseDriver::DoSetattr(const SetattrArgs& args, const Caller& caller, struct stat& result) {
  InodePtr inode = inodes_.Get(args.object);
  if (inode == nullptr) return ESTALE;
  absl::MutexLock lock(&replica_->update_lock());
  // The caller's name led here before the kernel knew of the removal (perhaps it waited for the
  // token meanwhile). On ESTALE the kernel looks the name up again, so that an open with O_TRUNC
  // after another node's unlink or rename writes the file of that name, and not one that is gone.
  if (inode->removed_elsewhere && !args.by_handle) return ESTALE;
  if (int error = DoSetattrLocked(*inode, args, caller)) return error;
  absl::StatusOr<FdPtr> fd = inodes_.Open(*inode, Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  return fstat((*fd)->get(), &result) != 0 ? errno : 0;
}

void FuseDriver::Setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set,
                         bool by_handle) {
  const SetattrArgs args = {.object = ObjectId(ino),
                            .attr = *attr,
                            .to_set = to_set,
                            .by_handle = by_handle,
                            .kill_suidgid = current_request.kill_suidgid};
  Update(req, {ino}, [this, req, args, caller = CallerOf(req)] {
    struct stat result;
    if (int error = DoSetattr(args, caller, result)) {
      fuse_reply_err(req, error);
    } else {
      fuse_reply_attr(req, &result, kCacheSeconds);
    }
  });
}

int FuseDriver::DoSetxattr(ObjectId object, const std::string& name, const std::string& value,
                           int flags, const Caller& caller) {
  InodePtr inode = inodes_.Get(object);
  if (inode == nullptr) return ESTALE;
  absl::StatusOr<FdPtr> fd = inodes_.Open(*inode, Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  const int at = (*fd)->get();
  const ProcPath path(at);
  absl::MutexLock lock(&replica_->update_lock());
  inode->plain = false;
  if (setxattr(path.c_str(), name.c_str(), value.data(), value.size(), flags) != 0) return errno;
  if (name == kAccessAcl) {
    // Setting an ACL sets the mode; set-gid goes as with chmod.
    struct stat st;
    if (fstat(at, &st) == 0 && (st.st_mode & S_ISGID) != 0 && !InGroup(caller, st.st_gid)) {
      ChangeMode(at, st.st_mode & 07777 & ~S_ISGID);
    }
  }
  if (getxattr(path.c_str(), name.c_str(), nullptr, 0) < 0 && errno == ENODATA) {
    // An ACL that says no more than the mode is kept as the mode.
    return Captured(replica_->XattrRemoved(object, at, name), "setxattr");
  }
  return Captured(replica_->XattrSet(object, at, name), "setxattr");
}

void FuseDriver::Setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value,
                          size_t size, int flags) {
  Update(req, {ino},
         [=, this, name = std::string(name), value = std::string(value, size),
          caller = CallerOf(req)] {
           fuse_reply_err(req, DoSetxattr(ObjectId(ino), name, value, flags, caller));
         });
}

int FuseDriver::DoRemovexattr(ObjectId object, const std::string& name) {
  absl::StatusOr<FdPtr> fd = OpenId(object.value(), Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  const int at = (*fd)->get();
  absl::MutexLock lock(&replica_->update_lock());
  if (removexattr(ProcPath(at).c_str(), name.c_str()) != 0) return errno;
  return Captured(replica_->XattrRemoved(object, at, name), "removexattr");
}

void FuseDriver::Removexattr(fuse_req_t req, fuse_ino_t ino, const char* name) {
  Update(req, {ino}, [=, this, name = std::string(name)] {
    fuse_reply_err(req, DoRemovexattr(ObjectId(ino), name));
  });
}

}  // namespace intermezzo::sidecar
