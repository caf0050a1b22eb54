// Bytes of files.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "services/common/status/errno.h"
#include "services/sidecar/fuse/driver.h"
#include "services/sidecar/fuse/proc_path.h"

namespace intermezzo::sidecar {
namespace {

constexpr char kCapability[] = "security.capability";
// One copy_file_range holds a data lock no longer than this takes; callers go on after a short
// copy.
constexpr size_t kMaxCopy = 32 << 20;

}  // namespace

int FuseDriver::ClearPrivilegesLocked(Inode& inode, bool kill_suidgid, const Caller& caller,
                                      bool had_capability) {
  absl::StatusOr<FdPtr> fd = inodes_.Open(inode, Access::kPath);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  const int at = (*fd)->get();
  const ProcPath path(at);
  struct stat st;
  if (fstat(at, &st) != 0) return errno;
  if (!S_ISREG(st.st_mode)) return 0;
  // The lower file system would drop these by itself, but then no record would say so.
  if (GetXattr(at, kCapability, nullptr, 0) >= 0) {
    had_capability = removexattr(path.c_str(), kCapability) == 0;
  }
  if (had_capability) {
    if (int error = Captured(replica_->XattrRemoved(inode.id, at, kCapability), "write")) {
      return error;
    }
  }
  mode_t kill = 0;
  if (kill_suidgid) {
    kill = st.st_mode & S_ISUID;
    if ((st.st_mode & S_ISGID) != 0 &&
        ((st.st_mode & S_IXGRP) != 0 || !InGroup(caller, st.st_gid))) {
      kill |= S_ISGID;
    }
    if (kill != 0) {
      if (ChangeMode(at, st.st_mode & 07777 & ~kill) != 0) return errno;
      if (int error = Captured(replica_->AttributesSet(inode.id, at, false), "write")) {
        return error;
      }
    }
  }
  inode.plain = (st.st_mode & (S_ISUID | S_ISGID) & ~kill) == 0;
  return 0;
}

int FuseDriver::ClearPrivileges(Inode& inode, bool kill_suidgid, const Caller& caller) {
  if (inode.plain) return 0;
  absl::MutexLock lock(&replica_->update_lock());
  return ClearPrivilegesLocked(inode, kill_suidgid, caller);
}

void FuseDriver::DoWrite(fuse_req_t req, const WriteArgs& args, std::string_view data) {
  InodePtr inode = inodes_.Get(args.object);
  if (inode == nullptr) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  absl::StatusOr<FdPtr> fd = inodes_.Open(*inode, Access::kWrite);
  if (!fd.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(fd.status()));
    return;
  }
  const int at = (*fd)->get();
  if (int error = ClearPrivileges(*inode, args.kill_suidgid, args.caller)) {
    fuse_reply_err(req, error);
    return;
  }
  size_t written = 0;
  int error = 0;
  off_t offset = args.offset;
  {
    absl::MutexLock lock(&replica_->DataLock(args.object));
    if (args.append) {
      // The true end: others may have appended since the kernel looked.
      struct stat st;
      if (fstat(at, &st) == 0) offset = st.st_size;
    }
    while (written < data.size()) {
      const ssize_t n = pwrite(at, data.data() + written, data.size() - written, offset + written);
      if (n > 0) {
        written += n;
      } else if (n < 0 && errno != EINTR) {
        error = errno;
        break;
      } else if (n == 0) {
        break;
      }
    }
    if (written != 0) replica_->Wrote(args.object, offset, written);
  }
  if (written != 0 && replica_->OverDirtyLimit()) {
    error = Captured(replica_->CutInline(args.object), "write");
    if (error != 0) written = 0;
  }
  if (written == 0 && error != 0) {
    fuse_reply_err(req, error);
    return;
  }
  if (offset != args.offset) {
    // The kernel put the bytes into its cache where it thought they would go. Queued before the
    // answer, so that a caller who has it finds it queued; it waits for the pages, which the kernel
    // unlocks on the answer.
    Invalidation what;
    what.objects.push_back({args.object, 0, -1});
    invalidator_.Queue(what);
  }
  fuse_reply_write(req, written);
}

void FuseDriver::Write(fuse_req_t req, fuse_ino_t ino, const char* data, size_t size, off_t offset,
                       fuse_file_info* fi) {
  const WriteArgs args = {.object = ObjectId(ino),
                          .offset = offset,
                          .append = (fi->flags & O_APPEND) != 0 && !fi->writepage,
                          .kill_suidgid = current_request.kill_suidgid,
                          .caller = CallerOf(req)};
  // Parked, it needs a copy of the data; the request's buffer serves the next one.
  if (gate_.TryEnter()) {
    DoWrite(req, args, {data, size});
    gate_.Leave();
  } else if (InodePtr inode = inodes_.Find(args.object);
             inode != nullptr && inode->removed && !inode->may_get_name) {
    DoWrite(req, args, {data, size});  // no name, no record: it needs no authority
  } else {
    auto payload = payloads_.Keep({data, size}, /*must=*/fi->writepage != 0);
    if (!payload.ok()) {
      fuse_reply_err(req, ErrnoFromStatus(payload.status()));
      return;
    }
    Park(req, {ino}, [this, req, args, payload = *std::move(payload)] {
      std::string buffer;
      const absl::StatusOr<std::string_view> bytes = payload->Bytes(buffer);
      if (bytes.ok()) {
        DoWrite(req, args, *bytes);
      } else {
        fuse_reply_err(req, ErrnoFromStatus(bytes.status()));
      }
    });
  }
}

int FuseDriver::DoFallocate(ObjectId object, int mode, off_t offset, off_t length,
                            const Caller& caller) {
  InodePtr inode = inodes_.Get(object);
  if (inode == nullptr) return ESTALE;
  absl::StatusOr<FdPtr> fd = inodes_.Open(*inode, Access::kWrite);
  if (!fd.ok()) return ErrnoFromStatus(fd.status());
  const int at = (*fd)->get();
  absl::MutexLock lock(&replica_->update_lock());
  if (int error = Captured(replica_->CutBefore(object), "fallocate")) return error;
  // A mode that the lower file system does not have leaves set-id bits alone.
  const bool plain = inode->plain;
  const bool had_capability =
      !plain && getxattr(ProcPath(at).c_str(), kCapability, nullptr, 0) >= 0;
  const int failed = fallocate(at, mode, offset, length) != 0 ? errno : 0;
  if (!plain && failed != EOPNOTSUPP) {
    const int error = ClearPrivilegesLocked(*inode, caller.uid != 0, caller, had_capability);
    if (error != 0) return error;
  }
  if (failed != 0) return failed;
  return Captured(replica_->Allocated(object, at, mode, offset, length), "fallocate");
}

void FuseDriver::Fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length) {
  Update(req, {ino}, [=, this, caller = CallerOf(req)] {
    fuse_reply_err(req, DoFallocate(ObjectId(ino), mode, offset, length, caller));
  });
}

ssize_t FuseDriver::DoCopy(ObjectId in, off_t in_offset, ObjectId out, off_t out_offset,
                           size_t length, const Caller& caller) {
  InodePtr from = inodes_.Get(in);
  InodePtr to = inodes_.Get(out);
  if (from == nullptr || to == nullptr) return -ESTALE;
  absl::StatusOr<FdPtr> from_fd = inodes_.Open(*from, Access::kRead);
  absl::StatusOr<FdPtr> to_fd = inodes_.Open(*to, Access::kWrite);
  if (!from_fd.ok()) return -ErrnoFromStatus(from_fd.status());
  if (!to_fd.ok()) return -ErrnoFromStatus(to_fd.status());
  if (int error = ClearPrivileges(*to, caller.uid != 0, caller)) return -error;
  ssize_t n;
  {
    absl::MutexLock lock(&replica_->DataLock(out));
    const off_t begin = out_offset;
    n = copy_file_range((*from_fd)->get(), &in_offset, (*to_fd)->get(), &out_offset,
                        std::min(length, kMaxCopy), 0);
    if (n < 0) return -errno;
    if (n > 0) replica_->Wrote(out, begin, n);
  }
  if (n > 0 && replica_->OverDirtyLimit()) {
    if (int error = Captured(replica_->CutInline(out), "copy")) return -error;
  }
  return n;
}

void FuseDriver::CopyFileRange(fuse_req_t req, fuse_ino_t in, off_t in_offset, fuse_ino_t out,
                               off_t out_offset, size_t length, int flags) {
  auto copy = [=, this, caller = CallerOf(req)] {
    const ssize_t n = DoCopy(ObjectId(in), in_offset, ObjectId(out), out_offset, length, caller);
    if (n < 0) {
      fuse_reply_err(req, static_cast<int>(-n));
    } else {
      fuse_reply_write(req, n);
    }
  };
  if (!gate_.TryEnter()) {
    Park(req, {in, out}, std::move(copy));
    return;
  }
  slow_->Run([this, copy = std::move(copy)] {
    copy();
    gate_.Leave();
  });
}

// Makes nothing new (what is cut was written under an open gate), so it passes no gate: a reader
// may sync without asking for the token.
void FuseDriver::Fsync(fuse_req_t req, fuse_ino_t ino, bool data_only, bool directory) {
  slow_->Run([=, this] {
    absl::StatusOr<FdPtr> fd = OpenId(ino, Access::kRead);
    if (!fd.ok()) {
      fuse_reply_err(req, ErrnoFromStatus(fd.status()));
      return;
    }
    const int result = data_only ? fdatasync((*fd)->get()) : fsync((*fd)->get());
    if (result != 0) {
      fuse_reply_err(req, errno);
      return;
    }
    fuse_reply_err(req, Captured(replica_->SyncJournal(ObjectId(ino)), "fsync"));
  });
}

void FuseDriver::Flush(fuse_req_t req, fuse_ino_t ino) {
  if (!options_.answer_opens) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  slow_->Run(
      [=, this] { fuse_reply_err(req, Captured(replica_->CutInline(ObjectId(ino)), "close")); });
}

}  // namespace intermezzo::sidecar
