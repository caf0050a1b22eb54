#include "services/forwarder-service/grpc/journal_tail.h"

#include <utility>

#include "services/common/record/codec.h"
#include "services/forwarder-service/grpc/collection.h"

namespace intermezzo::forwarder {
namespace {

// What is kept for members that have not taken it yet.
constexpr uint64_t kMaxKeptBytes = 16 << 20;
constexpr size_t kMaxKeptRecords = 8192;

uint64_t BytesOf(const TailEntry& kept) {
  return kept.entry.record().size() + kept.entry.payload().size();
}

TailEntryPtr Keep(record::v1::Entry& entry, int64_t server_now_ns, absl::Time now) {
  auto kept = std::make_shared<TailEntry>();
  kept->entry.Swap(&entry);
  if (record::v1::Record record; record.ParseFromString(kept->entry.record())) {
    kept->origin = Version(record.version()).ordinal();
  }
  kept->committed_at = CommittedAt(kept->entry.committed_ns(), server_now_ns, now);
  return kept;
}

}  // namespace

bool JournalTail::Join(const std::shared_ptr<Environment>& environment,
                       std::shared_ptr<Collection> collection, StreamId id, Seq at,
                       const std::string& chain, std::weak_ptr<Member> member) {
  absl::MutexLock lock(&mu_);
  if (reader_) {
    if (at.value() + entries_.size() < read_.value()) return false;
  } else {
    read_ = at;
    collection_ = std::move(collection);
    clock_ = environment->options.clock;
    journal::v1::SubscribeRequest request;
    request.set_collection(collection_->name());
    request.set_from_seq(at.value() + 1);
    request.set_previous_chain(chain);
    reader_ = JournalReader::Start(environment, std::move(request), shared_from_this());
  }
  members_[id] = std::move(member);
  return true;
}

void JournalTail::Leave(StreamId id) {
  absl::MutexLock lock(&mu_);
  if (members_.erase(id) == 0 || !members_.empty()) return;
  reader_->Cancel();
  StopLocked();
}

bool JournalTail::Read(Seq next, std::vector<TailEntryPtr>* entries) const {
  entries->clear();
  absl::MutexLock lock(&mu_);
  if (next > read_) return true;
  const uint64_t back = read_.value() - next.value() + 1;
  if (back > entries_.size()) return false;
  uint64_t bytes = 0;
  for (size_t i = entries_.size() - back; i < entries_.size(); ++i) {
    bytes += BytesOf(*entries_[i]);
    if (!entries->empty() && (bytes > kMaxBatchBytes || entries->size() == kMaxBatchRecords)) break;
    entries->push_back(entries_[i]);
  }
  return true;
}

void JournalTail::JournalRead(JournalReader* reader, journal::v1::SubscribeResponse& message) {
  const JournalHead head{Seq(message.head_seq()), message.head_bytes()};
  std::shared_ptr<Collection> collection;
  std::vector<std::weak_ptr<Member>> members;
  {
    absl::MutexLock lock(&mu_);
    if (reader != reader_.get()) return;
    const absl::Time now = clock_();
    for (record::v1::Entry& entry : *message.mutable_entries()) {
      TailEntryPtr kept = Keep(entry, message.now_ns(), now);
      read_ = Seq(kept->entry.seq());
      bytes_ += BytesOf(*kept);
      entries_.push_back(std::move(kept));
    }
    while (entries_.size() > kMaxKeptRecords || (bytes_ > kMaxKeptBytes && entries_.size() > 1)) {
      bytes_ -= BytesOf(*entries_.front());
      entries_.pop_front();
    }
    collection = collection_;
    if (!message.entries().empty()) members = MembersLocked();
    reader->Next();
  }
  collection->HeadSeen(head);
  for (auto& weak : members) {
    if (auto member = weak.lock()) member->TailMoved();
  }
}

void JournalTail::JournalDone(JournalReader* reader, const absl::Status& status) {
  std::vector<std::weak_ptr<Member>> members;
  {
    absl::MutexLock lock(&mu_);
    if (reader != reader_.get()) return;
    members = MembersLocked();
    members_.clear();
    StopLocked();
  }
  // Each asks the journal itself, and hears what is the matter.
  for (auto& weak : members) {
    if (auto member = weak.lock()) member->TailLost();
  }
}

void JournalTail::StopLocked() {
  reader_.reset();
  collection_.reset();
  entries_.clear();
  bytes_ = 0;
}

std::vector<std::weak_ptr<JournalTail::Member>> JournalTail::MembersLocked() const {
  std::vector<std::weak_ptr<Member>> members;
  for (const auto& [id, member] : members_) members.push_back(member);
  return members;
}

}  // namespace intermezzo::forwarder
