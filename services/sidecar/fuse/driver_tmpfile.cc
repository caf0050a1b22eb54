// Files that have no name at first: O_TMPFILE (libfuse 3.17), and linkat(2) giving them one.
//
// Until then the file is to us what a file is that lost its last name: pinned and not captured. It
// has an object id from the start, because that is its node id. Making it needs no token; writing
// it does, where it may get a name: then what is written is captured from the link on.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "services/common/status/errno.h"
#include "services/sidecar/fuse/caller.h"
#include "services/sidecar/fuse/driver.h"
#include "services/sidecar/fuse/proc_path.h"

namespace intermezzo::sidecar {
namespace {

constexpr char kCapability[] = "security.capability";
constexpr mode_t kSetIds = S_ISUID | S_ISGID;

}  // namespace

void FuseDriver::Tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, const fuse_file_info& fi) {
  const Caller caller = CallerOf(req);
  absl::StatusOr<FdPtr> dir = OpenId(parent, Access::kPath);
  if (!dir.ok()) {
    fuse_reply_err(req, ErrnoFromStatus(dir.status()));
    return;
  }
  UniqueFd fd;
  {
    CreatorScope scope(caller.gid, caller.umask);
    // With O_EXCL it can never get a name.
    fd = UniqueFd(openat((*dir)->get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC | (fi.flags & O_EXCL),
                         mode & 07777));
  }
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0 ||
      // chown drops set-id bits.
      (caller.uid != 0 &&
       (fchown(fd.get(), caller.uid, -1) != 0 ||
        ((st.st_mode & kSetIds) != 0 && fchmod(fd.get(), st.st_mode & 07777) != 0) ||
        fstat(fd.get(), &st) != 0))) {
    fuse_reply_err(req, errno);
    return;
  }
  ObjectId object;
  {
    absl::MutexLock lock(&replica_->update_lock());
    object = replica_->NewObjectId();
  }
  fuse_entry_param entry = {};
  InodePtr inode = FillEntry(object, st, entry);
  inode->removed = true;
  inode->may_get_name = (fi.flags & O_EXCL) == 0;
  inode->plain = (st.st_mode & kSetIds) == 0;
  inodes_.PinAs(*inode, std::move(fd));
  fuse_file_info info = fi;
  info.fh = 0;
  info.keep_cache = 1;
  if (fuse_reply_create(req, &entry, &info) == -ENOENT) {
    inodes_.Forget(object, 1);  // the caller was killed meanwhile
  }
}

int FuseDriver::FirstName(Inode& inode, int fd, ObjectId parent, int parent_fd,
                          const std::string& name) {
  if (int error = Captured(replica_->CreatedAs(inode.id, parent, parent_fd, name), "link")) {
    return error;
  }
  UniqueFd file(open(ProcPath(fd).c_str(), O_RDONLY | O_NOATIME | O_CLOEXEC));
  uint64_t end = 0;
  struct stat st = {};
  int error = 0;
  {
    absl::MutexLock lock(&replica_->DataLock(inode.id));
    inode.removed = false;
    inode.may_get_name = false;
    if (!file || fstat(file.get(), &st) != 0) error = errno;
    for (off_t at = 0; error == 0 && at < st.st_size;) {
      const off_t data = lseek(file.get(), at, SEEK_DATA);
      if (data < 0) {
        if (errno != ENXIO) error = errno;
        break;  // a hole to the end
      }
      const off_t hole = lseek(file.get(), data, SEEK_HOLE);
      end = hole < 0 ? st.st_size : hole;
      replica_->Wrote(inode.id, data, end - data);
      at = static_cast<off_t>(end);
    }
  }
  inodes_.Unpin(inode);
  if (error != 0) return Captured(StatusFromErrno(error, "reading a file that got a name"), "link");
  // A write's record states the size only where bytes were written at all.
  if (end == 0 && st.st_size != 0) {
    return Captured(replica_->Truncated(inode.id, fd, st.st_size), "link");
  }
  if (inode.plain || getxattr(ProcPath(fd).c_str(), kCapability, nullptr, 0) < 0) return 0;
  // Writing drops it on the replicas: it comes once more, after the content.
  if (int failed = Captured(replica_->CutBefore(inode.id), "link")) return failed;
  return Captured(replica_->XattrSet(inode.id, fd, kCapability), "link");
}

}  // namespace intermezzo::sidecar
