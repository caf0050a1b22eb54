#include "services/journal-service/grpc/append_stream.h"

#include <iterator>
#include <utility>
#include <vector>

#include "services/common/status/status.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/core/refusal.h"

namespace intermezzo::journal {
namespace {

// In flight on one stream; the sender is held back beyond.
constexpr size_t kMaxInFlight = 64;
constexpr size_t kMaxInFlightBytes = 8 << 20;

}  // namespace

std::shared_ptr<AppendStream> AppendStream::Start(grpc::CallbackServerContext* context,
                                                  JournalStore& store,
                                                  std::function<void()> ended) {
  std::shared_ptr<AppendStream> stream(new AppendStream(context, store, std::move(ended)));
  stream->self_ = stream;
  stream->StartRead(&stream->request_);
  return stream;
}

void AppendStream::OnReadDone(bool ok) {
  absl::Status status;
  if (ok) status = Take();
  absl::MutexLock lock(&mu_);
  reading_ = false;
  if (!ok) read_all_ = true;
  if (!status.ok()) Fail(std::move(status));
  ReadMore();
  Proceed();
}

// Checks the request and hands it to its journal.
absl::Status AppendStream::Take() {
  if (journal_ == nullptr || journal_->name().str() != request_.collection()) {
    auto name = CollectionName::Parse(request_.collection());
    if (!name.ok()) return name.status();
    auto journal = store_.Find(*name);
    if (!journal.ok()) return journal.status();
    journal_ = *std::move(journal);
  }
  std::vector<record::v1::Entry> entries(
      std::make_move_iterator(request_.mutable_entries()->begin()),
      std::make_move_iterator(request_.mutable_entries()->end()));
  auto batch = PrepareBatch(Ordinal(request_.ordinal()), Epoch(request_.epoch()),
                            request_.previous_origin_seq(), std::move(entries));
  if (!batch.ok()) return batch.status();
  const size_t bytes = batch->bytes;
  {
    absl::MutexLock lock(&mu_);
    if (!failure_.ok()) return absl::OkStatus();  // refused already: what follows is not taken
    ++in_flight_;
    in_flight_bytes_ += bytes;
  }
  journal_->Append(*std::move(batch),
                   [self = shared_from_this(), bytes](absl::StatusOr<Confirmation> result) {
                     self->OnAppended(bytes, result);
                   });
  return absl::OkStatus();
}

void AppendStream::OnAppended(size_t bytes, const absl::StatusOr<Confirmation>& result) {
  absl::MutexLock lock(&mu_);
  --in_flight_;
  in_flight_bytes_ -= bytes;
  if (!result.ok()) {
    Fail(result.status());
  } else if (failure_.ok() || absl::IsUnavailable(failure_)) {
    v1::AppendResponse answer;
    answer.set_origin_seq(result->origin_seq);
    answer.set_seq(result->seq.value());
    answers_.push_back(std::move(answer));
  }
  ReadMore();
  Proceed();
}

void AppendStream::Fail(absl::Status status) {
  if (failure_.ok()) failure_ = std::move(status);
}

void AppendStream::ReadMore() {
  if (reading_ || read_all_ || finished_ || !failure_.ok()) return;
  if (in_flight_ >= kMaxInFlight || in_flight_bytes_ >= kMaxInFlightBytes) return;
  reading_ = true;
  StartRead(&request_);
}

void AppendStream::Proceed() {
  if (finished_ || writing_) return;
  if (!answers_.empty()) {
    writing_ = true;
    StartWrite(&answers_.front());
    return;
  }
  if (in_flight_ > 0 || (failure_.ok() && !read_all_)) return;
  finished_ = true;
  if (auto refusal = RefusalOf(failure_)) {
    context_->AddTrailingMetadata("intermezzo-append-refusal-bin", refusal->SerializeAsString());
  }
  Finish(ToGrpc(failure_));
}

void AppendStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  answers_.pop_front();
  if (!ok) {
    answers_.clear();
    Fail(absl::CancelledError("the sender is gone"));
  }
  Proceed();
}

void AppendStream::OnCancel() {
  absl::MutexLock lock(&mu_);
  if (!writing_) answers_.clear();
  Fail(absl::CancelledError("the sender is gone"));
  Proceed();
}

void AppendStream::Drain() {
  absl::MutexLock lock(&mu_);
  Fail(absl::UnavailableError("the journal-service is going down"));
  Proceed();
}

void AppendStream::OnDone() {
  ended_();
  self_.reset();
}

}  // namespace intermezzo::journal
