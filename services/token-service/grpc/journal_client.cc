#include "services/token-service/grpc/journal_client.h"

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>

#include "services/common/config/config.h"
#include "services/common/status/status.h"
#include "services/token-service/core/monotonic_timer.h"

namespace intermezzo::token {

namespace v1 = journal::v1;

namespace {

gpr_timespec FromNow(absl::Duration duration) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(absl::ToInt64Nanoseconds(duration), GPR_TIMESPAN));
}

bool WorthAnotherAttempt(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

// One call with its attempts, one after the other. Kept by calls_ and by its callbacks.
struct JournalClient::Call {
  std::function<void(grpc::ClientContext*, JournalClient::Tried)> attempt;
  std::function<void(const absl::Status&)> done;
  absl::Time deadline;
  absl::Duration backoff;
  // Replaced under mu_.
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::Alarm> alarm;
};

JournalClient::JournalClient(std::shared_ptr<grpc::Channel> channel, JournalClientOptions options)
    : options_(options), stub_(journal::v1::JournalService::NewStub(std::move(channel))) {}

JournalClient::~JournalClient() { Shutdown(); }

template <typename Request, typename Response>
void JournalClient::Start(Request request, Method<Request, Response> method,
                          std::function<void(const absl::Status&, const Response&)> done) {
  struct Messages {
    Request request;
    Response response;
  };
  auto messages = std::make_shared<Messages>();
  messages->request = std::move(request);
  auto call = std::make_shared<Call>();
  call->deadline = MonotonicNow() + options_.call_timeout;
  call->backoff = options_.first_backoff;
  call->attempt = [this, method = std::move(method), messages](grpc::ClientContext* context,
                                                               Tried tried) {
    method(*stub_, context, &messages->request, &messages->response, std::move(tried));
  };
  call->done = [messages, done = std::move(done)](const absl::Status& status) {
    done(status, messages->response);
  };
  Try(call);
}

void JournalClient::Try(const std::shared_ptr<Call>& call) {
  grpc::ClientContext* context = nullptr;
  {
    absl::MutexLock lock(&mu_);
    if (!closing_) {
      calls_.insert(call);
      call->context = std::make_unique<grpc::ClientContext>();
      context = call->context.get();
    }
  }
  if (context == nullptr) {
    Attempted(call, absl::CancelledError("token-service is shutting down"));
    return;
  }
  const absl::Duration left = call->deadline - MonotonicNow();
  context->set_deadline(FromNow(std::min(left, options_.attempt_timeout)));
  context->set_wait_for_ready(true);
  call->attempt(context, [this, call](grpc::Status status) { Attempted(call, FromGrpc(status)); });
}

void JournalClient::Attempted(const std::shared_ptr<Call>& call, const absl::Status& status) {
  const absl::Duration wait =
      std::exchange(call->backoff, std::min(call->backoff * 2, options_.largest_backoff));
  if (WorthAnotherAttempt(status) && MonotonicNow() + wait < call->deadline) {
    grpc::Alarm* alarm = nullptr;
    {
      absl::MutexLock lock(&mu_);
      if (!closing_) {
        call->alarm = std::make_unique<grpc::Alarm>();
        alarm = call->alarm.get();
      }
    }
    if (alarm != nullptr) {
      alarm->Set(FromNow(wait), [this, call](bool) { Try(call); });
      return;
    }
  }
  call->done(status);
  absl::MutexLock lock(&mu_);
  calls_.erase(call);
}

void JournalClient::Shutdown() {
  std::set<std::shared_ptr<Call>> calls;
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
    calls = calls_;
  }
  // Without the lock: a cancelled attempt may report from within. No context and no alarm is
  // replaced any more; an alarm that is set only now rings soon enough.
  for (const auto& call : calls) {
    call->context->TryCancel();
    if (call->alarm != nullptr) call->alarm->Cancel();
  }
  absl::MutexLock lock(&mu_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return calls_.empty(); };
  mu_.Await(absl::Condition(&none));
}

void JournalClient::Fence(const std::string& collection, Epoch epoch,
                          std::function<void(const FenceResult&)> done) {
  v1::FenceRequest request;
  request.set_collection(collection);
  request.set_epoch(epoch.value());
  Start<v1::FenceRequest, v1::FenceResponse>(
      std::move(request),
      [](Stub& stub, auto* context, auto* ask, auto* answer, Tried tried) {
        stub.async()->Fence(context, ask, answer, std::move(tried));
      },
      [this, collection, epoch, done = std::move(done)](const absl::Status& status,
                                                        const v1::FenceResponse& response) {
        if (absl::IsFailedPrecondition(status)) return AskEpoch(collection, epoch, status, done);
        done(FenceResult{status, Seq(response.head_seq()), Epoch()});
      });
}

void JournalClient::AskEpoch(const std::string& collection, Epoch epoch,
                             const absl::Status& refusal,
                             const std::function<void(const FenceResult&)>& done) {
  v1::GetJournalRequest request;
  request.set_collection(collection);
  Start<v1::GetJournalRequest, v1::GetJournalResponse>(
      std::move(request),
      [](Stub& stub, auto* context, auto* ask, auto* answer, Tried tried) {
        stub.async()->GetJournal(context, ask, answer, std::move(tried));
      },
      [epoch, refusal, done](const absl::Status& status, const v1::GetJournalResponse& response) {
        const Epoch known(status.ok() ? response.journal().epoch() : 0);
        done(FenceResult{refusal, Seq(), known > epoch ? known : Epoch()});
      });
}

void JournalClient::CreateJournal(const std::string& collection, uint64_t uid,
                                  absl::Duration retention, Done done) {
  v1::CreateJournalRequest request;
  request.set_collection(collection);
  request.set_uid(uid);
  *request.mutable_retention() = ToProto(retention);
  Start<v1::CreateJournalRequest, v1::CreateJournalResponse>(
      std::move(request),
      [](Stub& stub, auto* context, auto* ask, auto* answer, Tried tried) {
        stub.async()->CreateJournal(context, ask, answer, std::move(tried));
      },
      [done = std::move(done)](const absl::Status& status, const auto&) { done(status); });
}

void JournalClient::DeleteJournal(const std::string& collection, Done done) {
  v1::DeleteJournalRequest request;
  request.set_collection(collection);
  Start<v1::DeleteJournalRequest, v1::DeleteJournalResponse>(
      std::move(request),
      [](Stub& stub, auto* context, auto* ask, auto* answer, Tried tried) {
        stub.async()->DeleteJournal(context, ask, answer, std::move(tried));
      },
      [done = std::move(done)](const absl::Status& status, const auto&) { done(status); });
}

}  // namespace intermezzo::token
