#include "services/journal-service/grpc/subscribe_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/common/status/status.h"

namespace intermezzo::journal {

SubscribeStream::SubscribeStream(const v1::SubscribeRequest& request, const Surroundings& around,
                                 std::function<void()> ended)
    : request_(request), around_(around), ended_(std::move(ended)), next_(request.from_seq()) {
  options_.skip_payloads = request.skip_payloads();
  options_.skip_payloads_of = Ordinal(request.skip_payloads_of());
  options_.max_bytes = kMaxBatchBytes;
  options_.max_records = kMaxBatchRecords;
}

std::shared_ptr<SubscribeStream> SubscribeStream::Start(const v1::SubscribeRequest& request,
                                                        const Surroundings& around,
                                                        std::function<void()> ended) {
  std::shared_ptr<SubscribeStream> stream(new SubscribeStream(request, around, std::move(ended)));
  stream->self_ = stream;
  const bool posted = around.workers.Post([stream] {
    absl::Status status = stream->Begin();
    if (status.ok()) return stream->Pump();
    absl::MutexLock lock(&stream->mu_);
    stream->busy_ = false;
    stream->FinishWith(status);
  });
  if (!posted) {
    absl::MutexLock lock(&stream->mu_);
    stream->busy_ = false;
    stream->FinishWith(absl::UnavailableError("too many calls: try again later"));
  }
  return stream;
}

absl::Status SubscribeStream::Begin() {
  auto name = CollectionName::Parse(request_.collection());
  if (!name.ok()) return name.status();
  if (!next_) return absl::InvalidArgumentError("from_seq: begins at 1");
  auto journal = around_.store.Find(*name);
  if (!journal.ok()) return journal.status();
  if (!request_.previous_chain().empty()) {
    auto chain = (*journal)->ChainAt(Seq(next_.value() - 1));
    if (!chain.ok()) return chain.status();
    if (*chain != request_.previous_chain()) {
      return absl::DataLossError(
          absl::StrCat("collection ", name->str(), ": the reader's chain at seq ",
                       next_.value() - 1, " is not the journal's: they have different histories"));
    }
  }
  // Refuses a seq that cannot be read even where nothing would be sent yet.
  ReadOptions probe = options_;
  probe.skip_payloads = true;
  probe.max_records = 1;
  if (auto read = (*journal)->Read(next_, probe); !read.ok()) return read.status();
  journal_ = *std::move(journal);
  around_.observer.OnSubscriber(journal_->name(), 1);
  watch_ = journal_->Watch(
      [self = shared_from_this()](const JournalEvent& event) { self->OnEvent(event); });
  return absl::OkStatus();
}

void SubscribeStream::OnEvent(const JournalEvent& event) {
  if (event.deleted) {
    return End(
        absl::NotFoundError(absl::StrCat("collection ", request_.collection(), " was deleted")));
  }
  Wake();
}

void SubscribeStream::Wake() {
  {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    if (busy_) {
      again_ = true;
      return;
    }
    busy_ = true;
  }
  Pump();
}

void SubscribeStream::Pump() {
  std::vector<EntryPtr> entries;
  while (true) {
    if (!journal_->ReadCached(next_, options_, entries)) {
      if (around_.workers.Post([self = shared_from_this()] { self->ReadDisk(); })) return;
      absl::MutexLock lock(&mu_);
      busy_ = false;
      return FinishWith(absl::UnavailableError("too many calls: try again later"));
    }
    if (!entries.empty()) return Send(entries);
    absl::MutexLock lock(&mu_);
    if (end_.ok() && again_) {
      again_ = false;
      continue;
    }
    busy_ = false;
    if (!end_.ok()) FinishWith(end_);
    return;
  }
}

void SubscribeStream::ReadDisk() {
  auto entries = journal_->Read(next_, options_);
  if (entries.ok() && !entries->empty()) return Send(*entries);
  if (entries.ok()) return Pump();
  absl::MutexLock lock(&mu_);
  busy_ = false;
  FinishWith(entries.status());
}

void SubscribeStream::Send(const std::vector<EntryPtr>& entries) {
  response_.Clear();
  for (const EntryPtr& stored : entries) {
    record::v1::Entry& out = *response_.add_entries();
    out = stored->entry;
    if (!options_.Skips(stored->version)) out.set_payload(stored->payload);
  }
  if (!entries.empty()) next_ = Seq(entries.back()->entry.seq()).next();
  const JournalState state = journal_->State();
  response_.set_head_seq(state.head.value());
  response_.set_head_bytes(state.head_bytes);
  response_.set_now_ns(absl::ToUnixNanos(around_.clock()));
  absl::MutexLock lock(&mu_);
  if (!end_.ok()) {
    busy_ = false;
    return FinishWith(end_);
  }
  sent_ = true;
  StartWrite(&response_);
}

void SubscribeStream::OnWriteDone(bool ok) {
  if (ok) return Pump();
  absl::MutexLock lock(&mu_);
  busy_ = false;
  FinishWith(absl::CancelledError("the reader is gone"));
}

void SubscribeStream::Tick() {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(sent_, false) || busy_ || finished_) return;
    busy_ = true;
  }
  Send({});
}

void SubscribeStream::End(absl::Status status) {
  absl::MutexLock lock(&mu_);
  if (end_.ok()) end_ = std::move(status);
  if (!busy_) FinishWith(end_);
}

void SubscribeStream::FinishWith(const absl::Status& status) {
  if (std::exchange(finished_, true)) return;
  Finish(ToGrpc(status));
}

void SubscribeStream::OnCancel() { End(absl::CancelledError("the reader is gone")); }

void SubscribeStream::OnDone() {
  if (watch_ != 0) {
    journal_->Unwatch(watch_);
    around_.observer.OnSubscriber(journal_->name(), -1);
  }
  ended_();
  self_.reset();
}

}  // namespace intermezzo::journal
