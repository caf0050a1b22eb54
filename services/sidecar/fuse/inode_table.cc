#include "services/sidecar/fuse/inode_table.h"

#include <fcntl.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>

#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

int OpenFlags(Access access) {
  switch (access) {
    case Access::kPath:
      return O_PATH | O_CLOEXEC | O_NOFOLLOW;
    case Access::kRead:
      return O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    case Access::kWrite:
      return O_RDWR | O_CLOEXEC | O_NOFOLLOW;
  }
  return O_PATH | O_CLOEXEC;
}

}  // namespace

InodeTable::InodeTable(const LowerTree& lower, const NodeDb& db, size_t max_fds)
    : lower_(lower), db_(db), max_fds_(max_fds) {}

InodeTable::~InodeTable() = default;

InodePtr InodeTable::Find(ObjectId id) {
  absl::MutexLock lock(&mu_);
  auto it = inodes_.find(id.value());
  return it == inodes_.end() ? nullptr : it->second;
}

InodePtr InodeTable::Get(ObjectId id) {
  if (InodePtr inode = Find(id)) return inode;
  std::optional<storage::v1::ObjectRow> row = db_.Object(id);
  if (!row) return nullptr;
  absl::MutexLock lock(&mu_);
  InodePtr& slot = inodes_[id.value()];
  if (slot == nullptr) {
    slot = std::make_shared<Inode>(id, row->inode());
    slot->handle = LowerHandle{row->handle_type(), row->handle()};
  }
  return slot;
}

InodePtr InodeTable::Remember(ObjectId id, uint64_t lower_ino) {
  absl::MutexLock lock(&mu_);
  InodePtr& slot = inodes_[id.value()];
  if (slot == nullptr) slot = std::make_shared<Inode>(id, lower_ino);
  ++slot->lookups;
  return slot;
}

bool InodeTable::KnownToKernel(ObjectId id) {
  if (id == kRootObject) return true;
  absl::MutexLock lock(&mu_);
  auto it = inodes_.find(id.value());
  return it != inodes_.end() && it->second->lookups > 0;
}

void InodeTable::Forget(ObjectId id, uint64_t count) {
  InodePtr gone;
  FdPtr fds[Inode::kSlots + 1];  // closed after the lock is released
  absl::MutexLock lock(&mu_);
  auto it = inodes_.find(id.value());
  if (it == inodes_.end()) return;
  Inode& inode = *it->second;
  inode.lookups -= std::min(inode.lookups, count);
  if (inode.lookups != 0 || id == kRootObject) return;
  for (int slot = 0; slot < Inode::kSlots; ++slot) {
    if (inode.fds[slot] == nullptr) continue;
    fds[slot] = std::move(inode.fds[slot]);
    lru_.erase(inode.lru[slot]);
  }
  fds[Inode::kSlots] = std::move(inode.pinned);
  gone = std::move(it->second);
  inodes_.erase(it);
}

FdPtr InodeTable::Cached(Inode& inode, Access access) {
  int slot = static_cast<int>(access);
  if (inode.fds[slot] == nullptr && access != Access::kWrite) {
    // Any descriptor serves as a path; one for writing also reads.
    slot = static_cast<int>(Access::kWrite);
    if (inode.fds[slot] == nullptr && access == Access::kPath) {
      slot = static_cast<int>(Access::kRead);
    }
  }
  if (inode.fds[slot] == nullptr) {
    return access == Access::kPath ? inode.pinned : nullptr;
  }
  lru_.splice(lru_.begin(), lru_, inode.lru[slot]);
  return inode.fds[slot];
}

FdPtr InodeTable::Insert(Inode& inode, Access access, FdPtr fd) {
  int slot = static_cast<int>(access);
  // Only inodes of the table are cached: others would leave pointers behind in the LRU list.
  auto it = inodes_.find(inode.id.value());
  if (it == inodes_.end() || it->second.get() != &inode || inode.fds[slot] != nullptr) return fd;
  inode.fds[slot] = std::move(fd);
  lru_.emplace_front(&inode, slot);
  inode.lru[slot] = lru_.begin();
  if (lru_.size() <= max_fds_) return nullptr;
  auto [victim, victim_slot] = lru_.back();
  lru_.pop_back();
  return std::move(victim->fds[victim_slot]);
}

absl::StatusOr<UniqueFd> InodeTable::OpenLower(Inode& inode, Access access) {
  FdPtr pinned;
  LowerHandle handle;
  {
    absl::MutexLock lock(&mu_);
    pinned = inode.pinned;
    handle = inode.handle;
  }
  if (pinned == nullptr) {
    if (handle.bytes.empty()) {
      std::optional<storage::v1::ObjectRow> row = db_.Object(inode.id);
      if (row) {
        handle = LowerHandle{row->handle_type(), row->handle()};
        absl::MutexLock lock(&mu_);
        inode.handle = handle;
      }
    }
    if (!handle.bytes.empty()) {
      absl::StatusOr<UniqueFd> fd = lower_.OpenObject(handle, OpenFlags(access));
      if (fd.ok() || ErrnoFromStatus(fd.status()) != ESTALE) return fd;
    }
    absl::MutexLock lock(&mu_);
    pinned = inode.pinned;  // it may have lost its last name just now
    if (pinned == nullptr) return StatusFromErrno(ESTALE, "lower object is gone");
  }
  const std::string path = "/proc/self/fd/" + std::to_string(pinned->get());
  UniqueFd fd(open(path.c_str(), OpenFlags(access) & ~O_NOFOLLOW));
  if (!fd) return StatusFromErrno(errno, "reopening an object without a name");
  return fd;
}

absl::StatusOr<FdPtr> InodeTable::Open(Inode& inode, Access access) {
  {
    absl::MutexLock lock(&mu_);
    if (FdPtr fd = Cached(inode, access)) return fd;
  }
  absl::StatusOr<UniqueFd> opened = OpenLower(inode, access);
  if (!opened.ok()) return opened.status();
  FdPtr fd = std::make_shared<const UniqueFd>(*std::move(opened));
  FdPtr evicted;
  absl::MutexLock lock(&mu_);
  evicted = Insert(inode, access, fd);
  return fd;
}

void InodeTable::Adopt(Inode& inode, Access access, UniqueFd fd) {
  FdPtr owned = std::make_shared<const UniqueFd>(std::move(fd));
  FdPtr evicted;
  absl::MutexLock lock(&mu_);
  evicted = Insert(inode, access, std::move(owned));
}

bool InodeTable::Pin(Inode& inode) {
  {
    absl::MutexLock lock(&mu_);
    if (inode.pinned != nullptr) return true;
    if (FdPtr fd = Cached(inode, Access::kPath)) {
      // Shares the cached descriptor; the cache may drop its own reference.
      inode.pinned = std::move(fd);
      return true;
    }
  }
  absl::StatusOr<UniqueFd> opened = OpenLower(inode, Access::kPath);
  if (!opened.ok()) return false;
  FdPtr fd = std::make_shared<const UniqueFd>(*std::move(opened));
  absl::MutexLock lock(&mu_);
  if (inode.pinned == nullptr) inode.pinned = std::move(fd);
  return true;
}

void InodeTable::PinAs(Inode& inode, UniqueFd fd) {
  FdPtr owned = std::make_shared<const UniqueFd>(std::move(fd));
  absl::MutexLock lock(&mu_);
  inode.pinned = std::move(owned);
}

void InodeTable::Remade(ObjectId id) {
  const std::optional<storage::v1::ObjectRow> row = db_.Object(id);
  if (!row) return;
  FdPtr gone[Inode::kSlots + 1];  // closed after the lock is released
  absl::MutexLock lock(&mu_);
  auto it = inodes_.find(id.value());
  if (it == inodes_.end()) return;
  Inode& inode = *it->second;
  for (int slot = 0; slot < Inode::kSlots; ++slot) {
    if (inode.fds[slot] == nullptr) continue;
    gone[slot] = std::move(inode.fds[slot]);
    lru_.erase(inode.lru[slot]);
  }
  gone[Inode::kSlots] = std::move(inode.pinned);
  inode.handle = LowerHandle{row->handle_type(), row->handle()};
  inode.lower_ino = row->inode();
  inode.removed = false;
  inode.removed_elsewhere = false;
  inode.plain = false;
}

void InodeTable::Unpin(Inode& inode) {
  FdPtr gone;
  absl::MutexLock lock(&mu_);
  gone = std::move(inode.pinned);
}

void InodeTable::Clear() {
  absl::flat_hash_map<uint64_t, InodePtr> gone;
  absl::MutexLock lock(&mu_);
  lru_.clear();
  gone.swap(inodes_);
}

size_t InodeTable::size() const {
  absl::MutexLock lock(&mu_);
  return inodes_.size();
}

size_t InodeTable::open_fds() const {
  absl::MutexLock lock(&mu_);
  return lru_.size();
}

}  // namespace intermezzo::sidecar
