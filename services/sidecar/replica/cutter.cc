#include "services/sidecar/replica/cutter.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "services/common/record/codec.h"
#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

// With more local records than this on their way to the journal and back, what is dirty gathers for
// kGather (or up to kGatherBytes) before it is cut: a file that is written in pieces is then one
// record, not one for each piece. Whoever waits for his updates to be seen is below it.
constexpr uint64_t kBusyRecords = 32;
constexpr absl::Duration kGather = absl::Milliseconds(5);
constexpr uint64_t kGatherBytes = 4 << 20;

// Appends the parts of `extent` that hold data, at most `budget` bytes, to `parts`; returns where
// it stopped, the end of the extent where it has them all. Holes in a range that also has bytes
// that nobody wrote are left out.
uint64_t AppendData(int fd, const ExtentSet::Extent& extent, uint64_t budget,
                    std::vector<ExtentSet::Extent>& parts) {
  const uint64_t end = extent.offset + extent.length;
  uint64_t at = extent.offset;
  while (at < end && budget > 0) {
    uint64_t part_end = end;
    if (extent.sparse) {
      const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno == ENXIO) return end;  // a hole to the end of the file
      // A file system that cannot tell gets the whole range.
      const off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
      if (hole >= 0) {
        at = static_cast<uint64_t>(data);
        part_end = std::min(end, static_cast<uint64_t>(hole));
        if (at >= end) return end;
      }
    }
    const uint64_t length = std::min(part_end - at, budget);
    parts.push_back({at, length, false});
    at += length;
    budget -= length;
  }
  return at;
}

// Reads a part's bytes onto the end of `payload`.
absl::Status ReadPart(int fd, const ExtentSet::Extent& part, std::string& payload) {
  const size_t start = payload.size();
  payload.resize(start + part.length);
  for (size_t done = 0; done < part.length;) {
    const ssize_t n = pread(fd, payload.data() + start + done, part.length - done,
                            static_cast<off_t>(part.offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return StatusFromErrno(errno, "reading back written bytes");
    if (n == 0) return StatusFromErrno(EIO, "reading back written bytes: the file became shorter");
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Cutter::Read(const LowerTree& lower, const std::vector<ExtentSet::Extent>& taken,
                          ExtentSet& rest, Prepared& prepared) {
  absl::StatusOr<UniqueFd> fd = lower.OpenObject(prepared.handle, O_RDONLY | O_NOATIME);
  if (!fd.ok()) return fd.status();
  prepared.fd = *std::move(fd);
  const int at = prepared.fd.get();
  struct stat st;
  if (fstat(at, &st) != 0) return StatusFromErrno(errno, "fstat of a written file");
  const uint64_t size = static_cast<uint64_t>(st.st_size);
  std::vector<ExtentSet::Extent> parts;
  std::vector<ExtentSet::Extent> left;
  uint64_t budget = kMaxPayloadBytes;
  for (ExtentSet::Extent extent : taken) {
    // What a truncation cut off: it has a record of its own.
    if (extent.offset >= size) continue;
    extent.length = std::min(extent.length, size - extent.offset);
    const uint64_t end = extent.offset + extent.length;
    const size_t first = parts.size();
    const uint64_t stopped = AppendData(at, extent, budget, parts);
    for (size_t i = first; i < parts.size(); ++i) budget -= parts[i].length;
    if (stopped < end) left.push_back({stopped, end - stopped, extent.sparse});
  }
  std::string payload;
  for (const ExtentSet::Extent& part : parts) {
    if (absl::Status status = ReadPart(at, part, payload); !status.ok()) return status;
    record::v1::Extent& extent = *prepared.op.add_extents();
    extent.set_offset(part.offset);
    extent.set_length(part.length);
  }
  prepared.op.set_size(size);
  prepared.payload = SealPayload(payload);
  for (const ExtentSet::Extent& extent : left) {
    rest.Add(extent.offset, extent.length, extent.sparse);
  }
  return absl::OkStatus();
}

Cutter::Cutter(ReplicaCore& core) : core_(core), thread_([this] { Run(); }) {}

Cutter::~Cutter() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

Cutter::Stripe& Cutter::StripeOf(ObjectId object) {
  return stripes_[object.value() % stripes_.size()];
}

void Cutter::Wrote(ObjectId object, uint64_t offset, uint64_t length) {
  Stripe& stripe = StripeOf(object);
  stripe.lock.AssertHeld();
  ExtentSet& extents = stripe.dirty[object];
  const bool was_clean = extents.empty();
  const uint64_t before = extents.bytes();
  extents.Add(offset, length);
  dirty_bytes_.fetch_add(extents.bytes() - before, std::memory_order_relaxed);
  if (!was_clean) return;
  absl::MutexLock lock(&mu_);
  if (queued_.insert(object).second) queue_.push_back(object);
}

bool Cutter::IsDirty(ObjectId object) {
  Stripe& stripe = StripeOf(object);
  stripe.lock.AssertHeld();
  return stripe.dirty.contains(object) || stripe.prepared.contains(object);
}

void Cutter::Forget(ObjectId object) {
  Stripe& stripe = StripeOf(object);
  absl::MutexLock lock(&stripe.lock);
  stripe.prepared.erase(object);
  auto it = stripe.dirty.find(object);
  if (it == stripe.dirty.end()) return;
  dirty_bytes_.fetch_sub(it->second.bytes(), std::memory_order_relaxed);
  stripe.dirty.erase(it);
}

void Cutter::ReadAnew(ObjectId object) {
  core_.update_lock().AssertHeld();
  Stripe& stripe = StripeOf(object);
  absl::MutexLock lock(&stripe.lock);
  auto it = stripe.prepared.find(object);
  if (it == stripe.prepared.end()) return;
  Unprepare(stripe, object, it->second);
  stripe.prepared.erase(it);
}

void Cutter::Unprepare(Stripe& stripe, ObjectId object, const Prepared& prepared) {
  ExtentSet& dirty = stripe.dirty[object];
  const uint64_t before = dirty.bytes();
  for (const record::v1::Extent& extent : prepared.op.extents()) {
    dirty.Add(extent.offset(), extent.length());
  }
  dirty_bytes_.fetch_add(dirty.bytes() - before, std::memory_order_relaxed);
}

absl::StatusOr<Cutter::Left> Cutter::Prepare(ObjectId object) {
  Stripe& stripe = StripeOf(object);
  absl::MutexLock lock(&stripe.lock);
  if (stripe.prepared.contains(object)) return Left::kPreparedAndDirty;  // perhaps
  auto it = stripe.dirty.find(object);
  if (it == stripe.dirty.end()) return Left::kNothing;
  ExtentSet& dirty = it->second;
  const std::optional<storage::v1::ObjectRow> row = core_.db().Object(object);
  dirty_bytes_.fetch_sub(dirty.bytes(), std::memory_order_relaxed);
  if (!row.has_value()) {  // unlinked, and written to while still open
    stripe.dirty.erase(it);
    return Left::kNothing;
  }
  const std::vector<ExtentSet::Extent> taken = dirty.Take(kMaxPayloadBytes);
  Prepared prepared = {{row->handle_type(), row->handle()}, {}, {}, {}};
  const absl::Status status = Read(core_.lower(), taken, dirty, prepared);
  if (!status.ok()) {
    for (const ExtentSet::Extent& extent : taken) {
      dirty.Add(extent.offset, extent.length, extent.sparse);
    }
  }
  dirty_bytes_.fetch_add(dirty.bytes(), std::memory_order_relaxed);
  if (!status.ok()) return status;
  const Left left = dirty.empty() ? Left::kPrepared : Left::kPreparedAndDirty;
  if (dirty.empty()) stripe.dirty.erase(it);
  if (!prepared.op.extents().empty()) {
    prepared.op.set_object(object.value());
    stripe.prepared.emplace(object, std::move(prepared));
  }
  return left;
}

absl::Status Cutter::Commit(ObjectId object) {
  core_.update_lock().AssertHeld();
  Stripe& stripe = StripeOf(object);
  const std::optional<storage::v1::ObjectRow> found = core_.db().Object(object);
  Prepared prepared;
  {
    absl::MutexLock lock(&stripe.lock);
    auto it = stripe.prepared.find(object);
    if (it == stripe.prepared.end()) return absl::OkStatus();
    prepared = std::move(it->second);
    stripe.prepared.erase(it);
    if (!found.has_value()) return absl::OkStatus();  // unlinked meanwhile
    if (prepared.handle != LowerHandle{found->handle_type(), found->handle()}) {
      Unprepare(stripe, object, prepared);  // made again as another lower file
      return absl::OkStatus();
    }
  }
  // The time as it is now: a record that set it may have been made since the bytes were read.
  struct stat st;
  if (fstat(prepared.fd.get(), &st) != 0) {
    return core_.Fail(StatusFromErrno(errno, "fstat of a written file"));
  }
  record::v1::Record record = core_.NewRecord();
  *record.mutable_write() = std::move(prepared.op);
  *record.mutable_write()->mutable_mtime() = ToProto(st.st_mtim);
  storage::v1::ObjectRow row = *found;
  row.set_data_version(record.version());
  auto batch = core_.db().NewBatch();
  batch->UpdateObject(object, row);
  return core_.CommitLocal(std::move(record), std::move(prepared.payload), std::move(batch));
}

absl::Status Cutter::CutLocked(ObjectId object) {
  core_.update_lock().AssertHeld();
  for (;;) {
    absl::StatusOr<Left> left = Prepare(object);
    // Bytes that cannot be read back are lost to all replicas: nothing may follow them.
    if (!left.ok()) return core_.Fail(left.status());
    if (*left == Left::kNothing) return absl::OkStatus();
    if (absl::Status status = Commit(object); !status.ok()) return status;
  }
}

absl::Status Cutter::Cut(ObjectId object, bool until_clean) {
  for (;;) {
    absl::StatusOr<Left> left = Prepare(object);
    absl::MutexLock lock(&core_.update_lock());
    // The file may have been truncated or removed while it was read: under this lock it is not.
    if (!left.ok()) return CutLocked(object);
    // What another thread had prepared is committed when this lock is ours.
    if (*left == Left::kNothing) return absl::OkStatus();
    if (absl::Status status = Commit(object); !status.ok()) return status;
    if (!until_clean && *left == Left::kPrepared) return absl::OkStatus();
  }
}

absl::Status Cutter::CutAll() {
  std::vector<ObjectId> objects;
  for (Stripe& stripe : stripes_) {
    absl::MutexLock lock(&stripe.lock);
    for (const auto& [object, extents] : stripe.dirty) objects.push_back(object);
    for (const auto& [object, prepared] : stripe.prepared) objects.push_back(object);
  }
  for (ObjectId object : objects) {
    if (absl::Status status = CutInline(object); !status.ok()) return status;
  }
  // A record that another thread is making of extents it took is committed when this is ours.
  absl::MutexLock lock(&core_.update_lock());
  return absl::OkStatus();
}

void Cutter::Run() {
  for (;;) {
    std::deque<ObjectId> round;
    {
      absl::MutexLock lock(&mu_);
      auto ready = [this]()
                       ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !queue_.empty(); };
      mu_.Await(absl::Condition(&ready));
      if (core_.pending_records() > kBusyRecords) {
        auto enough = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
          return stopping_ || dirty_bytes() > kGatherBytes;
        };
        mu_.AwaitWithTimeout(absl::Condition(&enough), kGather);
      }
      if (stopping_) return;
      round.swap(queue_);
      queued_.clear();
    }
    for (ObjectId object : round) {
      // A failure has closed the replica; there is nobody here to tell.
      Cut(object, /*until_clean=*/false).IgnoreError();
    }
  }
}

}  // namespace intermezzo::sidecar
