// Creating, linking, removing and renaming.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

#include "services/common/status/errno.h"
#include "services/sidecar/fuse/caller.h"
#include "services/sidecar/fuse/driver.h"
#include "services/sidecar/fuse/proc_path.h"

namespace intermezzo::sidecar {
namespace {

constexpr mode_t kSetIds = S_ISUID | S_ISGID;

}  // namespace

// The object is made as root with the caller's group and umask, so that the lower file system
// applies its own rules (set-gid directories, default ACLs), then given to the caller.
template <typename F>
int FuseDriver::MakeObject(ObjectId parent, const std::string& name, const Caller& caller,
                           fuse_entry_param& entry, F make) {
  InodePtr dir = inodes_.Get(parent);
  if (dir == nullptr) return ESTALE;
  absl::StatusOr<FdPtr> dir_fd = inodes_.Open(*dir, Access::kPath);
  if (!dir_fd.ok()) return ErrnoFromStatus(dir_fd.status());
  const int at = (*dir_fd)->get();

  absl::MutexLock lock(&replica_->update_lock());
  UniqueFd made;
  {
    CreatorScope scope(caller.gid, caller.umask);
    const int result = make(at);
    if (result < 0) return errno;
    if (result > 0) made = UniqueFd(result);
  }
  struct stat st;
  int error = 0;
  if (fstatat(at, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    error = errno;
  } else if (caller.uid != 0) {
    // chown drops set-id bits of files.
    if (fchownat(at, name.c_str(), caller.uid, -1, AT_SYMLINK_NOFOLLOW) != 0 ||
        (!S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode) && (st.st_mode & kSetIds) != 0 &&
         fchmodat(at, name.c_str(), st.st_mode & 07777, 0) != 0) ||
        fstatat(at, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      error = errno;
    }
  }
  if (error != 0) {  // as if it had not been made: nothing was captured
    unlinkat(at, name.c_str(), S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
    return error;
  }
  absl::StatusOr<ObjectId> object = replica_->Created(parent, at, name);
  if (!object.ok()) return Captured(object.status(), "create");
  InodePtr inode = FillEntry(*object, st, entry);
  if (made) {
    inode->plain = (st.st_mode & kSetIds) == 0;
    inodes_.Adopt(*inode, Access::kWrite, std::move(made));
  }
  return 0;
}

void FuseDriver::ReplyEntry(fuse_req_t req, int error, const fuse_entry_param& entry) {
  if (error != 0) {
    fuse_reply_err(req, error);
  } else if (fuse_reply_entry(req, &entry) == -ENOENT) {
    inodes_.Forget(ObjectId(entry.ino), 1);  // the caller was killed meanwhile
  }
}

void FuseDriver::Mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
                       dev_t rdev) {
  Update(req, {parent}, [=, this, name = std::string(name), caller = CallerOf(req)] {
    fuse_entry_param entry = {};
    const int error = MakeObject(ObjectId(parent), name, caller, entry,
                                 [&](int at) { return mknodat(at, name.c_str(), mode, rdev); });
    ReplyEntry(req, error, entry);
  });
}

void FuseDriver::Mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  Update(req, {parent}, [=, this, name = std::string(name), caller = CallerOf(req)] {
    fuse_entry_param entry = {};
    const int error = MakeObject(ObjectId(parent), name, caller, entry,
                                 [&](int at) { return mkdirat(at, name.c_str(), mode); });
    ReplyEntry(req, error, entry);
  });
}

void FuseDriver::Symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  Update(req, {parent},
         [=, this, name = std::string(name), target = std::string(target), caller = CallerOf(req)] {
           fuse_entry_param entry = {};
           const int error = MakeObject(ObjectId(parent), name, caller, entry, [&](int at) {
             return symlinkat(target.c_str(), at, name.c_str());
           });
           ReplyEntry(req, error, entry);
         });
}

void FuseDriver::Create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
                        fuse_file_info* fi) {
  Update(req, {parent},
         [=, this, name = std::string(name), caller = CallerOf(req), info = *fi]() mutable {
           fuse_entry_param entry = {};
           int error = MakeObject(ObjectId(parent), name, caller, entry, [&](int at) {
             return openat(at, name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC,
                           mode);
           });
           if (error == EEXIST && (info.flags & O_EXCL) == 0) {
             // Somebody was faster. The kernel asked for no permission to open what is there, so
             // it has to look the name up again: that is what it does on ESTALE.
             error = ESTALE;
           }
           if (error != 0) {
             fuse_reply_err(req, error);
             return;
           }
           info.fh = 0;
           info.keep_cache = 1;
           if (fuse_reply_create(req, &entry, &info) == -ENOENT) {
             inodes_.Forget(ObjectId(entry.ino), 1);
           }
         });
}

int FuseDriver::DoLink(ObjectId object, ObjectId parent, const std::string& name,
                       fuse_entry_param& entry) {
  InodePtr inode = inodes_.Get(object);
  InodePtr dir = inodes_.Get(parent);
  if (inode == nullptr || dir == nullptr) return ESTALE;
  absl::StatusOr<FdPtr> fd = inodes_.Open(*inode, Access::kPath);
  absl::StatusOr<FdPtr> dir_fd = inodes_.Open(*dir, Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  if (!dir_fd.ok()) return ErrnoFromStatus(dir_fd.status());

  absl::MutexLock lock(&replica_->update_lock());
  if (int error = Captured(replica_->CutBefore(object), "link")) return error;
  if (linkat((*fd)->get(), "", (*dir_fd)->get(), name.c_str(), AT_EMPTY_PATH) != 0) return errno;
  const int error =
      inode->may_get_name
          ? FirstName(*inode, (*fd)->get(), parent, (*dir_fd)->get(), name)
          : Captured(replica_->Linked(object, parent, (*dir_fd)->get(), name), "link");
  if (error != 0) return error;
  struct stat st;
  if (fstat((*fd)->get(), &st) != 0) return errno;
  FillEntry(object, st, entry);
  return 0;
}

void FuseDriver::Link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char* name) {
  Update(req, {ino, parent}, [=, this, name = std::string(name)] {
    fuse_entry_param entry = {};
    const int error = DoLink(ObjectId(ino), ObjectId(parent), name, entry);
    ReplyEntry(req, error, entry);
  });
}

InodePtr FuseDriver::PinVictim(ObjectId parent, const std::string& name) {
  std::optional<storage::v1::EntryRow> row = replica_->db().Entry(parent, name);
  if (!row) return nullptr;
  InodePtr victim = inodes_.Find(ObjectId(row->object()));
  if (victim == nullptr || !inodes_.Pin(*victim)) return nullptr;
  return victim;
}

void FuseDriver::SettleVictim(Inode& victim) {
  absl::StatusOr<FdPtr> fd = inodes_.Open(victim, Access::kPath);
  struct stat st;
  if (!fd.ok() || fstat((*fd)->get(), &st) != 0) return;
  // A removed directory shows 0 links on some file systems only; its row is gone on all.
  if (st.st_nlink == 0 || (S_ISDIR(st.st_mode) && !replica_->db().Object(victim.id))) {
    victim.removed = true;
  } else {
    inodes_.Unpin(victim);
  }
}

int FuseDriver::DoRemove(ObjectId parent, const std::string& name, bool directory) {
  InodePtr dir = inodes_.Get(parent);
  if (dir == nullptr) return ESTALE;
  absl::StatusOr<FdPtr> dir_fd = inodes_.Open(*dir, Access::kPath);
  if (!dir_fd.ok()) return ErrnoFromStatus(dir_fd.status());
  const int at = (*dir_fd)->get();

  absl::MutexLock lock(&replica_->update_lock());
  InodePtr victim = PinVictim(parent, name);
  int error = unlinkat(at, name.c_str(), directory ? AT_REMOVEDIR : 0) != 0 ? errno : 0;
  if (error == 0) error = Captured(replica_->Removed(parent, at, name), "remove");
  if (victim != nullptr) SettleVictim(*victim);
  return error;
}

void FuseDriver::Remove(fuse_req_t req, fuse_ino_t parent, const char* name, bool directory) {
  std::vector<uint64_t> locked = {parent};
  if (std::optional<storage::v1::EntryRow> row =
          gate_.is_open() ? std::nullopt : replica_->db().Entry(ObjectId(parent), name)) {
    locked.push_back(row->object());
  }
  Update(req, std::move(locked), [=, this, name = std::string(name)] {
    fuse_reply_err(req, DoRemove(ObjectId(parent), name, directory));
  });
}

int FuseDriver::DoRename(ObjectId parent, const std::string& name, ObjectId new_parent,
                         const std::string& new_name, unsigned flags, const Caller& caller) {
  InodePtr from = inodes_.Get(parent);
  InodePtr to = inodes_.Get(new_parent);
  if (from == nullptr || to == nullptr) return ESTALE;
  absl::StatusOr<FdPtr> from_fd = inodes_.Open(*from, Access::kPath);
  absl::StatusOr<FdPtr> to_fd = inodes_.Open(*to, Access::kPath);
  if (!from_fd.ok()) return ErrnoFromStatus(from_fd.status());
  if (!to_fd.ok()) return ErrnoFromStatus(to_fd.status());
  const int from_at = (*from_fd)->get();
  const int to_at = (*to_fd)->get();

  absl::MutexLock lock(&replica_->update_lock());
  std::optional<storage::v1::EntryRow> moved = replica_->db().Entry(parent, name);
  std::optional<storage::v1::EntryRow> target = replica_->db().Entry(new_parent, new_name);
  if (moved) {
    if (int error = Captured(replica_->CutBefore(ObjectId(moved->object())), "rename")) {
      return error;
    }
  }
  InodePtr victim;
  if (target && (flags & RENAME_EXCHANGE) != 0) {
    if (int error = Captured(replica_->CutBefore(ObjectId(target->object())), "rename")) {
      return error;
    }
  } else if (target) {
    victim = PinVictim(new_parent, new_name);
  }
  int error = 0;
  {
    CreatorScope scope(caller.gid, caller.umask);  // a whiteout is made for the caller
    if (renameat2(from_at, name.c_str(), to_at, new_name.c_str(), flags) != 0) error = errno;
  }
  if (error == 0 && (flags & RENAME_WHITEOUT) != 0 && caller.uid != 0) {
    fchownat(from_at, name.c_str(), caller.uid, -1, AT_SYMLINK_NOFOLLOW);
  }
  if (error != 0) {
    // ext4 makes the whiteout first: its directory keeps a new time also where the rename fails.
    if ((flags & RENAME_WHITEOUT) != 0 &&
        Captured(replica_->AttributesSet(parent, from_at, false), "rename") != 0) {
      error = EIO;
    }
  } else if (moved && target && moved->object() == target->object()) {
    // Two names of one object: rename does nothing, by POSIX, and succeeds.
  } else {
    error = Captured(replica_->Renamed(parent, from_at, name, new_parent, to_at, new_name, flags),
                     "rename");
    if ((flags & RENAME_EXCHANGE) != 0 && moved && target) {
      // The kernel thinks that no time of theirs changed but ctime; xfs sets that of directories.
      Invalidation what;
      what.objects.push_back({ObjectId(moved->object())});
      what.objects.push_back({ObjectId(target->object())});
      invalidator_.Queue(what);
    }
  }
  if (victim != nullptr) SettleVictim(*victim);
  return error;
}

void FuseDriver::Rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
                        const char* new_name, unsigned flags) {
  std::vector<uint64_t> locked = {parent, new_parent};
  if (!gate_.is_open()) {
    for (auto [dir, each] : {std::pair(parent, name), std::pair(new_parent, new_name)}) {
      if (auto row = replica_->db().Entry(ObjectId(dir), each)) locked.push_back(row->object());
    }
  }
  Update(req, std::move(locked),
         [=, this, name = std::string(name), new_name = std::string(new_name),
          caller = CallerOf(req)] {
           fuse_reply_err(req, DoRename(ObjectId(parent), name, ObjectId(new_parent), new_name,
                                        flags, caller));
         });
}

}  // namespace intermezzo::sidecar
