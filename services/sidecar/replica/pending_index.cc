#include "services/sidecar/replica/pending_index.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/hash/hash.h"
#include "services/common/record/codec.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::Record;

enum class Mark : uint8_t {
  kData,        // content changed
  kAttributes,  // attributes changed
  kEntry,       // a name changed
  kGone,        // the object lost its last name
  kNameLost,    // the object lost a name
  kUsed,        // the object is the directory of a new name
  kTime,        // the object's modification time was set (a link changes attributes, not the time)
};

size_t Hash(Mark mark, uint64_t object, const std::string& name = {}) {
  return absl::HashOf(static_cast<uint8_t>(mark), object, name);
}

Mark MarkOf(record::v1::Aspect aspect) {
  return aspect == record::v1::ASPECT_DATA ? Mark::kData : Mark::kAttributes;
}

// What the record does to names: objects that lose one, are gone with it, directories it needs.
struct NameUse {
  std::vector<uint64_t> lost;
  std::vector<uint64_t> gone;
  std::vector<uint64_t> directories;
};

NameUse NamesOf(const Record& record) {
  NameUse use;
  switch (record.op_case()) {
    case Record::kCreate:
      use.directories = {record.create().parent()};
      break;
    case Record::kLink:
      use.directories = {record.link().parent()};
      break;
    case Record::kRemove:
      use.directories = {record.remove().parent()};
      use.lost = {record.remove().object()};
      if (record.remove().last()) use.gone = {record.remove().object()};
      break;
    case Record::kRename: {
      const record::v1::RenameOp& op = record.rename();
      use.directories = {op.from_parent(), op.to_parent()};
      use.lost = {op.object()};
      if (op.replaced() != 0) use.lost.push_back(op.replaced());
      if (op.replaced_last()) use.gone = {op.replaced()};
      break;
    }
    default:
      break;
  }
  return use;
}

}  // namespace

PendingIndex::Hashes PendingIndex::Marks(const Record& record) {
  Hashes hashes;
  for (const record::v1::Touch& touch : RequiredTouches(record)) {
    if (touch.aspect() == record::v1::ASPECT_ENTRY) {
      hashes.push_back(Hash(Mark::kEntry, touch.object(), touch.name()));
    } else {
      hashes.push_back(Hash(MarkOf(touch.aspect()), touch.object()));
    }
  }
  if (!record.has_link()) {
    for (const record::v1::Touch& touch : RequiredTouches(record)) {
      if (touch.aspect() != record::v1::ASPECT_ENTRY) {
        hashes.push_back(Hash(Mark::kTime, touch.object()));
      }
    }
  }
  const record::v1::RenameOp& rename = record.rename();
  if (rename.has_object_mtime()) hashes.push_back(Hash(Mark::kTime, rename.object()));
  if (rename.has_replaced_mtime()) hashes.push_back(Hash(Mark::kTime, rename.replaced()));
  const NameUse use = NamesOf(record);
  for (uint64_t object : use.lost) hashes.push_back(Hash(Mark::kNameLost, object));
  for (uint64_t object : use.gone) hashes.push_back(Hash(Mark::kGone, object));
  for (uint64_t directory : use.directories) hashes.push_back(Hash(Mark::kUsed, directory));
  return hashes;
}

PendingIndex::Hashes PendingIndex::Questions(const Record& record) {
  Hashes hashes;
  for (const record::v1::Touch& touch : RequiredTouches(record)) {
    if (touch.aspect() == record::v1::ASPECT_ENTRY) {
      hashes.push_back(Hash(Mark::kEntry, touch.object(), touch.name()));
    } else {
      hashes.push_back(Hash(MarkOf(touch.aspect()), touch.object()));
      hashes.push_back(Hash(Mark::kGone, touch.object()));
    }
  }
  const NameUse use = NamesOf(record);
  for (uint64_t object : use.lost) {
    hashes.push_back(Hash(Mark::kNameLost, object));
    hashes.push_back(Hash(Mark::kGone, object));
  }
  // A directory that goes here must not be in use there, and the other way round.
  for (uint64_t object : use.gone) hashes.push_back(Hash(Mark::kUsed, object));
  for (uint64_t directory : use.directories) hashes.push_back(Hash(Mark::kGone, directory));
  return hashes;
}

void PendingIndex::Add(uint64_t origin_seq, const Record& record, std::string_view bytes) {
  Pending& pending = records_.emplace_back(Pending{origin_seq, Marks(record), Xxh3(bytes)});
  for (size_t hash : pending.hashes) ++counts_[hash];
}

bool PendingIndex::Has(uint64_t origin_seq, std::string_view bytes) const {
  auto it = std::lower_bound(
      records_.begin(), records_.end(), origin_seq,
      [](const Pending& pending, uint64_t seq) { return pending.origin_seq < seq; });
  return it != records_.end() && it->origin_seq == origin_seq && it->digest == Xxh3(bytes);
}

void PendingIndex::RemoveThrough(uint64_t origin_seq) {
  while (!records_.empty() && records_.front().origin_seq <= origin_seq) {
    for (size_t hash : records_.front().hashes) {
      auto it = counts_.find(hash);
      if (--it->second == 0) counts_.erase(it);
    }
    records_.pop_front();
  }
}

void PendingIndex::Clear() {
  records_.clear();
  counts_.clear();
}

std::vector<uint64_t> PendingIndex::Meeting(const Record& forwarded) const {
  std::vector<uint64_t> met;
  if (records_.empty()) return met;
  Hashes hit;
  for (size_t hash : Questions(forwarded)) {
    if (counts_.contains(hash)) hit.push_back(hash);
  }
  if (hit.empty()) return met;
  for (const Pending& pending : records_) {
    const bool meets = std::any_of(pending.hashes.begin(), pending.hashes.end(), [&](size_t hash) {
      return std::find(hit.begin(), hit.end(), hash) != hit.end();
    });
    if (meets) met.push_back(pending.origin_seq);
  }
  return met;
}

bool PendingIndex::SetsMtimeOf(uint64_t object) const {
  return !records_.empty() && (counts_.contains(Hash(Mark::kUsed, object)) ||
                               counts_.contains(Hash(Mark::kTime, object)));
}

}  // namespace intermezzo::sidecar
