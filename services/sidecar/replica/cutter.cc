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
  return stripe.dirty.contains(object);
}

void Cutter::Forget(ObjectId object) {
  Stripe& stripe = StripeOf(object);
  absl::MutexLock lock(&stripe.lock);
  auto it = stripe.dirty.find(object);
  if (it == stripe.dirty.end()) return;
  dirty_bytes_.fetch_sub(it->second.bytes(), std::memory_order_relaxed);
  stripe.dirty.erase(it);
}

absl::StatusOr<bool> Cutter::CutOne(ObjectId object) {
  core_.update_lock().AssertHeld();
  Stripe& stripe = StripeOf(object);
  std::string payload;
  record::v1::Record record = core_.NewRecord();
  record::v1::WriteOp& op = *record.mutable_write();
  std::optional<storage::v1::ObjectRow> row;
  {
    absl::MutexLock lock(&stripe.lock);
    auto it = stripe.dirty.find(object);
    if (it == stripe.dirty.end()) return false;
    row = core_.db().Object(object);
    ExtentSet& dirty = it->second;
    dirty_bytes_.fetch_sub(dirty.bytes(), std::memory_order_relaxed);
    if (!row.has_value()) {  // unlinked, and written to while still open
      stripe.dirty.erase(it);
      return false;
    }
    const std::vector<ExtentSet::Extent> taken = dirty.Take(kMaxPayloadBytes);

    absl::StatusOr<UniqueFd> fd =
        core_.lower().OpenObject({row->handle_type(), row->handle()}, O_RDONLY);
    if (!fd.ok()) return fd.status();
    struct stat st;
    if (fstat(fd->get(), &st) != 0) return StatusFromErrno(errno, "fstat of a written file");
    const uint64_t size = static_cast<uint64_t>(st.st_size);
    std::vector<ExtentSet::Extent> parts;
    uint64_t budget = kMaxPayloadBytes;
    for (ExtentSet::Extent extent : taken) {
      // What a truncation cut off: it has a record of its own.
      if (extent.offset >= size) continue;
      extent.length = std::min(extent.length, size - extent.offset);
      const uint64_t end = extent.offset + extent.length;
      const size_t first = parts.size();
      const uint64_t stopped = AppendData(fd->get(), extent, budget, parts);
      for (size_t i = first; i < parts.size(); ++i) budget -= parts[i].length;
      if (stopped < end) dirty.Add(stopped, end - stopped, extent.sparse);
    }
    dirty_bytes_.fetch_add(dirty.bytes(), std::memory_order_relaxed);
    if (dirty.empty()) stripe.dirty.erase(it);
    for (const ExtentSet::Extent& part : parts) {
      if (absl::Status status = ReadPart(fd->get(), part, payload); !status.ok()) return status;
      record::v1::Extent& extent = *op.add_extents();
      extent.set_offset(part.offset);
      extent.set_length(part.length);
    }
    op.set_object(object.value());
    op.set_size(size);
    *op.mutable_mtime() = ToProto(st.st_mtim);
  }
  if (op.extents().empty()) return true;
  auto batch = core_.db().NewBatch();
  row->set_data_version(record.version());
  batch->UpdateObject(object, *row);
  absl::Status status =
      core_.CommitLocal(std::move(record), SealPayload(payload), std::move(batch));
  if (!status.ok()) return status;
  return true;
}

absl::Status Cutter::CutLocked(ObjectId object) {
  for (;;) {
    absl::StatusOr<bool> cut = CutOne(object);
    // Bytes that cannot be read back are lost to all replicas: nothing may follow them.
    if (!cut.ok()) return core_.Fail(cut.status());
    if (!*cut) return absl::OkStatus();
  }
}

absl::Status Cutter::CutInline(ObjectId object) {
  for (;;) {
    absl::MutexLock lock(&core_.update_lock());
    absl::StatusOr<bool> cut = CutOne(object);
    if (!cut.ok()) return core_.Fail(cut.status());
    if (!*cut) return absl::OkStatus();
  }
}

absl::Status Cutter::CutAll() {
  std::vector<ObjectId> objects;
  for (Stripe& stripe : stripes_) {
    absl::MutexLock lock(&stripe.lock);
    for (const auto& [object, extents] : stripe.dirty) objects.push_back(object);
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
      CutInline(object).IgnoreError();
    }
  }
}

}  // namespace intermezzo::sidecar
