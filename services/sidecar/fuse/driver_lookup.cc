// Names to objects, and directories.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/status/errno.h"
#include "services/sidecar/fuse/driver.h"

namespace intermezzo::sidecar {
namespace {

// What getdents64(2) fills in.
struct Dirent64 {
  uint64_t d_ino;
  int64_t d_off;
  uint16_t d_reclen;
  uint8_t d_type;
  char d_name[];
};

bool IsDots(const char* name) {
  return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

}  // namespace

InodePtr FuseDriver::FillEntry(ObjectId object, const struct stat& st, fuse_entry_param& entry) {
  InodePtr inode = inodes_.Remember(object, st.st_ino);
  entry.ino = object.value();
  entry.generation = 0;  // ids are never reused
  entry.attr = st;
  entry.attr_timeout = kCacheSeconds;
  entry.entry_timeout = kCacheSeconds;
  return inode;
}

int FuseDriver::LookupEntry(Inode& parent, const char* name, fuse_entry_param& entry) {
  absl::StatusOr<FdPtr> fd = inodes_.Open(parent, Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  const std::string key = name;
  // A forwarded record may be between its effect on the lower tree and its commit: then the two
  // are looked at once more, under the lock that makes them one step.
  for (int attempt = 0; attempt < 2; ++attempt) {
    std::optional<absl::MutexLock> lock;
    if (attempt == 1) lock.emplace(&replica_->update_lock());
    struct stat st;
    if (fstatat((*fd)->get(), name, &st, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    std::optional<storage::v1::EntryRow> row = replica_->db().Entry(parent.id, key);
    if (!row) continue;
    const ObjectId object(row->object());
    InodePtr known = inodes_.Find(object);
    if (known == nullptr) {
      std::optional<storage::v1::ObjectRow> object_row = replica_->db().Object(object);
      if (!object_row || object_row->inode() != st.st_ino) continue;
    } else if (known->lower_ino != st.st_ino) {
      continue;
    }
    FillEntry(object, st, entry);
    // Attributes as they are now that the object counts as known to the kernel: a record that is
    // applied from here on invalidates them, also while the answer is on its way (Invalidator).
    if (fstatat((*fd)->get(), name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_ino == entry.attr.st_ino) {
      entry.attr = st;
    } else {
      entry.attr_timeout = 0;  // it was moved or replaced meanwhile
    }
    return 0;
  }
  log::Error("lower directory was changed behind our back",
             {{"collection", replica_->options().collection.str()},
              {"directory", std::to_string(parent.id.value())},
              {"name", key}});
  return EIO;
}

void FuseDriver::Lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  InodePtr dir = inodes_.Get(ObjectId(parent));
  if (dir == nullptr) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  fuse_entry_param entry = {};
  int error = 0;
  if (IsDots(name)) {
    // Asked for file handles (NFS, open_by_handle_at) whose object the kernel has forgotten.
    ObjectId object(parent);
    if (name[1] == '.') {
      std::optional<storage::v1::ObjectRow> row = replica_->db().Object(object);
      if (row && row->links_size() != 0) object = ObjectId(row->links(0).parent());
    }
    InodePtr inode = inodes_.Get(object);
    absl::StatusOr<FdPtr> fd = absl::NotFoundError("");
    if (inode != nullptr) fd = inodes_.Open(*inode, Access::kPath);
    struct stat st;
    if (!fd.ok() || fstat((*fd)->get(), &st) != 0) {
      error = ESTALE;
    } else {
      FillEntry(object, st, entry);
    }
  } else {
    error = LookupEntry(*dir, name, entry);
  }
  if (error == ENOENT) {
    entry.ino = 0;  // "no such name" may be cached too
    entry.entry_timeout = kCacheSeconds;
  } else if (error != 0) {
    fuse_reply_err(req, error);
    return;
  }
  if (fuse_reply_entry(req, &entry) == -ENOENT && entry.ino != 0) {
    inodes_.Forget(ObjectId(entry.ino), 1);  // the caller was killed meanwhile
  }
}

// Opens are not told to us, so a directory has no stream of its own: each request reads the lower
// directory from the offset that the kernel was given, which is the lower file system's.
void FuseDriver::ReadDirectory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                               bool plus) {
  InodePtr dir = inodes_.Get(ObjectId(ino));
  if (dir == nullptr) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  absl::StatusOr<FdPtr> path = inodes_.Open(*dir, Access::kPath);
  if (!path.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(path.status()));
    return;
  }
  UniqueFd fd(openat((*path)->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || (offset != 0 && lseek(fd.get(), offset, SEEK_SET) < 0)) {
    fuse_reply_err(req, errno);
    return;
  }
  static thread_local std::vector<char> out;
  static thread_local std::vector<char> in;
  out.resize(std::max(out.size(), size));
  // Not many more than fit: what does not fit is read again.
  in.resize(std::clamp<size_t>(plus ? size / 4 : size, 4096, 65536));
  size_t used = 0;
  bool full = false;
  while (!full) {
    const ssize_t n = syscall(SYS_getdents64, fd.get(), in.data(), in.size());
    if (n < 0 && used == 0) {
      fuse_reply_err(req, errno);
      return;
    }
    if (n <= 0) break;
    for (ssize_t at = 0; at < n && !full;) {
      const Dirent64* d = reinterpret_cast<const Dirent64*>(in.data() + at);
      at += d->d_reclen;
      size_t need;
      if (plus) {
        fuse_entry_param entry = {};
        entry.attr.st_ino = d->d_ino;
        entry.attr.st_mode = static_cast<mode_t>(d->d_type) << 12;
        // Asked first whether it fits, so that no lookup is counted in vain.
        need = fuse_add_direntry_plus(req, nullptr, 0, d->d_name, &entry, d->d_off);
        full = need > size - used;
        if (!full) {
          if (!IsDots(d->d_name) && LookupEntry(*dir, d->d_name, entry) != 0) {
            entry.ino = 0;  // listed by name only
          }
          fuse_add_direntry_plus(req, out.data() + used, size - used, d->d_name, &entry, d->d_off);
        }
      } else {
        struct stat st = {};
        st.st_ino = d->d_ino;
        st.st_mode = static_cast<mode_t>(d->d_type) << 12;
        need = fuse_add_direntry(req, out.data() + used, size - used, d->d_name, &st, d->d_off);
        full = need > size - used;
      }
      if (!full) used += need;
    }
    // One more read of the lower directory only where it will mostly fit.
    if (size - used < size / 4) break;
  }
  fuse_reply_buf(req, out.data(), used);
}

}  // namespace intermezzo::sidecar
