// The inside of FusePresto: the session with the kernel and one handler per FUSE operation.
//
// Handlers are in files by what they touch: driver_lookup.cc (names to objects, directories),
// driver_read.cc, driver_names.cc (creating, removing, renaming), driver_data.cc (bytes),
// driver_attributes.cc. Those that change something run between entering the gate and leaving it;
// Do... methods are what runs then, at once or when a parked update resumes.
#pragma once

#define FUSE_USE_VERSION 314

#include <fuse3/fuse_lowlevel.h>
#include <sys/stat.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/sidecar/fuse/device.h"
#include "services/sidecar/fuse/flush_helper.h"
#include "services/sidecar/fuse/fuse_presto.h"
#include "services/sidecar/fuse/inode_table.h"
#include "services/sidecar/fuse/invalidator.h"
#include "services/sidecar/fuse/metrics.h"
#include "services/sidecar/fuse/parked_payloads.h"
#include "services/sidecar/fuse/worker_pool.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

// How long the kernel may keep names and attributes; it is told of every change.
inline constexpr double kCacheSeconds = 3600;
// Requests in the background that the kernel may have open; FlushMappings relies on it.
inline constexpr unsigned kMaxBackground = 1024;

class FuseDriver : public KernelCache, public DeviceOwner {
 public:
  FuseDriver(FuseOptions options, Replica* replica);
  ~FuseDriver() override;

  absl::Status Mount();
  void Unmount(absl::Duration grace);
  absl::Status FlushMappings(absl::Duration timeout);
  void Invalidate(Invalidation what);
  void BeforeRemoval(ObjectId object);

  Invalidator& invalidator() { return invalidator_; }
  const InodeTable& inodes() const { return inodes_; }
  InodeTable& inodes() { return inodes_; }
  int parked() const;
  const ParkedPayloads& payloads() const { return payloads_; }

  Device& device() override { return device_; }

  // KernelCache.
  int DropEntry(ObjectId parent, const std::string& name) override;
  int DropAttributes(ObjectId object) override;
  int DropPages(ObjectId object, int64_t offset, int64_t length) override;
  bool MayArrive(ObjectId object) override { return inodes_.KnownToKernel(object); }
  bool CanDropAllEntries() const override;
  int DropAllEntries() override;

 private:
  // An update that waits at the gate.
  struct Parked;
  // Who asks for a new object.
  struct Caller {
    uid_t uid;
    gid_t gid;
    mode_t umask;
    pid_t pid;
  };
  struct WriteArgs {
    ObjectId object;
    off_t offset;
    bool append;
    bool kill_suidgid;
    Caller caller;
  };
  struct SetattrArgs {
    ObjectId object;
    struct stat attr;
    int to_set;
    bool by_handle;  // of an open file, not of a name
    bool kill_suidgid;
  };

  static const fuse_lowlevel_ops& Operations();
  static FuseDriver& Of(fuse_req_t req);
  static Caller CallerOf(fuse_req_t req);

  void Init(fuse_conn_info* conn);
  void Serve(size_t thread);

  // Runs `update` (no arguments; it answers `req`) now if the gate is open, else parks it.
  // `locked`: objects whose kernel locks the caller holds meanwhile.
  template <typename F>
  void Update(fuse_req_t req, std::vector<uint64_t> locked, F update);
  void Park(fuse_req_t req, std::vector<uint64_t> locked, std::function<void()> update);
  static void Interrupted(fuse_req_t req, void* data);
  // A parked update was answered; nothing of the driver may be used after it.
  void Unparked();

  // ---- driver_lookup.cc
  // Fills `entry` and counts the lookup. 0 or errno; ENOENT where there is no such name.
  int LookupEntry(Inode& parent, const char* name, fuse_entry_param& entry);
  // Counts the lookup of an object whose lower attributes are in `st`.
  InodePtr FillEntry(ObjectId object, const struct stat& st, fuse_entry_param& entry);
  void Lookup(fuse_req_t req, fuse_ino_t parent, const char* name);
  void ReadDirectory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus);

  // ---- driver_read.cc
  absl::StatusOr<FdPtr> OpenId(fuse_ino_t ino, Access access);
  void Getattr(fuse_req_t req, fuse_ino_t ino);
  void Readlink(fuse_req_t req, fuse_ino_t ino);
  void Open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void Opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void Read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset);
  void Statfs(fuse_req_t req);
  void Getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, size_t size);
  void Listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
  void Lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence);
  void Ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, size_t out_size);

  // ---- driver_names.cc
  void Mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev);
  void Mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode);
  void Symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name);
  void Create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi);
  void Link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char* name);
  void Remove(fuse_req_t req, fuse_ino_t parent, const char* name, bool directory);
  void Rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
              const char* new_name, unsigned flags);
  // Makes an object: `make` is the lower call, given the parent's descriptor, and returns a
  // descriptor to keep, 0 for none, or -1 with errno.
  template <typename F>
  int MakeObject(ObjectId parent, const std::string& name, const Caller& caller,
                 fuse_entry_param& entry, F make);
  void ReplyEntry(fuse_req_t req, int error, const fuse_entry_param& entry);
  int DoLink(ObjectId object, ObjectId parent, const std::string& name, fuse_entry_param& entry);
  // ---- driver_tmpfile.cc
  void Tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, const fuse_file_info& fi);
  // After its first link below: the object gets its row, its content is captured.
  int FirstName(Inode& inode, int fd, ObjectId parent, int parent_fd, const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(replica_->update_lock());
  int DoRemove(ObjectId parent, const std::string& name, bool directory);
  int DoRename(ObjectId parent, const std::string& name, ObjectId new_parent,
               const std::string& new_name, unsigned flags, const Caller& caller);
  // The object that has a name now, pinned because it may lose its last one; null: unknown.
  InodePtr PinVictim(ObjectId parent, const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(replica_->update_lock());
  // After the name went: keeps the pin where no name is left.
  void SettleVictim(Inode& victim);

  // ---- driver_data.cc
  void Write(fuse_req_t req, fuse_ino_t ino, const char* data, size_t size, off_t offset,
             fuse_file_info* fi);
  void Fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length);
  void CopyFileRange(fuse_req_t req, fuse_ino_t in, off_t in_offset, fuse_ino_t out,
                     off_t out_offset, size_t length, int flags);
  void Fsync(fuse_req_t req, fuse_ino_t ino, bool data_only, bool directory);
  void Flush(fuse_req_t req, fuse_ino_t ino);
  void DoWrite(fuse_req_t req, const WriteArgs& args, std::string_view data);
  int DoFallocate(ObjectId object, int mode, off_t offset, off_t length, const Caller& caller);
  ssize_t DoCopy(ObjectId in, off_t in_offset, ObjectId out, off_t out_offset, size_t length,
                 const Caller& caller);
  // Clears what a write clears: file capabilities, and set-id bits where asked. 0 or errno.
  // `had_capability`: the lower file system may have dropped one already.
  int ClearPrivileges(Inode& inode, bool kill_suidgid, const Caller& caller);
  int ClearPrivilegesLocked(Inode& inode, bool kill_suidgid, const Caller& caller,
                            bool had_capability = false)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(replica_->update_lock());

  // ---- driver_attributes.cc
  void Setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set, bool by_handle);
  void Setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value, size_t size,
                int flags);
  void Removexattr(fuse_req_t req, fuse_ino_t ino, const char* name);
  int DoSetattr(const SetattrArgs& args, const Caller& caller, struct stat& result);
  int DoSetattrLocked(Inode& inode, const SetattrArgs& args, const Caller& caller)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(replica_->update_lock());
  int DoSetxattr(ObjectId object, const std::string& name, const std::string& value, int flags,
                 const Caller& caller);
  int DoRemovexattr(ObjectId object, const std::string& name);

  // Whether the caller belongs to a group (its supplementary groups are asked of the kernel).
  static bool InGroup(const Caller& caller, gid_t gid);
  // errno of a capture: 0, or EIO.
  int Captured(const absl::Status& status, const char* what);

  const FuseOptions options_;
  Replica* const replica_;
  WriteGate& gate_;
  FuseMetrics metrics_;
  InodeTable inodes_;
  ParkedPayloads payloads_;
  Invalidator invalidator_;
  Device device_;
  FlushHelper flush_helper_;
  std::unique_ptr<WorkerPool> slow_;
  fuse_session* session_ = nullptr;
  std::atomic<bool> unmounting_{false};
  // Requests that read or write pages, counted as they are read.
  std::atomic<uint64_t> page_requests_{0};
  mutable absl::Mutex parked_mu_;
  int parked_ ABSL_GUARDED_BY(parked_mu_) = 0;  // updates that wait at the gate
  // Per thread: odd while it handles a request.
  struct alignas(64) Progress {
    std::atomic<uint64_t> step{0};
  };
  std::unique_ptr<Progress[]> progress_;
  absl::Mutex retained_mu_;
  std::vector<InodePtr> retained_ ABSL_GUARDED_BY(retained_mu_);
  std::vector<std::thread> threads_;
};

// The request that this thread handles.
extern thread_local RequestPeek current_request;

template <typename F>
void FuseDriver::Update(fuse_req_t req, std::vector<uint64_t> locked, F update) {
  if (gate_.TryEnter()) {
    update();
    gate_.Leave();
  } else {
    Park(req, std::move(locked), std::move(update));
  }
}

}  // namespace intermezzo::sidecar
