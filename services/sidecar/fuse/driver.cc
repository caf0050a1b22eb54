#include "services/sidecar/fuse/driver.h"

#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/log/log.h"
#include "services/common/status/errno.h"
#include "services/sidecar/fuse/caller.h"

namespace intermezzo::sidecar {
namespace {

// Protocol minor with FUSE_NOTIFY_INC_EPOCH, which drops every name at once.
constexpr uint32_t kEpochMinor = 44;
constexpr int kNotifyIncEpoch = 8;
// Threads for fsync and large copies: group commit takes as many at once.
constexpr int kSlowThreads = 4;

size_t DescriptorBudget(size_t wanted) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  // Half for everything else in the process: pinned objects, RocksDB, sockets.
  const size_t budget = std::clamp<size_t>(limit.rlim_cur / 2, 64, 65536);
  return wanted == 0 ? budget : std::min(wanted, budget);
}

}  // namespace

thread_local RequestPeek current_request;

// True while Park() registers the interrupt function, which libfuse may call at once.
static thread_local bool registering = false;

struct FuseDriver::Parked {
  FuseDriver* driver;
  fuse_req_t req;
  std::vector<uint64_t> locked;
  // Whoever sets it answers.
  std::atomic<bool> taken{false};
  bool interrupted_early = false;
};

FuseDriver::FuseDriver(FuseOptions options, Replica* replica)
    : options_(std::move(options)),
      replica_(replica),
      gate_(replica->gate()),
      metrics_(options_.metrics, replica->options().collection.str()),
      inodes_(replica->lower(), replica->db(), DescriptorBudget(options_.max_open_files)),
      payloads_({.memory_bytes = options_.parked_bytes,
                 .file_bytes = options_.spill_bytes,
                 .directory = options_.spill_dir}),
      invalidator_(this, Invalidator::Limits()),
      progress_(std::make_unique<Progress[]>(options_.threads)) {}

FuseDriver::~FuseDriver() { Unmount(absl::ZeroDuration()); }

FuseDriver& FuseDriver::Of(fuse_req_t req) {
  return *static_cast<FuseDriver*>(static_cast<DeviceOwner*>(fuse_req_userdata(req)));
}

FuseDriver::Caller FuseDriver::CallerOf(fuse_req_t req) {
  const fuse_ctx* ctx = fuse_req_ctx(req);
  return {ctx->uid, ctx->gid, ctx->umask, ctx->pid};
}

bool FuseDriver::InGroup(const Caller& caller, gid_t gid) {
  if (caller.uid == 0 || caller.gid == gid) return true;
  return IsInGroup(caller.pid, gid);
}

int FuseDriver::Captured(const absl::Status& status, const char* what) {
  if (status.ok()) return 0;
  log::Error("an update was made but could not be journaled",
             {{"collection", replica_->options().collection.str()},
              {"update", what},
              {"error", status.ToString()}});
  return EIO;
}

absl::Status FuseDriver::Mount() {
  if (session_ != nullptr) return absl::FailedPreconditionError("already mounted");
  unmounting_ = false;
  std::string program = "intermezzo";
  char* argv[] = {program.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  session_ = fuse_session_new(&args, &Operations(), sizeof(fuse_lowlevel_ops),
                              static_cast<DeviceOwner*>(this));
  fuse_opt_free_args(&args);
  if (session_ == nullptr) return absl::InternalError("fuse_session_new failed");
  slow_ = std::make_unique<WorkerPool>(kSlowThreads);
  absl::Status status =
      device_.Mount(session_, options_.mount_point,
                    absl::StrCat("intermezzo:", replica_->options().collection.str()));
  if (!status.ok()) {
    fuse_session_destroy(session_);
    session_ = nullptr;
    slow_.reset();
    return status;
  }
  invalidator_.Start();
  for (int i = 0; i < options_.threads; ++i) {
    threads_.emplace_back([this, i] { Serve(i); });
  }
  metrics_.MountUp(true);
  log::Info("mounted", {{"collection", replica_->options().collection.str()},
                        {"mount_point", options_.mount_point}});
  return absl::OkStatus();
}

void FuseDriver::Unmount(absl::Duration grace) {
  if (session_ == nullptr) return;
  unmounting_ = true;  // updates that find the gate closed are failed from now on
  device_.Unmount(grace);
  metrics_.MountUp(false);
  fuse_session_exit(session_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  slow_.reset();
  invalidator_.Stop();
  // Requests that are still parked hold the session: they are failed, and answers go nowhere.
  gate_.FailParked(StatusFromErrno(EROFS, "the collection was unmounted"));
  {
    absl::MutexLock lock(&parked_mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(parked_mu_) { return parked_ == 0; };
    parked_mu_.Await(absl::Condition(&none));
  }
  fuse_session_destroy(session_);
  session_ = nullptr;
  inodes_.Clear();  // a later mount starts with nothing known
}

void FuseDriver::Serve(size_t thread) {
  std::atomic<uint64_t>& step = progress_[thread].step;
  fuse_buf request = {};
  while (!fuse_session_exited(session_)) {
    const int n = fuse_session_receive_buf(session_, &request);
    if (n == -EINTR) continue;
    if (n <= 0) break;  // unmounted or aborted
    step.fetch_add(1);
    current_request = PeekRequest(request);
    if (current_request.pages) page_requests_.fetch_add(1);
    if (metrics_.enabled()) {
      const int64_t start = absl::GetCurrentTimeNanos();
      fuse_session_process_buf(session_, &request);
      metrics_.Request(current_request.opcode,
                       static_cast<double>(absl::GetCurrentTimeNanos() - start) * 1e-9);
    } else {
      fuse_session_process_buf(session_, &request);
    }
    step.fetch_add(1);
  }
  free(request.mem);
}

void FuseDriver::Init(fuse_conn_info* conn) {
  const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_DONT_MASK |
                          FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO |
                          FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL | FUSE_CAP_CACHE_SYMLINKS |
                          FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_IOCTL_DIR;
  conn->want = wanted & conn->capable;
  conn->max_write = 1 << 20;
  conn->max_background = kMaxBackground;
  conn->congestion_threshold = kMaxBackground * 3 / 4;
  conn->time_gran = 1;
  const unsigned needed = FUSE_CAP_DONT_MASK | FUSE_CAP_POSIX_ACL | FUSE_CAP_EXPLICIT_INVAL_DATA;
  if ((conn->capable & needed) != needed) {
    log::Warning("this kernel's FUSE lacks POSIX ACLs or explicit invalidation");
  }
}

void FuseDriver::Park(fuse_req_t req, std::vector<uint64_t> locked, std::function<void()> update) {
  if (unmounting_) {
    fuse_reply_err(req, EROFS);
    return;
  }
  auto parked = std::make_shared<Parked>();
  parked->driver = this;
  parked->req = req;
  parked->locked = std::move(locked);
  registering = true;
  fuse_req_interrupt_func(req, &FuseDriver::Interrupted, parked.get());
  registering = false;
  if (parked->interrupted_early && IsBeingKilled(fuse_req_ctx(req)->pid)) {
    fuse_req_interrupt_func(req, nullptr, nullptr);
    fuse_reply_err(req, EINTR);
    return;
  }
  invalidator_.Hold(parked->locked);
  {
    absl::MutexLock lock(&parked_mu_);
    ++parked_;
  }
  metrics_.Parked(1);
  // An update whose caller was killed may be resumed when the driver is gone: then it only leaves.
  gate_.EnterOrPark([this, gate = &gate_, parked, update = std::move(update)](absl::Status status) {
    if (!parked->taken.exchange(true)) {
      // After this no interrupt can be running for the request.
      fuse_req_interrupt_func(parked->req, nullptr, nullptr);
      // From here it waits for the local disk only. Released before the answer, so that a caller
      // who has it finds what became stale meanwhile on its way into the kernel.
      invalidator_.Release(parked->locked);
      if (status.ok()) {
        update();
      } else {
        fuse_reply_err(parked->req, ErrnoFromStatus(status));
      }
      Unparked();
    }
    if (status.ok()) gate->Leave();
  });
}

void FuseDriver::Interrupted(fuse_req_t req, void* data) {
  Parked* parked = static_cast<Parked*>(data);
  if (registering) {  // libfuse still uses the request: Park() looks at it
    parked->interrupted_early = true;
    return;
  }
  // Only a fatal signal ends the wait: updates of a disk file system are not interrupted by others.
  if (!IsBeingKilled(fuse_req_ctx(req)->pid)) return;
  FuseDriver* driver = parked->driver;
  std::vector<uint64_t> locked = parked->locked;
  if (parked->taken.exchange(true)) return;  // it has resumed
  // From here `parked` may be gone.
  driver->invalidator_.Release(locked);
  fuse_reply_err(req, EINTR);
  driver->Unparked();
}

void FuseDriver::Unparked() {
  metrics_.Parked(-1);
  absl::MutexLock lock(&parked_mu_);
  --parked_;
}

int FuseDriver::parked() const {
  absl::MutexLock lock(&parked_mu_);
  return parked_;
}

absl::Status FuseDriver::FlushMappings(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  // syncfs need not wait for FUSE (newer kernels skip it), but it queues every write. The helper's
  // own request behind them shows that all were read, unless more were queued than the kernel lets
  // out at once: then again.
  while (true) {
    const uint64_t before = page_requests_.load();
    absl::Status status = flush_helper_.Sync(options_.mount_point, deadline - absl::Now());
    if (!status.ok()) return status;
    if (page_requests_.load() - before < kMaxBackground - options_.threads) break;
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError("dirty pages of the mount keep arriving");
    }
  }
  // Requests that were read then may still be in work.
  for (int i = 0; i < options_.threads; ++i) {
    const uint64_t step = progress_[i].step.load();
    while ((step & 1) != 0 && progress_[i].step.load() == step) {
      if (absl::Now() >= deadline) return absl::DeadlineExceededError("a write is still in work");
      absl::SleepFor(absl::Microseconds(50));
    }
  }
  return absl::OkStatus();
}

void FuseDriver::BeforeRemoval(ObjectId object) {
  InodePtr inode = inodes_.Find(object);
  if (inode == nullptr || !inodes_.Pin(*inode)) return;
  absl::MutexLock lock(&retained_mu_);
  retained_.push_back(std::move(inode));
}

void FuseDriver::Invalidate(Invalidation what) {
  std::vector<InodePtr> retained;
  {
    absl::MutexLock lock(&retained_mu_);
    retained.swap(retained_);
  }
  for (const InodePtr& inode : retained) {
    SettleVictim(*inode);
    if (inode->removed) inode->removed_elsewhere = true;
  }
  for (const Invalidation::Object& object : what.objects) {
    if (InodePtr inode = inodes_.Find(object.id)) inode->plain = false;
  }
  // What the kernel does not know it has not cached. Who tells it of an object from now on looks at
  // the lower tree after that, and finds what was applied (LookupEntry).
  std::erase_if(what.entries, [this](const Invalidation::Entry& entry) {
    return !inodes_.KnownToKernel(entry.parent);
  });
  std::erase_if(what.objects, [this](const Invalidation::Object& object) {
    return !inodes_.KnownToKernel(object.id);
  });
  if (!what.entries.empty() || !what.objects.empty()) invalidator_.Queue(what);
}

int FuseDriver::DropEntry(ObjectId parent, const std::string& name) {
  return fuse_lowlevel_notify_inval_entry(session_, parent.value(), name.data(), name.size());
}

int FuseDriver::DropAttributes(ObjectId object) {
  return fuse_lowlevel_notify_inval_inode(session_, object.value(), -1, 0);
}

int FuseDriver::DropPages(ObjectId object, int64_t offset, int64_t length) {
  return fuse_lowlevel_notify_inval_inode(session_, object.value(), offset, length);
}

bool FuseDriver::CanDropAllEntries() const { return device_.kernel_minor() >= kEpochMinor; }

int FuseDriver::DropAllEntries() { return device_.Notify(kNotifyIncEpoch); }

const fuse_lowlevel_ops& FuseDriver::Operations() {
  static const fuse_lowlevel_ops ops = [] {
    fuse_lowlevel_ops o = {};
    using Req = fuse_req_t;
    using Ino = fuse_ino_t;
    using Fi = fuse_file_info*;
    using Name = const char*;
    o.init = [](void* self, fuse_conn_info* c) {
      static_cast<FuseDriver*>(static_cast<DeviceOwner*>(self))->Init(c);
    };
    o.lookup = [](Req r, Ino p, Name n) { Of(r).Lookup(r, p, n); };
    o.forget = [](Req r, Ino i, uint64_t n) {
      Of(r).inodes_.Forget(ObjectId(i), n);
      fuse_reply_none(r);
    };
    o.forget_multi = [](Req r, size_t count, fuse_forget_data* f) {
      for (size_t i = 0; i < count; ++i) Of(r).inodes_.Forget(ObjectId(f[i].ino), f[i].nlookup);
      fuse_reply_none(r);
    };
    o.getattr = [](Req r, Ino i, Fi) { Of(r).Getattr(r, i); };
    o.setattr = [](Req r, Ino i, struct stat* a, int set, Fi fi) {
      Of(r).Setattr(r, i, a, set, fi != nullptr);
    };
    o.readlink = [](Req r, Ino i) { Of(r).Readlink(r, i); };
    o.mknod = [](Req r, Ino p, Name n, mode_t m, dev_t d) { Of(r).Mknod(r, p, n, m, d); };
    o.mkdir = [](Req r, Ino p, Name n, mode_t m) { Of(r).Mkdir(r, p, n, m); };
    o.unlink = [](Req r, Ino p, Name n) { Of(r).Remove(r, p, n, false); };
    o.rmdir = [](Req r, Ino p, Name n) { Of(r).Remove(r, p, n, true); };
    o.symlink = [](Req r, Name t, Ino p, Name n) { Of(r).Symlink(r, t, p, n); };
    o.rename = [](Req r, Ino p, Name n, Ino np, Name nn, unsigned f) {
      Of(r).Rename(r, p, n, np, nn, f);
    };
    o.link = [](Req r, Ino i, Ino p, Name n) { Of(r).Link(r, i, p, n); };
    o.open = [](Req r, Ino i, Fi fi) { Of(r).Open(r, i, fi); };
    o.read = [](Req r, Ino i, size_t s, off_t off, Fi) { Of(r).Read(r, i, s, off); };
    o.write = [](Req r, Ino i, Name d, size_t s, off_t off, Fi fi) {
      Of(r).Write(r, i, d, s, off, fi);
    };
    o.flush = [](Req r, Ino i, Fi) { Of(r).Flush(r, i); };
    o.release = [](Req r, Ino, Fi) { fuse_reply_err(r, 0); };
    o.fsync = [](Req r, Ino i, int data, Fi) { Of(r).Fsync(r, i, data != 0, false); };
    o.opendir = [](Req r, Ino i, Fi fi) { Of(r).Opendir(r, i, fi); };
    o.readdir = [](Req r, Ino i, size_t s, off_t off, Fi) {
      Of(r).ReadDirectory(r, i, s, off, false);
    };
    o.readdirplus = [](Req r, Ino i, size_t s, off_t off, Fi) {
      Of(r).ReadDirectory(r, i, s, off, true);
    };
    o.releasedir = [](Req r, Ino, Fi) { fuse_reply_err(r, 0); };
    o.fsyncdir = [](Req r, Ino i, int data, Fi) { Of(r).Fsync(r, i, data != 0, true); };
    o.statfs = [](Req r, Ino) { Of(r).Statfs(r); };
    o.setxattr = [](Req r, Ino i, Name n, Name v, size_t s, int f) {
      Of(r).Setxattr(r, i, n, v, s, f);
    };
    o.getxattr = [](Req r, Ino i, Name n, size_t s) { Of(r).Getxattr(r, i, n, s); };
    o.listxattr = [](Req r, Ino i, size_t s) { Of(r).Listxattr(r, i, s); };
    o.removexattr = [](Req r, Ino i, Name n) { Of(r).Removexattr(r, i, n); };
    o.create = [](Req r, Ino p, Name n, mode_t m, Fi fi) { Of(r).Create(r, p, n, m, fi); };
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    o.tmpfile = [](Req r, Ino p, mode_t m, Fi fi) { Of(r).Tmpfile(r, p, m, *fi); };
#endif
    o.ioctl = [](Req r, Ino i, unsigned cmd, void*, Fi, unsigned, const void*, size_t, size_t out) {
      Of(r).Ioctl(r, i, cmd, out);
    };
    o.fallocate = [](Req r, Ino i, int m, off_t off, off_t len, Fi) {
      Of(r).Fallocate(r, i, m, off, len);
    };
    o.copy_file_range = [](Req r, Ino in, off_t in_off, Fi, Ino out, off_t out_off, Fi, size_t len,
                           int f) { Of(r).CopyFileRange(r, in, in_off, out, out_off, len, f); };
    o.lseek = [](Req r, Ino i, off_t off, int w, Fi) { Of(r).Lseek(r, i, off, w); };
    return o;
  }();
  return ops;
}

}  // namespace intermezzo::sidecar
