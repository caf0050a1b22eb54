#include "services/sidecar/session/grpc/grpc_append_stream.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/common/log/log.h"
#include "services/common/record/codec.h"
#include "services/common/status/status.h"

namespace intermezzo::sidecar {
namespace {

using journal::v1::AppendRequest;
using journal::v1::AppendResponse;
using journal::v1::JournalService;

// Batches sent and not yet confirmed.
constexpr size_t kWindow = 8;
// With more local records than this on their way to the journal and back, records gather for
// kGather or until a batch has kFullBatch: each batch costs every part of the cluster a few
// wake-ups. Whoever waits for his updates to be seen is below it.
constexpr uint64_t kBusyRecords = 32;
constexpr absl::Duration kGather = absl::Milliseconds(4);
constexpr uint64_t kFullBatch = 128;
// Bytes of one batch: small enough that the journal commits one while the next is on its way.
constexpr size_t kBatchBytes = 1024 * 1024;
// A file just made waits so long for its first data, as a rule on its way: both travel together.
constexpr absl::Duration kFirstDataWithin = absl::Microseconds(500);
constexpr absl::Duration kMinBackoff = absl::Milliseconds(20);
constexpr absl::Duration kMaxBackoff = absl::Seconds(1);

// Sending the same again cannot help.
bool IsRefusal(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsAborted(status) ||
         absl::IsInvalidArgument(status) || absl::IsOutOfRange(status) ||
         absl::IsPermissionDenied(status);
}

// Whether the record makes a regular file, still empty.
bool MakesFile(const record::v1::Entry& entry) {
  record::v1::Record record;
  return record.ParseFromString(entry.record()) && record.has_create() &&
         record.create().kind() == record::v1::OBJECT_KIND_FILE;
}

class GrpcAppendStream final : public AppendStream {
 public:
  GrpcAppendStream(std::shared_ptr<grpc::Channel> channel, Replica& replica, Handler& handler)
      : stub_(JournalService::NewStub(channel)),
        replica_(replica),
        handler_(handler),
        collection_(replica.options().collection.str()),
        ordinal_(static_cast<uint32_t>(replica.options().ordinal.value())),
        confirmed_(replica.confirmed_origin_seq()),
        thread_([this] { Run(); }) {}

  ~GrpcAppendStream() override {
    {
      absl::MutexLock lock(&mu_);
      shutdown_ = true;
      epoch_ = Epoch();
      if (context_ != nullptr) context_->TryCancel();
    }
    thread_.join();
  }

  void Start(Epoch epoch) override {
    absl::MutexLock lock(&mu_);
    epoch_ = epoch;
    woken_ = true;
  }
  void Stop() override {
    absl::MutexLock lock(&mu_);
    epoch_ = Epoch();
  }
  void Wake() override {
    absl::MutexLock lock(&mu_);
    woken_ = true;
  }

 private:
  void Run() {
    absl::Duration backoff = kMinBackoff;
    while (WaitStarted()) {
      grpc::ClientContext context;
      const absl::Status status = RunStream(&context);
      Epoch refused;
      {
        absl::MutexLock lock(&mu_);
        context_ = nullptr;
        if (shutdown_) return;
        if (progressed_) backoff = kMinBackoff;
        if (!epoch_) continue;  // nobody waits for it
        // A refusal of an epoch that was given up meanwhile says nothing about the present one.
        if (IsRefusal(status) && epoch_ == sent_epoch_) refused = std::exchange(epoch_, Epoch());
      }
      if (refused) {
        handler_.Refused(refused, status);
        continue;
      }
      log::Debug("the append stream ended",
                 {{"collection", collection_}, {"error", std::string(status.message())}});
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&shutdown_), backoff);
      backoff = std::min(backoff * 2, kMaxBackoff);
    }
  }

  // False: shut down.
  bool WaitStarted() {
    auto started = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return shutdown_ || epoch_; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&started));
    return !shutdown_;
  }

  absl::Status RunStream(grpc::ClientContext* context) {
    {
      absl::MutexLock lock(&mu_);
      if (shutdown_) return absl::CancelledError("shut down");
      context_ = context;
      confirmed_ = std::max(confirmed_, replica_.confirmed_origin_seq());
      sent_ = resume_after_ ? *resume_after_ : confirmed_;
      in_flight_.clear();
      broken_ = false;
      progressed_ = false;
      woken_ = true;
    }
    auto stream = stub_->Append(context);
    std::thread reader([this, &stream] {
      AppendResponse response;
      while (stream->Read(&response)) OnConfirmed(response.origin_seq());
      absl::MutexLock lock(&mu_);
      broken_ = true;
    });
    AppendRequest request;
    while (NextBatch(&request)) {
      if (!stream->Write(request)) break;
    }
    stream->WritesDone();
    reader.join();
    const absl::Status status = FromGrpc(stream->Finish());
    return absl::IsAborted(status) ? AfterGap(*context, status) : status;
  }

  // Where the journal lacks records that it was believed to have, sending goes on with those, once.
  absl::Status AfterGap(const grpc::ClientContext& context, const absl::Status& status) {
    const auto& metadata = context.GetServerTrailingMetadata();
    const auto found = metadata.find("intermezzo-append-refusal-bin");
    journal::v1::AppendRefusal refusal;
    if (found == metadata.end() ||
        !refusal.ParseFromArray(found->second.data(), static_cast<int>(found->second.size())) ||
        refusal.reason() != journal::v1::APPEND_REFUSAL_REASON_GAP) {
      return status;
    }
    absl::MutexLock lock(&mu_);
    if (resume_after_ == refusal.confirmed_origin_seq()) return status;
    resume_after_ = refusal.confirmed_origin_seq();
    return absl::UnavailableError(status.message());
  }

  void OnConfirmed(uint64_t origin_seq) {
    {
      absl::MutexLock lock(&mu_);
      progressed_ = true;
      resume_after_.reset();
      confirmed_ = std::max(confirmed_, origin_seq);
      while (!in_flight_.empty() && in_flight_.front() <= confirmed_) in_flight_.pop_front();
    }
    handler_.Confirmed(origin_seq);
  }

  // Waits for records, for room in the window, for an epoch. False: the stream is to end.
  bool NextBatch(AppendRequest* request) {
    for (;;) {
      uint64_t after;
      {
        auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
          return shutdown_ || broken_ || (epoch_ && woken_ && in_flight_.size() < kWindow);
        };
        absl::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(&ready));
        Gather();
        if (shutdown_ || broken_) return false;
        woken_ = false;
        after = sent_;
      }
      // What waits for replay is not sent; what it becomes follows what the journal has.
      auto records = replica_.db().ReadLocal(std::max(after, replica_.replay_through()),
                                             kMaxBatchRecords, kBatchBytes);
      if (records.empty()) continue;
      if (records.size() == 1 && MakesFile(records.front().second) && AwaitMore()) continue;
      request->Clear();
      request->set_collection(collection_);
      request->set_ordinal(ordinal_);
      request->set_previous_origin_seq(after);
      for (auto& [origin_seq, entry] : records) request->add_entries()->Swap(&entry);
      absl::MutexLock lock(&mu_);
      woken_ = true;  // there may be more than one batch holds
      if (!epoch_) continue;
      request->set_epoch(epoch_.value());
      sent_epoch_ = epoch_;
      sent_ = records.back().first;
      in_flight_.push_back(sent_);
      // A batch that is full leaves more behind.
      const bool full = request->ByteSizeLong() > kBatchBytes / 2;
      gather_until_ = full ? absl::InfinitePast() : absl::Now() + kGather;
      return true;
    }
  }

  // Where there is much to do, waits for more to send.
  void Gather() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (replica_.pending_records() <= kBusyRecords) return;
    auto enough = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return shutdown_ || broken_ || !epoch_ || replica_.last_origin_seq() >= sent_ + kFullBatch;
    };
    mu_.AwaitWithDeadline(absl::Condition(&enough), gather_until_);
  }

  // True where another record came within a moment.
  bool AwaitMore() {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&woken_), kFirstDataWithin);
  }

  const std::unique_ptr<JournalService::Stub> stub_;
  Replica& replica_;
  Handler& handler_;
  const std::string collection_;
  const uint32_t ordinal_;

  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  Epoch epoch_ ABSL_GUARDED_BY(mu_);  // none: nothing is sent
  Epoch sent_epoch_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;
  bool progressed_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t confirmed_ ABSL_GUARDED_BY(mu_);
  std::optional<uint64_t> resume_after_ ABSL_GUARDED_BY(mu_);  // after a gap
  uint64_t sent_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<uint64_t> in_flight_ ABSL_GUARDED_BY(mu_);  // last origin seq of each batch
  absl::Time gather_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;

  std::thread thread_;
};

}  // namespace

std::unique_ptr<AppendStream> MakeGrpcAppendStream(std::shared_ptr<grpc::Channel> channel,
                                                   Replica& replica,
                                                   AppendStream::Handler& handler) {
  return std::make_unique<GrpcAppendStream>(std::move(channel), replica, handler);
}

}  // namespace intermezzo::sidecar
